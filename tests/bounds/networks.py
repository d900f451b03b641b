"""Networks by hand, and one with batch normalization."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn


def dense(*layers):
    """A network of relus by hand: weights and biases of each layer."""

    def logits_fn(images):
        values = images.reshape(images.shape[0], -1)
        for index, (weights, bias) in enumerate(layers):
            values = jax.nn.relu(values) if index else values
            values = values @ jnp.asarray(weights) + jnp.asarray(bias)[None]
        return values

    return logits_fn


def random_dense(seed, *widths):
    rng = np.random.default_rng(seed)
    return [
        (
            rng.normal(size=pair).astype(np.float32),
            rng.normal(size=pair[1]).astype(np.float32),
        )
        for pair in itertools.pairwise(widths)
    ]


class Normed(nn.Module):
    @nn.compact
    def __call__(self, images, train):
        maps = nn.Conv(4, (3, 3), name="conv")(images)
        maps = nn.BatchNorm(use_running_average=not train, momentum=0.9)(maps)
        maps = nn.relu(maps)
        flat = maps.reshape(maps.shape[0], -1)
        flat = nn.BatchNorm(use_running_average=not train)(nn.Dense(5)(flat))
        return nn.Dense(3)(nn.relu(flat))
