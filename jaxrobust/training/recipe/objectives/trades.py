"""TRADES: accuracy on clean images, and the same answer in all of the ball."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxrobust.arguments import require_in
from jaxrobust.attacks import PGD, AttackResult
from jaxrobust.losses import cross_entropy
from jaxrobust.threat import ThreatModel
from jaxrobust.training.recipe.model import Model
from jaxrobust.training.recipe.objectives.attacking import Attacking
from jaxrobust.training.recipe.objectives.base import Seen, seen
from jaxrobust.training.recipe.objectives.divergence import divergence
from jaxrobust.types import Images, Labels, Logits, PerExample, PRNGKey

__all__ = ["Trades"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trades(Attacking):
    r"""Clean cross-entropy plus what an attack makes of the answers (TRADES).

    :math:`\mathrm{CE}(f(x), y) + \beta\, \mathrm{KL}(f(x) \| f(x'))`, where PGD climbs
    the same divergence from :math:`x` with a little Gaussian noise: at :math:`x` itself
    its gradient is 0. Gradients flow through both answers. The network moves its state
    on clean images first, then on attacked ones.

    Raises:
        ValueError: for a number out of range or an unknown word.

    References:
        Zhang et al., 2019, arXiv:1901.08573.
    """

    attack: PGD = PGD()
    """Its steps; where it starts and what it climbs is said above."""
    beta: float = 6.0
    """Weight of the divergence."""
    noise: float = 0.001
    """Standard deviation of the start, in units of [0, 1] pixels."""

    def __post_init__(self):
        super().__post_init__()
        require_in("beta", self.beta, "[0, inf)", "6 is that of the paper")
        require_in("noise", self.noise, "[0, inf)", "0.001 is that of the paper")

    def search(
        self,
        key: PRNGKey,
        model: Model,
        threat: ThreatModel,
        images: Images,
        labels: Labels,
    ) -> AttackResult:
        """The images on which the answer is furthest from that on clean ones."""
        logits_fn = self.seen_by_attack(key, model)
        clean = logits_fn(images)

        def climbed(logits: Logits, labels: Labels) -> PerExample:
            del labels
            return divergence(clean, logits)

        noise_key = jax.random.fold_in(key, 4)
        noise = jax.random.normal(noise_key, images.shape, images.dtype)
        start = images + self.noise * noise
        attack = self.attack(threat, loss=climbed, start=start)
        return attack(key, logits_fn, images, labels)

    def loss(
        self,
        key: PRNGKey,
        model: Model,
        found: AttackResult,
        images: Images,
        labels: Labels,
    ) -> tuple[Array, Seen]:
        """Loss and what was seen, under attack."""
        clean, model = model.train(jax.random.fold_in(key, 2), images)
        logits, model = model.train(jax.random.fold_in(key, 3), found.images)
        losses = cross_entropy(clean, labels) + self.beta * divergence(clean, logits)
        is_finite = found.is_gradient_finite
        return jnp.mean(losses), seen(model, logits, labels, is_finite, in_loss=clean)
