"""Wide residual networks of 28 layers, for 32x32 images.

Zagoruyko and Komodakis 2016, arXiv:1605.07146, as the adversarial-training networks of
advertorch have them: images are standardized one by one inside the network.
"""

import math
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from jaxrobust.networks.layers import Conv, Formulation, torch_uniform
from jaxrobust.types import Images, Logits

__all__ = ["WideResNet"]


def standardized(images: Images) -> Images:
    """Each image less its mean, over its deviation or 1/sqrt(N) if that is more.

    Both are over all N pixels and channels. Gradients pass through them.
    """
    axes = (1, 2, 3)
    mean = jnp.mean(images, axis=axes, keepdims=True)
    # The maximum is taken of the squares: the root of a variance of 0 has no gradient.
    variance = jnp.mean((images - mean) ** 2, axis=axes, keepdims=True)
    least = 1.0 / math.prod(images.shape[1:])
    return (images - mean) / jnp.sqrt(jnp.maximum(variance, least))


class WideResNet(nn.Module):
    """WRN-28-k: three groups of four pre-activation blocks, k times as wide.

    Attributes:
        num_classes: number of logits.
        widen_factor: k, which multiplies the widths 16, 32 and 64 of the groups; the
            first convolution has 16 channels for every k.
        formulation: of the convolutions, see `layers`.
    """

    num_classes: int = 10
    widen_factor: float = 1.0
    formulation: Formulation = "auto"

    @nn.compact
    def __call__(self, images: Images, train: bool = False) -> Logits:
        """Logits of images `(batch, height, width, channels)`."""
        conv = partial(
            Conv,
            use_bias=False,
            kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
            formulation=self.formulation,
        )
        norm = partial(
            nn.BatchNorm, use_running_average=not train, momentum=0.9, epsilon=1e-5
        )

        def block(maps: Any, width: int, strides: int, name: str) -> Any:
            active = nn.relu(norm(name=f"{name}_norm1")(maps))
            if width != maps.shape[-1]:
                maps = conv(width, 1, strides, name=f"{name}_shortcut")(active)
            branch = conv(width, 3, strides, name=f"{name}_conv1")(active)
            branch = nn.relu(norm(name=f"{name}_norm2")(branch))
            return maps + conv(width, 3, name=f"{name}_conv2")(branch)

        maps = conv(16, 3, name="stem")(standardized(images))
        for group in range(3):
            width = int(16 * 2**group * self.widen_factor)
            for index in range(4):
                strides = 2 if group > 0 and index == 0 else 1
                maps = block(maps, width, strides, f"group{group + 1}_block{index + 1}")
        pooled = jnp.mean(nn.relu(norm(name="norm")(maps)), axis=(1, 2))
        head = nn.Dense(
            self.num_classes, kernel_init=torch_uniform(pooled.shape[-1]), name="head"
        )
        return head(pooled).astype(jnp.promote_types(images.dtype, jnp.float32))
