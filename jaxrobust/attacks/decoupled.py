"""DDN: the direction by the gradient, the norm by whether the last image succeeded."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust.arguments import require_count, require_in
from jaxrobust.attacks.base import Attack, per_example
from jaxrobust.attacks.builders import costs
from jaxrobust.attacks.nearest import (
    Kernel,
    Look,
    Problem,
    annealed,
    least_norm,
    passes_of_steps,
    require_norm,
)
from jaxrobust.losses import cross_entropy, targeted_cross_entropy
from jaxrobust.threat import L2Ball, ThreatModel, l2_norm, l2_normalize
from jaxrobust.types import Images, Labels, PerExample, PRNGKey, Scalar

__all__ = ["ddn"]


class _State(NamedTuple):
    """Where the search stands.

    Attributes:
        images: iterate.
        radius: of the sphere that it was moved to, before the pixel range.
        fallback: of length 1, taken where the gradient is 0.
    """

    images: Images
    radius: PerExample
    fallback: Images


@costs(passes_of_steps)
def ddn(
    threat: ThreatModel,
    *,
    num_steps: Scalar = 100,
    targets: Labels | None = None,
    init_norm: float = 1.0,
    gamma: float = 0.05,
) -> Attack:
    """Decoupled direction and norm (Rony et al., 2019): small l_2 perturbations.

    Each step climbs the cross-entropy by a vector whose length is annealed from 1 to
    0.01, then moves to a sphere round the clean image, whose radius shrinks by a factor
    of 1 - gamma if the last image was adversarial and else grows by 1 + gamma. A
    gradient of 0, as of a softmax that is saturated, gives way to a random direction.

    Args:
        threat: an l_2 ball, in which the nearest adversarial image is judged; see
            `least_norm`.
        num_steps: at least 1; may be traced.
        targets: classes towards which to go; None for away from the labels. Success is
            any misclassification in both cases.
        init_norm: radius of the first sphere, in units of [0, 1] pixels, above 0.
        gamma: relative change of the radius, in (0, 1).

    Returns:
        An attack; its loss is minus the norm of the smallest perturbation found.

    Raises:
        TypeError: for a threat model of another norm.
        ValueError: for a number out of range.

    References:
        Rony et al., 2019, arXiv:1811.09600, Algorithm 1.

    Differs from the paper: images are not rounded to 256 levels.
    """
    require_norm("ddn", threat, L2Ball)
    remedy = "leave it out for the paper's choice"
    require_count("num_steps", num_steps, remedy)
    require_in("init_norm", init_norm, "(0, inf)", remedy)
    require_in("gamma", gamma, "(0, 1)", remedy)

    def init(key: PRNGKey, problem: Problem) -> _State:
        center = problem.center
        noise = jax.random.normal(key, center.shape, center.dtype)
        radius = jnp.full(center.shape[:1], init_norm, center.dtype)
        return _State(center, radius, l2_normalize(noise))

    def step(index: jax.Array, problem: Problem, state: _State, look: Look) -> _State:
        unit = l2_normalize(look.gradient)
        is_flat = per_example(l2_norm(unit) == 0, unit)
        unit = jnp.where(is_flat, state.fallback, unit)
        length = annealed(index, num_steps, 1.0, 0.01)
        moved = state.images - problem.center + length * unit
        factor = jnp.where(look.is_adversarial, 1 - gamma, 1 + gamma)
        radius = jnp.minimum(state.radius * factor, problem.farthest)
        moved = problem.center + per_example(radius, moved) * l2_normalize(moved)
        return state._replace(images=threat.clip(moved), radius=radius)

    loss = cross_entropy if targets is None else targeted_cross_entropy(targets)
    return least_norm(threat, Kernel(init, step), num_steps=num_steps, loss=loss)
