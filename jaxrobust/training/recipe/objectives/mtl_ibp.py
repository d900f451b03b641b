"""MTL-IBP: the attacked loss and the proven one, side by side."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxrobust.arguments import require_in
from jaxrobust.attacks import AttackResult
from jaxrobust.losses import cross_entropy
from jaxrobust.threat import ThreatModel
from jaxrobust.training.recipe.model import Model
from jaxrobust.training.recipe.objectives.adversarial import Adversarial
from jaxrobust.training.recipe.objectives.base import Seen, seen
from jaxrobust.training.recipe.objectives.certified import (
    Certified,
    bounded,
    proven_loss,
)
from jaxrobust.types import Images, Labels, PRNGKey

__all__ = ["MTLIBP"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MTLIBP(Certified, Adversarial):
    r"""The loss under attack and the proven one by a weight between them (MTL-IBP).

    :math:`(1 - \alpha)\, \mathrm{CE}(f(x'), y) + \alpha\, \mathrm{CE}(-m, y)`, with
    what the attack finds in :math:`x'` and the margins of interval bounds in :math:`m`:
    a small weight gives more accuracy, a large one more certificates. The network moves
    its state on clean images; the accuracy that training logs is that under attack.

    Raises:
        ValueError: for a number out of range or an unknown word.

    References:
        De Palma et al., 2024, arXiv:2305.13991.
    """

    alpha: float = 0.5
    """Weight of the proven loss."""

    def __post_init__(self):
        super().__post_init__()
        require_in("alpha", self.alpha, "[0, 1]", "try 0.5")

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
        logits, _ = model.train(jax.random.fold_in(key, 2), found.images)
        bounds, model = bounded(key, model, threat, images, labels)
        assert bounds.margins is not None
        proven = proven_loss(bounds.margins, labels)
        attacked = cross_entropy(logits, labels)
        losses = (1 - self.alpha) * attacked + self.alpha * proven
        loss = jnp.mean(losses) + self.regularizer(bounds)
        return loss, seen(model, logits, labels, found.is_gradient_finite)
