"""No image that a threat model allows gives logits outside their bounds."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrobust.bounds import PRIMITIVES, interval_pass, linear_margins
from jaxrobust.bounds.program import trace
from jaxrobust.threat import L1Ball, L2Ball, LinfBall
from tests.bounds.functions import CLASSES, FUNCTIONS, PIXELS, network, weights

NUM_SAMPLES = 200
LABEL = 1
NUM_PAIRS = 60
"""Of a network and an image, drawn three times for each function: over 10,000."""
RADII = np.array([0.0, 0.01, 0.1, 0.3, 0.5], np.float32)
EPSILONS = np.resize(RADII, NUM_PAIRS)


def allowed(key, threat, image):
    """Images inside: random ones, the farthest ones, and the clean one."""
    keys = jax.random.split(key, 3)
    many = jnp.broadcast_to(image, (NUM_SAMPLES, PIXELS))
    signs = jax.random.rademacher(keys[1], many.shape, many.dtype)
    far = threat.project(many + signs * threat.epsilon, many)
    steep = jax.vmap(lambda one: threat.steepest(one[None])[0])
    noise = steep(jax.random.normal(keys[2], many.shape))
    steepest = threat.project(many + noise * threat.epsilon, many)
    return jnp.concatenate([threat.sample(keys[0], many), far, steepest, image])


@cache
def cases(ball, bounds, seed):
    """Images, and what a threat model allows in their place, for each radius."""

    @jax.jit
    @jax.vmap
    def made(key, epsilon):
        image_key, sample_key = jax.random.split(key)
        image = jax.random.uniform(image_key, (1, PIXELS))
        return image, allowed(sample_key, ball(epsilon, bounds=bounds), image)

    return made(jax.random.split(jax.random.key(seed), NUM_PAIRS), EPSILONS)


def outcomes(name, ball):
    """What gives logits, bounds and margins of every image at its radius.

    Each image is a batch of its own, since some functions look at the first one.
    """
    logits_fn = network(name)

    @jax.jit
    @jax.vmap
    def compared(epsilon, values, image, samples):
        model, threat = partial(logits_fn, values), ball(epsilon)
        logits = jax.vmap(lambda one: model(one[None])[0])(samples)
        label = jnp.full((1,), LABEL)
        found = interval_pass(model, threat, image, label, rounding="outward")
        margins = {
            "interval": found.margins,
            "linear": linear_margins(model, threat, image, label),
        }
        return logits, found.bounds, margins

    return compared


def assert_sound(name, ball, bounds=(0.0, 1.0)):
    compared = outcomes(name, partial(ball, bounds=bounds))

    # Networks and images are drawn anew; the program is compiled once.
    @settings(max_examples=3)
    @given(seed=st.integers(0, 9))
    def check(seed):
        values = weights(seed, NUM_PAIRS)
        images = cases(ball, bounds, seed)
        inside(*jax.device_get(compared(EPSILONS, values, *images)))

    check()


def inside(logits, found, margins):
    assert np.isfinite(logits).all()
    assert found.lower.shape == (NUM_PAIRS, 1, CLASSES)
    assert (logits >= found.lower).all() and (logits <= found.upper).all()
    for lower in margins.values():
        exact = np.float64(logits[:, :, LABEL : LABEL + 1]) - np.float64(logits)
        assert (exact >= lower).all()
        assert (lower[:, :, LABEL] == 0).all()


FAST = ("called", "conv", "div", "relu", "residual", "tanh")
"""Which run always; compiling the others takes long for what it shows."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in FAST else [pytest.mark.slow])
        for name in FUNCTIONS
    ],
)
def test_no_sample_leaves_the_bounds(name):
    assert_sound(name, LinfBall)


@pytest.mark.parametrize(
    "bounds", [(0.0, 1.0), pytest.param(None, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("ball", [L2Ball, pytest.param(L1Ball, marks=pytest.mark.slow)])
def test_no_sample_leaves_the_bounds_in_other_norms(ball, bounds):
    assert_sound("relu", ball, bounds)


def test_every_primitive_is_among_the_functions():
    values = jax.tree.map(lambda each: each[0], weights(0, 1))

    def names(name):
        logits_fn = partial(network(name), values)
        return {step.primitive for step in trace(logits_fn, jnp.ones((1, 5))).steps}

    seen = set.union(*map(names, FUNCTIONS))
    # What transposing makes of others, and what newer versions of JAX have.
    assert {*PRIMITIVES} - seen <= {"add_any", "stack"}
