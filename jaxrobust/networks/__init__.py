"""Networks: pure `init` and `apply`; pixels in [0, 1] go in, logits come out.

`as_network` makes one of a module of Flax Linen, Flax NNX or Equinox. Those of the
catalogue are Linen modules. Standardization of the pixels is part of the network, never
of the data.
"""

from jaxrobust.networks.catalogue import GIVEN, MODELS, ModelConfig, network_of
from jaxrobust.networks.certifiable import ConvNet, cnn4, cnn5, cnn7, wong_kolter
from jaxrobust.networks.conversion import as_network
from jaxrobust.networks.convnet import LeNet, Linear
from jaxrobust.networks.layers import Conv, max_pool
from jaxrobust.networks.network import Network, Variables, require_network
from jaxrobust.networks.resnet import ResNet, resnet18, resnet50
from jaxrobust.networks.wide_resnet import WideResNet

__all__ = [
    "GIVEN",
    "MODELS",
    "Conv",
    "ConvNet",
    "LeNet",
    "Linear",
    "ModelConfig",
    "Network",
    "ResNet",
    "Variables",
    "WideResNet",
    "as_network",
    "cnn4",
    "cnn5",
    "cnn7",
    "max_pool",
    "network_of",
    "require_network",
    "resnet18",
    "resnet50",
    "wong_kolter",
]
