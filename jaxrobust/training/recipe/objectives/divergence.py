"""How far the answer on one image is from that on another."""

import jax
import jax.numpy as jnp

from jaxrobust.types import Logits, PerExample

__all__ = ["divergence"]


def divergence(logits: Logits, others: Logits) -> PerExample:
    """Kullback-Leibler divergence of softmaxes, KL(logits || others), in nats.

    Args:
        logits: `(batch, classes)`, whose softmax weighs the classes.
        others: of the same shape, whose softmax is compared with it.

    Returns:
        At least 0 up to rounding, `(batch,)`, in float32 at least.
    """
    dtype = jnp.promote_types(logits.dtype, jnp.float32)
    first = jax.nn.log_softmax(logits.astype(dtype))
    second = jax.nn.log_softmax(others.astype(dtype))
    return jnp.sum(jnp.exp(first) * (first - second), axis=-1)
