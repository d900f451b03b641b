import itertools
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, stats

from jaxrobust.theory.no_free_lunch import (
    accuracy,
    adversarial_accuracy_bound,
    averaging_accuracy,
    circle_weights,
    descend,
    error,
    hinge_loss,
    optimal_weights,
    positive_part_mean,
    sample,
)

DIMENSION, ETA = 16, 0.5
WEIGHTS = np.array([0.5, *np.linspace(-0.1, 0.4, DIMENSION)])


@pytest.fixture(scope="module")
def drawn():
    setting = {"dimension": DIMENSION, "eta": ETA, "reliability": 0.8}
    draw = jax.jit(partial(sample, num_examples=20_000, **setting))
    points, labels = draw(jax.random.key(7))
    return np.asarray(points), np.asarray(labels)


def worst(points, labels, weights, epsilon, moves_first):
    moves = np.sign(weights)
    moves[0] *= moves_first
    return points - epsilon * labels[:, None] * moves


def test_a_sample_has_the_law_asked_for(drawn, assert_share):
    points, labels = drawn
    assert points.shape == (20_000, DIMENSION + 1)
    assert_share(labels == 1, 0.5)
    assert_share(points[:, 0] == labels, 0.8)
    assert set(np.unique(points[:, 0])) == {-1.0, 1.0}
    noise = points[:, 1:] - ETA * labels[:, None]
    error = 1 / np.sqrt(len(points))
    assert np.all(np.abs(noise.mean(axis=0)) < 5 * error)
    assert np.all(np.abs(noise.std(axis=0) - 1) < 5 * error)
    # Features are independent given the label, the first one too.
    correlation = np.corrcoef(np.column_stack([points[:, 0] * labels, noise]).T)
    assert np.max(np.abs(correlation - np.eye(DIMENSION + 1))) < 5 * error


@pytest.mark.parametrize("moves_first", [True, False])
@pytest.mark.parametrize("epsilon", [0.0, 0.25])
def test_accuracy_and_loss_are_those_of_a_sample(
    drawn, epsilon, moves_first, assert_share
):
    points, labels = drawn
    shown = worst(points, labels, WEIGHTS, epsilon, moves_first)
    margins = labels * (shown @ WEIGHTS)
    settings = {
        "eta": ETA,
        "epsilon": epsilon,
        "reliability": 0.8,
        "moves_first": moves_first,
    }
    assert_share(margins > 0, float(accuracy(WEIGHTS, **settings)))
    losses = np.maximum(0, 1 - margins)
    error = losses.std() / np.sqrt(len(losses))
    assert abs(losses.mean() - float(hinge_loss(WEIGHTS, **settings))) < 5 * error


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 0.75])
def test_averaging_is_the_linear_classifier_of_equal_weights(
    drawn, epsilon, assert_share
):
    points, labels = drawn
    found = float(averaging_accuracy(DIMENSION, ETA, epsilon))
    equal = np.array([0.0, *np.full(DIMENSION, 1 / DIMENSION)])
    same = accuracy(equal, eta=ETA, epsilon=epsilon)
    assert found == pytest.approx(float(same), rel=1e-5)
    shown = worst(points, labels, equal, epsilon, True)
    assert_share(labels * (shown @ equal) > 0, found)
    # With a variance of 1 for the mean, as printed, no number of features would help.
    as_printed = stats.norm.cdf(ETA - epsilon)
    assert epsilon == 0.5 or abs(found - as_printed) > 0.1


def largest_adversarial_accuracy(standard_error, p):
    """By a linear program over what a classifier does, for an adversary of 2 eta.

    The variables are the probabilities to answer +1 where the first feature is + or -
    and the others have the law of class + or -; showing the others of the other class
    is an attack, which the accuracy must survive.
    """
    signs = list(itertools.product([1, -1], repeat=2))
    first_share = {(y, a): p if a == y else 1 - p for y, a in signs}
    # Probability to be right, as a constant and coefficients of the variables.
    standard, adversarial = np.zeros(4), np.zeros(4)
    for y, a in signs:
        standard[signs.index((a, y))] += y * first_share[y, a] / 2
        adversarial[signs.index((a, -y))] += y * first_share[y, a] / 2
    constant = 0.5  # the probability of -1 is one less that of +1, for half the points
    found = optimize.linprog(
        -adversarial,
        A_ub=-standard[None],
        b_ub=[constant - (1 - standard_error)],
        bounds=[(0, 1)] * 4,
    )
    return constant - found.fun


@pytest.mark.parametrize("p", [0.5, 0.6, 0.7, 0.9])
def test_the_bound_is_that_of_a_linear_program(p):
    errors = np.array([0.0, 0.01, 0.05, 1 - p, 0.5 + 0.4 * (1 - p), 1.0])
    best = [largest_adversarial_accuracy(each, p) for each in errors]
    sharp = adversarial_accuracy_bound(errors, p, sharp=True)
    np.testing.assert_allclose(sharp, best, rtol=1e-5, atol=1e-6)
    # The theorem's is the same up to 1 - p, and larger from there on.
    stated = np.asarray(adversarial_accuracy_bound(errors, p))
    np.testing.assert_allclose(stated[:4], best[:4], rtol=1e-5, atol=1e-6)
    assert np.all(stated >= np.array(best) - 1e-6)
    if p == 0.7:
        # 7/2, as the proof ends, is not attained; anything less than 7/3 is wrong.
        assert np.all(3.5 * errors[1:3] > np.array(best[1:3]) + 0.01)
        assert best[1] == pytest.approx(7 / 3 * 0.01)


@settings(max_examples=15)
@given(weights=st.lists(st.integers(-8, 8), min_size=4, max_size=4))
def test_no_linear_classifier_beats_the_bound(weights):
    weights = np.array(weights, np.float32) / 4
    standard, attacked = map(float, ACCURACIES(weights))
    assert attacked <= float(adversarial_accuracy_bound(1 - standard)) + 1e-5


# At twice eta, but without the first feature: a weaker adversary than the theorem's.
ACCURACIES = jax.jit(
    lambda weights: [
        accuracy(weights, eta=0.5, epsilon=epsilon, moves_first=False)
        for epsilon in (0.0, 1.0)
    ]
)


@pytest.mark.parametrize("mean", [-4.0, -1.0, 0.0, 0.5, 3.0])
@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_the_positive_part_is_that_of_quadrature(mean, sigma):
    expected, _ = integrate.quad(
        lambda z: max(0.0, mean + sigma * z) * stats.norm.pdf(z), -mean / sigma, 12
    )
    found = float(positive_part_mean(mean, sigma))
    # The terms cancel 60-fold at eight deviations.
    assert found == pytest.approx(expected, rel=2e-5 if mean / sigma > -5 else 1e-3)


@given(mean=st.floats(-6, 6), sigma=st.floats(0.1, 3))
def test_positive_and_negative_parts_add_up(mean, sigma):
    positive, negative = PARTS(mean, sigma)
    assert positive >= max(mean, 0) - 1e-5 and negative >= 0
    assert float(positive - negative) == pytest.approx(mean, abs=1e-5)


PARTS = jax.jit(
    lambda mean, sigma: (
        positive_part_mean(mean, sigma),
        positive_part_mean(-mean, sigma),
    )
)


def test_without_noise_the_positive_part_has_values_and_slopes():
    part = jax.jit(jax.value_and_grad(positive_part_mean))
    assert part(-2.0, 0.0) == (0.0, 0.0) and part(3.0, 0.0) == (3.0, 1.0)
    slope = jax.jit(jax.grad(partial(hinge_loss, eta=0.5, epsilon=0.25)))
    assert np.all(np.isfinite(slope(jnp.asarray([1.0, 0.0, 0.0]))))


def numpy_loss(angle, dimension, eta, epsilon, p):
    """The loss on the circle in float64, from scipy's normal distribution."""
    first, rest = np.cos(angle), np.sin(angle)
    shift = (eta - epsilon) * np.sqrt(dimension) * rest - epsilon * np.abs(first)
    loss = 0.0
    for share, sign in ((p, 1), (1 - p, -1)):
        mean = 1 - sign * first - shift
        ratio = mean / rest
        part = mean * stats.norm.cdf(ratio) + rest * stats.norm.pdf(ratio)
        loss += share * part
    return loss


@cache
def optimum(dimension, moves_first=True):
    """The optimum for a number of weak features: one program for all settings."""

    def find(eta, epsilon, reliability):
        settings = {"reliability": reliability, "moves_first": moves_first}
        return optimal_weights(dimension, eta, epsilon, **settings)

    return jax.jit(find)


@pytest.mark.parametrize(
    ("eta", "epsilon", "p"),
    [(1.0, 0.0, 0.7), (0.75, 0.0, 0.9), (0.1, 0.0, 0.6), (1.0, 0.25, 0.6)],
)
def test_the_minimizer_is_that_of_a_scalar_search(eta, epsilon, p):
    dimension = 100
    eta, epsilon = eta / 4, epsilon / 4
    loss = partial(numpy_loss, dimension=dimension, eta=eta, epsilon=epsilon, p=p)
    grid = np.linspace(1e-6, np.pi / 2, 2000)
    around = grid[np.argmin(loss(grid))]
    found = optimize.minimize_scalar(
        loss, bounds=(max(around - 1e-3, 1e-9), around + 1e-3), options={"xatol": 1e-9}
    )
    weights = optimum(dimension)(eta, epsilon, p)
    np.testing.assert_allclose(weights[0], np.cos(found.x), atol=2e-5)
    rest = np.full(dimension, np.sin(found.x) / np.sqrt(dimension))
    np.testing.assert_allclose(weights[1:], rest, atol=2e-5)
    ours = LOSS(weights, eta, epsilon, p)
    assert float(ours) == pytest.approx(found.fun, rel=1e-4)


LOSS = jax.jit(
    lambda weights, eta, epsilon, p: hinge_loss(
        weights, eta=eta, epsilon=epsilon, reliability=p
    )
)


@pytest.mark.parametrize(
    ("strength", "first"),
    [(16, 0.02646954445), (30, 0.01412028549), (40, 0.01059064903)],
)
def test_the_minimizer_does_not_underflow_with_the_loss(strength, first):
    # From a search in 60 digits; the loss is exp(-strength^2 / 2) or so.
    weights = np.asarray(optimum(100)(strength / 10, 0.0, 0.7))
    assert weights[0] == pytest.approx(first, abs=1e-7 * strength)
    assert np.linalg.norm(weights) == pytest.approx(1)


@pytest.mark.parametrize(("eta", "epsilon"), [(0.5, 0.5), (0.5, 0.501)])
def test_of_two_minima_the_lower_one_is_found(eta, epsilon):
    # The radius is above 2p - 1, and so the weak features alone are a minimum too.
    weights = np.asarray(optimum(100)(eta, epsilon, 0.7))
    assert weights[0] == pytest.approx(0, abs=2e-7)
    grid = np.linspace(1e-6, np.pi / 2, 2001)
    values = numpy_loss(grid, 100, eta, epsilon, 0.7)
    falling = np.diff(values) < 0
    assert np.argmin(values) == 2000 and np.any(falling[:-1] & ~falling[1:])
    found = float(LOSS(weights, eta, epsilon, 0.7))
    assert found == pytest.approx(values[-1], rel=1e-5)


def test_a_first_feature_that_moves_too_far_may_have_no_weight():
    weights = np.asarray(optimum(100)(0.6, 0.6, 0.7))
    assert weights[0] == pytest.approx(0, abs=2e-7)
    shares = [float(accuracy(weights, eta=0.6, epsilon=each)) for each in (0.6, 0)]
    assert shares == pytest.approx([0.5, 1.0], abs=1e-6)


@pytest.mark.slow
def test_no_angle_has_a_smaller_loss_than_the_minimizer():
    rng = np.random.default_rng(3)
    eta = np.exp(rng.uniform(np.log(0.02), np.log(2), 60))
    # Half of the radii are near eta, where there may be several minima.
    near = eta + rng.normal(0, 0.01, 60)
    epsilon = np.where(np.arange(60) % 2, near, eta * rng.uniform(0, 2.5, 60))
    p = rng.uniform(0.5, 0.95, 60)
    weights = jax.jit(jax.vmap(optimum(100)))(eta, np.abs(epsilon), p)
    found = jax.vmap(LOSS)(weights, eta, np.abs(epsilon), p)
    grid = np.linspace(1e-6, np.pi / 2, 8001)
    for index, value in enumerate(np.asarray(found)):
        setting = eta[index], abs(epsilon[index]), p[index]
        assert value <= numpy_loss(grid, 100, *setting).min() * (1 + 2e-5) + 1e-7


@pytest.mark.parametrize("moves_first", [True, False])
def test_from_eta_on_no_weights_of_norm_one_beat_the_first_feature(moves_first):
    # If it moves, as long as the radius is at most 2p - 1.
    rng = np.random.default_rng(4)
    weights = rng.normal(size=(2000, 4)) * np.exp(rng.normal(size=(2000, 4)))
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    settings = {"reliability": 0.7, "moves_first": moves_first}
    for eta, epsilon in [(0.3, 0.3), (0.3, 0.4)] + [(0.3, 0.9)] * (not moves_first):
        loss = partial(hinge_loss, eta=eta, epsilon=epsilon, **settings)
        first = float(loss(np.eye(4)[0]))
        losses = jax.jit(jax.vmap(loss))(weights)
        assert first == pytest.approx(0.6 + epsilon * moves_first)
        assert np.all(np.asarray(losses) >= first - 1e-6)


def test_beyond_that_weights_off_the_circle_may_be_better():
    # The first feature is still the best of the circle of many weak features.
    settings = {"eta": 0.5, "epsilon": 0.6}
    weights = optimum(100)(0.5, 0.6, 0.7)
    np.testing.assert_allclose(weights[0], 1.0, atol=1e-6)
    one_weak = np.eye(101)[1]
    losses = [float(hinge_loss(each, **settings)) for each in (weights, one_weak)]
    np.testing.assert_allclose(losses, [1.2, 1.169], atol=5e-4)


def test_the_error_is_what_the_accuracy_lacks_with_all_its_digits():
    for weights in (WEIGHTS, np.eye(4)[0], np.zeros(4)):
        for epsilon in (0.0, 0.25, 1.0):
            settings = {"eta": ETA, "epsilon": epsilon, "reliability": 0.8}
            total = error(weights, **settings) + accuracy(weights, **settings)
            assert float(total) == pytest.approx(1, abs=1e-6)
    # A margin of 0 is an error.
    assert float(error(np.eye(4)[0], eta=ETA, epsilon=1.0)) == 1.0
    first, rest = 0.05, np.full(100, 0.1)
    found = float(error(np.array([first, *rest]), eta=0.8))
    expected = 0.7 * stats.norm.cdf(-8 - first) + 0.3 * stats.norm.cdf(-8 + first)
    assert found == pytest.approx(expected, rel=1e-4, abs=0)


@pytest.mark.parametrize("size", [1e-20, 1e20])
def test_shares_do_not_depend_on_the_size_of_the_weights(size):
    ones = np.ones(3)
    law = stats.norm(2, np.sqrt(2))
    expected = 0.7 * law.sf(-1) + 0.3 * law.sf(1)
    found, _ = SHARE_AND_SLOPE(size * ones)
    assert float(found) == pytest.approx(expected, rel=1e-5)
    weights = np.array([0.5, 1.0, -0.25])
    slopes = [np.float64(SHARE_AND_SLOPE(each * weights)[1]) for each in (size, 1.0)]
    np.testing.assert_allclose(size * slopes[0], slopes[1], rtol=1e-4, atol=1e-6)


SHARE_AND_SLOPE = jax.jit(jax.value_and_grad(partial(accuracy, eta=1.0)))


def test_the_loss_of_tiny_weights_has_their_margin_as_slope():
    slope = jax.jit(jax.grad(partial(hinge_loss, eta=1.0)))
    found = slope(1e-20 * jnp.ones(3))
    np.testing.assert_allclose(found, [-0.4, -1.0, -1.0], rtol=1e-5)


@pytest.mark.parametrize("epsilon", [0.2, 0.4, 0.9])
def test_the_robust_minimizer_is_the_first_feature(epsilon):
    eta, dimension = 0.2, 100
    weights = optimum(dimension)(eta, epsilon, 0.7)
    np.testing.assert_allclose(weights, [1.0, *np.zeros(dimension)], atol=1e-6)
    grid = np.linspace(1e-6, np.pi / 2, 500)
    assert np.argmin(numpy_loss(grid, dimension, eta, epsilon, 0.7)) == 0
    # "70 %" needs a first weight above 0.
    for sign, share in ((1, 0.7), (-1, 0.3)):
        turned = sign * np.asarray(weights)
        for radius in (0.0, epsilon):
            found = float(accuracy(turned, eta=eta, epsilon=radius))
            assert found == pytest.approx(share)


def test_a_weak_weight_costs_the_radius_minus_eta():
    # Lemma C.5 has 2 eta - epsilon, which would be a gain at a radius above 2 eta.
    eta, epsilon, step = 0.2, 0.5, 1e-3
    start = np.array([1.0, 0.0])
    moved = np.array([1.0, step])
    settings = {"eta": eta, "epsilon": epsilon}
    cost = float(hinge_loss(moved, **settings) - hinge_loss(start, **settings)) / step
    assert cost == pytest.approx(epsilon - eta, abs=2e-3)


def test_near_radius_one_a_single_weak_feature_may_lose_less():
    # The robust solution is the first feature alone, among those on the circle; if that
    # feature moves by nearly 1, a weak one moved by twice its mean is less wrong.
    eta, epsilon = 0.495, 0.99
    first, weak = np.eye(3)[:2]
    settings = {"eta": eta, "epsilon": epsilon}
    losses = [float(hinge_loss(each, **settings)) for each in (first, weak)]
    expected, _ = integrate.quad(
        lambda z: max(0.0, 1 + epsilon - eta - z) * stats.norm.pdf(z), -12, 1.495
    )
    np.testing.assert_allclose(losses, [0.7 * 0.99 + 0.3 * 2.99, expected], rtol=1e-5)
    assert losses[1] < losses[0]
    # Where it stands still it is the best of all.
    settings |= {"moves_first": False}
    losses = [float(hinge_loss(each, **settings)) for each in (first, weak)]
    assert losses[0] == pytest.approx(0.6) and losses[0] < losses[1]


def test_a_maximum_outside_the_expectation_is_no_adversarial_loss(drawn):
    # As printed: one perturbation for all points, which does nothing to the mean
    # margin, since the labels average out.
    points, labels = drawn
    weights = np.asarray(circle_weights(1.3, DIMENSION))
    inside = float(hinge_loss(weights, eta=ETA, epsilon=0.25, reliability=0.8))
    margins = labels * (points @ weights)
    reach = 0.25 * np.abs(weights).sum()
    seen = np.mean(np.maximum(0, 1 - margins + reach))
    one_for_all = max(
        np.mean(np.maximum(0, 1 - margins + labels * shift))
        for shift in (-reach, reach)
    )
    assert inside == pytest.approx(seen, rel=0.02)
    assert one_for_all < 0.8 * inside


@jax.jit
def trained(start, epsilon):
    loss = partial(hinge_loss, eta=0.4, epsilon=epsilon, moves_first=False)
    return descend(loss, start, num_steps=1000)


@pytest.mark.parametrize("epsilon", [0.0, 0.8])
def test_training_reaches_the_closed_form(epsilon, key):
    dimension, eta = 100, 0.4
    start = jax.random.normal(key, (dimension + 1,))
    start = start.at[0].set(jnp.abs(start[0]))
    found = np.asarray(trained(start, epsilon))
    best = np.asarray(optimum(dimension, False)(eta, epsilon, 0.7))
    np.testing.assert_allclose(found, best, atol=1e-4)
    assert np.linalg.norm(found) == pytest.approx(1, abs=1e-5)
    settings = {"eta": eta, "epsilon": epsilon, "moves_first": False}
    reached, optimum_loss = (
        float(hinge_loss(each, **settings)) for each in (found, best)
    )
    # Steps that shrink linearly end up to 3 % above, by the rounding of a processor.
    assert reached == pytest.approx(optimum_loss, rel=1e-4)
    expected = [0.99997, 4e-5] if epsilon == 0 else [0.7, 0.7]
    for radius, share in zip((0.0, 2 * eta), expected, strict=True):
        value = float(accuracy(found, **settings | {"epsilon": radius}))
        assert value == pytest.approx(share, abs=2e-5)


def test_training_on_a_sample_comes_near_the_closed_form(drawn):
    # The first quarter of the features has the law of as many.
    points, labels = drawn[0][:4000, :5], drawn[1][:4000]

    def loss(weights):
        return jnp.mean(jnp.maximum(0.0, 1 - labels * (points @ weights)))

    found = np.asarray(jax.jit(partial(descend, loss))(jnp.ones(5)))
    best = np.asarray(optimum(4)(ETA, 0.0, 0.8))
    assert found @ best > 0.995
    assert float(loss(found)) <= float(loss(best)) + 1e-5


def test_training_stays_where_the_loss_is_zero():
    start = jnp.asarray([0.6, 0.8])
    found = descend(lambda weights: jnp.maximum(0.0, -weights[0]), start, num_steps=3)
    np.testing.assert_allclose(found, start, rtol=1e-6)
