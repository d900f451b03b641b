"""What an attack is: a kernel that moves images, a loop round it, and a judge.

A kernel is a pair of pure functions. `iterate` turns it into an attack in one compiled
loop that keeps no history, so memory does not grow with the number of steps. The
library, not the kernel, judges the outcome.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

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
    "AttackInfo",
    "AttackKernel",
    "AttackResult",
    "AttackState",
    "Keep",
    "better",
    "iterate",
    "judge",
    "nothing_found",
]

Keep = Literal["last", "best"]
Objective = Callable[[Logits, Labels], PerExample]


class AttackState(NamedTuple):
    """What an attack carries from step to step.

    Attributes:
        images: current iterate.
        center: clean images.
        labels: true labels, or the targets of a targeted attack.
        is_gradient_finite: False once any gradient of the example was not finite.
    """

    images: Images
    center: Images
    labels: Labels
    is_gradient_finite: PerExampleFlag


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
        loss: the attack's objective there, higher = better for the attacker; for a
            targeted attack minus the loss at the target.
        is_adversarial: the model misclassifies the image (untargeted), or takes it
            for the target (targeted).
        is_gradient_finite: False if a NaN or infinite gradient was met on the way.
            NaN was replaced by 0; the example's outcome is not to be trusted.
    """

    images: Images
    loss: PerExample
    is_adversarial: PerExampleFlag
    is_gradient_finite: PerExampleFlag


Attack = Callable[[PRNGKey, LogitsFn, Images, Labels], AttackResult]


class AttackKernel(NamedTuple):
    """The two functions that make an iterative attack.

    Attributes:
        init: `(key, logits_fn, images, labels) -> state`.
        step: `(key, logits_fn, state) -> (state, info)`.
        evaluate: `(logits, labels) -> info`, the objective and the judgement.
    """

    init: Callable[[PRNGKey, LogitsFn, Images, Labels], AttackState]
    step: Callable[[PRNGKey, LogitsFn, AttackState], tuple[AttackState, AttackInfo]]
    evaluate: Callable[[Logits, Labels], AttackInfo]


def judge(logits: Logits, labels: Labels, *, targeted: bool = False) -> PerExampleFlag:
    """Whether logits count as the attacker's success.

    Untargeted, anything but a finite answer with its largest logit at the label is a
    success: a model that answers NaN has not answered rightly. Ties go to the first
    class, as in `argmax`.
    """
    is_number = ~jnp.any(jnp.isnan(logits), axis=-1)
    is_label = (jnp.argmax(logits, axis=-1) == labels) & is_number
    return is_label if targeted else ~is_label


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
    is_second = (second.is_adversarial & ~first.is_adversarial) | (
        (second.is_adversarial == first.is_adversarial) & (second.loss > first.loss)
    )

    def choose(one: jax.Array, other: jax.Array) -> jax.Array:
        which = is_second.reshape(is_second.shape + (1,) * (one.ndim - 1))
        return jnp.where(which, other, one)

    chosen = jax.tree.map(choose, first, second)
    return chosen._replace(
        is_gradient_finite=first.is_gradient_finite & second.is_gradient_finite
    )


def iterate(
    kernel: AttackKernel,
    *,
    num_steps: Scalar,
    keep: Keep = "last",
    shard: Callable[[AttackState], AttackState] | None = None,
) -> Attack:
    """An attack that applies a kernel `num_steps` times in one compiled loop.

    Args:
        kernel: the attack's step.
        num_steps: how often, at least 0; may be traced.
        keep: "last" returns the last iterate (facts 0.1), "best" the strongest of all
            `num_steps + 1` iterates of each example.
        shard: takes the examples of this device out of the state that the kernel made
            of the whole batch. The start, and so every number, does not depend on how
            many devices share the batch; the result has this device's examples only.
    """

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
        state = state if shard is None else shard(state)
        best = nothing_found(state.images) if keep == "best" else None
        state, best = lax.fori_loop(0, num_steps, body, (state, best))
        last = as_result(state, kernel.evaluate(logits_fn(state.images), state.labels))
        return last if best is None else better(best, last)

    return attack
