"""Flax linen networks with pure `init` and `apply`; pixels in [0, 1] go in.

A network is called as `module(images, train=False)`. Standardization of the pixels is
part of the network, never of the data.
"""

from jaxrobust.networks.catalogue import MODELS, ModelConfig, ModelName
from jaxrobust.networks.convnet import LeNet, Linear
from jaxrobust.networks.layers import Conv, max_pool
from jaxrobust.networks.resnet import ResNet, resnet18, resnet50

__all__ = [
    "MODELS",
    "Conv",
    "LeNet",
    "Linear",
    "ModelConfig",
    "ModelName",
    "ResNet",
    "max_pool",
    "resnet18",
    "resnet50",
]
