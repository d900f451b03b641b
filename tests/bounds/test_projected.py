"""Projections against the exact dual bound, which many of them come near to."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.bounds import (
    UnboundedError,
    dual_objective,
    linear_margins,
    projected_margins,
)
from jaxrobust.networks import cnn4
from jaxrobust.threat import L2Ball, LinfBall
from tests.bounds.networks import dense, random_dense

LABELS = np.array([0, 2, 1])
EPSILON = 0.1


def images_of(pixels):
    return np.random.default_rng(1).uniform(size=(3, pixels)).astype(np.float32)


@pytest.mark.parametrize(
    "box", [None, pytest.param((0.0, 1.0), marks=pytest.mark.slow)]
)
def test_many_projections_come_near_to_the_dual_bound(box, key):
    logits_fn = dense(*random_dense(0, 6, 12, 9, 3))
    threat = LinfBall(EPSILON, bounds=box)
    given = (logits_fn, threat, images_of(6), LABELS)
    expected = dual_objective(*given)
    errors = []
    for count in (9, 900, 40_000):
        compute = jax.jit(partial(projected_margins, *given, num_projections=count))
        keys = jax.random.split(key, 8 if count < 40_000 else 1)
        found = np.stack([compute(each) for each in keys])
        assert (found[:, np.arange(3), LABELS] == 0).all()
        errors.append(np.abs(found - np.asarray(expected)).mean())
    # The error falls with the root of their number.
    assert errors[1] < errors[0] / 3
    assert errors[2] < errors[1] / 2
    assert errors[2] < 0.02 * np.abs(expected).mean()


def test_what_has_no_relu_is_bounded_exactly(key):
    given = (dense(*random_dense(0, 6, 3)), LinfBall(EPSILON), images_of(6), LABELS)
    found = projected_margins(*given, key, num_projections=1)
    np.testing.assert_allclose(found, dual_objective(*given), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_convolutions_and_statistics_of_the_batch(key):
    images = jax.random.uniform(key, (3, 8, 8, 1))
    network = cnn4(widen_factor=1 / 8)
    variables = network.init(key, images)

    def logits_fn(images):
        options = {"train": True, "mutable": ["batch_stats"]}
        return network.apply(variables, images, **options)[0]

    given = (logits_fn, LinfBall(0.02), images, LABELS)
    exact = partial(linear_margins, slopes="dual", intermediate="linear")
    exact = partial(exact, rounding="nearest", statistics="clean")
    expected = jax.jit(partial(exact, *given))()
    compute = partial(projected_margins, num_projections=2000, statistics="clean")
    found = jax.jit(partial(compute, *given))(key)
    np.testing.assert_allclose(found, expected, atol=0.05 * np.abs(expected).max())


def test_it_is_differentiated_through_the_estimates(key):
    layers = random_dense(0, 6, 12, 9, 3)

    @jax.jit
    def total(scale):
        scaled = [(weights * scale, bias) for weights, bias in layers]
        given = (dense(*scaled), LinfBall(EPSILON), images_of(6), LABELS)
        return jnp.sum(projected_margins(*given, key, num_projections=51))

    slope = jax.grad(total)(1.0)
    step = 1e-3
    difference = (total(1 + step) - total(1 - step)) / (2 * step)
    assert slope == pytest.approx(float(difference), rel=0.02)


def test_what_it_cannot_do_is_refused(key):
    logits_fn = dense(*random_dense(0, 6, 12, 3))
    images = images_of(6)
    with pytest.raises(TypeError, match="LinfBall"):
        projected_margins(logits_fn, L2Ball(0.1), images, LABELS, key)
    with pytest.raises(ValueError, match="num_projections"):
        projected_margins(
            logits_fn, LinfBall(0.1), images, LABELS, key, num_projections=0
        )
    bent = lambda images: jax.nn.relu(2 * jnp.tanh(logits_fn(images)))  # noqa: E731
    with pytest.raises(UnboundedError, match=r"tanh.*linear_margins"):
        projected_margins(bent, LinfBall(0.1), images, LABELS, key)
