"""A network of one's own: Flax NNX, with dropout and batch normalization."""

from flax import nnx


class Net(nnx.Module):
    def __init__(self, num_classes, *, rngs):
        self.conv = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.head = nnx.Linear(256, num_classes, rngs=rngs)

    def __call__(self, images):
        maps = nnx.relu(self.norm(self.conv(images)))
        return self.head(self.dropout(maps.reshape(maps.shape[0], -1)))
