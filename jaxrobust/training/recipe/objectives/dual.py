"""The dual loss of Wong & Kolter: linear bounds all the way through."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array

from jaxrobust.bounds import linear_margins
from jaxrobust.pytrees import Pytree
from jaxrobust.threat import ThreatModel
from jaxrobust.training.recipe.model import Model
from jaxrobust.training.recipe.objectives.base import Seen, seen
from jaxrobust.training.recipe.objectives.certified import proven_loss
from jaxrobust.types import Images, Labels, Logits, PRNGKey

__all__ = ["Dual"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dual(Pytree):
    """The cross-entropy of the worst logits that the dual network allows.

    Every layer is bounded by linear bounds of all layers before it, with a backward
    pass for each of its units: exact as in the paper, without its random projections,
    and slow for networks with many units. The published code leaves the pixel range
    out (`Phase(is_bounded=False)`).

    References:
        Wong & Kolter, 2018, arXiv:1711.00851.
    """

    def __call__(
        self,
        key: PRNGKey,
        model: Model,
        threat: ThreatModel,
        images: Images,
        labels: Labels,
    ) -> tuple[Array, Seen]:
        """Loss and what was seen; see `Objective`."""

        def logits_fn(images: Images) -> Logits:
            return model.train(key, images)[0]

        margins = linear_margins(
            logits_fn,
            threat,
            images,
            labels,
            slopes="dual",
            intermediate="linear",
            statistics="clean",
            rounding="nearest",
        )
        _, model = model.train(key, images)
        loss = jnp.mean(proven_loss(margins, labels))
        return loss, seen(model, -margins, labels)
