"""Convolutions: direct, and in formulations that are fast on CPUs.

XLA's CPU convolution loses its fast path inside a loop body, where all training and all
attacks compute. Arguments and numbers are those of `jax.lax.conv_general_dilated` for
images `(batch, height, width, channels)`, but for rounding.
"""

from jaxrobust.convolutions.choice import conv_directly, conv_on_cpu
from jaxrobust.convolutions.patches import conv_by_patches, conv_max_pool_by_patches
from jaxrobust.convolutions.winograd import conv_by_winograd, is_faster, is_possible

__all__ = [
    "conv_by_patches",
    "conv_by_winograd",
    "conv_directly",
    "conv_max_pool_by_patches",
    "conv_on_cpu",
    "is_faster",
    "is_possible",
]
