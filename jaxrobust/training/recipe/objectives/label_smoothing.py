"""Label smoothing of any objective."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxrobust.arguments import require, require_in
from jaxrobust.losses import cross_entropy
from jaxrobust.pytrees import Pytree
from jaxrobust.threat import ThreatModel
from jaxrobust.training.recipe.model import Model
from jaxrobust.training.recipe.objectives.adversarial import Adversarial
from jaxrobust.training.recipe.objectives.base import Objective, Seen
from jaxrobust.types import Images, Labels, PRNGKey

__all__ = ["LabelSmoothing"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelSmoothing(Pytree):
    """An objective whose cross-entropy has its labels smoothed.

    Each label gives up `amount` of its weight, which is shared evenly among all
    classes. Only the cross-entropy changes, in `Seen.logits`: the attack climbs what it
    did, and terms such as the divergence of TRADES stay. Around AWP, as
    in `label_smoothing(awp(trades))`, the weights move up the loss without it, and the
    images are searched once; within, as in `awp(label_smoothing(trades))`, they move up
    the smoothed loss, and the images are searched twice.

    Raises:
        ValueError: for an amount out of range; when called, for an objective that does
            not say in `Seen.logits` whose cross-entropy it has.

    References:
        Szegedy et al., 2016, arXiv:1512.00567.
    """

    objective: Objective = Adversarial()
    """What is minimized."""
    amount: float = 0.1
    """Weight that is shared among the classes."""

    def __post_init__(self):
        require_in("amount", self.amount, "[0, 1]", "try 0.1")

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
        require(
            seen.logits is not None,
            "objective",
            "one that gives Seen(logits=...)",
            self.objective,
            "give the logits whose cross-entropy is in the loss",
        )
        even = -jnp.mean(jax.nn.log_softmax(seen.logits.astype(jnp.float32)), axis=-1)
        added = even - cross_entropy(seen.logits, labels)
        return loss + self.amount * jnp.mean(added), seen
