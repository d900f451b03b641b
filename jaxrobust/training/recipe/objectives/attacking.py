"""Objectives in two parts, a search and a loss, which transforms may take apart."""

import dataclasses
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxrobust.arguments import require_choice
from jaxrobust.attacks import AttackResult
from jaxrobust.losses import cross_entropy
from jaxrobust.pytrees import Pytree, static
from jaxrobust.threat import ThreatModel
from jaxrobust.training.recipe.model import Model
from jaxrobust.training.recipe.objectives.base import Seen, attacked, seen
from jaxrobust.types import Images, Labels, LogitsFn, PRNGKey

__all__ = ["Attacking", "Mode"]

Mode = Literal["eval", "train"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attacking(Pytree):
    """An objective that searches images first and then trains on them.

    Subclasses define `search`; the loss is the cross-entropy on what it finds, if they
    do not define another one.
    """

    batch_norm: Mode = static(default="eval")
    """Mode of the network while it is attacked; "train" is what Madry et al. and
    Shaeiri et al. (2020) have on CIFAR-10."""

    def __post_init__(self):
        require_choice("batch_norm", self.batch_norm, get_args(Mode))

    def seen_by_attack(self, key: PRNGKey, model: Model) -> LogitsFn:
        """The model as the search sees it; key is that of the objective."""
        return attacked(model, self.batch_norm, jax.random.fold_in(key, 2))

    def search(
        self,
        key: PRNGKey,
        model: Model,
        threat: ThreatModel,
        images: Images,
        labels: Labels,
    ) -> AttackResult:
        """The images to train on; no gradient leads through them to the parameters."""
        raise NotImplementedError

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
        del threat, images
        logits, model = model.train(jax.random.fold_in(key, 2), found.images)
        loss = jnp.mean(cross_entropy(logits, labels))
        return loss, seen(model, logits, labels, found.is_gradient_finite)

    def __call__(
        self,
        key: PRNGKey,
        model: Model,
        threat: ThreatModel,
        images: Images,
        labels: Labels,
    ) -> tuple[Array, Seen]:
        """Loss and what was seen; see `Objective`."""
        found = self.search(key, model, threat, images, labels)
        return self.loss(key, model, threat, found, images, labels)
