"""Convolution as patches of pixels times a matrix, for CPUs."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ["conv_by_patches", "conv_max_pool_by_patches"]

Pads = Sequence[tuple[int, int]]
Maps = Float[Array, "batch _height _width _channels"]


def _as_blocks(images: Maps, kernel: Array, strides: int) -> tuple[Maps, Array]:
    """Blocks of pixels, and of the kernel, as channels: then the stride is 1.

    Fewer slices are put side by side, and each is contiguous.
    """
    batch, height, width, channels = images.shape
    size, _, _, features = kernel.shape
    rows, columns, taps = height // strides, width // strides, size // strides
    blocks = images[:, : rows * strides, : columns * strides].reshape(
        batch, rows, strides, columns, strides, channels
    )
    blocks = blocks.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows, columns, -1)
    kernel = kernel.reshape(taps, strides, taps, strides, channels, features)
    kernel = kernel.transpose(0, 2, 1, 3, 4, 5).reshape(taps, taps, -1, features)
    return blocks, kernel


def conv_by_patches(images: Maps, kernel: Array, strides: int, pads: Pads) -> Maps:
    """Shifted slices side by side, then one matrix product.

    Args:
        images: `(batch, height, width, channels)`.
        kernel: `(size, size, channels, features)`.
        strides: step between windows, in pixels.
        pads: zeros before and after the rows, and the columns.
    """
    images = jnp.pad(images, ((0, 0), *pads, (0, 0)))
    if strides > 1 and kernel.shape[0] % strides == 0:
        images, kernel = _as_blocks(images, kernel, strides)
        strides = 1
    height, width = kernel.shape[:2]
    rows = (images.shape[1] - height) // strides + 1
    columns = (images.shape[2] - width) // strides + 1
    slices = [
        images[
            :,
            i : i + (rows - 1) * strides + 1 : strides,
            j : j + (columns - 1) * strides + 1 : strides,
        ]
        for i in range(height)
        for j in range(width)
    ]
    patches = jnp.concatenate(slices, axis=-1)
    return patches @ kernel.reshape(-1, kernel.shape[-1])


def conv_max_pool_by_patches(images: Maps, kernel: Array, pads: Pads) -> Maps:
    """Convolution of stride 1 and 2x2 max-pooling in one matrix product.

    A window of `size + 1` pixels covers the four convolution windows under one pooled
    pixel. One copy of the kernel for each of the four, shifted inside the large window,
    gives all four values side by side, ready for the maximum. That is a few more
    multiplications by zero, but patches are copied once for every pooled pixel instead
    of once for every pixel, and copying is what a CPU spends its time on. Taking 2x2
    blocks of pixels as channels first keeps these copies contiguous.
    """
    size, _, channels, features = kernel.shape
    half = (size + 1) // 2
    images = jnp.pad(images, ((0, 0), *pads, (0, 0)))
    batch, height, width, _ = images.shape
    rows, columns = (height - size + 1) // 2, (width - size + 1) // 2
    images = images[:, : 2 * (rows + half - 1), : 2 * (columns + half - 1)]
    blocks = images.reshape(
        batch, rows + half - 1, 2, columns + half - 1, 2, channels
    ).transpose(0, 1, 3, 2, 4, 5)
    blocks = blocks.reshape(*blocks.shape[:3], 4 * channels)
    shifted = jnp.stack(
        [
            jnp.pad(kernel, ((i, 1 - i), (j, 1 - j), (0, 0), (0, 0)))
            for i in range(2)
            for j in range(2)
        ],
        axis=3,
    )
    shifted = shifted.reshape(half, 2, half, 2, channels, 4 * features)
    shifted = shifted.transpose(0, 2, 1, 3, 4, 5).reshape(-1, 4 * features)
    patches = jnp.concatenate(
        [
            blocks[:, i : i + rows, j : j + columns]
            for i in range(half)
            for j in range(half)
        ],
        axis=-1,
    )
    maps = (patches @ shifted).reshape(batch, rows, columns, 4, features)
    return jnp.max(maps, axis=3)
