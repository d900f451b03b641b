"""Convolution and pooling in formulations of the same numbers, one for each platform.

XLA's CPU convolution loses its fast path inside a loop body, and its gradient of a
windowed maximum is a scatter; both lie on the hot path of every attack. Convolution as
patches times a matrix, and pooling as a maximum over a reshaped axis, do not have
these costs there, and transforms have fewer multiplications besides, where channels
are not few (`jaxrobust.convolutions`). On a TPU convolutions are what the hardware
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
from jaxrobust.convolutions import (
    conv_by_patches,
    conv_by_winograd,
    conv_directly,
    conv_max_pool_by_patches,
    is_faster,
    is_possible,
)
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
    remains is elementwise. No product is computed that `conv_directly` does not.
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
        return conv_directly(images[:, *cuts], kernel, step, added)

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
                return conv_max_pool_by_patches(images, kernel, pads)
            return pooled(conv_by_patches(images, kernel, self.strides, pads))

        def direct(images: Maps, kernel: Array) -> Maps:
            return pooled(conv_directly(images, kernel, self.strides, pads))

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
