"""Convolution as it is, and as a CPU computes it fastest, in loops as well."""

from collections.abc import Sequence

from jax import lax
from jaxtyping import Array

from jaxrobust.convolutions.patches import conv_by_patches
from jaxrobust.convolutions.winograd import conv_by_winograd, is_faster

__all__ = ["conv_directly", "conv_on_cpu"]


def conv_directly(
    images: Array,
    kernel: Array,
    strides: int,
    pads: Sequence[tuple[int, int]],
    precision: lax.PrecisionLike = None,
) -> Array:
    """Convolution by XLA's own.

    Args:
        images: `(batch, height, width, channels)`.
        kernel: `(height, width, channels, features)`.
        strides: step between windows, in pixels.
        pads: zeros before and after the rows, and the columns.
        precision: of the products.
    """
    return lax.conv_general_dilated(
        images,
        kernel,
        (strides, strides),
        pads,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision,
    )


def conv_on_cpu(
    images: Array, kernel: Array, strides: int, pads: Sequence[tuple[int, int]]
) -> Array:
    """Convolution by transforms where `is_faster` says so, by patches else.

    Args:
        images: `(batch, height, width, channels)`.
        kernel: `(size, size, channels, features)`.
        strides: step between windows, in pixels.
        pads: zeros before and after the rows, and the columns.
    """
    if is_faster(images.shape, kernel.shape, pads, strides, images.dtype):
        return conv_by_winograd(images, kernel, pads)
    return conv_by_patches(images, kernel, strides, pads)
