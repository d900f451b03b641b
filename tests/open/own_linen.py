"""A network of one's own: Flax Linen, with dropout and batch normalization."""

from flax import linen as nn


class Net(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, images, train):
        units = nn.Dense(32)(images.reshape(images.shape[0], -1))
        units = nn.BatchNorm(use_running_average=not train, momentum=0.9)(units)
        units = nn.Dropout(0.2, deterministic=not train)(nn.relu(units))
        return nn.Dense(self.num_classes)(units)
