"""The twelve sanity checks of Shaeiri et al. (2020), warnings, and signs of failure.

    config = ChecklistConfig(attack=PGD(num_steps=100), epsilon=0.3)
    checks = checklist(logits_fn, dataset, config, base_fn=base)
    print(checks.verdict, [check.name for check in checks.failed])

A robust accuracy is believed only if attacks that differ agree on it. The checklist
judges the pair of a model and an attack: "fail" says that the accuracy under this
attack overstates the robustness of this model, because the model hides its gradients or
because the attack is weak; never that the accuracy is low.
"""

import dataclasses
import json
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import numpy as np

from jaxrobust.arguments import require
from jaxrobust.attacks import PGD, brute_force, over_targets, zoo
from jaxrobust.attacks.builders import settings_of, takes_targets, with_setting
from jaxrobust.data import Dataset
from jaxrobust.evaluation.certificates import Certification
from jaxrobust.evaluation.checklist_config import ChecklistConfig
from jaxrobust.evaluation.evidence import BASE, CHECKED, Evidence
from jaxrobust.evaluation.indicators import FAILURES, WARNINGS, alone
from jaxrobust.evaluation.questions import Check, Judgement, Question, Verdict
from jaxrobust.types import LogitsFn

__all__ = [
    "CERTIFICATES",
    "QUESTIONS",
    "Check",
    "Checklist",
    "ChecklistConfig",
    "checklist",
]

MANY = 20
"""How many times its own steps an attack that is no PGD takes at most in item 5; the
default of PGD is as many."""


@dataclasses.dataclass(frozen=True)
class Checklist:
    """The answers, and what they add up to.

    Attributes:
        checks: one for each question asked, those of Shaeiri et al. first.
    """

    checks: tuple[Check, ...]

    def __repr__(self) -> str:
        names: dict[str, list[str]] = {}
        for check in self.checks:
            names.setdefault(check.verdict, []).append(check.name)
        parts = [f"{verdict}: {', '.join(each)}" for verdict, each in names.items()]
        return f"Checklist({self.verdict!r}; {'; '.join(parts)})"

    def __getitem__(self, name: str) -> Check:
        """The check of a name, or of a source such as "Shaeiri 2020, item 8"."""
        for check in self.checks:
            if name in (check.name, check.source):
                return check
        raise KeyError(
            f"`name` must be one of {', '.join(each.name for each in self.checks)}, "
            f"got {name!r}; only questions that were asked have an answer."
        )

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that fail."""
        return tuple(check for check in self.checks if check.verdict == "fail")

    @property
    def verdict(self) -> Verdict:
        """One "fail" decides, then one "inconclusive" that is needed; else "pass"."""
        if self.failed:
            return "fail"
        is_open = any(
            check.verdict == "inconclusive" and check.is_needed for check in self.checks
        )
        return "inconclusive" if is_open else "pass"

    def as_rows(self) -> list[dict[str, Any]]:
        """Fields of every check, of plain types."""
        return [check._asdict() for check in self.checks]

    def to_json(self) -> str:
        """The verdict and the rows, as text."""
        found = {"verdict": self.verdict, "checks": self.as_rows()}
        return json.dumps(found, indent=1)


def _single_step(evidence: Evidence) -> Judgement:
    return alone(evidence, evidence.fgsm().is_broken, "FGSM")


def _unbounded(evidence: Evidence) -> Judgement:
    count = max(2, evidence.num_restarts)
    broken = evidence.is_broken(epsilon=evidence.widest, num_restarts=count)
    left = int(np.sum(evidence.is_right & ~broken))
    return Judgement(
        "fail" if left > evidence.few else "pass",
        {"accuracy": evidence.accuracy(broken), "images left": float(left)},
        f"more than {evidence.few} images still right in a ball that holds every image",
        "That ball holds images of all other classes, so nothing can be robust; what "
        "is left was not attacked well, at smaller radii too.",
    )


def _gain(
    evidence: Evidence, stronger: np.ndarray, name: str, *, both_ways: bool = False
) -> Judgement:
    """Whether an attack that should change little changes little."""
    white = evidence.is_broken()
    only, other = int(np.sum(stronger & ~white)), int(np.sum(white & ~stronger))
    changed = abs(only - other) if both_ways else only
    measured = {
        "accuracy, the attack": evidence.accuracy(white),
        f"accuracy, {name}": evidence.accuracy(stronger),
        f"broken by {name} only": float(only),
        "broken by the attack only": float(other),
    }
    return Judgement(
        "fail" if changed > evidence.little else "pass",
        measured,
        f"a change by more than {evidence.little} of {evidence.num_images} images",
        f"{evidence.config.change:.0%} of the images: on the MNIST challenge of "
        "Madry et al. one start of PGD and many differ by 3 points on an honest model; "
        "more says that the outcome is luck, or that the attack was not at its end.",
    )


def _random_offset(evidence: Evidence) -> Judgement:
    """The attack from its other start; where it has no two, PGD from a random one."""
    attack = evidence.attack
    is_random = settings_of(attack).get("random_start")
    if not isinstance(is_random, bool):
        found = evidence.pgd(random_start=True)
        return _gain(evidence, found.is_broken, "PGD from a random start")
    start = "the clean image" if is_random else "a random start"
    if isinstance(attack, PGD):
        found = evidence.pgd(attack, random_start=not is_random)
        name = f"PGD from {start}"
    else:
        name = f"the attack from {start}"
        other = with_setting(attack, "random_start", not is_random)
        found = evidence.run(name, other)
    return _gain(evidence, found.is_broken, name, both_ways=True)


def _restarts(evidence: Evidence) -> Judgement:
    count = max(evidence.config.many_restarts, evidence.num_restarts)
    broken = evidence.is_broken(num_restarts=count)
    return _gain(evidence, broken, f"{count} restarts")


def _more_steps(evidence: Evidence) -> Judgement:
    """The attack with more steps of its own; where it has no number of them, PGD."""
    steps, attack = evidence.config.long_steps, evidence.attack
    if isinstance(attack, PGD):
        found = evidence.pgd(attack, num_steps=steps)
        return _gain(evidence, found.is_broken, f"PGD of {steps} steps")
    own = settings_of(attack).get("num_steps")
    if not isinstance(own, int):
        found = evidence.pgd(num_steps=steps)
        return _gain(evidence, found.is_broken, f"PGD of {steps} steps")
    # One that is a loop of Python is compiled step by step.
    steps = min(steps, MANY * own)
    name = f"the attack with {steps} steps"
    found = evidence.run(name, with_setting(attack, "num_steps", steps))
    return _gain(evidence, found.is_broken, name)


def _monotone(evidence: Evidence) -> Judgement:
    """Half of the radii lie below the configured one, half of them above."""
    config = evidence.config
    half = (config.num_radii + 1) // 2
    below = np.linspace(0, config.epsilon, half + 1)
    above = np.linspace(config.epsilon, evidence.widest, config.num_radii - half + 2)
    radii = [float(radius) for radius in (*below[1:], *above[1:])]
    counts = [int(np.sum(evidence.is_right))] + [
        int(np.sum(evidence.is_right & ~evidence.is_broken(epsilon=radius)))
        for radius in radii
    ]
    rises = [int(rise) for rise in np.diff(counts) if rise > 0]
    measured = {"accuracy at 0": counts[0] / evidence.num_images} | {
        f"accuracy at {radius:g}": count / evidence.num_images
        for radius, count in zip(radii, counts[1:], strict=True)
    }
    return Judgement(
        "fail" if max(rises, default=0) > evidence.few else "pass",
        measured | {"largest rise": float(max(rises, default=0))},
        f"a rise by more than {evidence.few} images from one radius to the next",
        "A larger ball holds the smaller one, so the truth cannot rise; an attack that "
        "does worse with more room is misled by the gradients it follows.",
    )


def _targeted(evidence: Evidence) -> Judgement:
    """The attack at every class if it can be steered, or else PGD."""
    aim, name = evidence.attack, "the attack"
    if isinstance(aim, PGD) or not takes_targets(aim):
        # On the cross-entropy, also where the margin names a rival by itself.
        aim = dataclasses.replace(evidence.reference, loss="cross_entropy")
        name = "PGD"
    build = over_targets(aim, evidence.num_classes - 1)
    broken = evidence.run(f"targeted {name}", build).is_broken
    return _gain(evidence, broken, f"{name} aimed at every class")


def _brute_force(evidence: Evidence) -> Judgement:
    count = evidence.config.brute_force_samples
    build = partial(brute_force, num_samples=count, batch_size=min(count, 128))
    broken = evidence.run("brute force", build).is_broken
    return alone(evidence, broken, f"{count} corners")


def _no_base(name: str) -> Judgement:
    return Judgement(
        "inconclusive",
        {},
        "none",
        f"No base model given: pass `base_fn`{name} to ask.",
        is_needed=False,
    )


def _smallest(evidence: Evidence, model: str, resolution: float) -> float:
    """Smallest radius found, by bisection, that leaves hardly an image right."""
    low, high = 0.0, evidence.widest

    def is_empty(epsilon: float) -> bool:
        broken = evidence.is_broken(epsilon=epsilon, model=model)
        left = evidence.is_right_of(model) & ~broken
        return int(np.sum(left)) <= evidence.few

    if not is_empty(high):
        return float("inf")
    while high - low > resolution:
        middle = (low + high) / 2
        low, high = (low, middle) if is_empty(middle) else (middle, high)
    return high


def _larger_minimum(evidence: Evidence) -> Judgement:
    if BASE not in evidence.models:
        return _no_base("")
    resolution = evidence.widest / 128
    found = {model: _smallest(evidence, model, resolution) for model in (CHECKED, BASE)}
    measured = {
        f"smallest epsilon, {model} model": each
        for model, each in found.items()
        if np.isfinite(each)
    }
    difference = found[CHECKED] - found[BASE]
    threshold = f"smaller than the base model's; equal within {resolution:.2g} is open"
    if not np.isfinite(found[CHECKED]):
        reason = "The attack breaks the model at no radius; see item 2."
        return Judgement("fail", measured, threshold, reason)
    if not np.isfinite(found[BASE]) or abs(difference) < resolution:
        reason = "The two radii cannot be told apart by this bisection."
        return Judgement("inconclusive", measured, threshold, reason, is_needed=False)
    reason = (
        "Training at a larger radius that moves the point where nothing is left did "
        "more than bend the loss near the clean images."
    )
    return Judgement("pass" if difference > 0 else "fail", measured, threshold, reason)


def _zoo(evidence: Evidence) -> Judgement:
    count = evidence.config.zoo_steps
    found = evidence.run("ZOO", partial(zoo, num_steps=count))
    return alone(evidence, found.is_broken, "ZOO")


def _transfer(evidence: Evidence) -> Judgement:
    """One image for each source: nothing is asked of the checked model."""
    names = [f"source {name}" for name in evidence.sources]
    names = names or [BASE] * (BASE in evidence.models)
    if not names:
        return _no_base(" or `source_fns`")
    moved = [evidence.pgd(model=name, judge_by=CHECKED).is_broken for name in names]
    return alone(evidence, np.any(moved, axis=0), "transfer")


def _semi_black_box(evidence: Evidence) -> Judgement:
    """The base's weights are known, and the checked model says which image serves."""
    if BASE not in evidence.models:
        return _no_base("")
    moved = [
        evidence.pgd(model=BASE, judge_by=CHECKED, restart=index).is_broken
        for index in range(evidence.config.many_restarts)
    ]
    return alone(evidence, np.any(moved, axis=0), "transfer from the base")


_TWELVE = (
    ("single_step", "Does the attack break what FGSM breaks?", _single_step),
    ("unbounded", "Does an unbounded attack break everything?", _unbounded),
    ("random_offset", "Does a random offset change little?", _random_offset),
    ("restarts", "Do many restarts change little?", _restarts),
    ("more_steps", "Do many more steps change little?", _more_steps),
    ("monotone", "Does the accuracy fall as the radius grows?", _monotone),
    ("targeted", "Does aiming at every class change little?", _targeted),
    ("brute_force", "Does the attack break what random corners break?", _brute_force),
    (
        "larger_minimum",
        "Is the radius that breaks everything larger than the base's?",
        _larger_minimum,
    ),
    ("zoo", "Does the attack break what ZOO breaks?", _zoo),
    ("transfer", "Does the attack break what transferred images break?", _transfer),
    (
        "semi_black_box",
        "Does the attack break what images from the base model break?",
        _semi_black_box,
    ),
)

QUESTIONS = (
    *(
        Question(name, f"Shaeiri 2020, item {number}", text, decide)
        for number, (name, text, decide) in enumerate(_TWELVE, start=1)
    ),
    *WARNINGS,
    *FAILURES,
)
"""All that can be asked of any model, in order."""


def _no_certified(evidence: Evidence) -> Judgement:
    if evidence.is_certified is None:
        reason = "No certificates given: pass `certification` to ask."
        return Judgement("inconclusive", {}, "none", reason, is_needed=False)
    evidence.is_broken()
    broken, count = evidence.is_broken_by_any()
    contradicted = int(np.sum(evidence.is_certified & broken))
    measured = {
        "accuracy, certified": float(np.mean(evidence.is_certified)),
        "accuracy, all attacks here": evidence.accuracy(broken),
        "attacks": float(count),
        "certified and broken": float(contradicted),
    }
    return Judgement(
        "fail" if contradicted else "pass",
        measured,
        "any certified image that an attack breaks within the radius",
        "What is proven cannot be broken: either bounds that prove are wrong, or an "
        "attack left the ball, and neither number is to be believed before that is "
        "found. The truth lies between the two accuracies.",
    )


CERTIFICATES = (
    Question(
        "certified",
        "certificates",
        "Is no certified image broken?",
        _no_certified,
    ),
)
"""What is asked besides, after all attacks, where certificates are at hand."""


def checklist(
    logits_fn: LogitsFn,
    dataset: Dataset,
    config: ChecklistConfig,
    *,
    base_fn: LogitsFn | None = None,
    source_fns: Mapping[str, LogitsFn] | None = None,
    certification: Certification | None = None,
    report: Callable[[str], None] | None = None,
    only: Collection[str] | None = None,
) -> Checklist:
    """Whether the accuracy of a model under an attack can be believed.

    Each attack is compiled once and serves all radii. Differences between attacks are
    of paired outcomes on the same images.

    Any builder is asked the same questions, as `config.attack`. What is needed of it:

    - Nothing but runs at some radius, on the checked or the base model: items 1, 2, 4
      (more runs, each with other draws), 6, 8, 9 and 10, and what is asked of its
      images (`uses_budget`, `keeps_the_rules`, `no_single_step_mask`, `black_box`).
    - A setting: item 3 changes `random_start`, item 5 sets `num_steps` to
      `config.long_steps` (at most 20 times its own), item 7 gives it `targets`. A
      builder without it is held against the reference PGD instead, which has it.
    - A PGD: items 11 and 12 transfer images that the reference PGD made on the other
      model, and `converged` lets it go on from the images of the attack. Whether images
      were broken on the way (`ends_best`) is not asked of others, whose loss at the end
      is compared with that of the clean image only.

    Args:
        logits_fn: the model in evaluation mode; images in [0, 1] to logits.
        dataset: images to ask about; `config.num_images` of them are used.
        config: the attack that is judged, the radius, and budgets.
        base_fn: the model of a smaller radius whose weights the checked one started
            from: items 9, 12, and 11 if there are no `source_fns`; left open without.
        source_fns: models trained independently, by name, for item 11; in the paper
            one trained at epsilon .3.
        certification: of the model on all examples of the data set, in the norm of the
            configuration; then it is asked, too, whether no certified image is broken
            by any attack that was run.
        report: told each attack as it is run.
        only: names or sources of the questions to ask; None for all.

    Returns:
        A verdict on every question and on the whole.

    Raises:
        ValueError: if `only` has a name that no question has; for a model whose
            answers depend on the other images of the batch; if `certification` is in
            another norm or of other examples.

    References:
        Shaeiri et al., 2020, arXiv:2003.13370, the checklist; Croce & Hein, 2020,
        arXiv:2003.01690;
        Pintor et al., 2022, arXiv:2106.09947.

    Differs from the paper: it asks items 11 and 12 of models whose provenance it does
    not tell apart further; here C11 uses one image for each source, and C12 lets the
    checked model choose among many restarts made on its base.
    """
    questions = (*QUESTIONS, *CERTIFICATES)
    known = {each for question in questions for each in question[:2]}
    unknown = sorted(set(only or ()) - known)
    remedy = f"choose from {', '.join(question.name for question in questions)}"
    require(not unknown, "only", "names or sources of questions", unknown, remedy)
    evidence = Evidence(
        logits_fn,
        dataset,
        config,
        base_fn=base_fn,
        source_fns=source_fns,
        certification=certification,
        report=report,
    )
    if only is None:
        asked = QUESTIONS if certification is None else questions
    else:
        asked = [each for each in questions if {each.name, each.source} & set(only)]
    evidence.require_independent()
    num_right = int(np.sum(evidence.is_right))
    if num_right <= 2 * evidence.little:
        return Checklist(tuple(_unasked(each, num_right) for each in asked))
    return Checklist(tuple(question.ask(evidence) for question in asked))


def _unasked(question: Question, num_right: int) -> Check:
    reason = (
        f"The model is right on {num_right} clean images only: there is nothing to "
        "break. Check the labels, the pixel range and the weights."
    )
    return Check(
        *(question.name, question.source, question.text),
        *("inconclusive", {"clean images right": float(num_right)}, "none", reason),
    )
