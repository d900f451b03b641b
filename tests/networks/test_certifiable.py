"""The networks of certified training, against counts and a pass by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.networks import ModelConfig, as_network, cnn4, network_of, wong_kolter
from tests.networks.test_networks import num_parameters

MNIST, CIFAR = (28, 28, 1), (32, 32, 3)


def normed(count):
    """Scales and shifts."""
    return 2 * count


def four_layers(q, hidden, shape, is_normed):
    """Two convolutions of stride 2 with 4x4 windows, and two linear layers."""
    first, second, hidden = int(16 * q), int(32 * q), int(hidden * q)
    side, channels = shape[0] // 4, shape[2]
    total = 16 * channels * first + first + 16 * first * second + second
    total += side**2 * second * hidden + hidden + hidden * 10 + 10
    return total + is_normed * normed(first + second + hidden)


def five_layers(q, shape):
    """3x3 windows of stride 1, then 4x4 windows of stride 2 twice."""
    narrow, wide, hidden = int(16 * q), int(32 * q), int(512 * q)
    side, channels = shape[0] // 4, shape[2]
    total = 9 * channels * narrow + narrow
    total += 16 * narrow * narrow + narrow + 16 * narrow * wide + wide
    total += side**2 * wide * hidden + hidden + hidden * 10 + 10
    return total + normed(2 * narrow + wide + hidden)


def seven_layers(q, shape):
    """3x3 windows five times, the third with stride 2."""
    narrow, wide, hidden = int(64 * q), int(128 * q), int(512 * q)
    side, channels = shape[0] // 2, shape[2]
    total = 9 * channels * narrow + narrow + 9 * narrow * narrow + narrow
    total += 9 * narrow * wide + wide + 2 * (9 * wide * wide + wide)
    total += side**2 * wide * hidden + hidden + hidden * 10 + 10
    return total + normed(2 * narrow + 3 * wide + hidden)


COUNTS = {
    "wong-kolter": lambda q, shape: four_layers(q, 100, shape, False),
    "cnn4": lambda q, shape: four_layers(q, 256, shape, True),
    "cnn5": five_layers,
    "cnn7": seven_layers,
}


@pytest.mark.parametrize("shape", [MNIST, CIFAR])
@pytest.mark.parametrize("factor", [0.25, 1])
@pytest.mark.parametrize("name", COUNTS)
def test_parameters_are_those_counted_by_hand(name, factor, shape):
    network = network_of(ModelConfig(name=name, widen_factor=factor), 10)
    assert num_parameters(network, shape) == COUNTS[name](factor, shape)


def test_the_counts_by_hand_are_those_of_the_papers():
    assert four_layers(1, 100, MNIST, False) == 166_406
    # Of Shi et al.'s code on CIFAR-10, layer by layer.
    layers = [1_792, 36_928, 73_856, 147_584, 147_584, 16_777_728, 5_130]
    assert seven_layers(1, CIFAR) == sum(layers) + 2 * (64 + 64 + 128 * 3 + 512)


def filtered(maps, kernel, bias):
    """Convolution of stride 2 with 4x4 windows and one zero on every side."""
    padded = np.pad(maps, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (4, 4), axis=(1, 2))
    windows = windows[:, ::2, ::2]
    return np.einsum("bhwcij,ijcf->bhwf", windows, kernel) + bias


def by_hand(variables, images, is_normed):
    """A network of four layers in float64."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables)

    def activated(units, name):
        if is_normed:
            scale, shift = (
                params["params"][f"{name}_norm"][each] for each in ("scale", "bias")
            )
            found = params["batch_stats"][f"{name}_norm"]
            units = (units - found["mean"]) / np.sqrt(found["var"] + 1e-5)
            units = units * scale + shift
        return np.maximum(units, 0)

    units = np.asarray(images, np.float64)
    for name in ("conv1", "conv2"):
        layer = params["params"][name]
        units = activated(filtered(units, layer["kernel"], layer["bias"]), name)
    units = units.reshape(len(units), -1)
    for name in ("hidden", "head"):
        layer = params["params"][name]
        units = units @ layer["kernel"] + layer["bias"]
        units = activated(units, name) if name == "hidden" else units
    return units


@pytest.mark.parametrize("formulation", ["direct", "patches"])
@pytest.mark.parametrize("builder", [wong_kolter, cnn4])
def test_logits_are_those_worked_out_by_hand(builder, formulation, key):
    module = builder(widen_factor=0.25, formulation=formulation)
    images = jax.random.uniform(key, (3, 8, 8, 2))
    variables = module.init(jax.random.key(1), images)
    rng = np.random.default_rng(0)

    def other(path, leaf):
        # Fresh scales, shifts and statistics would hide where they stand.
        is_positive = path[-1].key in ("scale", "var")
        found = rng.uniform(0.5, 2, leaf.shape) if is_positive else leaf
        return jnp.asarray(found + (not is_positive) * rng.normal(0, 0.2, leaf.shape))

    moved = jax.tree_util.tree_map_with_path(other, variables)
    expected = by_hand(moved, images, is_normed=builder is cnn4)
    logits = module.apply(moved, images, train=False)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_initial_weights_of_shi_are_normal_but_for_the_last_layer(key):
    module = cnn4()
    params = module.init(key, jnp.zeros((1, *MNIST)))["params"]
    for name, fan_in in {"conv1": 16, "conv2": 256, "hidden": 1568}.items():
        kernel = np.asarray(params[name]["kernel"], np.float64)
        deviation = np.sqrt(2 * np.pi) / fan_in
        # Four standard errors of the deviation, and of the share beyond it.
        error = 4 / np.sqrt(2 * kernel.size)
        assert kernel.std() == pytest.approx(deviation, rel=error)
        beyond = np.mean(np.abs(kernel) > deviation)
        assert beyond == pytest.approx(0.317, abs=4 * 0.465 / np.sqrt(kernel.size))
        bias = np.asarray(params[name]["bias"])
        assert 0 < np.abs(bias).max() <= fan_in**-0.5
    head = np.asarray(params["head"]["kernel"])
    assert 0.95 * 256**-0.5 < np.abs(head).max() <= 256**-0.5


def test_torch_initialization_is_uniform_in_every_layer(key):
    params = wong_kolter().init(key, jnp.zeros((1, *MNIST)))["params"]
    fans = {"conv1": 16, "conv2": 256, "hidden": 1568, "head": 100}
    for name, fan_in in fans.items():
        kernel = np.asarray(params[name]["kernel"])
        assert 0.95 * fan_in**-0.5 < np.abs(kernel).max() <= fan_in**-0.5


def test_statistics_follow_the_batch_in_training_mode_only(key):
    network = as_network(cnn4(widen_factor=0.25), 10)
    images = jax.random.uniform(key, (4, 8, 8, 1))
    variables = network.init(key, images)
    _, kept = network.apply(variables, images, train=False, key=None)
    jax.tree.map(np.testing.assert_array_equal, kept.state, variables.state)
    _, moved = network.apply(variables, images, train=True, key=key)
    for name in ("conv1_norm", "conv2_norm", "hidden_norm"):
        before = variables.state["batch_stats"][name]["mean"]
        assert not np.allclose(moved.state["batch_stats"][name]["mean"], before)
