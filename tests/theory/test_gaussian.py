from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from jaxrobust.theory.gaussian import linear_error, optimal_error, sample

MEAN = np.array([1.0, -0.5, 0.25])
WEIGHTS = np.array([0.5, -1.0, 1.5])


def attacked(points, labels, weights, norm, epsilon):
    """Points after the worst perturbation of a linear classifier."""
    if norm == "l2":
        direction = weights / np.linalg.norm(weights)
    else:
        direction = np.sign(weights)
    return points - epsilon * labels[:, None] * direction


@pytest.fixture(scope="module")
def drawn():
    draw = jax.jit(partial(sample, num_examples=20_000, mean=MEAN, sigma=0.75))
    points, labels = draw(jax.random.key(20))
    return np.asarray(points), np.asarray(labels)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize(("bias", "epsilon"), [(0.0, 0.0), (0.75, 0.0), (0.75, 0.5)])
def test_the_error_of_a_linear_classifier_is_that_of_a_sample(
    norm, bias, epsilon, drawn, assert_share
):
    points, labels = drawn
    moved = attacked(points, labels, WEIGHTS, norm, epsilon)
    is_wrong = labels * (moved @ WEIGHTS + bias) <= 0
    settings = {"mean": MEAN, "sigma": 0.75, "epsilon": epsilon, "norm": norm}
    assert_share(is_wrong, float(linear_error(WEIGHTS, bias, **settings)))


def test_the_error_is_the_mean_of_two_normal_tails():
    # In float64, and by scipy's normal distribution along the weights.
    length = np.linalg.norm(WEIGHTS)
    law = stats.norm(WEIGHTS @ MEAN, 2 * length)
    expected = (law.cdf(0.5 * length - 1) + law.cdf(0.5 * length + 1)) / 2
    found = linear_error(WEIGHTS, 1.0, mean=MEAN, sigma=2, epsilon=0.5)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_classes_are_equally_likely_and_have_the_mean_and_deviation(
    drawn, assert_share
):
    points, labels = drawn
    assert set(labels) == {-1, 1} and points.shape == (20_000, 3)
    assert_share(labels == 1, 0.5)
    centered = points - labels[:, None] * MEAN
    error = 0.75 / np.sqrt(len(points))
    assert np.all(np.abs(centered.mean(axis=0)) < 5 * error)
    assert np.all(np.abs(centered.std(axis=0) - 0.75) < 5 * error)


@settings(max_examples=15)
@given(
    angle=st.floats(-3, 3),
    bias=st.floats(-1, 1),
    epsilon=st.floats(0, 2),
    sigma=st.floats(0.25, 2),
)
def test_no_linear_classifier_beats_the_optimum(angle, bias, epsilon, sigma):
    mean = np.array([0.75, 0.5])
    distance = 2 * np.linalg.norm(mean)
    best = float(OPTIMAL(distance, sigma, epsilon))
    turned = np.array([np.cos(angle), np.sin(angle)])
    other = LINEAR(turned, bias, mean, sigma, epsilon)
    assert best <= float(other) + 1e-6
    # The hyperplane halfway between the means attains it as long as it is below 1/2.
    halfway = float(LINEAR(mean, 0.0, mean, sigma, epsilon))
    assert best == pytest.approx(min(halfway, 0.5), rel=1e-5)


OPTIMAL = jax.jit(optimal_error)
LINEAR = jax.jit(
    lambda weights, bias, mean, sigma, epsilon: linear_error(
        weights, bias, mean=mean, sigma=sigma, epsilon=epsilon
    )
)


def test_no_classifier_on_cells_of_a_line_beats_the_optimum():
    # Means at -1 and 1, an adversary of radius 1/2 and cells of that length: every
    # point reaches its own cell and the next on both sides, and must find its label in
    # all three. All 65,536 labelings of 16 cells; the outer ones have no end.
    edges = np.array([-np.inf, *np.arange(-3.5, 4, 0.5), np.inf])
    cells = len(edges) - 1
    mass = np.stack([np.diff(stats.norm(sign, 1).cdf(edges)) for sign in (-1, 1)])
    labels = np.arange(2**cells)[:, None] >> np.arange(cells) & 1
    padded = np.pad(labels, ((0, 0), (1, 1)), mode="edge")
    three = np.stack([padded[:, :-2], padded[:, 1:-1], padded[:, 2:]])
    error = (three.max(axis=0) @ mass[0] + (1 - three.min(axis=0)) @ mass[1]) / 2
    assert float(optimal_error(2, 1, 0.5)) == pytest.approx(error.min(), rel=1e-5)


@pytest.mark.parametrize(
    ("distance", "sigma", "epsilon"), [(2, 1, 1.5), (2, 1, 3.0), (0, 1, 0.1)]
)
def test_beyond_half_the_distance_a_constant_classifier_wins(distance, sigma, epsilon):
    # The formula as printed, which has no end, is worse than guessing there.
    printed = stats.norm.cdf((2 * epsilon - distance) / (2 * sigma))
    mean = np.array([distance / 2, 0.0])
    assert printed > 0.5
    assert float(optimal_error(distance, sigma, epsilon)) == 0.5
    constant = linear_error(np.zeros(2), 1.0, mean=mean, sigma=sigma, epsilon=epsilon)
    assert float(constant) == 0.5


@given(bias=st.floats(-2, 2), epsilon=st.floats(0, 2))
def test_the_error_does_not_depend_on_the_names_of_the_classes(bias, epsilon):
    found = LINEAR(WEIGHTS, bias, MEAN, 0.5, epsilon)
    mirrored = LINEAR(-WEIGHTS, -bias, -MEAN, 0.5, epsilon)
    np.testing.assert_allclose(found, mirrored, rtol=1e-5)
    np.testing.assert_allclose(found, LINEAR(WEIGHTS, -bias, MEAN, 0.5, epsilon), 1e-5)


def test_weights_of_zero_have_a_gradient():
    gradient = jax.grad(lambda weights: LINEAR(weights, 1.0, MEAN, 0.5, 0.1))
    assert np.all(np.isfinite(gradient(jnp.zeros(3))))


@pytest.mark.parametrize("size", [1e-20, 1e20])
def test_the_error_does_not_depend_on_the_size_of_the_weights(size):
    # Squares of these are 0 or infinite in float32.
    ones = np.ones(2)
    found = LINEAR(size * ones, 0.0, ones, 1.0, 0.0)
    assert float(found) == pytest.approx(stats.norm.cdf(-np.sqrt(2)), rel=1e-5)
    gradient = jax.grad(LINEAR, argnums=(0, 1))
    usual = gradient(jnp.asarray(WEIGHTS), 0.5, MEAN, 0.5, 0.1)
    scaled = gradient(jnp.asarray(size * WEIGHTS), 0.5 * size, MEAN, 0.5, 0.1)
    for slope, other in zip(scaled, usual, strict=True):
        np.testing.assert_allclose(size * np.float64(slope), other, rtol=1e-4)


def test_arrays_give_the_values_of_their_entries():
    epsilons = np.array([0.0, 0.5, 2.0])
    expected = [float(optimal_error(2, 1, float(each))) for each in epsilons]
    np.testing.assert_allclose(optimal_error(2, 1, epsilons), expected, rtol=1e-6)
