"""What certified objectives share: proven losses, and what makes bounds tight."""

import dataclasses
from typing import Self

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxrobust.arguments import require_in
from jaxrobust.bounds import Bounds, IntervalPass, interval_pass
from jaxrobust.losses import cross_entropy
from jaxrobust.pytrees import Pytree
from jaxrobust.threat import ThreatModel
from jaxrobust.training.recipe.model import Model
from jaxrobust.types import (
    Images,
    Labels,
    Logits,
    PerExample,
    PRNGKey,
    Scalar,
)

__all__ = ["Certified", "bounded", "proven_loss"]

LEAST_RATIO = 0.5
"""Of widths and activities, below which a layer is pulled up (Shi et al., 2021)."""


def proven_loss(margins: Logits, labels: Labels) -> PerExample:
    """Upper bound of the cross-entropy, in nats, of all images of the ball.

    Args:
        margins: `(batch, classes)`, lower bounds of the logit at the label minus each.
        labels: `(batch,)`.
    """
    return cross_entropy(-margins, labels)


def bounded(
    key: PRNGKey, model: Model, threat: ThreatModel, images: Images, labels: Labels
) -> tuple[IntervalPass, Model]:
    """Intervals of a network in training mode, and the model after the clean batch.

    What the network takes of its batch are the statistics of the clean images.
    """

    def logits_fn(images: Images) -> Logits:
        return model.train(key, images)[0]

    found = interval_pass(logits_fn, threat, images, labels, statistics="clean")
    return found, model.train(key, images)[1]


def _finite(value: Array, ok: Array) -> Array:
    return jnp.where(ok & jnp.isfinite(value), value, 0.0)


def _hinge(ratio: Array) -> Array:
    return jax.nn.relu(LEAST_RATIO - ratio) / LEAST_RATIO


def _mean_width(bounds: Bounds) -> Array:
    return jnp.mean(bounds.upper - bounds.lower) / 2


def tightness(found: IntervalPass) -> Scalar:
    """How much wider the intervals of layers are than those of the pixels.

    The mean over arguments of ReLU of the hinge of half minus the ratio of the widths.
    """
    before = _mean_width(found.inputs)
    terms = [
        _hinge(before / jnp.maximum(_mean_width(each), 1e-12)) for each in found.relus
    ]
    return sum(terms, jnp.zeros(())) / max(len(terms), 1)


def _balance(active: Array, inactive: Array) -> Array:
    """Hinge of the smaller ratio of the two; 0 where there is none."""
    ok = (active > 0) & (inactive > 0)
    active, inactive = jnp.where(ok, active, 1.0), jnp.where(ok, inactive, 1.0)
    ratio = jnp.minimum(active / inactive, inactive / active)
    return _finite(_hinge(ratio), ok)


def activity(found: IntervalPass) -> Scalar:
    """How far surely active and surely inactive units are from a balance.

    The mean over arguments of ReLU of the hinge of half minus a ratio: that of the
    contributions of both kinds of units to the mean, and that to the variance.
    """
    terms = []
    for lower, upper in found.relus:
        center = (lower + upper) / 2
        is_active, is_inactive = lower > 0, upper < 0
        away = jnp.square(center - jnp.mean(center))
        for value, sign in ((center, -1.0), (away, 1.0)):
            active = jnp.mean(jnp.where(is_active, value, 0.0))
            inactive = jnp.mean(jnp.where(is_inactive, value, 0.0))
            terms.append(_balance(active, sign * inactive))
    return sum(terms, jnp.zeros(())) / max(len(found.relus), 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Certified(Pytree):
    """What keeps bounds tight while the radius rises, in objectives that bound a loss.

    The network is in training mode throughout; what it takes of its batch are the
    statistics of the images in the middle of the intervals. Train with a radius that
    rises in every step: `EpsilonSchedule(kind="smooth", start=0, every="step")`.

    Raises:
        ValueError: for a weight that is negative or not finite.

    References:
        Shi et al., 2021, arXiv:2103.17268.
    """

    regularization: float = 0.5
    """Weight of tightness and activity at radius 0; it falls with the radius to 0 at
    the last one of the phase."""

    def __post_init__(self):
        getattr(super(), "__post_init__", lambda: None)()
        require_in("regularization", self.regularization, "[0, inf)", "try 0.5")

    def at_radius(self, epsilon: float, end: float) -> Self:
        """The objective at a radius on the way to the last one."""
        share = epsilon / end if end > 0 else 1.0
        weight = self.regularization * max(1 - share, 0.0)
        return dataclasses.replace(self, regularization=weight)

    def regularizer(self, found: IntervalPass) -> Scalar:
        """Tightness and activity by their weight."""
        return self.regularization * (tightness(found) + activity(found))
