"""Residual networks with batch normalization, in their form for 32x32 images."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from jaxrobust.arguments import require
from jaxrobust.networks.layers import Conv, Formulation
from jaxrobust.types import Images, Logits

__all__ = ["CIFAR10_MEAN", "CIFAR10_STD", "ResNet", "resnet18", "resnet50"]

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2023, 0.1994, 0.2010)

_he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def _per_channel(
    name: str,
    values: tuple[float, ...] | None,
    default: tuple[float, ...],
    images: Images,
) -> tuple[float, ...]:
    """One number for each channel of the images."""
    num_channels = images.shape[-1]
    if values is None:
        neutral = 0.0 if name == "mean" else 1.0
        return default if num_channels == 3 else (neutral,) * num_channels
    rule = f"one number for each channel of the images ({num_channels})"
    is_right = len(values) == num_channels
    require(is_right, name, rule, values, "give as many, or None")
    return values


class Residual(nn.Module):
    """One residual block: BasicBlock (two 3x3) or bottleneck (1x1, 3x3, 1x1)."""

    width: int
    strides: int
    is_bottleneck: bool
    formulation: Formulation

    @nn.compact
    def __call__(self, maps: Any, train: bool) -> Any:
        conv = partial(
            Conv,
            use_bias=False,
            kernel_init=_he_normal,
            formulation=self.formulation,
        )
        norm = partial(
            nn.BatchNorm,
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
        )
        if self.is_bottleneck:
            plan = [(self.width, 1, 1), (self.width, 3, self.strides)]
            plan.append((4 * self.width, 1, 1))
        else:
            plan = [(self.width, 3, self.strides), (self.width, 3, 1)]
        branch = maps
        for index, (features, size, strides) in enumerate(plan):
            branch = conv(features, size, strides, name=f"conv{index + 1}")(branch)
            branch = norm(name=f"norm{index + 1}")(branch)
            if index + 1 < len(plan):
                branch = nn.relu(branch)
        if branch.shape != maps.shape:
            maps = conv(branch.shape[-1], 1, self.strides, name="shortcut")(maps)
            maps = norm(name="shortcut_norm")(maps)
        return nn.relu(maps + branch)


class ResNet(nn.Module):
    """ResNet for small images: 3x3 stem, no max-pool, four groups (N-ResNet50).

    Pixels in [0, 1] are standardized inside the model, so that a radius keeps its
    meaning and gradients are those of the pixels. With `train=True` batch statistics
    are used and the collection `batch_stats` is updated.

    Attributes:
        block_counts: residual blocks of each group.
        is_bottleneck: bottleneck blocks (ResNet-50) or basic ones (ResNet-18).
        num_classes: number of logits.
        widen_factor: multiplies all widths.
        mean: subtracted from the channels, in units of [0, 1] pixels; None for those of
            CIFAR-10 on three channels, and nothing on other numbers of channels.
        std: divides the channels, same unit and rule.
        formulation: of the convolutions, see `layers`.
    """

    block_counts: Sequence[int]
    is_bottleneck: bool
    num_classes: int = 10
    widen_factor: float = 1.0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    formulation: Formulation = "auto"

    @nn.compact
    def __call__(self, images: Images, train: bool = False) -> Logits:
        """Logits of images `(batch, height, width, channels)`."""
        mean, std = (
            jnp.asarray(_per_channel(name, values, default, images), images.dtype)
            for name, values, default in (
                ("mean", self.mean, CIFAR10_MEAN),
                ("std", self.std, CIFAR10_STD),
            )
        )
        maps = (images - mean[None, None, None]) / std[None, None, None]
        conv = Conv(
            int(64 * self.widen_factor),
            3,
            use_bias=False,
            kernel_init=_he_normal,
            formulation=self.formulation,
            name="stem",
        )
        norm = nn.BatchNorm(
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
            name="stem_norm",
        )
        maps = nn.relu(norm(conv(maps)))
        for group, num_blocks in enumerate(self.block_counts):
            for block in range(num_blocks):
                maps = Residual(
                    width=int(64 * 2**group * self.widen_factor),
                    strides=2 if group > 0 and block == 0 else 1,
                    is_bottleneck=self.is_bottleneck,
                    formulation=self.formulation,
                    name=f"group{group + 1}_block{block + 1}",
                )(maps, train)
        pooled = jnp.mean(maps, axis=(1, 2))
        logits = nn.Dense(self.num_classes, name="head")(pooled)
        return logits.astype(jnp.promote_types(images.dtype, jnp.float32))


resnet18 = partial(ResNet, block_counts=(2, 2, 2, 2), is_bottleneck=False)
resnet50 = partial(ResNet, block_counts=(3, 4, 6, 3), is_bottleneck=True)
