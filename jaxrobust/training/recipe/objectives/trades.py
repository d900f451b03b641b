"""TRADES: accuracy on clean images, and the same answer in all of the ball."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxrobust.arguments import require, require_in
from jaxrobust.attacks import PGD, AttackBuilder, AttackResult
from jaxrobust.attacks.builders import builder_name, settings_of, takes
from jaxrobust.losses import cross_entropy
from jaxrobust.pytrees import Pytree
from jaxrobust.threat import ThreatModel
from jaxrobust.training.recipe.model import Model
from jaxrobust.training.recipe.objectives.attacking import Attacking
from jaxrobust.training.recipe.objectives.base import Seen, seen
from jaxrobust.training.recipe.objectives.divergence import divergence
from jaxrobust.training.recipe.objectives.own_attack import OwnAttack, as_attack
from jaxrobust.types import Images, Labels, Logits, PerExample, PRNGKey

__all__ = ["Trades"]


def _builder(attack: Any) -> Any:
    return attack.build if isinstance(attack, OwnAttack) else attack


def _climbing(attack: Any) -> Pytree:
    """A builder as a pytree, refused if it could not climb a divergence."""
    tree = as_attack(attack)
    build = _builder(tree)
    if isinstance(build, str):
        return tree
    name = builder_name(build)
    rule = "a builder that takes `loss`, in whose place the divergence is climbed"
    remedy = "give PGD(...) or partial(auto_pgd, num_steps=10)"
    require(takes(build, "loss"), "attack", rule, name, remedy)
    is_away = settings_of(build).get("random_start") is not False
    rule = "one that begins beside the clean image, where the divergence is flat"
    is_away |= takes(build, "start")
    require(is_away, "attack", rule, name, "give it random_start=True")
    return tree


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trades(Attacking):
    r"""Clean cross-entropy plus what an attack makes of the answers (TRADES).

    :math:`\mathrm{CE}(f(x), y) + \beta\, \mathrm{KL}(f(x) \| f(x'))`, where an
    attack climbs the same divergence, PGD from :math:`x` with a little Gaussian noise:
    at :math:`x` itself its gradient is 0. Gradients flow through both answers. The
    network moves its state on clean images first, then on attacked ones.

    Raises:
        ValueError: for a number out of range, an unknown word, or an attack that cannot
            climb another loss than its own.

    References:
        Zhang et al., 2019, arXiv:1901.08573.
    """

    attack: PGD | AttackBuilder | str = PGD()
    """What climbs the divergence: PGD, whose start is said above, or any builder that
    takes `loss`, such as `partial(auto_pgd, num_steps=10)`. One that takes no `start`
    begins where it does on its own, which must not be the clean image. A name stands
    for one whose code has not been run."""
    beta: float = 6.0
    """Weight of the divergence."""
    noise: float = 0.001
    """Standard deviation of the start, in units of [0, 1] pixels."""

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "attack", _climbing(self.attack))
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

        settings: dict[str, Any] = {"loss": climbed}
        if takes(_builder(self.attack), "start"):
            noise_key = jax.random.fold_in(key, 4)
            noise = jax.random.normal(noise_key, images.shape, images.dtype)
            settings["start"] = images + self.noise * noise
        build: Any = self.attack
        return build(threat, **settings)(key, logits_fn, images, labels)

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
        losses = cross_entropy(clean, labels) + self.beta * divergence(clean, logits)
        is_finite = found.is_gradient_finite
        return jnp.mean(losses), seen(model, logits, labels, is_finite, in_loss=clean)
