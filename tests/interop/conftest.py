"""A small network and images that it is right on."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest

from jaxrobust.networks import LeNet, as_network
from jaxrobust.training import bind
from jaxrobust.types import Images, Labels, LogitsFn


class Small(NamedTuple):
    logits_fn: LogitsFn
    images: Images
    labels: Labels
    image_shape: tuple[int, int, int]


@pytest.fixture(scope="session")
def small() -> Small:
    """A LeNet for images whose height, width and channels differ."""
    module = LeNet(num_classes=5, widen_factor=0.125, kernel_size=3, padding="SAME")
    network = as_network(module, 5)
    shape = (6, 8, 2)
    images = jax.random.uniform(jax.random.key(3), (12, *shape))
    model = bind(network, jax.jit(network.init)(jax.random.key(4), images))
    # Random weights hardly tell images apart, and prefer one class.
    middle = jnp.mean(jax.jit(model)(images), axis=0, keepdims=True)

    @jax.jit
    def logits_fn(images: Images) -> jax.Array:
        return 30 * (model(images) - middle)

    labels = jnp.argmax(logits_fn(images), axis=-1)
    assert len(set(labels.tolist())) > 1
    return Small(logits_fn, images, labels, shape)
