"""Images that are black for the most part: pooling windows whose values are all equal.

Logits differ by the rounding of sums, and so do gradients where maxima are equal to the
bit in every formulation: windows of zeros. Where the values of a window are equal in
exact arithmetic alone, as in a later layer whose bias is not 0, rounding decides which
is the largest, and no tolerance of a gradient holds; what is tested has no such window.
"""

import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust.attacks import pgd
from jaxrobust.data import load_arrays
from jaxrobust.networks import ModelConfig, network_of
from jaxrobust.threat import LinfBall
from jaxrobust.training import bind


def answers(name, formulation, images, labels, *, has_bias):
    """Logits, the input gradient, and what PGD without a random start ends at."""
    network = network_of(
        ModelConfig(name=name, widen_factor=0.125, formulation=formulation), 10
    )
    variables = network.init(jax.random.key(0), images[:1])
    if not has_bias:
        kernels = [
            jax.tree.map(lambda leaf: leaf * (leaf.ndim > 1), part)
            for part in variables
        ]
        variables = type(variables)(*kernels)
    logits_fn = bind(network, variables)

    def loss(images):
        logits = logits_fn(images)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.sum(), logits

    attack = pgd(LinfBall(0.3), step_size=0.05, num_steps=10, random_start=False)

    @jax.jit
    def everything(images):
        gradient, logits = jax.grad(loss, has_aux=True)(images)
        result = attack(jax.random.key(0), logits_fn, images, labels)
        return logits, gradient, result.images

    return everything(images)


def check(name, images, labels, *, has_bias, formulations=("direct", "phases")):
    logits, gradient, attacked = answers(
        name, "patches", images, labels, has_bias=has_bias
    )
    largest = float(jnp.abs(gradient).max())
    assert largest > 0
    for formulation in formulations:
        found = answers(name, formulation, images, labels, has_bias=has_bias)
        np.testing.assert_allclose(found[0], logits, atol=1e-5)
        np.testing.assert_allclose(found[1], gradient, atol=1e-5 * largest)
        # PGD takes signs of gradients, so that rounding could move a pixel by a whole
        # step; those whose gradient is 0 stay in every formulation.
        np.testing.assert_allclose(found[2], attacked, atol=1e-6)


@pytest.mark.slow
def test_formulations_agree_on_images_that_are_mostly_black():
    images = jax.random.uniform(jax.random.key(1), (4, 8, 8, 1))
    images = images.at[:, :, 4:].set(0).at[0].set(0)
    check("lenet-small", images, jnp.arange(4), has_bias=False)


@pytest.mark.slow
@pytest.mark.mnist
def test_formulations_agree_on_mnist():
    if "TFDS_DATA_DIR" not in os.environ:
        pytest.skip("no prepared data")
    data = load_arrays("mnist", "test")
    images = jnp.float32(data.images[:32]) / 255
    assert float(jnp.mean(images == 0)) > 0.7
    check("lenet", images, jnp.asarray(data.labels[:32]), has_bias=True)
