"""Which formulation of a convolution a CPU computes fastest, in loops as well."""

from collections.abc import Sequence

from jaxtyping import Array

from jaxrobust.convolutions.patches import conv_by_patches
from jaxrobust.convolutions.winograd import conv_by_winograd, is_faster

__all__ = ["conv_on_cpu"]


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
