"""Convolution of stride 1 by the transforms of Winograd and Toom-Cook, for CPUs.

A tile of outputs is a product of polynomials read backwards, so it can be had from the
values of both factors at a few points: n = outputs + size - 1 multiplications a side in
place of outputs x size (Winograd, "Arithmetic Complexity of Computations", 1980; for
networks: Lavin and Gray 2016, arXiv:1509.09308). With G the values of the kernel, B
the interpolation and A the values of the outputs, all in two dimensions at once,

    tile of outputs = A^T (G kernel * B^T tile of inputs),

where the product over channels is a matrix product for each of the n x n points. The
transforms take one side after the other, each a matrix product of the leading axes of
an array, so that nothing is copied in between. The gradients are those of the formula:
the same transforms the other way round.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

__all__ = ["Transforms", "conv_by_winograd", "is_faster", "is_possible", "transforms"]

Maps = Float[Array, "batch _height _width _channels"]

POINTS = tuple(map(Fraction, ("0", "1", "-1", "2", "-2", "1/2", "-1/2")))
"""Where polynomials are evaluated, besides infinity; small numbers, for rounding."""

TIE = 64
"""Units of rounding by which equal maxima of a window may differ; 27 were seen."""


class Transforms(NamedTuple):
    """The matrices of one side, for tiles of `outputs` and kernels of `size`.

    Attributes:
        inputs: B^T, `(points, points)`; rows have maximum 1.
        kernel: G, `(points, size)`, scaled to make up for it.
        outputs: A^T, `(outputs, points)`.
    """

    inputs: np.ndarray
    kernel: np.ndarray
    outputs: np.ndarray


def is_possible(kernel_size: int, strides: int) -> bool:
    """Whether the transforms can do this convolution, in tiles of 4x4 outputs."""
    return strides == 1 and 2 <= kernel_size <= 5


def is_faster(
    image_shape: Sequence[int],
    kernel_shape: Sequence[int],
    pads: Sequence[tuple[int, int]],
    strides: int,
    dtype: Any,
) -> bool:
    """Whether a CPU is faster with the transforms than with patches.

    Measured by `experiments/benchmarks/convolutions.py`, in PGD (forward pass and the
    input's gradient): 3x3 and 5x5 kernels gain 1.2 to 3.2 times from 16 channels and
    8x8 outputs on, and 1.2 to 3.3 times in training steps. With 8 channels a step of
    PGD takes 1.0 to 1.5 times as long, since the transforms cost as much for few
    channels, with 1 channel over twice as long; on 4x4 outputs with 512 channels, where
    36 points hold more weights than there is work for, 2.4 times. The size of the batch
    is left out, so that an example's numbers do not depend on it. bfloat16 would round
    too much, and float64 is there to be exact.

    Args:
        image_shape: `(batch, height, width, channels)`.
        kernel_shape: `(size, size, channels, features)`.
        pads: zeros before and after the rows, and the columns.
        strides: of the convolution.
        dtype: of the images.
    """
    size, _, channels, features = kernel_shape
    sides = _output_sides(image_shape, size, pads)
    return (
        is_possible(size, strides)
        and size in (3, 5)
        and dtype == jnp.float32
        and min(channels, features) >= 16
        and min(sides) >= 8
    )


def _output_sides(
    image_shape: Sequence[int], size: int, pads: Sequence[tuple[int, int]]
) -> list[int]:
    """Height and width of the outputs at stride 1, before any pooling."""
    padded = zip(image_shape[1:3], pads, strict=True)
    return [side + sum(pad) - size + 1 for side, pad in padded]


def _times_root(polynomial: Sequence[Fraction], root: Fraction) -> list[Fraction]:
    """Coefficients, from the lowest, of the polynomial times (x - root)."""
    shifted = [Fraction(0), *polynomial]
    lowered = [*(root * number for number in polynomial), Fraction(0)]
    return [high - low for high, low in zip(shifted, lowered, strict=True)]


def _powers(points: Sequence[Fraction], count: int) -> list[list[Fraction]]:
    """Rows of 1, x, x^2, ... at the points and at infinity, where the last counts."""
    rows = [[point**power for power in range(count)] for point in points]
    return [*rows, [Fraction(power == count - 1) for power in range(count)]]


@cache
def transforms(outputs: int, size: int) -> Transforms:
    """The transforms of one side, derived in rational numbers.

    The product of two polynomials is interpolated from its values by Lagrange's
    polynomials. Its transpose is the sum over a window that networks call convolution.

    Args:
        outputs: in a tile, along a side.
        size: of the kernel, at least 2; `outputs + size - 1` is at most 8.
    """
    points = POINTS[: outputs + size - 2]
    interpolation = []
    for point in points:
        polynomial = [Fraction(1)]
        for other in points:
            if other != point:
                factor = point - other
                polynomial = [
                    number / factor for number in _times_root(polynomial, other)
                ]
        interpolation.append([*polynomial, Fraction(0)])
    at_infinity = [Fraction(1)]
    for point in points:
        at_infinity = _times_root(at_infinity, point)
    interpolation.append(at_infinity)
    largest = [max(map(abs, row)) for row in interpolation]
    inputs = [
        [number / most for number in row]
        for row, most in zip(interpolation, largest, strict=True)
    ]
    kernel = [
        [number * most for number in row]
        for row, most in zip(_powers(points, size), largest, strict=True)
    ]
    values = _powers(points, outputs)
    return Transforms(
        np.array(inputs, np.float64),
        np.array(kernel, np.float64),
        np.array(values, np.float64).T,
    )


def _tiles(images: Array, outputs: int, size: int) -> Array:
    """Overlapping tiles, `(points, points, batch, rows, columns, channels)`.

    Blocks of `outputs` pixels a side do not overlap; a tile is a block and the first
    `size - 1` rows and columns of those that follow. So every pixel is moved once, and
    then four large arrays are put together.
    """
    batch, height, width, channels = images.shape
    rows, columns = height // outputs, width // outputs
    blocks = images.reshape(batch, rows, outputs, columns, outputs, channels)
    blocks = blocks.transpose(2, 4, 0, 1, 3, 5)
    whole, rest = (0, outputs), (1, size - 1)
    parts = [
        [
            blocks[:few, :most, :, down : down + rows - 1, over : over + columns - 1]
            for over, most in (whole, rest)
        ]
        for down, few in (whole, rest)
    ]
    return jnp.concatenate([jnp.concatenate(row, axis=1) for row in parts])


def _transformed(matrix: np.ndarray, arrays: Array) -> Array:
    """The matrix times the first axis, and times the second.

    The first product is of two matrices, the second of as many as the first axis is
    long: XLA turns the gradients of both round. With `einsum` it would transpose them.
    """
    many, points, *rest = arrays.shape
    first = jnp.asarray(matrix, arrays.dtype) @ arrays.reshape(many, -1)
    copies = np.broadcast_to(matrix, (len(matrix), *matrix.shape))
    both = jnp.asarray(copies, arrays.dtype) @ first.reshape(len(matrix), points, -1)
    return both.reshape(len(matrix), len(matrix), *rest)


@jax.custom_jvp
def _largest(windows: Array) -> Array:
    """The largest of 2x2 places, `(across, 2, across, 2, ..., features)`."""
    return jnp.max(windows, axis=(1, 3))


@_largest.defjvp
def _largest_jvp(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> Any:
    """Maxima share the gradient, and so does what is as large but for rounding.

    Where an image is constant, as the background of MNIST is, all four places have the
    same value, which the transforms round differently. What counts as rounding is said
    by the largest output of the tile, over all features: each example's own.
    """
    (windows,), (moved,) = primals, tangents
    largest = _largest(windows)
    scale = jnp.max(jnp.abs(windows), axis=(0, 1, 2, 3, -1), keepdims=True)
    tolerance = TIE * jnp.finfo(windows.dtype).eps * scale
    is_largest = windows >= largest[:, None, :, None] - tolerance
    shares = is_largest.astype(windows.dtype)
    shares = shares / jnp.sum(shares, axis=(1, 3), keepdims=True)
    return largest, jnp.sum(shares * moved, axis=(1, 3))


def conv_by_winograd(
    images: Maps,
    kernel: Array,
    pads: Sequence[tuple[int, int]],
    *,
    outputs: int = 4,
    pool: bool = False,
) -> Maps:
    """Convolution of stride 1, with 2x2 max-pooling if asked for.

    Args:
        images: `(batch, height, width, channels)`.
        kernel: `(size, size, channels, features)`, of size 2 to 5.
        pads: zeros before and after the rows, and the columns.
        outputs: along a side of a tile, 2 or 4, at least `size - 1`. More are fewer
            multiplications and more rounding.
        pool: whether the largest of every 2x2 outputs is returned; a remainder at an
            edge is dropped. Equal maxima share the gradient.
    """
    size, _, channels, features = kernel.shape
    points = outputs + size - 1
    matrices = transforms(outputs, size)
    dtype = images.dtype
    sides = _output_sides(images.shape, size, pads)
    if pool:
        sides = [side // 2 * 2 for side in sides]
    counts = [math.ceil(side / outputs) for side in sides]
    # One more block than tiles: the last tile ends in it.
    wanted = [(count + 1) * outputs for count in counts]
    edges = [
        (before, want - side - before, 0)
        for side, (before, _), want in zip(images.shape[1:3], pads, wanted, strict=True)
    ]
    images = lax.pad(images, jnp.zeros((), dtype), [(0, 0, 0), *edges, (0, 0, 0)])
    tiles = _tiles(images, outputs, size)
    inputs = _transformed(matrices.inputs, tiles)
    weights = _transformed(matrices.kernel, kernel)
    weights = weights.reshape(points**2, channels, features)
    flat = inputs.reshape(points**2, -1, channels)
    products = jnp.matmul(flat, weights).reshape(*inputs.shape[:-1], features)
    maps = _transformed(matrices.outputs, products)
    rest = maps.shape[2:]
    across = outputs
    if pool:
        across = outputs // 2
        windows = maps.reshape(across, 2, across, 2, *rest)
        maps = _largest(windows)
    maps = maps.reshape(across, across, *rest).transpose(2, 3, 0, 4, 1, 5)
    batch, rows, _, columns, *_ = maps.shape
    maps = maps.reshape(batch, rows * across, columns * across, features)
    kept = [side // 2 if pool else side for side in sides]
    return maps[:, : kept[0], : kept[1]]
