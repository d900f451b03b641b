"""NNX modules as networks, compared with the modules called directly."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxrobust.networks import as_network

KEYS = jax.random.split(jax.random.key(0), 3)


class Module(nnx.Module):
    """Twelve layers, so that their names are not in the order of their numbers."""

    def __init__(self, num_classes, *, rngs):
        self.first = nnx.Linear(20, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, momentum=0.9, rngs=rngs)
        self.early = nnx.Dropout(0.5, rngs=rngs)
        self.late = nnx.Dropout(0.5, rngs=rngs)
        layers = [nnx.Linear(8, 8, rngs=rngs) for _ in range(11)]
        self.layers = nnx.List([*layers, nnx.Linear(8, num_classes, rngs=rngs)])

    def __call__(self, images):
        units = self.norm(self.first(images.reshape(images.shape[0], -1)))
        self.seen = nnx.Intermediate(units)
        units = self.late(self.early(units))
        for layer in self.layers:
            units = layer(units)
        return units


@pytest.fixture(scope="module")
def network():
    return as_network(Module, 3)


def test_it_is_the_module_with_its_random_numbers(network, images):
    variables = network.init(KEYS[0], images)
    module = Module(3, rngs=nnx.Rngs(KEYS[0]))
    module.eval()
    logits, after = network.apply(variables, images, train=False, key=None)
    np.testing.assert_allclose(logits, module(images), atol=1e-6)
    assert after.state is variables.state
    kernel = variables.params["layers"]["10"]["kernel"]
    np.testing.assert_array_equal(kernel, module.layers[10].kernel.get_value())


def test_batch_statistics_move_in_training_only(network, images):
    variables = network.init(KEYS[0], images)
    _, after = network.apply(variables, images, train=True, key=KEYS[1])
    layer = variables.params["first"]
    units = images.reshape(4, -1) @ layer["kernel"] + layer["bias"][None]
    expected = 0.1 * np.mean(units, axis=0)
    np.testing.assert_allclose(after.state["norm"]["mean"], expected, atol=1e-6)
    # Neither sown values nor streams of random numbers are of the network.
    assert set(after.state) == set(variables.state) == {"norm"}
    chex.assert_trees_all_equal_shapes_and_dtypes(after.state, variables.state)


def test_dropout_depends_on_the_key(network, images):
    variables = network.init(KEYS[0], images)

    def logits(key):
        return network.apply(variables, images, train=True, key=key)[0]

    np.testing.assert_array_equal(logits(KEYS[1]), logits(KEYS[1]))
    assert not np.allclose(logits(KEYS[1]), logits(KEYS[2]))


def test_two_dropouts_drop_different_units():
    class Two(nnx.Module):
        def __init__(self, *, rngs):
            self.one, self.other = (nnx.Dropout(0.5, rngs=rngs) for _ in range(2))

        def __call__(self, images):
            return self.one(images[:, :, 0, 0]) + 4 * self.other(images[:, :, 0, 0])

    network = as_network(Two, 3)
    images = jnp.ones((64, 8, 1, 1))
    variables = network.init(KEYS[0], images)
    values, _ = network.apply(variables, images, train=True, key=KEYS[1])
    # All four: none, the one, the other, both; the same masks would give two.
    assert set(np.ravel(values).tolist()) == {0.0, 2.0, 8.0, 10.0}


def test_many_begin_at_once(network, images):
    together = jax.vmap(network.init, in_axes=(0, None))(KEYS, images)
    alone = [network.init(key, images) for key in KEYS]
    chex.assert_trees_all_close(
        together, jax.tree.map(lambda *each: jnp.stack(each), *alone), atol=1e-6
    )


def test_a_module_that_is_made_brings_its_weights_and_stays_as_it_is(images):
    module = Module(3, rngs=nnx.Rngs(7))
    module.eval()
    before = module(images)
    network = as_network(module, 3)
    variables = jax.jit(network.init)(KEYS[0], images)
    logits, _ = network.apply(variables, images, train=False, key=None)
    np.testing.assert_allclose(logits, before, atol=1e-6)
    network.apply(variables, images, train=True, key=KEYS[1])
    np.testing.assert_array_equal(module.norm.mean.get_value(), np.zeros(8))


def test_the_same_class_is_the_same_network(network):
    other = as_network(Module, 3)
    assert other == network and hash(other) == hash(network)
    assert as_network(Module, 4) != network


def test_a_function_of_rngs_that_makes_something_else_is_refused(images):
    network = as_network(lambda rngs: rngs, 3)
    with pytest.raises(TypeError, match=r"must make an NNX module .*, got Rngs"):
        network.init(KEYS[0], images)
