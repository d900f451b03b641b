"""Networks of PyTorch with the layers of ours, to time both with the same work."""

from collections.abc import Sequence
from typing import Any

__all__ = ["lenet", "resnet18", "wide_resnet28"]


def lenet(padding: str, widen_factor: float) -> Any:
    """The MNIST network of `jaxrobust.networks.LeNet`."""
    from torch import nn

    first, second, hidden = (int(width * widen_factor) for width in (32, 64, 1024))
    pad, side = (2, 7) if padding == "SAME" else (0, 4)
    return nn.Sequential(
        nn.Conv2d(1, first, 5, padding=pad),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(first, second, 5, padding=pad),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(second * side**2, hidden),
        nn.ReLU(),
        nn.Linear(hidden, 10),
    )


def _sum_of(branch: Any, shortcut: Any, last: Any) -> Any:
    """A module that adds two branches."""
    from torch import nn

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branch, self.shortcut, self.last = branch, shortcut, last

        def forward(self, maps: Any) -> Any:
            return self.last(self.branch(maps) + self.shortcut(maps))

    return Sum()


def _conv(channels: int, features: int, size: int, strides: int = 1) -> Any:
    from torch import nn

    return nn.Conv2d(channels, features, size, strides, size // 2, bias=False)


def _head(channels: int) -> Sequence[Any]:
    from torch import nn

    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)


def resnet18() -> Any:
    """That of `jaxrobust.networks.resnet18`, without the standardization of pixels."""
    from torch import nn

    def block(channels: int, width: int, strides: int) -> Any:
        branch = nn.Sequential(
            _conv(channels, width, 3, strides),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            _conv(width, width, 3),
            nn.BatchNorm2d(width),
        )
        shortcut = nn.Identity()
        if channels != width:
            shortcut = nn.Sequential(
                _conv(channels, width, 1, strides), nn.BatchNorm2d(width)
            )
        return _sum_of(branch, shortcut, nn.ReLU())

    layers = [_conv(3, 64, 3), nn.BatchNorm2d(64), nn.ReLU()]
    channels = 64
    for group, width in enumerate((64, 128, 256, 512)):
        for index in range(2):
            strides = 2 if group > 0 and index == 0 else 1
            layers.append(block(channels, width, strides))
            channels = width
    return nn.Sequential(*layers, *_head(channels))


def wide_resnet28(widen_factor: float) -> Any:
    """`jaxrobust.networks.WideResNet`, without the standardization of images."""
    from torch import nn

    def block(channels: int, width: int, strides: int) -> Any:
        first = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())
        branch = nn.Sequential(
            _conv(channels, width, 3, strides),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            _conv(width, width, 3),
        )
        if channels != width:
            # The shortcut, too, begins after the first normalization.
            shortcut = _conv(channels, width, 1, strides)
            return nn.Sequential(first, _sum_of(branch, shortcut, nn.Identity()))
        return _sum_of(nn.Sequential(first, branch), nn.Identity(), nn.Identity())

    layers, channels = [_conv(3, 16, 3)], 16
    for group in range(3):
        width = int(16 * 2**group * widen_factor)
        for index in range(4):
            layers.append(block(channels, width, 2 if group and index == 0 else 1))
            channels = width
    layers += [nn.BatchNorm2d(channels), nn.ReLU()]
    return nn.Sequential(*layers, *_head(channels))
