"""MART: adversarial training that looks at what is misclassified without an attack."""

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
from jaxrobust.training.recipe.objectives.divergence import divergence
from jaxrobust.types import Images, Labels, Logits, PerExample, PRNGKey

__all__ = ["Mart"]


def _of_rival(logits: Logits, labels: Labels) -> PerExample:
    """Minus log of one minus the largest probability of another class."""
    places = jnp.arange(logits.shape[-1])[None]
    others = jnp.where(places == labels[:, None], -jnp.inf, logits)
    is_rival = places == jnp.argmax(others, axis=-1)[:, None]
    # In logits, where the probability itself would round to 1.
    without = jax.nn.logsumexp(jnp.where(is_rival, -jnp.inf, logits), axis=-1)
    return jax.nn.logsumexp(logits, axis=-1) - without


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mart(Adversarial):
    r"""Boosted cross-entropy under attack, and steadier answers where they are wrong.

    With probabilities :math:`p` on clean and :math:`p'` on attacked images, the mean of
    :math:`-\log p'_y - \log(1 - \max_{k \ne y} p'_k)
    + \beta\, \mathrm{KL}(p \| p') (1 - p_y)`. Gradients flow through all of it. The
    attack climbs its own loss from its own start; the published code starts at clean
    images with Gaussian noise of .001, and adds small constants in the logarithms,
    which are not needed here. The network moves its state on clean images first, then
    on attacked ones.

    Raises:
        ValueError: for a weight out of range or an unknown word.

    References:
        Wang et al., 2020, "Improving adversarial robustness requires revisiting
        misclassified examples", ICLR.
    """

    beta: float = 5.0
    """Weight of the divergence."""

    def __post_init__(self):
        super().__post_init__()
        require_in("beta", self.beta, "[0, inf)", "5 is that of the paper")

    def loss(
        self,
        key: PRNGKey,
        model: Model,
        threat: ThreatModel,
        found: AttackResult,
        images: Images,
        labels: Labels,
    ) -> tuple[Array, Seen]:
        """Loss and what was seen, under attack."""
        del threat
        clean, model = model.train(jax.random.fold_in(key, 2), images)
        logits, model = model.train(jax.random.fold_in(key, 3), found.images)
        boosted = cross_entropy(logits, labels) + _of_rival(logits, labels)
        doubt = -jnp.expm1(-cross_entropy(clean, labels))
        losses = boosted + self.beta * doubt * divergence(clean, logits)
        return jnp.mean(losses), seen(model, logits, labels, found.is_gradient_finite)
