"""What an attack is: a kernel that moves images, a loop round it, and a judge.

A kernel is a pair of pure functions. `iterate` turns it into an attack in one compiled
loop that keeps no history, so memory does not grow with the number of steps. The
library, not the kernel, judges the outcome. Every attack of the package is made by
`checked`, which looks at its arguments before the search does.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxrobust.attacks.loops import repeated
from jaxrobust.losses import as_classes, as_labels, require_classes_below
from jaxrobust.pytrees import outline
from jaxrobust.threat import ThreatModel
from jaxrobust.types import (
    Images,
    Labels,
    Logits,
    LogitsFn,
    PerExample,
    PerExampleFlag,
    PRNGKey,
    Scalar,
)

__all__ = [
    "Attack",
    "AttackBuilder",
    "AttackInfo",
    "AttackKernel",
    "AttackResult",
    "AttackState",
    "Keep",
    "better",
    "checked",
    "iterate",
    "judge",
    "nothing_found",
    "per_example",
    "refuse_threat",
]

Keep = Literal["last", "best"]
Objective = Callable[[Logits, Labels], PerExample]


class AttackState(NamedTuple):
    """What an attack carries from step to step.

    Attributes:
        images: current iterate.
        center: clean images.
        labels: true labels.
        is_gradient_finite: False once any gradient of the example was not finite.
        memory: what else the kernel carries, a pytree of arrays whose shapes and types
            stay; `iterate` does not look at it.
    """

    images: Images
    center: Images
    labels: Labels
    is_gradient_finite: PerExampleFlag
    memory: Any = ()


class AttackInfo(NamedTuple):
    """What a step saw at the iterate it started from.

    Attributes:
        loss: the attack's objective, higher = better for the attacker.
        is_adversarial: whether that iterate already fools the model.
    """

    loss: PerExample
    is_adversarial: PerExampleFlag


class AttackResult(NamedTuple):
    """A finished attack, per example and never reduced.

    Attributes:
        images: perturbed images, inside the threat model.
        loss: the attack's objective there, higher = better for the attacker.
        is_adversarial: the model misclassifies the image; of an attack that must hit
            its targets, takes it for the target.
        is_gradient_finite: False if a NaN or infinite gradient was met on the way.
            NaN was replaced by 0; the example's outcome is not to be trusted.
    """

    images: Images
    loss: PerExample
    is_adversarial: PerExampleFlag
    is_gradient_finite: PerExampleFlag

    def __repr__(self) -> str:
        return outline(self)


Attack = Callable[[PRNGKey, LogitsFn, Images, Labels], AttackResult]

AttackBuilder = Callable[[ThreatModel], Attack]
"""From what is searched to the search: the only form in which an attack is handed over,
such as `partial(auto_pgd, num_steps=50)` or `PGD(num_steps=50)`."""


class AttackKernel(NamedTuple):
    """The functions that make an iterative attack.

    Attributes:
        init: `(key, logits_fn, images, labels) -> state`.
        step: `(key, logits_fn, state) -> (state, info)`.
        evaluate: `(logits, labels) -> info`, the objective and the judgement.
        threat: what it searches, whose radius and pixel range are checked at the start;
            None to check labels only.
    """

    init: Callable[[PRNGKey, LogitsFn, Images, Labels], AttackState]
    step: Callable[[PRNGKey, LogitsFn, AttackState], tuple[AttackState, AttackInfo]]
    evaluate: Callable[[Logits, Labels], AttackInfo]
    threat: ThreatModel | None = None


def judge(logits: Logits, labels: Labels, *, must_hit: bool = False) -> PerExampleFlag:
    """Whether logits count as the attacker's success.

    Anything but a finite answer with its largest logit at the label is a success: a
    model that answers NaN has not answered rightly. Ties go to the first class, as in
    `argmax`. With `must_hit` the labels are targets, and success is to be taken for
    them. A label that is no class counts as a success in both cases, since no answer
    could be one that withstands.

    Raises:
        TypeError: for labels that are not integers.
        ValueError: for labels that are not one for each row of the logits, or are known
            to be no class.
    """
    labels, is_class = as_classes(logits, labels)
    is_number = ~jnp.any(jnp.isnan(logits), axis=-1)
    is_label = (jnp.argmax(logits, axis=-1) == labels) & is_number
    return is_label | ~is_class if must_hit else ~is_label


def _no_pullback(cotangent: Any, value: jax.Array) -> list:
    raise TypeError(
        "`jax.grad` must not go through this attack, got a loss that depends on what "
        "it returns; its loop has no fixed number of steps, which only forward mode "
        "can follow (`jax.jvp`, `jax.jacfwd`). Where images count as constants, as in "
        "adversarial training, put `jax.lax.stop_gradient` round them."
    )


# The identity, but for derivatives in reverse mode. A function with `custom_vjp` would
# refuse those in forward mode, too.
_forward_only_p = Primitive("forward_only")
_forward_only_p.def_impl(lambda value: value)
_forward_only_p.def_abstract_eval(lambda value: value)
ad.deflinear2(_forward_only_p, _no_pullback)
batching.defvectorized(_forward_only_p)
mlir.register_lowering(_forward_only_p, lambda _, value: [value])


def checked(
    threat: ThreatModel | None, *, has_fixed_length: bool = False
) -> Callable[[Attack], Attack]:
    """Decorates the search of an attack: wrong arguments are refused at its entrance.

    Labels reach the search as int32. What is traced is checked by its shape and type
    only, so nothing of this is part of a compiled program.

    Args:
        threat: what is searched; None for an attack made of attacks, which check this.
        has_fixed_length: whether loops have a number of steps known when traced, so
            that derivatives in reverse mode exist.

    Returns:
        A decorator of `(key, logits_fn, images, labels) -> AttackResult`. The attack
        raises TypeError for images that are not floating point and labels that are not
        integers; ValueError for labels in another shape than `(batch,)`, for logits
        that are not one row of classes for each image, and for what is known to be
        wrong: images outside the pixel range, a label that is no class.
    """

    def decorate(search: Attack) -> Attack:
        @wraps(search)
        def attack(
            key: PRNGKey, logits_fn: LogitsFn, images: Images, labels: Labels
        ) -> AttackResult:
            if not jnp.issubdtype(jnp.result_type(images), jnp.floating):
                raise TypeError(
                    "`images` must be floating point, got "
                    f"{jnp.result_type(images)}; divide bytes by 255."
                )
            if threat is not None:
                threat.check(images)
            if not isinstance(images, jax.Array):
                with jax.ensure_compile_time_eval():
                    images = jnp.asarray(images)
            classes = as_labels(labels, images.shape[0])

            def answer(points: Images) -> Logits:
                logits = logits_fn(points)
                if logits.ndim != 2 or logits.shape[0] != points.shape[0]:
                    raise ValueError(
                        "`logits_fn` must return (images, classes), got "
                        f"{logits.shape} for images of shape {points.shape}; return "
                        "one row of logits for each image."
                    )
                require_classes_below(logits.shape[1], labels)
                return logits

            found = search(key, answer, images, classes)
            if has_fixed_length:
                return found
            moved, loss = map(_forward_only_p.bind, (found.images, found.loss))
            return found._replace(images=moved, loss=loss)

        return attack

    return decorate


def per_example(values: jax.Array, images: jax.Array) -> jax.Array:
    """Numbers of shape `(batch,)`, to be combined with images of any shape."""
    return values.reshape(values.shape + (1,) * (images.ndim - values.ndim))


def refuse_threat(
    name: str,
    threat: ThreatModel,
    kinds: tuple[type[ThreatModel], ...],
    remedy: str,
) -> None:
    """Refuse threat models that an attack cannot search.

    Args:
        name: of the attack, for the message.
        threat: that is given.
        kinds: that are refused.
        remedy: why, and what to do instead, for the message.

    Raises:
        TypeError: for one of them.
    """
    if isinstance(threat, kinds):
        refused = ", ".join(kind.name for kind in kinds)
        raise TypeError(
            f"`threat` must be of another norm than {refused} for {name}, got "
            f"{type(threat).__name__}; {remedy}."
        )


def nothing_found(images: Images) -> AttackResult:
    """The result that any other one improves on: clean images, no success."""
    batch = images.shape[0]
    return AttackResult(
        images=images,
        loss=jnp.full((batch,), -jnp.inf, jnp.float32),
        is_adversarial=jnp.zeros((batch,), bool),
        is_gradient_finite=jnp.ones((batch,), bool),
    )


def better(first: AttackResult, second: AttackResult) -> AttackResult:
    """Per example the stronger of two results: success first, then the higher loss.

    Success comes first because a cross-entropy can be higher on an image that is still
    classified rightly than on one that is not. Ties keep `first`.
    """
    # One number for a whole batch would be compared with every example of it.
    chex.assert_equal_shape((*first[1:], *second[1:]))
    chex.assert_equal_shape((first.images, second.images))
    is_second = (second.is_adversarial & ~first.is_adversarial) | (
        (second.is_adversarial == first.is_adversarial) & (second.loss > first.loss)
    )

    def choose(one: jax.Array, other: jax.Array) -> jax.Array:
        return jnp.where(per_example(is_second, one), other, one)

    chosen = jax.tree.map(choose, first, second)
    return chosen._replace(
        is_gradient_finite=first.is_gradient_finite & second.is_gradient_finite
    )


def iterate(
    kernel: AttackKernel,
    *,
    num_steps: Scalar,
    keep: Keep = "last",
) -> Attack:
    """An attack that applies a kernel `num_steps` times in one compiled loop.

    Args:
        kernel: the attack's step.
        num_steps: how often, at least 0; may be traced.
        keep: "last" returns the last iterate, "best" the strongest of all
            `num_steps + 1` iterates of each example.

    Returns:
        An attack; it refuses what `checked` does.
    """

    @checked(kernel.threat, has_fixed_length=not isinstance(num_steps, Tracer))
    def attack(
        key: PRNGKey, logits_fn: LogitsFn, images: Images, labels: Labels
    ) -> AttackResult:
        init_key, step_key = jax.random.split(key)

        def as_result(state: AttackState, info: AttackInfo) -> AttackResult:
            return AttackResult(state.images, *info, state.is_gradient_finite)

        def body(
            index: jax.Array, carry: tuple[AttackState, AttackResult | None]
        ) -> tuple[AttackState, AttackResult | None]:
            state, best = carry
            next_key = jax.random.fold_in(step_key, index)
            moved, info = kernel.step(next_key, logits_fn, state)
            if best is not None:
                best = better(best, as_result(state, info))
            return moved, best

        state = kernel.init(init_key, logits_fn, images, labels)
        best = nothing_found(state.images) if keep == "best" else None
        state, best = repeated(num_steps, body, (state, best))
        last = as_result(state, kernel.evaluate(logits_fn(state.images), state.labels))
        return last if best is None else better(best, last)

    return attack
