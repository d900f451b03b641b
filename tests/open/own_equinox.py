"""A network of one's own: Equinox, with dropout and batch normalization."""

import equinox as eqx
import jax


class Net(eqx.Module):
    first: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    dropout: eqx.nn.Dropout
    head: eqx.nn.Linear

    def __init__(self, num_classes, key):
        keys = jax.random.split(key)
        self.first = eqx.nn.Linear(64, 32, key=keys[0])
        self.norm = eqx.nn.BatchNorm(32, "batch", mode="batch")
        self.dropout = eqx.nn.Dropout(0.2)
        self.head = eqx.nn.Linear(32, num_classes, key=keys[1])

    def __call__(self, image, state, key):
        units, state = self.norm(self.first(image.reshape(-1)), state)
        return self.head(self.dropout(jax.nn.relu(units), key=key)), state
