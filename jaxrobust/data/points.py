"""Images as points of a space: rows of bytes or float32, and columns for loops."""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxrobust.arguments import require, require_in
from jaxrobust.data.arrays import Pixels

__all__ = [
    "Columns",
    "accumulate",
    "as_columns",
    "as_points",
    "unit_values",
    "whole",
]

BYTES = np.arange(256, dtype=np.float32) / np.float32(255)

UNROLLED = 16
"""Dimensions that a compiled loop takes at a time."""


def as_points(images: Pixels | np.ndarray, name: str = "points") -> np.ndarray:
    """One row for each image; bytes wherever that loses nothing.

    Args:
        images: uint8 of any shape, or floats of any shape and range, which are rounded
            to float32. Floats that are all k/255 become bytes: sums of those are exact.
        name: of the argument, for errors.

    Raises:
        ValueError: if there are none, or they are neither bytes nor finite floats.
    """
    array = np.asarray(images)
    remedy = "give an array whose first axis counts the images"
    is_any = array.ndim > 0 and array.size > 0
    require(is_any, name, "of at least one image", array.shape, remedy)
    flat = array.reshape(len(array), -1)
    if flat.dtype == np.uint8:
        return np.ascontiguousarray(flat)
    is_float = np.issubdtype(flat.dtype, np.floating)
    remedy = "give bytes in 0..255, or floats in [0, 1]"
    require(is_float, name, "uint8 or floats", flat.dtype.name, remedy)
    flat = np.ascontiguousarray(flat, np.float32)
    require_in(name, flat, "(-inf, inf)", "remove the images that are not finite")
    if flat.min() >= 0 and flat.max() <= 1:
        scaled = np.rint(flat * 255).astype(np.uint8)
        if np.array_equal(BYTES[scaled], flat):
            return scaled
    return flat


def unit_values(points: np.ndarray) -> np.ndarray:
    """Points as float32; bytes are divided by 255, correctly rounded."""
    return BYTES[points] if points.dtype == np.uint8 else points


class Columns(NamedTuple):
    """Points in blocks whose first axis is the dimension, as compiled loops want them.

    Neighboring points lie side by side, so an operation on one dimension of many points
    is one vector instruction.

    Attributes:
        blocks: float32, (blocks, dimensions, points); filled up with zeros.
        size: number of points.
    """

    blocks: jax.Array
    size: int

    @staticmethod
    def of(points: np.ndarray, block_size: int = 4096) -> "Columns":
        """Those of rows of points, in units of [0, 1] pixels."""
        size, dimensions = points.shape
        block_size = min(block_size, size)
        shape = (-(-size // block_size), whole(dimensions), block_size)
        blocks = np.zeros(shape, np.float32)
        for index, block in enumerate(blocks):
            part = points[index * block_size : (index + 1) * block_size]
            block[:dimensions, : len(part)] = unit_values(part).T
        return Columns(jnp.asarray(blocks), size)


def whole(dimensions: int) -> int:
    """A number of dimensions rounded up to one that compiled loops take."""
    return -(-dimensions // UNROLLED) * UNROLLED


def as_columns(rows: np.ndarray, fill: float = 0.0) -> jax.Array:
    """A few rows, such as centers, as float32 columns, filled up with `fill`."""
    missing = whole(rows.shape[1]) - rows.shape[1]
    columns = np.pad(rows.T, ((0, missing), (0, 0)), constant_values=fill)
    return jnp.asarray(columns, jnp.float32)


def accumulate(
    term: Callable[..., jax.Array],
    first: jax.Array,
    columns: Sequence[jax.Array],
    combine: Callable[[jax.Array, jax.Array], jax.Array],
) -> jax.Array:
    """Combine, over all dimensions, a term of the values in each.

    Terms of several dimensions are combined in registers before the result is looked
    at again, which on a CPU is what makes this fast.

    Args:
        term: of one value from each of `columns`.
        first: what to begin with.
        columns: arrays whose first axis is the dimension.
        combine: an associative operation.
    """

    def step(index: jax.Array, so_far: jax.Array) -> jax.Array:
        parts = [
            lax.dynamic_slice_in_dim(each, index * UNROLLED, UNROLLED)
            for each in columns
        ]
        terms = [term(*(part[j] for part in parts)) for j in range(UNROLLED)]
        return combine(so_far, reduce(combine, terms))

    return lax.fori_loop(0, len(columns[0]) // UNROLLED, step, first)
