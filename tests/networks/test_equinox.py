"""Equinox modules as networks, compared with the modules called directly."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.networks import as_network

eqx = pytest.importorskip("equinox")

KEYS = jax.random.split(jax.random.key(0), 3)


class Plain(eqx.Module):
    """One example at a time, with neither state nor key; with whole numbers in it."""

    layers: list
    permutation: jax.Array

    def __init__(self, num_classes, key):
        keys = jax.random.split(key, 12)
        layers = [eqx.nn.Linear(8, 8, key=each) for each in keys[:10]]
        first = eqx.nn.Linear(20, 8, key=keys[10])
        last = eqx.nn.Linear(8, num_classes, key=keys[11])
        self.layers = [first, *layers, last]
        self.permutation = jax.random.permutation(key, 20)

    def __call__(self, image):
        units = image.reshape(-1)[self.permutation]
        for layer in self.layers:
            units = jnp.tanh(layer(units))
        return units


class Batched(Plain):
    is_batched = True

    def __call__(self, images):
        return jax.vmap(super().__call__)(images) - jnp.mean(images)


class Stateful(eqx.Module):
    norm: eqx.nn.BatchNorm
    dropout: eqx.nn.Dropout
    head: eqx.nn.Linear

    def __init__(self, num_classes, *, key):
        self.norm = eqx.nn.BatchNorm(20, "batch", momentum=0.9, mode="batch")
        self.dropout = eqx.nn.Dropout(0.5)
        self.head = eqx.nn.Linear(20, num_classes, key=key)

    def __call__(self, image, state, *, key):
        units, state = self.norm(image.reshape(-1), state)
        return self.head(self.dropout(units, key=key)), state


@pytest.mark.parametrize("module", [Plain, Batched])
def test_it_is_the_module_with_its_key(module, images):
    network = as_network(module, 3)
    variables = network.init(KEYS[0], images)
    made = module(3, KEYS[0])
    expected = made(images) if module is Batched else jax.vmap(made)(images)
    for train, key in ((False, None), (True, KEYS[1])):
        logits, after = network.apply(variables, images, train=train, key=key)
        np.testing.assert_allclose(logits, expected, atol=1e-6)
        chex.assert_trees_all_equal(after, variables)
    kernel = variables.params["layers"]["10"]["weight"]
    np.testing.assert_array_equal(kernel, made.layers[10].weight)
    # Only what has a gradient is trained.
    assert "permutation" not in variables.params
    np.testing.assert_array_equal(
        variables.state["arrays"]["permutation"], made.permutation
    )


def test_batch_normalization_is_over_the_batch_and_moves_in_training_only(images):
    network = as_network(Stateful, 3)
    variables = network.init(KEYS[0], images)
    _, after = jax.jit(
        lambda variables, key: network.apply(variables, images, train=True, key=key)
    )(variables, KEYS[1])
    flat = np.asarray(images.reshape(4, -1))
    moved = jax.tree.leaves(after.state)
    assert any(
        leaf.shape == (20,) and np.allclose(leaf, 0.1 * flat.mean(axis=0), atol=1e-5)
        for leaf in moved
    )
    chex.assert_trees_all_equal_shapes_and_dtypes(after.state, variables.state)
    logits, still = network.apply(after, images, train=False, key=None)
    chex.assert_trees_all_equal(still.state, after.state)
    made, state = eqx.nn.make_with_state(Stateful)(3, key=KEYS[0])
    mapped = jax.vmap(
        lambda image, state, key: made(image, state, key=key),
        in_axes=(0, None, 0),
        out_axes=(0, None),
        axis_name="batch",
    )
    _, state = mapped(images, state, jax.random.split(KEYS[1], 4))
    quiet = eqx.nn.inference_mode(made)
    expected, _ = jax.vmap(
        lambda image, state: quiet(image, state, key=None),
        in_axes=(0, None),
        out_axes=(0, None),
        axis_name="batch",
    )(images, state)
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_dropout_depends_on_the_key_and_on_the_example(images):
    network = as_network(Stateful, 3)
    variables = network.init(KEYS[0], images)

    def logits(key, images=images):
        return network.apply(variables, images, train=True, key=key)[0]

    np.testing.assert_array_equal(logits(KEYS[1]), logits(KEYS[1]))
    assert not np.allclose(logits(KEYS[1]), logits(KEYS[2]))
    one, other = logits(KEYS[1], images.at[1].set(images[0]))[:2]
    assert not np.allclose(one, other)


@pytest.mark.parametrize("module", [Plain, Stateful])
def test_many_begin_at_once(module, images):
    network = as_network(module, 3)
    together = jax.vmap(network.init, in_axes=(0, None))(KEYS, images)
    alone = [network.init(key, images) for key in KEYS]
    chex.assert_trees_all_close(
        together, jax.tree.map(lambda *each: jnp.stack(each), *alone), atol=1e-6
    )


@pytest.mark.parametrize("kind", ["module", "with state", "function"])
def test_a_module_that_is_made_brings_its_weights(kind, images):
    value = {
        "module": lambda: Plain(3, KEYS[2]),
        "with state": lambda: eqx.nn.make_with_state(Stateful)(3, key=KEYS[2]),
        "function": lambda: lambda num_classes: Plain(num_classes, KEYS[2]),
    }[kind]()
    network = as_network(value, 3)
    one, other = (jax.jit(network.init)(key, images) for key in KEYS[:2])
    chex.assert_trees_all_equal(one, other)
    made = Stateful if kind == "with state" else Plain
    expected = as_network(made, 3).init(KEYS[2], images)
    chex.assert_trees_all_close(one, expected)


def test_the_same_class_is_the_same_network():
    network, other = as_network(Plain, 3), as_network(Plain, 3)
    assert other == network and hash(other) == hash(network)
    assert as_network(Plain, 4) != network


def test_a_function_of_a_key_that_makes_something_else_is_refused(images):
    network = as_network(lambda key: (key, key), 3)
    with pytest.raises(TypeError, match="must make an Equinox module"):
        network.init(KEYS[0], images)
