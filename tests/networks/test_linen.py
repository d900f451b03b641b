"""Linen modules as networks, compared with the modules called directly."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxrobust.networks import Variables, as_network, require_network

KEYS = jax.random.split(jax.random.key(0), 3)


class Everything(nn.Module):
    """Batch norm, dropout, noise of another stream, a counter, and sown values."""

    num_classes: int = 3

    @nn.compact
    def __call__(self, images, train):
        flat = images.reshape(images.shape[0], -1)
        count = self.variable("counts", "calls", lambda: jnp.int32(0))
        if train:
            count.value += 1
            flat += 0.1 * jax.random.normal(self.make_rng("noise"), flat.shape)
        units = nn.BatchNorm(use_running_average=not train)(nn.Dense(8)(flat))
        self.sow("intermediates", "units", units)
        self.sow("looked_at", "units", units)
        units = nn.Dropout(0.5, deterministic=not train)(units)
        return nn.Dense(self.num_classes)(units)


@pytest.fixture(scope="module")
def network():
    return as_network(Everything(), 3)


@pytest.fixture(scope="module")
def variables(network):
    images = jax.random.uniform(jax.random.key(3), (4, 5, 4, 1))
    return jax.jit(network.init)(KEYS[0], images)


def test_it_begins_with_the_variables_of_the_module(variables, images):
    expected = Everything().init(KEYS[0], images, train=False)
    chex.assert_trees_all_close(variables.params, expected["params"])
    # What is only sown is no part of the network.
    assert set(variables.state) == {"batch_stats", "counts"}
    assert set(expected) == {"params", "batch_stats", "counts", "looked_at"}


def test_in_evaluation_it_gives_the_logits_of_the_module(network, variables, images):
    logits, after = network.apply(variables, images, train=False, key=None)
    everything = {"params": variables.params, **variables.state}
    expected = Everything().apply(everything, images, train=False)
    np.testing.assert_array_equal(logits, expected)
    assert after.state is variables.state


def test_in_training_its_state_moves_as_that_of_the_module(network, variables, images):
    _, after = network.apply(variables, images, train=True, key=KEYS[1])
    assert int(after.state["counts"]["calls"]) == 1
    flat = images.reshape(4, -1)
    mean = after.state["batch_stats"]["BatchNorm_0"]["mean"]
    # Noise of deviation .1 in each of 20 pixels, a hundredth of it in the mean.
    layer = variables.params["Dense_0"]
    expected = 0.01 * np.mean(flat @ layer["kernel"] + layer["bias"][None], axis=0)
    np.testing.assert_allclose(mean, expected, atol=0.004)
    assert not np.all(mean == 0)
    chex.assert_trees_all_equal_shapes_and_dtypes(after.state, variables.state)


def test_what_is_random_comes_from_the_key(network, variables, images):
    def logits(key):
        return network.apply(variables, images, train=True, key=key)[0]

    np.testing.assert_array_equal(logits(KEYS[1]), logits(KEYS[1]))
    assert not np.allclose(logits(KEYS[1]), logits(KEYS[2]))


def test_many_begin_at_once(network, images):
    together = jax.vmap(network.init, in_axes=(0, None))(KEYS, images)
    alone = [network.init(key, images) for key in KEYS]
    chex.assert_trees_all_close(
        together, jax.tree.map(lambda *each: jnp.stack(each), *alone), atol=1e-6
    )


class Modeless(nn.Module):
    @nn.compact
    def __call__(self, images):
        return nn.Dense(3)(images.reshape(images.shape[0], -1))


class Deterministic(nn.Module):
    @nn.compact
    def __call__(self, images, deterministic=True):
        units = images.reshape(images.shape[0], -1)
        return nn.Dense(3)(nn.Dropout(0.5)(units, deterministic=deterministic))


@pytest.mark.parametrize(
    ("module", "moves"), [(Modeless, False), (Deterministic, True)]
)
def test_a_module_may_call_its_mode_otherwise_or_have_none(module, moves, images):
    network = as_network(module, 3)
    variables = network.init(KEYS[0], images)
    quiet, _ = network.apply(variables, images, train=False, key=None)
    expected = module().apply({"params": variables.params}, images)
    np.testing.assert_array_equal(quiet, expected)
    trained, after = network.apply(variables, images, train=True, key=KEYS[1])
    assert np.allclose(trained, quiet) is not moves and after.state == {}


def test_equal_modules_are_equal_networks(network):
    other = as_network(Everything(num_classes=3), 3)
    assert other == network and hash(other) == hash(network)
    assert as_network(Everything, 3) == network != as_network(Everything, 4)


def test_its_form_is_told(network):
    forms = require_network(network, (5, 4, 1), 3)
    assert forms[".params['Dense_0']['kernel']"] == "float32[20, 8]"
    assert forms[".state['counts']['calls']"] == "int32[]"


def test_partitioned_parameters_are_plain_arrays(images):
    init = nn.with_partitioning(nn.initializers.ones, ("rows", "columns"))

    class Partitioned(nn.Module):
        @nn.compact
        def __call__(self, images):
            return nn.Dense(3, kernel_init=init)(images.reshape(images.shape[0], -1))

    network = as_network(Partitioned(), 3)
    variables = network.init(KEYS[0], images)
    assert isinstance(variables, Variables)
    assert variables.params["Dense_0"]["kernel"].shape == (20, 3)
    logits, _ = network.apply(variables, images, train=False, key=None)
    np.testing.assert_allclose(logits[:, 0], images.sum(axis=(1, 2, 3)), rtol=1e-5)
