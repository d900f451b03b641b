"""Convolution and pooling in formulations of the same numbers, one for each platform.

XLA's CPU convolution loses its fast path inside a loop body, and its gradient of a
windowed maximum is a scatter; both lie on the hot path of every attack. Convolution as
patches times a matrix, and pooling as a maximum over a reshaped axis, do not have
these costs there, and the transforms of Winograd have fewer multiplications besides,
where channels are not few (`winograd.py`). On a TPU convolutions are what the hardware
does, but a reshaped axis moves the array, so that a pooled convolution is four of them,
one for each place in the window, and pooling an elementwise maximum. The parameters are
the same, so checkpoints do not know the formulation; nor do gradients, since all share
them among the maxima of a window. The choice is made when a program is lowered, for the
platform that it is lowered for, which need not be this one.
"""

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from jaxrobust.arguments import require
from jaxrobust.networks.winograd import conv_by_winograd, is_faster, is_possible
from jaxrobust.types import PRNGKey

__all__ = ["Conv", "Formulation", "Initializer", "max_pool", "torch_uniform"]

Formulation = Literal["auto", "direct", "patches", "phases", "winograd"]
Padding = Literal["SAME", "VALID"]
Initializer = Callable[..., Array]
Pads = Sequence[tuple[int, int]]
Maps = Float[Array, "batch _height _width _channels"]


def torch_uniform(fan_in: int) -> Initializer:
    """Uniform in +-1/sqrt(fan_in), PyTorch's default for weights and biases alike."""
    limit = 1.0 / math.sqrt(fan_in)

    def init(key: PRNGKey, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    return init


def _conv_by_patches(images: Maps, kernel: Array, strides: int, pads: Pads) -> Maps:
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


def _conv_max_pool_by_patches(images: Maps, kernel: Array, pads: Pads) -> Maps:
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


def _conv_directly(images: Maps, kernel: Array, strides: int, pads: Pads) -> Maps:
    return lax.conv_general_dilated(
        images,
        kernel,
        (strides, strides),
        pads,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@jax.custom_jvp
def _largest(*maps: Maps) -> Maps:
    """Elementwise maximum of maps, whose gradient all maxima share equally."""
    return reduce(jnp.maximum, maps)


@_largest.defjvp
def _largest_jvp(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> Any:
    largest = _largest(*primals)
    is_largest = [(maps == largest).astype(largest.dtype) for maps in primals]
    moved = sum(map(jnp.multiply, is_largest, tangents))
    return largest, moved / sum(is_largest)


def _conv_max_pool_by_phases(
    images: Maps, kernel: Array, strides: int, pads: Pads
) -> Maps:
    """Convolution and 2x2 max-pooling without an array of what is pooled away.

    One convolution of twice the stride for each of the four places in a window; what
    remains is elementwise. No product is computed that `_conv_directly` does not.
    """
    size, step = kernel.shape[0], 2 * strides

    def edges(axis: int, offset: int) -> tuple[int, int]:
        """Pixels to be added before and after the image, where negative cut away."""
        side, (before, after) = images.shape[1 + axis], pads[axis]
        count = ((side + before + after - size) // strides + 1) // 2
        end = (count - 1) * step + offset + size
        return before - offset, end - before - side

    def place(*offsets: int) -> Maps:
        amounts = [edges(axis, offset) for axis, offset in enumerate(offsets)]
        # Cut here: XLA's CPU convolution is wrong where one side is cut, one padded.
        cuts = [slice(max(-low, 0), min(high, 0) or None) for low, high in amounts]
        added = [(max(low, 0), max(high, 0)) for low, high in amounts]
        return _conv_directly(images[:, *cuts], kernel, step, added)

    offsets = (0, strides)
    places = [place(row, column) for row in offsets for column in offsets]
    return _largest(*places)


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
        formulation: "direct" (`lax.conv`), "patches" (one matrix product), "phases"
            (direct, but four convolutions where pooling follows), "winograd"
            (`conv_by_winograd` where it can, for strides of 1 and kernels of 2 to 5
            pixels, patches else), or "auto": by the platform that the program is
            lowered for, on a CPU winograd where `is_faster` says so and patches else,
            phases on a TPU, direct elsewhere.
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
        sides = images.shape[1:3]
        pads = list(lax.padtype_to_pads(sides, window, strides, self.padding))
        least = self.kernel_size + (self.strides if self.pool else 0)
        padded = [side + sum(pad) for side, pad in zip(sides, pads, strict=True)]
        require(
            min(padded) >= least,
            "images",
            f"large enough for a window of {least} pixels in {self.name or 'Conv'} "
            f"with padding {self.padding}",
            sides,
            'use a network with padding "SAME", such as lenet-small, or larger images',
        )
        is_fused = self.pool and self.strides == 1 and self.kernel_size % 2 == 1

        def pooled(maps: Maps) -> Maps:
            return max_pool(maps) if self.pool else maps

        def patches(images: Maps, kernel: Array) -> Maps:
            if is_fused:
                return _conv_max_pool_by_patches(images, kernel, pads)
            return pooled(_conv_by_patches(images, kernel, self.strides, pads))

        def direct(images: Maps, kernel: Array) -> Maps:
            return pooled(_conv_directly(images, kernel, self.strides, pads))

        def phases(images: Maps, kernel: Array) -> Maps:
            return _conv_max_pool_by_phases(images, kernel, self.strides, pads)

        def winograd(images: Maps, kernel: Array) -> Maps:
            return conv_by_winograd(images, kernel, pads, pool=self.pool)

        if not self.pool:
            phases = direct
        if not is_possible(self.kernel_size, self.strides):
            winograd = patches
        if self.formulation == "auto":
            about = (images.shape, shape, pads, self.strides, images.dtype)
            cpu = winograd if is_faster(*about) else patches
            # Never `jax.default_backend()`: exported programs run elsewhere.
            maps = lax.platform_dependent(
                images, kernel, cpu=cpu, tpu=phases, default=direct
            )
        else:
            ways = {
                "patches": patches,
                "direct": direct,
                "phases": phases,
                "winograd": winograd,
            }
            maps = ways[self.formulation](images, kernel)
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (self.features,), jnp.float32)
            maps = maps + bias.astype(maps.dtype)[None, None, None]
        return maps


def max_pool(maps: Maps, size: int = 2) -> Maps:
    """Maximum over disjoint `size` x `size` windows; a remainder at an edge is dropped.

    All maxima of a window have equal shares of its gradient, which is a subgradient.
    """
    batch, height, width, channels = maps.shape
    rows, columns = height // size, width // size
    maps = maps[:, : rows * size, : columns * size]
    windows = maps.reshape(batch, rows, size, columns, size, channels)
    return jnp.max(windows, axis=(2, 4))
