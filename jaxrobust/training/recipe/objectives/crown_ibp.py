"""CROWN-IBP: linear bounds of the margins on intervals, while the radius rises."""

import dataclasses
from typing import Self, get_args

import jax.numpy as jnp
from jaxtyping import Array

from jaxrobust.arguments import require_choice, require_in
from jaxrobust.bounds import linear_margins
from jaxrobust.bounds.rules import SlopeName
from jaxrobust.losses import cross_entropy
from jaxrobust.pytrees import static
from jaxrobust.threat import ThreatModel
from jaxrobust.training.recipe.model import Model
from jaxrobust.training.recipe.objectives.base import Seen, seen
from jaxrobust.training.recipe.objectives.certified import bounded, proven_loss
from jaxrobust.training.recipe.objectives.ibp import IBP
from jaxrobust.types import Images, Labels, Logits, PRNGKey

__all__ = ["CrownIBP"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CrownIBP(IBP):
    r"""The proven loss of margins mixed of interval and linear bounds (CROWN-IBP).

    :math:`m = \beta m^{\mathrm{IBP}} + (1 - \beta) m^{\mathrm{CROWN}}`, where linear
    bounds take the intervals of the interval pass; :math:`\beta` rises with the radius
    from 0 to what is given. A step costs a backward pass for each class more than
    `IBP`, at the end of the ramp, too.

    Raises:
        ValueError: for a number out of range or an unknown word.

    References:
        Zhang et al., 2020, arXiv:1906.06316.
    """

    beta: float = 1.0
    """Weight of interval bounds at the last radius of the phase."""
    slopes: SlopeName = static(default="adaptive")
    """Of linear bounds below a relu: dual, zero or adaptive."""

    def __post_init__(self):
        super().__post_init__()
        require_in("beta", self.beta, "[0, 1]", "1 is that of the paper on MNIST")
        require_choice("slopes", self.slopes, get_args(SlopeName))

    def at_radius(self, epsilon: float, end: float) -> Self:
        """The objective at a radius on the way to the last one."""
        share = min(epsilon / end, 1.0) if end > 0 else 1.0
        there = super().at_radius(epsilon, end)
        return dataclasses.replace(there, beta=self.beta * share)

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

        linear = linear_margins(
            logits_fn,
            threat,
            images,
            labels,
            slopes=self.slopes,
            intermediate="interval",
            statistics="clean",
            rounding="nearest",
        )
        found, model = bounded(key, model, threat, images, labels)
        assert found.margins is not None
        margins = self.beta * found.margins + (1 - self.beta) * linear
        clean = cross_entropy(found.logits, labels)
        losses = self.kappa * clean + (1 - self.kappa) * proven_loss(margins, labels)
        loss = jnp.mean(losses) + self.regularizer(found)
        return loss, seen(model, -margins, labels)
