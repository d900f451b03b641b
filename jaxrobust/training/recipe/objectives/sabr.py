"""SABR: the proven loss of a small box round an attacked image."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxrobust.arguments import require, require_in
from jaxrobust.attacks import AttackResult
from jaxrobust.threat import LinfBall, ThreatModel
from jaxrobust.training.recipe.model import Model
from jaxrobust.training.recipe.objectives.adversarial import Adversarial
from jaxrobust.training.recipe.objectives.base import Seen, seen
from jaxrobust.training.recipe.objectives.certified import (
    Certified,
    bounded,
    proven_loss,
)
from jaxrobust.types import Images, Labels, PRNGKey

__all__ = ["SABR"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SABR(Certified, Adversarial):
    r"""The proven loss of a small box inside the ball, where an attack found it (SABR).

    With :math:`\tau = \lambda\epsilon` the box of radius :math:`\tau` round the
    attacked image, moved to where it lies inside the ball of radius :math:`\epsilon`.
    Accuracy that training logs is that of the small box: no certificate of the ball.

    Raises:
        ValueError: for a number out of range or an unknown word; when called, for
            another norm.

    References:
        Mueller et al., 2023, arXiv:2210.04871.
    """

    ratio: float = 0.9
    """Radius of the small box, in radii of the ball."""

    def __post_init__(self):
        super().__post_init__()
        require_in("ratio", self.ratio, "[0, 1]", "the paper has 0.9 at MNIST .3")

    def loss(
        self,
        key: PRNGKey,
        model: Model,
        threat: ThreatModel,
        found: AttackResult,
        images: Images,
        labels: Labels,
    ) -> tuple[Array, Seen]:
        """Loss, in nats, and what was seen, given what `search` found."""
        require(
            isinstance(threat, LinfBall),
            "norm",
            "linf for SABR, whose small box is one",
            threat.name,
            "train with ibp or mtl_ibp",
        )
        within = threat.with_epsilon((1 - self.ratio) * threat.epsilon)
        small = threat.with_epsilon(self.ratio * threat.epsilon)
        centers = jax.lax.stop_gradient(within.project(found.images, images))
        bounds, model = bounded(key, model, small, centers, labels)
        assert bounds.margins is not None
        losses = proven_loss(bounds.margins, labels)
        loss = jnp.mean(losses) + self.regularizer(bounds)
        seen_here = seen(model, -bounds.margins, labels, found.is_gradient_finite)
        return loss, seen_here
