"""bfloat16 in between, float32 at both ends."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.networks import ModelConfig, as_network, network_of
from jaxrobust.networks.resnet import ResNet
from jaxrobust.training import TrainConfig, adversarial, bind, load_run, train


@pytest.fixture(scope="module")
def network_and_weights():
    network = network_of(ModelConfig(name="lenet-small", widen_factor=0.25), 10)
    images = jax.random.uniform(jax.random.key(0), (4, 8, 8, 1))
    return network, network.init(jax.random.key(1), images), images


@pytest.mark.slow
def test_logits_and_input_gradients_are_float32_but_rounded(network_and_weights):
    network, variables, images = network_and_weights
    exact = bind(network, variables)
    rounded = bind(network, variables, "bfloat16")
    one, other = exact(images), rounded(images)
    assert other.dtype == jnp.float32
    # bfloat16 has 8 bits: a few parts in a hundred, and never nothing.
    difference = float(jnp.max(jnp.abs(one - other)))
    assert 0 < difference < 0.05 * float(jnp.max(jnp.abs(one)))
    gradients = [
        jax.grad(lambda images, model=model: jnp.sum(model(images)[:, 0]))(images)
        for model in (exact, rounded)
    ]
    assert gradients[1].dtype == jnp.float32
    one, other = (np.ravel(gradient) for gradient in gradients)
    cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    assert 0.99 < cosine < 1


def test_the_matrix_products_are_bfloat16(network_and_weights):
    network, variables, images = network_and_weights
    text = jax.jit(bind(network, variables, "bfloat16")).lower(images).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert products and all("bf16" in line for line in products)


@pytest.mark.slow
def test_training_keeps_float32_weights_and_learns_as_much(digits, tmp_path):
    config = TrainConfig(
        model=ModelConfig(name="lenet-small", widen_factor=0.25),
        batch_size=32,
        train_size=96,
        phases=(adversarial(0.1, 6),),
    )
    exact = train(config, tmp_path / "float32", dataset=digits)
    config = dataclasses.replace(config, precision="bfloat16")
    rounded = train(config, tmp_path / "bfloat16", dataset=digits)
    leaves = jax.tree.leaves(rounded.state.weights)
    assert all(leaf.dtype in (jnp.float32, jnp.int32) for leaf in leaves)
    one, other = exact.records[-1]["loss"], rounded.records[-1]["loss"]
    assert one != other and other == pytest.approx(one, rel=0.05)
    assert load_run(tmp_path / "bfloat16").config.precision == "bfloat16"


@pytest.mark.slow
def test_batch_statistics_stay_float32():
    module = ResNet(block_counts=(1,), is_bottleneck=False, widen_factor=0.0625)
    network = as_network(module, 10)
    images = jnp.ones((2, 6, 6, 3))
    variables = network.init(jax.random.key(0), images)
    assert bind(network, variables, "bfloat16")(images).dtype == jnp.float32


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="`precision` must be one of float32"):
        TrainConfig(precision="float16")
