"""GradAlign: a penalty on input gradients that turn within the ball."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxrobust.arguments import require_in
from jaxrobust.losses import cross_entropy
from jaxrobust.pytrees import Pytree
from jaxrobust.threat import ThreatModel
from jaxrobust.training.recipe.model import Model
from jaxrobust.training.recipe.objectives.base import Objective, Seen
from jaxrobust.training.recipe.objectives.fast import Fast
from jaxrobust.types import Images, Labels, PRNGKey

__all__ = ["GradAlign"]


def _directions(gradients: Images) -> tuple[Array, Array]:
    """Each example's gradient at length 1, and whether it has a direction at all."""
    flat = gradients.reshape(gradients.shape[0], -1)
    largest = jnp.max(jnp.abs(lax.stop_gradient(flat)), axis=1, keepdims=True)
    is_some = largest > 0
    # Scaled first, since squares of tiny gradients would be 0; ones in place of zeros,
    # at which the length has no derivative.
    scaled = jnp.where(is_some, flat / jnp.where(is_some, largest, 1.0), 1.0)
    length = jnp.sqrt(jnp.sum(jnp.square(scaled), axis=1, keepdims=True))
    return scaled / length, is_some[:, 0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradAlign(Pytree):
    """An objective, and a penalty on input gradients that differ within the ball.

    The penalty is one minus the mean cosine of the gradients of the cross-entropy at
    the clean image and at a uniformly random point of the ball, both of the network in
    training mode. It is differentiated through both. Examples with a gradient of zeros
    do not count.

    Raises:
        ValueError: for a weight out of range.

    References:
        Andriushchenko & Flammarion, 2020, arXiv:2007.02617.
    """

    objective: Objective = Fast()
    """What else is minimized."""
    weight: float = 0.2
    """Weight of the penalty."""

    def __post_init__(self):
        require_in("weight", self.weight, "[0, inf)", "0.2 is that of the paper")

    def __call__(
        self,
        key: PRNGKey,
        model: Model,
        threat: ThreatModel,
        images: Images,
        labels: Labels,
    ) -> tuple[Array, Seen]:
        """Loss and what the objective has seen; see `Objective`."""
        loss, seen = self.objective(key, model, threat, images, labels)
        network_key = jax.random.fold_in(key, 2)

        def total(points: Images) -> Array:
            logits, _ = model.train(network_key, points)
            return jnp.sum(cross_entropy(logits, labels))

        others = threat.sample(jax.random.fold_in(key, 5), images)
        here, is_here = _directions(jax.grad(total)(images))
        there, is_there = _directions(jax.grad(total)(others))
        counts = is_here & is_there
        turned = jnp.where(counts, 1.0 - jnp.sum(here * there, axis=1), 0.0)
        penalty = jnp.sum(turned) / jnp.maximum(jnp.sum(counts), 1)
        return loss + self.weight * penalty, seen
