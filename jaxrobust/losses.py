"""Per-example losses; every one of them is higher when the defender does worse."""

from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
import optax

from jaxrobust.types import Labels, Logits, PerExample

__all__ = ["LOSSES", "LossName", "cross_entropy", "margin"]

LossName = Literal["cross_entropy", "margin"]


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


LOSSES: dict[str, Callable[[Logits, Labels], PerExample]] = {
    "cross_entropy": cross_entropy,
    "margin": margin,
}
