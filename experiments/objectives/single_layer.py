"""The smallest network in which training on single steps collapses."""

import flax.linen as nn
from jaxtyping import Array, Float

from jaxrobust.networks.layers import Conv
from jaxrobust.types import Images

__all__ = ["SingleLayer"]


class SingleLayer(nn.Module):
    """One convolution with 3x3 windows, ReLU, and a linear layer on all of its maps.

    References:
        Andriushchenko & Flammarion, 2020, arXiv:2007.02617, Section 4.2.
    """

    num_classes: int = 10
    num_filters: int = 16

    @nn.compact
    def __call__(self, images: Images) -> Float[Array, "batch _classes"]:
        """Images `(batch, height, width, channels)` to logits."""
        maps = nn.relu(Conv(self.num_filters, 3)(images))
        return nn.Dense(self.num_classes)(maps.reshape(maps.shape[0], -1))
