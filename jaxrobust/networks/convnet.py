"""The MNIST networks of the five papers, and the linear classifier."""

from typing import Literal

import jax.numpy as jnp
from flax import linen as nn

from jaxrobust.networks.layers import (
    Conv,
    Formulation,
    Initializer,
    torch_uniform,
)
from jaxrobust.types import Images, Logits

__all__ = ["LeNet", "Linear"]


class Linear(nn.Module):
    """A linear classifier of the flattened pixels, started at 0.

    Attributes:
        num_classes: number of logits.
    """

    num_classes: int = 10

    @nn.compact
    def __call__(self, images: Images, train: bool = False) -> Logits:
        """Logits of images with pixels in [0, 1]; `train` changes nothing."""
        del train
        flat = images.reshape(images.shape[0], -1)
        init = nn.initializers.zeros_init()
        return nn.Dense(self.num_classes, kernel_init=init, name="head")(flat)


class LeNet(nn.Module):
    """Two convolutions with max-pooling, one hidden layer.

    With `padding="SAME"` and `initialization="madry"` this is Madry et al.'s
    network for MNIST (3,274,634 parameters on 28x28x1); with "VALID" and "torch" it is
    the network behind the numbers of Shaeiri et al. (2020; 1,111,946 parameters).

    Attributes:
        num_classes: number of logits.
        widen_factor: multiplies all widths, which are int(32q), int(64q), int(1024q).
        padding: of both convolutions.
        kernel_size: side of the convolution windows, 5 in the papers; 3 suits images
            of 8x8 pixels.
        initialization: "madry", normal of deviation .1 cut at 2 deviations with biases
            .1; or "torch", uniform in +-1/sqrt(fan_in).
        formulation: of convolutions and pooling, see `layers`.
    """

    num_classes: int = 10
    widen_factor: float = 1.0
    padding: Literal["SAME", "VALID"] = "VALID"
    kernel_size: int = 5
    initialization: Literal["madry", "torch"] = "torch"
    formulation: Formulation = "auto"

    def _initializers(self, fan_in: int) -> tuple[Initializer, Initializer]:
        """Of a kernel and of its bias."""
        if self.initialization == "torch":
            return torch_uniform(fan_in), torch_uniform(fan_in)
        # TensorFlow's truncated normal keeps `stddev` for the uncut distribution, as
        # jax's does; linen's own initializer would rescale it.
        kernel_init = nn.initializers.truncated_normal(stddev=0.1)
        return kernel_init, nn.initializers.constant(0.1)

    def _dense(self, features: int, fan_in: int, name: str) -> nn.Dense:
        kernel_init, bias_init = self._initializers(fan_in)
        return nn.Dense(
            features, kernel_init=kernel_init, bias_init=bias_init, name=name
        )

    @nn.compact
    def __call__(self, images: Images, train: bool = False) -> Logits:
        """Logits of images with pixels in [0, 1]; `train` changes nothing."""
        del train
        maps = images
        for index, width in enumerate((32, 64)):
            fan_in = self.kernel_size**2 * maps.shape[-1]
            kernel_init, bias_init = self._initializers(fan_in)
            conv = Conv(
                int(width * self.widen_factor),
                self.kernel_size,
                padding=self.padding,
                pool=True,
                formulation=self.formulation,
                kernel_init=kernel_init,
                bias_init=bias_init,
                name=f"conv{index + 1}",
            )
            # ReLU commutes with the maximum and is four times cheaper after it.
            maps = nn.relu(conv(maps))
        flat = maps.reshape(maps.shape[0], -1)
        hidden = int(1024 * self.widen_factor)
        units = nn.relu(self._dense(hidden, flat.shape[-1], "hidden")(flat))
        logits = self._dense(self.num_classes, hidden, "head")(units)
        return logits.astype(jnp.promote_types(images.dtype, jnp.float32))
