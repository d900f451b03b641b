"""Networks of certified training: convolutions and linear layers with ReLU between.

There is no pooling and no shortcut: bounds pass through one layer after another.
"""

import math
from functools import partial
from typing import Literal

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array

from jaxrobust.networks.layers import Conv, Formulation, Initializer, torch_uniform
from jaxrobust.types import Images, Logits

__all__ = ["ConvNet", "cnn4", "cnn5", "cnn7", "wong_kolter"]


class ConvNet(nn.Module):
    """Convolutions with padding "SAME", one hidden layer, and a linear one.

    Where strides are 2 and windows of 3 pixels, "SAME" lets the first window start
    inside the image and PyTorch's padding of 1 outside of it; windows of 4 pixels lie
    alike on sides that are even.

    Attributes:
        convolutions: features, side of the window and stride of each, in pixels.
        hidden: units of the hidden layer.
        num_classes: number of logits.
        widen_factor: multiplies the features and the hidden units, cut to whole
            numbers.
        batch_norm: whether batch normalization follows every layer but the last,
            before its ReLU. With `train=True` it is by the statistics of the batch, and
            the collection `batch_stats` is updated.
        initialization: "torch", uniform in +-1/sqrt(fan_in); or "shi", normal of
            deviation sqrt(2 pi)/fan_in in the kernels of all layers but the last, under
            which interval bounds neither grow nor shrink, on average, from one hidden
            layer to the next (Shi et al., 2021, arXiv:2103.17268). The last kernel and
            the biases are those of "torch" in either case.
        formulation: of the convolutions, see `layers`.
    """

    convolutions: tuple[tuple[int, int, int], ...]
    hidden: int
    num_classes: int = 10
    widen_factor: float = 1.0
    batch_norm: bool = True
    initialization: Literal["torch", "shi"] = "shi"
    formulation: Formulation = "auto"

    def _kernel_init(self, fan_in: int) -> Initializer:
        """Of a layer that is not the last."""
        if self.initialization == "torch":
            return torch_uniform(fan_in)
        return nn.initializers.normal(math.sqrt(2 * math.pi) / fan_in)

    def _dense(self, units: Array, features: int, name: str, **options) -> Array:
        bias_init = torch_uniform(units.shape[-1])
        return nn.Dense(features, bias_init=bias_init, name=name, **options)(units)

    @nn.compact
    def __call__(self, images: Images, train: bool = False) -> Logits:
        """Logits of images `(batch, height, width, channels)`, pixels in [0, 1]."""

        def activated(units: Array, name: str) -> Array:
            if self.batch_norm:
                units = nn.BatchNorm(
                    use_running_average=not train,
                    momentum=0.9,
                    epsilon=1e-5,
                    name=f"{name}_norm",
                )(units)
            return nn.relu(units)

        maps = images
        for index, (features, size, strides) in enumerate(self.convolutions):
            fan_in = size**2 * maps.shape[-1]
            name = f"conv{index + 1}"
            conv = Conv(
                int(features * self.widen_factor),
                size,
                strides,
                formulation=self.formulation,
                kernel_init=self._kernel_init(fan_in),
                bias_init=torch_uniform(fan_in),
                name=name,
            )
            maps = activated(conv(maps), name)
        flat = maps.reshape(maps.shape[0], -1)
        hidden, fan_in = int(self.hidden * self.widen_factor), flat.shape[-1]
        kernel_init = self._kernel_init(fan_in)
        units = self._dense(flat, hidden, "hidden", kernel_init=kernel_init)
        units = activated(units, "hidden")
        head_init = torch_uniform(hidden)
        logits = self._dense(units, self.num_classes, "head", kernel_init=head_init)
        return logits.astype(jnp.promote_types(images.dtype, jnp.float32))


# Wong & Kolter 2018, arXiv:1711.00851: their network for MNIST, 166,406 parameters.
wong_kolter = partial(
    ConvNet,
    convolutions=((16, 4, 2), (32, 4, 2)),
    hidden=100,
    batch_norm=False,
    initialization="torch",
)
# The same with more hidden units and batch normalization.
cnn4 = partial(ConvNet, convolutions=((16, 4, 2), (32, 4, 2)), hidden=256)
# The five-layer network in the code of Mao et al. 2023, arXiv:2306.10426.
cnn5 = partial(ConvNet, convolutions=((16, 3, 1), (16, 4, 2), (32, 4, 2)), hidden=512)
# Shi et al. 2021, arXiv:2103.17268. Their own widths leave the hidden units at 512.
cnn7 = partial(
    ConvNet,
    convolutions=((64, 3, 1), (64, 3, 1), (128, 3, 2), (128, 3, 1), (128, 3, 1)),
    hidden=512,
)
