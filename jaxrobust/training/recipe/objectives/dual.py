"""The dual loss of Wong & Kolter: linear bounds all the way through."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxrobust.arguments import require_count
from jaxrobust.bounds import linear_margins, projected_margins
from jaxrobust.pytrees import Pytree, static
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
    pass for each of its units: exact, and slow for networks with many units. With
    projections these bounds are estimated in as many forward passes, for l_inf and
    networks of relus; the loss is then no bound, and certifies nothing. The published
    code leaves the pixel range out (`Phase(is_bounded=False)`).

    Raises:
        ValueError: for a negative number of projections.

    References:
        Wong & Kolter, 2018, arXiv:1711.00851; with projections Wong et al., 2018,
        arXiv:1805.12514.
    """

    num_projections: int = static(default=0)
    """Random projections; 0 for exact bounds, 50 are those of Wong et al."""

    def __post_init__(self):
        remedy = "0 is exact, 50 are those of Wong et al."
        require_count("num_projections", self.num_projections, remedy, least=0)

    def __call__(
        self,
        key: PRNGKey,
        model: Model,
        threat: ThreatModel,
        images: Images,
        labels: Labels,
    ) -> tuple[Array, Seen]:
        """Loss and what was seen; see `Objective`."""
        of_model, of_projections = jax.random.split(key)

        def logits_fn(images: Images) -> Logits:
            return model.train(of_model, images)[0]

        given = (logits_fn, threat, images, labels)
        if self.num_projections:
            margins = projected_margins(
                *given,
                of_projections,
                num_projections=self.num_projections,
                statistics="clean",
            )
        else:
            margins = linear_margins(
                *given,
                slopes="dual",
                intermediate="linear",
                statistics="clean",
                rounding="nearest",
            )
        _, model = model.train(of_model, images)
        loss = jnp.mean(proven_loss(margins, labels))
        return loss, seen(model, -margins, labels)
