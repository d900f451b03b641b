"""Convolution and pooling, each in two formulations of the same numbers.

XLA's CPU convolution loses its fast path inside a loop body, and its gradient of a
windowed maximum is a scatter; both lie on the hot path of every attack. Convolution as
patches times a matrix, and pooling as a maximum over a reshaped axis, do not have
these costs. The parameters are the same, so checkpoints do not know the formulation.
"""

import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from jaxrobust.arguments import require
from jaxrobust.types import PRNGKey

__all__ = ["Conv", "Formulation", "Initializer", "max_pool", "torch_uniform"]

Formulation = Literal["auto", "direct", "patches"]
Padding = Literal["SAME", "VALID"]
Initializer = Callable[..., Array]
Maps = Float[Array, "batch _height _width _channels"]


def _use_patches(formulation: Formulation) -> bool:
    if formulation == "auto":
        return jax.default_backend() == "cpu"
    return formulation == "patches"


def torch_uniform(fan_in: int) -> Initializer:
    """Uniform in +-1/sqrt(fan_in), PyTorch's default for weights and biases alike."""
    limit = 1.0 / math.sqrt(fan_in)

    def init(key: PRNGKey, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    return init


def _conv_by_patches(
    images: Maps, kernel: Array, strides: int, pads: list[tuple[int, int]]
) -> Maps:
    """Shifted slices side by side, then one matrix product."""
    height, width = kernel.shape[:2]
    images = jnp.pad(images, ((0, 0), *pads, (0, 0)))
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


def _conv_max_pool_by_patches(
    images: Maps, kernel: Array, pads: list[tuple[int, int]]
) -> Maps:
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


class Conv(nn.Module):
    """2-D convolution whose parameters are those of `flax.linen.Conv`.

    With `pool` a maximum over disjoint 2x2 windows follows, as in `max_pool`.

    Attributes:
        features: number of output channels.
        kernel_size: side of the square kernel, in pixels.
        strides: step between windows, in pixels.
        padding: "SAME" (zeros, as many as keep the size) or "VALID" (none).
        use_bias: whether to add a bias per channel.
        pool: whether 2x2 max-pooling follows.
        formulation: "direct" (`lax.conv`), "patches" (one matrix product), or "auto":
            patches on a CPU, direct elsewhere.
    """

    features: int
    kernel_size: int
    strides: int = 1
    padding: Padding = "SAME"
    use_bias: bool = True
    pool: bool = False
    formulation: Formulation = "auto"
    kernel_init: Initializer = nn.initializers.lecun_normal()
    bias_init: Initializer = nn.initializers.zeros_init()

    @nn.compact
    def __call__(self, images: Maps) -> Maps:
        """Images `(batch, height, width, channels)` to `features` channels."""
        window = (self.kernel_size, self.kernel_size)
        shape = (*window, images.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        kernel = kernel.astype(images.dtype)
        strides = (self.strides, self.strides)
        pads = lax.padtype_to_pads(images.shape[1:3], window, strides, self.padding)
        least = self.kernel_size + (self.strides if self.pool else 0)
        height, width = images.shape[1:3]
        padded = [
            side + sum(pad) for side, pad in zip((height, width), pads, strict=True)
        ]
        require(
            min(padded) >= least,
            "images",
            f"large enough for a window of {least} pixels in {self.name or 'Conv'} "
            f"with padding {self.padding}",
            (height, width),
            'use a network with padding "SAME", such as lenet-small, or larger images',
        )
        by_patches = _use_patches(self.formulation)
        is_fused = self.pool and by_patches and self.strides == 1
        if is_fused and self.kernel_size % 2 == 1:
            maps = _conv_max_pool_by_patches(images, kernel, list(pads))
        else:
            if by_patches:
                maps = _conv_by_patches(images, kernel, self.strides, list(pads))
            else:
                maps = lax.conv_general_dilated(
                    images,
                    kernel,
                    strides,
                    pads,
                    dimension_numbers=("NHWC", "HWIO", "NHWC"),
                )
            if self.pool:
                maps = max_pool(maps, 2, self.formulation)
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (self.features,), jnp.float32)
            maps = maps + bias.astype(maps.dtype)[None, None, None]
        return maps


def max_pool(maps: Maps, size: int = 2, formulation: Formulation = "auto") -> Maps:
    """Maximum over disjoint `size` x `size` windows; a remainder at an edge is dropped.

    The formulations agree in value. In the gradient they differ at ties alone:
    "direct" sends it to the first maximum of a window, "patches" shares it equally
    among all maxima, which is a subgradient too.
    """
    if not _use_patches(formulation):
        return nn.max_pool(maps, (size, size), (size, size))
    batch, height, width, channels = maps.shape
    rows, columns = height // size, width // size
    maps = maps[:, : rows * size, : columns * size]
    windows = maps.reshape(batch, rows, size, columns, size, channels)
    return jnp.max(windows, axis=(2, 4))
