"""The networks by name, as configuration files and the command line know them."""

import dataclasses
from collections.abc import Callable
from typing import Literal, get_args

from flax import linen as nn

from jaxrobust.networks.convnet import LeNet, Linear
from jaxrobust.networks.layers import Formulation
from jaxrobust.networks.resnet import resnet18, resnet50

__all__ = ["MODELS", "ModelConfig", "ModelName"]

ModelName = Literal[
    "linear", "lenet", "lenet-same", "lenet-small", "resnet18", "resnet50"
]


def _lenet(padding, initialization, kernel_size=5):
    def build(config: "ModelConfig", num_classes: int) -> nn.Module:
        return LeNet(
            num_classes=num_classes,
            widen_factor=config.widen_factor,
            padding=padding,
            kernel_size=kernel_size,
            initialization=initialization,
            formulation=config.formulation,
        )

    return build


def _resnet(builder):
    def build(config: "ModelConfig", num_classes: int) -> nn.Module:
        return builder(
            num_classes=num_classes,
            widen_factor=config.widen_factor,
            formulation=config.formulation,
        )

    return build


MODELS: dict[ModelName, Callable[["ModelConfig", int], nn.Module]] = {
    "linear": lambda config, num_classes: Linear(num_classes),
    "lenet": _lenet("VALID", "torch"),
    "lenet-same": _lenet("SAME", "madry"),
    "lenet-small": _lenet("SAME", "torch", kernel_size=3),
    "resnet18": _resnet(resnet18),
    "resnet50": _resnet(resnet50),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which network.

    Raises:
        ValueError: for an unknown name or a width factor that is not positive.
    """

    name: ModelName = "lenet"
    """linear; lenet (5x5 VALID, the LP network); lenet-same (5x5 SAME, Madry's);
    lenet-small (3x3 SAME, for 8x8 images); resnet18 and resnet50 (32x32 images)."""
    widen_factor: float = 1.0
    """Multiplies all widths."""
    formulation: Formulation = "auto"
    """How convolutions are computed; never changes parameters or results."""

    def __post_init__(self):
        if self.name not in MODELS:
            raise ValueError(
                f"`model` must be one of {', '.join(get_args(ModelName))}, "
                f"got {self.name!r}; choose one of these."
            )
        if not self.widen_factor > 0:
            raise ValueError(
                f"`widen_factor` must be positive, got {self.widen_factor!r}; "
                "1 is the network of the paper."
            )

    def build(self, num_classes: int) -> nn.Module:
        """The network, with one logit for each of so many classes."""
        return MODELS[self.name](self, num_classes)
