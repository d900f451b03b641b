"""The loop that searches for small perturbations: a kernel moves, the nearest is kept.

`least_norm` makes an attack of a kernel in one compiled loop. It looks at the model
once for each step, keeps the adversarial image of the smallest perturbation, and says
in the end whether that lies in the ball. The kernel sees none of this but what it
needs to move.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust.attacks.base import (
    Attack,
    AttackResult,
    checked,
    judge,
    per_example,
)
from jaxrobust.attacks.loops import repeated
from jaxrobust.losses import margin, targeted_margin
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
    widened,
)

__all__ = [
    "CLEARANCE",
    "Kernel",
    "Look",
    "Nearest",
    "Problem",
    "annealed",
    "choose",
    "least_norm",
    "margin_loss",
    "passes_of_steps",
    "reported",
    "require_norm",
]


CLEARANCE = 1e-5
"""Margin from which on a success is clear, in units of the largest logit: what another
program, or another size of batch, may round differently."""


class Problem(NamedTuple):
    """What is known before the first step.

    Attributes:
        center: clean images, widened.
        farthest: largest norm that a perturbation within the pixel range can have;
            infinite without a range.
        is_adversarial: whether the clean image is wrong already.
    """

    center: Images
    farthest: PerExample
    is_adversarial: PerExampleFlag


class Look(NamedTuple):
    """What the model says of an iterate.

    Attributes:
        loss: higher = better for the attacker.
        gradient: of the loss, with 0 in place of what is not finite.
        is_adversarial: whether the model is clearly wrong.
        norm: of the iterate's perturbation.
        nearest_norm: smallest norm of an adversarial iterate up to this one; infinite
            while there is none.
    """

    loss: PerExample
    gradient: Images
    is_adversarial: PerExampleFlag
    norm: PerExample
    nearest_norm: PerExample


class Kernel(NamedTuple):
    """How a search moves.

    Attributes:
        init: `(key, problem) -> state`, a NamedTuple of arrays with a field `images`:
            the iterate, widened and within the pixel range.
        step: `(index, problem, state, look) -> state`, from what was seen of
            `state.images`.
    """

    init: Callable[[PRNGKey, Problem], Any]
    step: Callable[[jax.Array, Problem, Any, Look], Any]


class Nearest(NamedTuple):
    """The best so far, per example.

    Attributes:
        images: adversarial image of the smallest perturbation, widened; the clean one
            while none is known.
        norm: of that perturbation; infinite while none is known.
        is_finite: False once a gradient was not finite.
    """

    images: Images
    norm: PerExample
    is_finite: PerExampleFlag


def require_norm(name: str, threat: ThreatModel, *kinds: type[ThreatModel]) -> None:
    """Refuse a threat model for whose norm an attack is not defined.

    Raises:
        TypeError: naming the norms that it is defined for.
    """
    if not isinstance(threat, kinds):
        known = " or ".join(kind.__name__ for kind in kinds)
        raise TypeError(
            f"`threat` must be a {known} for {name}, got {type(threat).__name__}; fmn "
            "takes any norm."
        )


def choose(flag: PerExampleFlag, first: Images, second: Images) -> Images:
    """The first image where the flag is set, else the second one."""
    return jnp.where(per_example(flag, first), first, second)


def annealed(index: Scalar, num_steps: Scalar, first: Scalar, last: Scalar) -> Scalar:
    """A number that falls from `first` at step 0 towards `last` by half a cosine."""
    share = (1 + jnp.cos(jnp.pi * index / num_steps)) / 2
    return last + (first - last) * share


def margin_loss(
    targets: Labels | None,
) -> Callable[[Logits, Labels], PerExample]:
    """The margin over the label, of the targets or of the largest other logit."""
    return margin if targets is None else targeted_margin(targets)


def passes_of_steps(num_steps: int, **_: object) -> int:
    """What `least_norm` costs in forward passes, a gradient counted as two more."""
    return 3 * num_steps + 3


def reported(
    threat: ThreatModel,
    logits_fn: LogitsFn,
    images: Images,
    labels: Labels,
    nearest: Nearest,
) -> AttackResult:
    """The nearest image moved into the ball and judged there.

    The loss is minus the norm of the smallest perturbation, also if it is beyond the
    ball, and -inf where there is none.
    """
    inside = threat.project(nearest.images.astype(images.dtype), images)
    is_adversarial = judge(logits_fn(inside), labels)
    inside_norm = threat.norm(widened(inside) - widened(images))
    norm = jnp.where(is_adversarial, inside_norm, nearest.norm)
    return AttackResult(
        inside, -norm.astype(jnp.float32), is_adversarial, nearest.is_finite
    )


def is_clear(logits: Logits, labels: Labels, clearance: float) -> PerExampleFlag:
    """Which successes rounding cannot undo."""
    least = clearance * jnp.max(jnp.abs(logits), axis=-1)
    return judge(logits, labels) & ~(margin(logits, labels) < least)


def _farthest(threat: ThreatModel, center: Images) -> PerExample:
    if threat.bounds is None:
        return jnp.full(center.shape[:1], jnp.inf, center.dtype)
    lower, upper = threat.bounds
    return threat.norm(jnp.maximum(center - lower, upper - center))


def least_norm(
    threat: ThreatModel,
    kernel: Kernel,
    *,
    num_steps: Scalar,
    loss: Callable[[Logits, Labels], PerExample],
) -> Attack:
    """An attack that looks for the smallest perturbation by the steps of a kernel.

    It costs `num_steps` forward and backward passes and 3 forward passes.

    Args:
        threat: gives the norm, the pixel range and the ball.
        kernel: how the iterate moves.
        num_steps: how often, at least 1; may be traced.
        loss: whose gradient the kernel gets.

    Returns:
        An attack `(key, logits_fn, images, labels) -> AttackResult`; its images are the
        nearest adversarial ones seen, moved into the ball and judged there. Where none
        was seen they are the clean images, and `is_adversarial` is False. The loss is
        minus the smallest norm, so that `with_restarts` and `over_targets` keep it.
    """

    @checked(threat)
    def attack(
        key: PRNGKey, logits_fn: LogitsFn, images: Images, labels: Labels
    ) -> AttackResult:
        center = widened(images)
        batch = images.shape[0]

        def logits_at(wide: Images) -> Logits:
            return logits_fn(wide.astype(images.dtype)).astype(jnp.float32)

        def kept(nearest: Nearest, wide: Images, is_adversarial: jax.Array) -> Nearest:
            # What the model sees may be rounded, and that is what counts.
            seen = widened(wide.astype(images.dtype))
            norm = threat.norm(seen - center)
            is_nearer = is_adversarial & (norm < nearest.norm)
            return nearest._replace(
                images=choose(is_nearer, seen, nearest.images),
                norm=jnp.where(is_nearer, norm, nearest.norm),
            )

        def body(index: jax.Array, search: tuple[Any, Nearest]) -> tuple[Any, Nearest]:
            state, nearest = search

            def height(wide: Images) -> tuple[PerExample, Logits]:
                logits = logits_at(wide)
                return loss(logits, labels), logits

            value, pull, logits = jax.vjp(height, state.images, has_aux=True)
            (slope,) = pull(jnp.ones_like(value))
            is_number = jnp.isfinite(slope)
            is_adversarial = is_clear(logits, labels, CLEARANCE)
            nearest = kept(nearest, state.images, is_adversarial)
            is_finite = jnp.all(is_number, axis=tuple(range(1, slope.ndim)))
            nearest = nearest._replace(is_finite=nearest.is_finite & is_finite)
            look = Look(
                loss=value,
                gradient=jnp.where(is_number, slope, 0.0),
                is_adversarial=is_adversarial,
                norm=threat.norm(state.images - center),
                nearest_norm=nearest.norm,
            )
            return kernel.step(index, problem, state, look), nearest

        is_wrong = judge(logits_at(center), labels)
        problem = Problem(center, _farthest(threat, center), is_wrong)
        nearest = Nearest(
            images=center,
            norm=jnp.where(is_wrong, 0.0, jnp.inf).astype(center.dtype),
            is_finite=jnp.ones(batch, bool),
        )
        search = kernel.init(key, problem), nearest
        state, nearest = repeated(num_steps, body, search)
        last = is_clear(logits_at(state.images), labels, CLEARANCE)
        nearest = kept(nearest, state.images, last)
        return reported(threat, logits_fn, images, labels, nearest)

    return attack
