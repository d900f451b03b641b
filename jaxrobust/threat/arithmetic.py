"""What norms share: sums that round the safe way, lengths, the largest values."""

import jax
import jax.numpy as jnp
from jax import lax

from jaxrobust.types import Images, PerExample, widened

__all__ = [
    "add_toward_zero",
    "l2_norm",
    "l2_normalize",
    "largest_values",
    "next_toward",
    "pairwise_sum",
    "per_example",
]


def per_example(values: PerExample, images: Images) -> jax.Array:
    """Numbers of shape `(batch,)`, to be combined with images of any shape."""
    return values.reshape(values.shape + (1,) * (images.ndim - 1))


@jax.custom_jvp
def next_toward(value: jax.Array, target: jax.Array) -> jax.Array:
    """The next float towards a target; for derivatives the value itself."""
    return jnp.nextafter(value, target)


@next_toward.defjvp
def _derivative_of_next_toward(primals: tuple, tangents: tuple) -> tuple:
    return next_toward(*primals), tangents[0]


def add_toward_zero(center: Images, perturbation: Images) -> Images:
    """`center + perturbation`, rounded so that no pixel moves further than asked.

    The perturbation has the type of the widened center.
    """
    if center.dtype == perturbation.dtype:
        # Without the barrier XLA reassociates constants through the sum, and the error
        # below comes out as 0.
        total = lax.optimization_barrier(center + perturbation)
        # TwoSum (Knuth): `error` is exactly what rounding took from the true sum.
        moved = total - center
        error = (center - (total - moved)) + (perturbation - moved)
        overshoot = jnp.sign(perturbation) * error < 0
    else:
        # Half precision: the sum is exact in float32 up to bits far below the result.
        # `reduce_precision` because XLA may elide a plain cast to and fro.
        info = jnp.finfo(center.dtype)
        wide = center.astype(jnp.float32) + perturbation
        rounded = lax.reduce_precision(wide, info.nexp, info.nmant)
        total = rounded.astype(center.dtype)
        overshoot = jnp.sign(perturbation) * (rounded - wide) > 0
    return jnp.where(overshoot, next_toward(total, center), total)


def l2_norm(images: Images) -> PerExample:
    """Euclidean length of each example, in float32 at least, in [0, inf)."""
    flat = widened(images).reshape(images.shape[0], -1)
    # Scaled by the largest pixel, or the square would lose tiny and huge values.
    largest = jnp.max(jnp.abs(flat), axis=1, initial=0.0)
    scale = jnp.where(largest > 0, largest, 1.0)[:, None]
    return scale[:, 0] * jnp.sqrt(jnp.sum(jnp.square(flat / scale), axis=1))


def l2_normalize(images: Images) -> Images:
    """Each example divided by its Euclidean length; an example of zeros stays 0."""
    norm = per_example(l2_norm(images), images)
    return images / jnp.where(norm > 0, norm, 1.0).astype(images.dtype)


def largest_values(images: Images, counts: jax.Array | int) -> Images:
    """Which values of each example are among its largest: as many as asked for.

    Of equal ones the first. By their ranks, so that the count may be traced.

    Args:
        images: `(batch, *pixels)`.
        counts: of each example, `(batch,)`, or of all.

    Returns:
        Flags of the shape of the images.
    """
    flat = images.reshape(images.shape[0], -1)
    order = jnp.argsort(flat, axis=1, stable=True, descending=True)
    rank = jnp.argsort(order, axis=1, stable=True)
    limits = jnp.broadcast_to(jnp.asarray(counts), flat.shape[:1])
    return (rank < limits[:, None]).reshape(images.shape)


def pairwise_sum(values: jax.Array) -> PerExample:
    """Sums of rows, by halves: the error grows with the logarithm of their length only.

    Args:
        values: `(batch, length)`.
    """
    while values.shape[1] > 1:
        values = jnp.pad(values, ((0, 0), (0, values.shape[1] % 2)))
        half = values.shape[1] // 2
        values = values[:, :half] + values[:, half:]
    return (
        values[:, 0]
        if values.shape[1]
        else jnp.zeros_like(values, shape=values.shape[:1])
    )
