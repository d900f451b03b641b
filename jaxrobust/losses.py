"""Per-example losses; every one of them is higher when the defender does worse."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from jaxrobust.types import Labels, Logits, PerExample

__all__ = [
    "LOSSES",
    "LossName",
    "cross_entropy",
    "dlr",
    "margin",
    "targeted_cross_entropy",
    "targeted_dlr",
    "targeted_margin",
]

LossName = Literal["cross_entropy", "margin", "dlr"]
Loss = Callable[[Logits, Labels], PerExample]


def cross_entropy(logits: Logits, labels: Labels) -> PerExample:
    """Cross-entropy of the softmax at `labels`, in nats and in [0, inf).

    Computed in float32 whatever the dtype of the logits: bfloat16 has eight
    significant bits, too few to tell neighboring iterates of an attack apart.
    """
    return optax.losses.softmax_cross_entropy_with_integer_labels(
        logits.astype(jnp.float32), labels
    )


def margin(logits: Logits, labels: Labels) -> PerExample:
    """Largest other logit minus the logit at `labels`; positive when misclassified.

    The negative of the margin M of SN/SW (SW-V1). Unlike the cross-entropy it has a
    gradient where the softmax is saturated.
    """
    logits = logits.astype(jnp.float32)
    is_label = jnp.arange(logits.shape[-1])[None] == labels[:, None]
    others = jnp.max(jnp.where(is_label, -jnp.inf, logits), axis=-1)
    return others - jnp.sum(jnp.where(is_label, logits, 0.0), axis=-1)


def _spread(logits: Logits, places: dict[int, float]) -> PerExample:
    """Largest logit minus a weighted mean of those at some places of the ranking."""
    ranked, _ = jax.lax.top_k(logits, max(places) + 1)
    spread = sum(
        weight * (ranked[:, 0] - ranked[:, place]) for place, weight in places.items()
    )
    # Where logits tie the ratio would be 0 / 0; the authors' code adds the same number.
    return jnp.maximum(spread, 1e-12)


def dlr(logits: Logits, labels: Labels) -> PerExample:
    r"""Difference of logits ratio; positive when misclassified.

    With logits :math:`z` and their ranking :math:`z_{(1)} \ge z_{(2)} \ge \dots` it is
    :math:`(\max_{i \ne y} z_i - z_y) / (z_{(1)} - z_{(3)})`: the margin on a scale that
    neither shifting nor scaling the logits changes, so that a model cannot hide its
    gradient by large logits. With fewer than three classes there is no third logit,
    and it is the margin.

    References:
        Croce & Hein, 2020, arXiv:2003.01690, "difference of logits ratio".
    """
    logits = logits.astype(jnp.float32)
    if logits.shape[-1] < 3:
        return margin(logits, labels)
    return margin(logits, labels) / _spread(logits, {2: 1.0})


def targeted_cross_entropy(targets: Labels) -> Loss:
    """Minus the cross-entropy at `targets`, in (-inf, 0]; 0 when all mass is there.

    Returns:
        A loss `(logits, labels) -> (batch,)`, which does not look at the labels.
    """

    def loss(logits: Logits, labels: Labels) -> PerExample:
        del labels
        return -cross_entropy(logits, targets)

    return loss


def targeted_margin(targets: Labels) -> Loss:
    """Logit at `targets` minus the one at the labels; positive if misclassified.

    Returns:
        A loss `(logits, labels) -> (batch,)`.
    """

    def loss(logits: Logits, labels: Labels) -> PerExample:
        logits = logits.astype(jnp.float32)
        classes = jnp.arange(logits.shape[-1])[None]
        at_target = jnp.where(classes == targets[:, None], logits, 0.0)
        at_label = jnp.where(classes == labels[:, None], logits, 0.0)
        return jnp.sum(at_target, axis=-1) - jnp.sum(at_label, axis=-1)

    return loss


def targeted_dlr(targets: Labels) -> Loss:
    r"""Difference of logits ratio towards `targets`.

    With ranked logits it is
    :math:`(z_t - z_y) / (z_{(1)} - (z_{(3)} + z_{(4)}) / 2)`. With fewer than four
    classes there is no fourth logit, and it is `targeted_margin`.

    Returns:
        A loss `(logits, labels) -> (batch,)`.

    References:
        Croce & Hein, 2020, arXiv:2003.01690, "difference of logits ratio".
    """

    def loss(logits: Logits, labels: Labels) -> PerExample:
        logits = logits.astype(jnp.float32)
        gain = targeted_margin(targets)(logits, labels)
        if logits.shape[-1] < 4:
            return gain
        return gain / _spread(logits, {2: 0.5, 3: 0.5})

    return loss


LOSSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "margin": margin,
    "dlr": dlr,
}
