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

from jaxrobust.types import PRNGKey

__all__ = ["Conv", "Formulation", "Initializer", "max_pool", "torch_uniform"]

Formulation = Literal["auto", "direct", "patches"]
Padding = Literal["SAME", "VALID"]
Initializer = Callable[..., Array]
Maps = Float[Array, "batch height width channels"]


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


class Conv(nn.Module):
    """2-D convolution whose parameters are those of `flax.linen.Conv`.

    Attributes:
        features: number of output channels.
        kernel_size: side of the square kernel, in pixels.
        strides: step between windows, in pixels.
        padding: "SAME" (zeros, as many as keep the size) or "VALID" (none).
        use_bias: whether to add a bias per channel.
        formulation: "direct" (`lax.conv`), "patches" (one matrix product), or "auto":
            patches on a CPU, direct elsewhere.
    """

    features: int
    kernel_size: int
    strides: int = 1
    padding: Padding = "SAME"
    use_bias: bool = True
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
        if _use_patches(self.formulation):
            maps = _conv_by_patches(images, kernel, self.strides, list(pads))
        else:
            maps = lax.conv_general_dilated(
                images,
                kernel,
                strides,
                pads,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (self.features,), jnp.float32)
            maps = maps + bias.astype(maps.dtype)[None, None, None]
        return maps


def max_pool(maps: Maps, size: int = 2, formulation: Formulation = "auto") -> Maps:
    """Maximum over disjoint `size` x `size` windows; a remainder at the edge is dropped.

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
