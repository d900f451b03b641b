"""sigma-zero: few pixels, by a smooth stand-in for their number and a threshold."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxrobust.arguments import require_count, require_in
from jaxrobust.attacks.base import Attack, per_example
from jaxrobust.attacks.builders import costs
from jaxrobust.attacks.nearest import (
    Kernel,
    Look,
    Problem,
    annealed,
    choose,
    least_norm,
    margin_loss,
    passes_of_steps,
    require_norm,
)
from jaxrobust.threat import L0Ball, ThreatModel
from jaxrobust.types import Images, Labels, PerExample, PRNGKey, Scalar

__all__ = ["sigma_zero"]


class _State(NamedTuple):
    """Where the search stands: the iterate, its threshold, Adam's moments."""

    images: Images
    threshold: PerExample
    moments: optax.OptState


@costs(passes_of_steps)
def sigma_zero(
    threat: ThreatModel,
    *,
    num_steps: Scalar = 1000,
    targets: Labels | None = None,
    step_size: float = 1.0,
    sigma: float = 1e-3,
    threshold: float = 0.3,
    threshold_rate: float = 0.01,
) -> Attack:
    r"""sigma-zero (Cinà et al., 2024): adversarial images that differ in few pixels.

    Descends on the part of the margin that is still missing plus the mean over pixels
    of :math:`\delta_i^2 / (\delta_i^2 + \sigma)`, which is near 1 where a pixel has
    changed and 0 where it has not. The gradient is divided by its largest component,
    Adam takes the step, and changes below a threshold are undone. The threshold rises
    while the image is adversarial and falls while it is not.

    Args:
        threat: an l_0 ball, in which the nearest adversarial image is judged; see
            `least_norm`.
        num_steps: at least 1; may be traced.
        targets: classes towards which to go; None for the likeliest other one. Success
            is any misclassification in both cases.
        step_size: of Adam, annealed to a tenth of it, in units of [0, 1] pixels.
        sigma: how smooth the stand-in is, above 0.
        threshold: at the start, in [0, 1], in units of [0, 1] pixels.
        threshold_rate: change of the threshold in a step, over the step size.

    Returns:
        An attack; its loss is minus the norm of the smallest perturbation found.

    Raises:
        TypeError: for a threat model of another norm.
        ValueError: for a number out of range.

    References:
        Cinà et al., 2024, arXiv:2402.01879, Algorithm 1.
    """
    require_norm("sigma_zero", threat, L0Ball)
    remedy = "leave it out for the paper's choice"
    require_count("num_steps", num_steps, remedy)
    require_in("step_size", step_size, "(0, inf)", remedy)
    require_in("sigma", sigma, "(0, inf)", remedy)
    require_in("threshold", threshold, "[0, 1]", remedy)
    require_in("threshold_rate", threshold_rate, "(0, inf)", remedy)
    adam = optax.scale_by_adam()

    def init(key: PRNGKey, problem: Problem) -> _State:
        del key
        center = problem.center
        first = jnp.full(center.shape[:1], threshold, center.dtype)
        return _State(center, first, adam.init(center))

    def step(index: jax.Array, problem: Problem, state: _State, look: Look) -> _State:
        change = state.images - problem.center
        square = jnp.square(change)
        crowd = 2 * change * sigma / jnp.square(square + sigma) / change[0].size
        missing = choose(look.is_adversarial, jnp.zeros_like(change), -look.gradient)
        gradient = missing + crowd
        largest = jnp.max(jnp.abs(gradient), axis=tuple(range(1, gradient.ndim)))
        gradient /= per_example(jnp.maximum(largest, 1e-12), gradient)
        update, moments = adam.update(gradient, state.moments)
        direction = jnp.asarray(update)
        length = annealed(index, num_steps, step_size, 0.1 * step_size)
        moved = threat.clip(state.images - length * direction)
        turn = jnp.where(look.is_adversarial, threshold_rate, -threshold_rate)
        limit = jnp.clip(state.threshold + turn * length, 0.0, 1.0)
        limit = limit.astype(state.threshold.dtype)
        is_small = jnp.abs(moved - problem.center) < per_example(limit, moved)
        moved = jnp.where(is_small, problem.center, moved)
        return _State(moved, limit, moments)

    return least_norm(
        threat,
        Kernel(init, step),
        num_steps=num_steps,
        loss=margin_loss(targets),
    )
