"""FMN: steps along the gradient in a ball that closes in on the decision boundary."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust.arguments import require, require_count, require_in
from jaxrobust.attacks.base import Attack
from jaxrobust.attacks.builders import costs
from jaxrobust.attacks.nearest import (
    Kernel,
    Look,
    Problem,
    annealed,
    least_norm,
    margin_loss,
    passes_of_steps,
)
from jaxrobust.threat import ThreatModel, l2_normalize
from jaxrobust.types import Images, Labels, PerExample, PRNGKey, Scalar

__all__ = ["fmn"]

_FARTHEST = 1e9
"""Radius that stands for none, where there is no pixel range."""


class _State(NamedTuple):
    """Where the search stands: the iterate and the radius of the ball round it."""

    images: Images
    radius: PerExample


@costs(passes_of_steps)
def fmn(
    threat: ThreatModel,
    *,
    num_steps: Scalar = 100,
    targets: Labels | None = None,
    step_size: float = 1.0,
    final_step_size: float | None = None,
    gamma: float = 0.05,
    final_gamma: float = 0.001,
) -> Attack:
    """Fast minimum-norm attack (Pintor et al., 2021): small perturbations in any norm.

    Each step goes along the gradient of the margin, by a vector of Euclidean length
    `step_size`, and projects on a ball whose radius follows the boundary: while nothing
    adversarial was seen it is the distance to the linearized boundary, then it grows by
    a factor of 1 + gamma after an image that was not adversarial and shrinks by
    1 - gamma after one that was, to the smallest norm so far at most. In l_0 it counts
    pixels and changes by at least 1. Both gamma and the step size are annealed.

    Args:
        threat: gives the norm (l_inf, l_2, l_1 or l_0), the pixel range and the ball,
            in which the nearest adversarial image is judged; see `least_norm`.
        num_steps: at least 1; may be traced.
        targets: classes towards which to go; None for the likeliest other one. Success
            is any misclassification in both cases.
        step_size: Euclidean length of the first step, above 0.
        final_step_size: of the last one; None for a hundredth of the first.
        gamma: relative change of the radius at the first step, in (0, 1).
        final_gamma: at the last one, in (0, gamma].

    Returns:
        An attack; its loss is minus the norm of the smallest perturbation found.

    Raises:
        ValueError: for a number out of range.

    References:
        Pintor et al., 2021, arXiv:2102.12827, Algorithm 1.

    Differs from the paper: what of a gradient leads out of the pixel range is left out
    before its length is taken, or an image with many pixels at the range's ends might
    never get to the boundary.
    """
    remedy = "leave it out for the paper's choice"
    require_count("num_steps", num_steps, remedy)
    require_in("step_size", step_size, "(0, inf)", remedy)
    last_size = step_size / 100 if final_step_size is None else final_step_size
    require_in("final_step_size", last_size, "(0, inf)", remedy)
    require_in("gamma", gamma, "(0, 1)", remedy)
    require_in("final_gamma", final_gamma, "(0, 1)", remedy)
    rule = f"at most `gamma` ({gamma:g})"
    require(final_gamma <= gamma, "final_gamma", rule, final_gamma, remedy)
    is_counting = threat.name == "l0"

    def init(key: PRNGKey, problem: Problem) -> _State:
        del key
        center = problem.center
        return _State(center, jnp.ones(center.shape[:1], center.dtype))

    def within_range(images: Images, gradient: Images) -> Images:
        """The gradient less what leads out of the pixel range."""
        if threat.bounds is None:
            return gradient
        lower, upper = threat.bounds
        is_blocked = jnp.where(gradient < 0, images <= lower, images >= upper)
        return jnp.where(is_blocked, 0.0, gradient)

    def next_count(radius: PerExample, look: Look, change: Scalar) -> PerExample:
        fewer = jnp.minimum(radius - 1, jnp.floor(radius * (1 - change)))
        more = jnp.maximum(radius + 1, jnp.floor(radius * (1 + change)))
        fewer = jnp.maximum(jnp.minimum(fewer, look.nearest_norm), 0)
        return jnp.where(look.is_adversarial, fewer, more)

    def next_radius(radius: PerExample, look: Look, change: Scalar) -> PerExample:
        slope = jnp.maximum(threat.dual_norm(look.gradient), 1e-12)
        # A hair beyond, since an image on the boundary is not across it.
        to_boundary = (look.norm + jnp.abs(look.loss) / slope) * (1 + final_gamma)
        is_known = look.nearest_norm < jnp.inf
        outside = jnp.where(is_known, radius * (1 + change), to_boundary)
        inside = jnp.minimum(radius * (1 - change), look.nearest_norm)
        return jnp.where(look.is_adversarial, inside, outside)

    def step(index: jax.Array, problem: Problem, state: _State, look: Look) -> _State:
        length = annealed(index, num_steps, step_size, last_size)
        change = annealed(index, num_steps, gamma, final_gamma)
        gradient = within_range(state.images, look.gradient)
        look = look._replace(gradient=gradient)
        follow = next_count if is_counting else next_radius
        radius = follow(state.radius, look, change)
        radius = jnp.minimum(radius, jnp.minimum(problem.farthest, _FARTHEST))
        radius = radius.astype(state.radius.dtype)
        moved = state.images - problem.center + length * l2_normalize(gradient)
        moved = problem.center + threat.project_perturbation(moved, radius)
        return _State(threat.clip(moved), radius)

    return least_norm(
        threat,
        Kernel(init, step),
        num_steps=num_steps,
        loss=margin_loss(targets),
    )
