"""Signs that a model hides its weakness, or that an attack failed for its own reasons.

Two lists of questions, asked together with the twelve of the checklist: the warnings of
AutoAttack's `checks.py` (Croce & Hein, 2020, arXiv:2003.01690), and the indicators of
attack failure of Pintor et al. (2022, arXiv:2106.09947).
"""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.attacks import PGD, square
from jaxrobust.evaluation.evidence import Evidence, Outcome
from jaxrobust.evaluation.questions import Judgement, Question
from jaxrobust.types import LogitsFn

__all__ = ["FAILURES", "WARNINGS", "primitives"]

_LOOPS = {"while", "scan"}
_CALLBACKS = {"pure_callback", "io_callback", "debug_callback"}
_DRAWS = {"threefry2x32", "random_bits", "random_wrap", "rng_bit_generator"}


def _inner(value: Any) -> Iterator[Any]:
    """The programs inside a parameter of an equation."""
    if isinstance(value, list | tuple):
        for each in value:
            yield from _inner(each)
    elif isinstance(value, Mapping):
        yield from _inner(list(value.values()))
    elif hasattr(value, "jaxpr"):
        yield value.jaxpr
    elif hasattr(value, "eqns"):
        yield value


def primitives(logits_fn: LogitsFn, images: np.ndarray) -> set[str]:
    """Names of the JAX operations that a model is made of, at any depth."""
    found: set[str] = set()
    waiting = [jax.make_jaxpr(logits_fn)(jnp.asarray(images)).jaxpr]
    while waiting:
        for equation in waiting.pop().eqns:
            found.add(equation.primitive.name)
            waiting += _inner(list(equation.params.values()))
    return found


def _largest(values: np.ndarray) -> np.ndarray:
    """Largest absolute entry of each example."""
    return np.max(np.abs(values.reshape(len(values), -1)), axis=1)


def _relative(difference: np.ndarray, logits: np.ndarray) -> float:
    """Largest difference, in units of the logits' own size."""
    scale = max(float(np.max(np.abs(logits), initial=0.0)), 1e-30)
    return float(np.max(np.abs(difference), initial=0.0)) / scale


# What AutoAttack warns of.


def _is_deterministic(evidence: Evidence) -> Judgement:
    images = jnp.asarray(evidence.images[: evidence.config.batch_size])
    # Outside a compiled program too: a key that a closure splits is fixed inside one.
    calls = [np.asarray(evidence.logits_fn(images[:1])) for _ in range(2)]
    program = evidence.programs().logits
    compiled = [np.asarray(program(images)) for _ in range(2)]
    eager = _relative(calls[0] - calls[1], calls[0])
    inside = _relative(compiled[0] - compiled[1], compiled[0])
    draws = _DRAWS & primitives(evidence.logits_fn, evidence.images[:1])
    measured = {
        "relative difference": eager,
        "relative difference, compiled": inside,
        "random draws inside": float(bool(draws)),
    }
    threshold = "two calls differ by more than 1e-6 of the largest logit"
    if max(eager, inside) > 1e-6:
        reason = (
            "The same program gives the same answer to the same image to the last bit; "
            "attack a random model through the average over its randomness."
        )
        return Judgement("fail", measured, threshold, reason)
    if draws:
        reason = (
            "The model draws random numbers from a key that is fixed here; what "
            "another key would give is not known."
        )
        return Judgement("inconclusive", measured, threshold, reason)
    reason = "The same program gives the same answer to the same image."
    return Judgement("pass", measured, threshold, reason)


def _are_logits(evidence: Evidence) -> Judgement:
    logits = evidence.logits(evidence.images)
    sums = logits.astype(np.float64).sum(axis=1)
    is_simplex = (logits >= 0).all(axis=1) & (np.abs(sums - 1) < 1e-3)
    is_log = np.abs(np.logaddexp.reduce(logits.astype(np.float64), axis=1)) < 1e-3
    measured = {
        "share that are probabilities": float(np.mean(is_simplex)),
        "share that are log-probabilities": float(np.mean(is_log)),
    }
    return Judgement(
        "fail" if np.mean(is_simplex) > 0.5 else "pass",
        measured,
        "most outputs are non-negative and sum to 1",
        "A softmax of probabilities is flat, and float32 rounds them to 0 and 1, where "
        "the gradient vanishes: return the logits. Log-probabilities do no harm.",
    )


def _has_gradients(evidence: Evidence) -> Judgement:
    points = [evidence.images, evidence.random_images(evidence.config.epsilon, 1000)]
    is_zero = [_largest(evidence.gradients(each)) == 0 for each in points]
    count = int(np.sum(np.all(is_zero, axis=0) & evidence.is_right))
    measured = {
        "share zero, clean images": float(np.mean(is_zero[0])),
        "share zero, random images of the ball": float(np.mean(is_zero[1])),
        "zero at both": float(count),
    }
    return Judgement(
        "fail" if count > evidence.few else "pass",
        measured,
        f"more than {evidence.few} images whose gradient is exactly 0 at both",
        "PGD does not move where the loss is flat to the last bit, so the image counts "
        "as robust without having been attacked. Rounding of the input and saturated "
        "softmaxes do that; try the margin loss, and attacks without gradients.",
    )


def _black_box(evidence: Evidence) -> Judgement:
    config = evidence.config
    queries = evidence.run(
        "Square attack", lambda threat: square(threat, num_queries=config.num_queries)
    )
    return alone(evidence, queries.is_broken, "Square attack")


def alone(evidence: Evidence, is_broken: np.ndarray, name: str) -> Judgement:
    """Whether an attack that knows less breaks what the judged one does not."""
    white = evidence.is_broken()
    only, other = int(np.sum(is_broken & ~white)), int(np.sum(white & ~is_broken))
    measured = {
        "accuracy, the attack": evidence.accuracy(white),
        f"accuracy, {name}": evidence.accuracy(is_broken),
        f"broken by {name} only": float(only),
        "broken by the attack only": float(other),
    }
    return Judgement(
        "fail" if only > evidence.few else "pass",
        measured,
        f"more than {evidence.few} of {evidence.num_images} images broken by it only",
        "Who has the gradients has all that the weaker attack has, and misses only the "
        "few images on the edge that a finite attack misses by chance "
        f"({evidence.config.tolerance:.0%} of the images, at least one).",
    )


def _is_plain(evidence: Evidence) -> Judgement:
    found = primitives(evidence.logits_fn, evidence.images[:1])
    loops, callbacks = found & _LOOPS, found & _CALLBACKS
    measured = {"loops": float(len(loops)), "callbacks": float(len(callbacks))}
    threshold = "a loop or a call of the host in the traced model"
    if loops or callbacks:
        reason = (
            f"The model contains {', '.join(sorted(loops | callbacks))}: it may "
            "optimize at test time, which needs an attack made for it (Croce et al., "
            "2022, arXiv:2202.13711). An unrolled loop is not seen."
        )
        return Judgement("inconclusive", measured, threshold, reason)
    reason = "A model without loops computes a fixed formula of the image."
    return Judgement("pass", measured, threshold, reason)


def _enough_classes(evidence: Evidence) -> Judgement:
    num_classes = evidence.logits(evidence.images[:1]).shape[1]
    measured = {"logits": float(num_classes), "classes": float(evidence.num_classes)}
    threshold = "fewer than 3 classes (4 for the targeted loss), or fewer logits"
    if num_classes < evidence.num_classes:
        reason = "There are labels that the model cannot give."
        return Judgement("fail", measured, threshold, reason)
    if num_classes < 4:
        reason = (
            "The DLR loss divides by the difference of the largest and the third (or "
            "fourth) logit; with so few the margin loss takes its place."
        )
        return Judgement("inconclusive", measured, threshold, reason, is_needed=False)
    reason = "The DLR loss divides by a difference of logits that exist."
    return Judgement("pass", measured, threshold, reason)


def _is_per_image(evidence: Evidence) -> Judgement:
    together = evidence.logits(evidence.images)
    few = jnp.asarray(evidence.images[:4])
    ones = [np.asarray(evidence.logits_fn(image[None]))[0] for image in few]
    difference = _relative(together[: len(ones)] - np.stack(ones), together)
    return Judgement(
        "fail" if difference > 1e-3 else "pass",
        {"relative difference": difference},
        "an image alone gets other logits than in a batch, by more than 1e-3 of the "
        "largest",
        "Rounding is below that; batch statistics are not: use the evaluation mode of "
        "batch normalization, or each image defends the others.",
    )


WARNINGS = (
    Question(
        "deterministic",
        "AutoAttack",
        "Do two calls of the model agree?",
        _is_deterministic,
    ),
    Question("logits", "AutoAttack", "Are the outputs logits?", _are_logits),
    Question(
        "gradients", "AutoAttack", "Does the loss have gradients?", _has_gradients
    ),
    Question(
        "black_box",
        "AutoAttack",
        "Does the attack break what the Square attack breaks?",
        _black_box,
    ),
    Question(
        "no_test_time_optimization",
        "AutoAttack",
        "Is the model free of loops and callbacks?",
        _is_plain,
    ),
    Question(
        "num_classes",
        "AutoAttack",
        "Are there classes enough for the DLR loss?",
        _enough_classes,
    ),
    Question(
        "per_image",
        "AutoAttack",
        "Are an image's logits independent of its batch?",
        _is_per_image,
    ),
)


# How attacks fail.


def _is_smooth(evidence: Evidence) -> Judgement:
    epsilon = evidence.config.epsilon
    near = 1e-3
    point = evidence.random_images(epsilon, 1001)
    other = evidence.random_images(epsilon, 1002)
    step = evidence.random_images(epsilon, 1003) - evidence.images
    beside = np.clip(point + near * step, 0, 1).astype(point.dtype)
    logits = [evidence.logits(each) for each in (point, beside, other)]
    small = float(np.median(_largest(logits[1] - logits[0])))
    large = float(np.median(_largest(logits[2] - logits[0])))
    ratio = small / large if large > 0 else 0.0

    first, second = (
        evidence.gradients(each).reshape(evidence.num_images, -1).astype(np.float64)
        for each in (point, beside)
    )
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    is_known = (lengths > 0) & np.isfinite(lengths)
    cosine = 1.0
    if is_known.any():
        products = np.sum(first * second, axis=1)
        cosine = float(np.median(products[is_known] / lengths[is_known]))
    measured = {
        "change of the logits, near point over far point": ratio,
        "median cosine of the gradients": cosine,
    }
    return Judgement(
        "fail" if ratio > 0.1 or cosine < 0.8 else "pass",
        measured,
        "at 1/1000 of the radius the logits change by more than a tenth of what they "
        "do across the ball, or the gradient's direction has a cosine below 0.8",
        "A network is linear in pieces far larger than that: 1/1000 of the way is "
        "about 1/1000 of the change, and the same gradient. Noise in the model, or in "
        "its gradient, sends every step elsewhere.",
    )


def _goes_on(evidence: Evidence) -> Judgement:
    config = evidence.config
    found = evidence.white_box()
    is_open = evidence.is_right & ~found.is_broken
    # Never from outside the ball, which would break images for another reason.
    threat = evidence.threat(config.epsilon)
    start = np.asarray(
        threat.project(jnp.asarray(found.images), jnp.asarray(evidence.images))
    )
    after = evidence.climb(start, evidence.reference, epsilon=config.epsilon)
    newly = int(np.sum(is_open & evidence.is_wrong(after)))
    gain, share = 0.0, 0.0
    if is_open.any():
        losses = (evidence.loss(each) for each in (evidence.images, after))
        clean, end = (each[is_open].mean() for each in losses)
        gain = float(end - found.loss[is_open].mean())
        share = gain / max(float(end - clean), 1e-12) if gain > 0 else 0.0
    measured = {
        "broken by going on": float(newly),
        "loss gained by going on": gain,
        "share of the whole gain": share,
    }
    return Judgement(
        "fail" if newly > evidence.little else "pass",
        measured,
        f"as many more steps of PGD from its images break over {evidence.little} more",
        "An attack that has climbed to the top does not gain by going on. One still "
        "rising had too few or too small steps, or does not climb at all; the loss of "
        "images that do not break may rise for ever without harm.",
    )


def _ends_best(evidence: Evidence) -> Judgement:
    clean = evidence.loss(evidence.images)
    # The inside of another attack is not seen: its end against its start.
    before: list[Outcome] = []
    if isinstance(attack := evidence.attack, PGD) and attack.num_steps is not None:
        parts = (0.25, 0.5, 0.75)
        steps = [max(1, round(attack.num_steps * part)) for part in parts]
        before = [evidence.pgd(attack, num_steps=each) for each in steps]
    last = evidence.white_box()
    lost = np.any([each.is_broken for each in before], axis=0) & ~last.is_broken
    is_open = evidence.is_right & ~last.is_broken
    tiny = 1e-6 * np.maximum(1.0, np.abs(clean))
    is_worse = (last.loss < clean - tiny) & is_open
    count = int(np.sum(is_worse | lost))
    measured = {
        "broken on the way but not at the end": float(np.sum(lost)),
        "loss below that of the clean image": float(np.sum(is_worse)),
    }
    return Judgement(
        "fail" if count > evidence.little else "pass",
        measured,
        f"more than {evidence.little} images that end worse than they were before",
        "Ascent that ends below its start or below its own iterates goes the wrong "
        "way, or jumps to and fro with steps too long; keep the best iterate.",
    )


def _uses_budget(evidence: Evidence) -> Judgement:
    config = evidence.config
    found = evidence.white_box()
    threat = evidence.threat(config.epsilon)
    sizes = np.asarray(threat.norm(jnp.asarray(found.images - evidence.images)))
    is_open = evidence.is_right & ~found.is_broken
    count = int(np.sum(is_open & (sizes < 0.9 * config.epsilon)))
    used = sizes[is_open] / config.epsilon
    measured = {
        "median share of the radius used": float(np.median(used)) if len(used) else 1.0,
        "images left with less than 0.9 of it used": float(count),
    }
    return Judgement(
        "fail" if count > evidence.little else "pass",
        measured,
        f"more than {evidence.little} images that stand, moved by less than 0.9 radii",
        "The loss climbs up to the edge of the ball nearly everywhere, so an attack "
        "that leaves images standing inside it has not tried.",
    )


def _keeps_the_rules(evidence: Evidence) -> Judgement:
    config = evidence.config
    found = evidence.white_box()
    threat = evidence.threat(config.epsilon)
    sizes = np.asarray(threat.norm(jnp.asarray(found.images - evidence.images)))
    flat = found.images.reshape(evidence.num_images, -1)
    is_outside = ~(sizes <= config.epsilon * (1 + 1e-4) + 1e-6)
    is_outside |= ~((flat >= 0) & (flat <= 1)).all(axis=1)
    is_wrong = evidence.is_wrong(found.images)
    differs = int(np.sum((is_wrong != found.is_claimed) & evidence.is_right))
    measured = {
        "images outside the ball or the pixel range": float(np.sum(is_outside)),
        "claims that the model does not bear out": float(differs),
    }
    return Judgement(
        "fail" if np.any(is_outside) or differs > evidence.few else "pass",
        measured,
        f"any image outside, or more than {evidence.few} wrong claims",
        "An image outside the ball proves nothing. Few examples lie so near the edge "
        "that rounding turns them; more wrong claims mean a random model, or an attack "
        "that does not judge its own images.",
    )


def _is_no_single_step_mask(evidence: Evidence) -> Judgement:
    single = evidence.fgsm().is_broken
    smaller = np.any([evidence.fgsm(part).is_broken for part in (0.25, 0.5, 0.75)], 0)
    white = evidence.is_broken()
    stands = evidence.is_right & ~single
    falls = int(np.sum(stands & white))
    jumped = int(np.sum(smaller & ~single))
    share = falls / max(1, int(np.sum(stands)))
    limit = 0.25
    measured = {
        "accuracy, FGSM": evidence.accuracy(single),
        "accuracy, the attack": evidence.accuracy(white),
        "share of FGSM's survivors that fall": share,
        "broken by a smaller step only": float(jumped),
    }
    is_masked = falls > limit * evidence.num_images and share > 0.75
    return Judgement(
        "fail" if is_masked or jumped > evidence.little else "pass",
        measured,
        f"over {limit:.0%} of all images and three quarters of those that withstand "
        f"FGSM fall to the attack, or over {evidence.little} to a smaller step only",
        "Honest networks at their radius lose a few points from FGSM to PGD (Madry et "
        "al., 2018: 2.4 on MNIST, 10.3 on CIFAR-10). One that loses nearly all learned "
        "to bend the loss at the end of the single step (catastrophic overfitting: "
        "Wong et al., 2020, arXiv:2001.03994; label leaking), so its accuracy under a "
        "single step is a mask.",
    )


FAILURES = (
    Question(
        "smooth",
        "Pintor 2022",
        "Do nearby points have nearby logits and gradients?",
        _is_smooth,
    ),
    Question("converged", "Pintor 2022", "Has the attack come to its end?", _goes_on),
    Question(
        "ends_best",
        "Pintor 2022",
        "Does the attack end no worse than it was before?",
        _ends_best,
    ),
    Question(
        "uses_budget", "Pintor 2022", "Does the attack use its radius?", _uses_budget
    ),
    Question(
        "keeps_the_rules",
        "Pintor 2022",
        "Are its images in the ball, and its claims true?",
        _keeps_the_rules,
    ),
    Question(
        "no_single_step_mask",
        "Shaeiri 2020",
        "Is the robustness more than that to a single step?",
        _is_no_single_step_mask,
    ),
)
