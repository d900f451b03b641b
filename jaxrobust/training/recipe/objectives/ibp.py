"""Interval bound propagation: the worst loss that intervals allow."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array

from jaxrobust.arguments import require_in
from jaxrobust.losses import cross_entropy
from jaxrobust.threat import ThreatModel
from jaxrobust.training.recipe.model import Model
from jaxrobust.training.recipe.objectives.base import Seen, seen
from jaxrobust.training.recipe.objectives.certified import (
    Certified,
    bounded,
    proven_loss,
)
from jaxrobust.types import Images, Labels, PRNGKey

__all__ = ["IBP"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class IBP(Certified):
    r"""The cross-entropy of the worst logits that interval bounds allow (IBP).

    :math:`\kappa\, \mathrm{CE}(f(x), y) + (1 - \kappa)\, \mathrm{CE}(-m, y)` with
    lower bounds :math:`m_j \le f_y(x') - f_j(x')` for all :math:`x'` of the ball. The
    accuracy that training logs is the certified one.

    Raises:
        ValueError: for a number out of range.

    References:
        Gowal et al., 2018, arXiv:1810.12715; Shi et al., 2021, arXiv:2103.17268.
    """

    kappa: float = 0.0
    """Weight of the clean cross-entropy; 0 is that of Shi et al."""

    def __post_init__(self):
        super().__post_init__()
        require_in("kappa", self.kappa, "[0, 1]", "0 is that of Shi et al.")

    def __call__(
        self,
        key: PRNGKey,
        model: Model,
        threat: ThreatModel,
        images: Images,
        labels: Labels,
    ) -> tuple[Array, Seen]:
        """Loss and what was seen; see `Objective`."""
        found, model = bounded(key, model, threat, images, labels)
        assert found.margins is not None
        clean = cross_entropy(found.logits, labels)
        proven = proven_loss(found.margins, labels)
        losses = self.kappa * clean + (1 - self.kappa) * proven
        loss = jnp.mean(losses) + self.regularizer(found)
        return loss, seen(model, -found.margins, labels)
