"""The networks by name, as configuration files and the command line know them."""

import dataclasses
from collections.abc import Callable
from typing import Any

from flax import linen as nn

from jaxrobust.arguments import require, require_in
from jaxrobust.networks.certifiable import cnn4, cnn5, cnn7, wong_kolter
from jaxrobust.networks.conversion import as_network
from jaxrobust.networks.convnet import LeNet, Linear
from jaxrobust.networks.layers import Formulation
from jaxrobust.networks.network import Network
from jaxrobust.networks.resnet import resnet18, resnet50
from jaxrobust.networks.wide_resnet import WideResNet
from jaxrobust.references import is_reference, resolve

__all__ = ["GIVEN", "MODELS", "ModelConfig", "network_of"]

GIVEN = "given"
"""The name of a network that was handed over from Python."""


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


def _widened(builder):
    def build(config: "ModelConfig", num_classes: int) -> nn.Module:
        return builder(
            num_classes=num_classes,
            widen_factor=config.widen_factor,
            formulation=config.formulation,
        )

    return build


MODELS: dict[str, Callable[["ModelConfig", int], nn.Module]] = {
    "linear": lambda config, num_classes: Linear(num_classes),
    "lenet": _lenet("VALID", "torch"),
    "lenet-same": _lenet("SAME", "madry"),
    "lenet-small": _lenet("SAME", "torch", kernel_size=3),
    "wong-kolter": _widened(wong_kolter),
    "cnn4": _widened(cnn4),
    "cnn5": _widened(cnn5),
    "cnn7": _widened(cnn7),
    "resnet18": _widened(resnet18),
    "resnet50": _widened(resnet50),
    "wrn28": lambda config, num_classes: WideResNet(
        num_classes, config.widen_factor, config.formulation
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which network.

    Raises:
        ValueError: for an unknown name, a width factor that is not positive, or one for
            a network that is not of the catalogue.
    """

    name: str = "lenet"
    """linear; lenet (5x5 VALID, as Shaeiri et al.); lenet-same (5x5 SAME, as Madry et
    al.); lenet-small (3x3 SAME, for 8x8 images); wong-kolter (two 4x4 convolutions of
    stride 2), cnn4, cnn5 and cnn7 (with batch normalization), for certified training;
    resnet18, resnet50 and wrn28 (32x32 images); or one of your own,
    path/to/file.py:NAME or package.module:NAME."""
    widen_factor: float = 1.0
    """Multiplies all widths."""
    formulation: Formulation = "auto"
    """How convolutions are computed, see `Conv`: by default as suits the platform.
    Parameters and results are the same, but for rounding."""

    def __post_init__(self):
        require(
            self.is_known or self.name == GIVEN or is_reference(self.name),
            "model",
            f"one of {', '.join(MODELS)}, or path/to/file.py:NAME or "
            "package.module:NAME for one of your own",
            self.name,
            "choose one of these",
        )
        remedy = "1 is the network of the paper"
        require_in("widen_factor", self.widen_factor, "(0, inf)", remedy)
        is_plain = (self.widen_factor, self.formulation) == (1, "auto")
        require(
            self.is_known or is_plain,
            "widen_factor",
            "1 for a network of your own, and `formulation` auto",
            (self.widen_factor, self.formulation),
            f"set them in the code of {self.name!r}",
        )

    @property
    def is_known(self) -> bool:
        """Whether the network is of the catalogue, so that no other code is run."""
        return self.name in MODELS


def network_of(config: ModelConfig, num_classes: int) -> Network:
    """The network that a configuration names; what it refers to is imported.

    Args:
        config: a name of the catalogue, or a reference.
        num_classes: number of logits.

    Raises:
        ValueError: for a network that was handed over from Python, or a reference to
            nothing.
        TypeError: for a reference to something that makes no network.
    """
    if config.is_known:
        value: Any = MODELS[config.name](config, num_classes)
    elif config.name == GIVEN:
        raise ValueError(
            "`network` must be given again for a run whose network was handed over "
            "from Python, got none; hand over the same one."
        )
    else:
        value = resolve(config.name, what="model").value
    return as_network(value, num_classes)
