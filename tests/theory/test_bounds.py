import math
from fractions import Fraction

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from jaxrobust.theory.bounds import (
    BALL_CONSTANT,
    BEST_BALL_CONSTANT,
    ball_expansion,
    ball_expansion_exponential,
    ball_modulus,
    ball_vulnerable_fraction,
    coordinate_robust_error,
    cube_expansion,
    cube_expansion_exponential,
    cube_vulnerable_fraction,
    facets_bound,
    log_facets_bound,
    sum_vulnerable_fraction,
    sum_vulnerable_fraction_exact,
)

CUBE, BALL = jax.jit(cube_expansion), jax.jit(ball_expansion)


def sum_below(total, dimension):
    """Probability that uniform coordinates sum to at most `total`, exactly."""
    total = min(max(Fraction(total), Fraction(0)), Fraction(dimension))
    terms = (
        (-1) ** j * math.comb(dimension, j) * (total - j) ** dimension
        for j in range(math.floor(total) + 1)
    )
    return float(sum(terms) / math.factorial(dimension))


def uniform(seed, count, dimension):
    return np.random.default_rng(seed).uniform(size=(count, dimension))


def test_a_half_space_across_an_axis_fails_on_a_sample_as_often(assert_share):
    points = uniform(0, 20_000, 3)
    for epsilon in (0.0, 0.1, 0.3, 0.7):
        moved = points[:, 0] - epsilon * np.sign(points[:, 0] - 0.5)
        is_lost = (moved > 0.5) != (points[:, 0] > 0.5)
        assert_share(is_lost, float(coordinate_robust_error(epsilon)))
    # Round a plane at x_1 = 0, as the text has it, there is half as much of the cube.
    assert_share(points[:, 0] <= 0.3, 0.3)


def sum_within(dimension, epsilon):
    """Probability that uniform coordinates sum to their mean within d epsilon."""
    half = Fraction(dimension) * Fraction(epsilon)
    return 1 - 2 * sum_below(Fraction(dimension, 2) - half, dimension)


@pytest.mark.parametrize("dimension", [1, 2, 10, 30])
@pytest.mark.parametrize("epsilon", [0.02, 0.1, 0.2, 0.35])
def test_the_share_near_the_sum_is_bounded(dimension, epsilon):
    sharp = float(sum_vulnerable_fraction(dimension, epsilon))
    printed = float(sum_vulnerable_fraction(dimension, epsilon, variance=0.25))
    assert 0 <= printed <= sharp <= sum_within(dimension, epsilon) + 1e-6


# Closed forms, series of the support's period, and of a shorter one from 64 on.
@pytest.mark.parametrize("dimension", [1, 2, 3, 4, 6, 63, 64, 300])
@pytest.mark.parametrize(("is_double", "error"), [(False, 1e-6), (True, 1e-9)])
def test_the_share_near_the_sum_is_exact(dimension, is_double, error):
    # Also far outside of the cube, and where the density of the sum is large.
    radii = np.array([0, 1 / 128, 1 / 64, 1 / 16, 1 / 8, 5 / 16, 15 / 32, 0.5, 1, 64])
    with jax.enable_x64(is_double):
        found = np.asarray(sum_vulnerable_fraction_exact(dimension, radii), float)
    expected = [sum_within(dimension, each) for each in radii]
    np.testing.assert_allclose(found, expected, rtol=0, atol=error)
    assert found.min() == 0 and found.max() <= 1
    if dimension == 6:
        normal = special.erf(radii * math.sqrt(6 * dimension))
        assert 0.005 < np.max(np.abs(normal - expected)) < 0.0096


@pytest.mark.parametrize("dimension", [10**6, 10**12])
def test_the_share_near_the_sum_of_very_many_is_normal_with_a_correction(dimension):
    # Edgeworth's by the fourth cumulant, whose error is as small as d^-2.
    deviations = np.array([0.1, 1.0, 2.5, 6.0])
    with jax.enable_x64(True):
        radii = deviations / math.sqrt(12 * dimension)
        found = sum_vulnerable_fraction_exact(dimension, radii)
    hermite = deviations**3 - 3 * deviations
    correction = hermite * stats.norm.pdf(deviations) / (10 * dimension)
    expected = special.erf(deviations / math.sqrt(2)) + correction
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("dimension", [2, 3, 64])
def test_the_share_near_the_sum_has_its_density_as_slope(dimension):
    # At 0, twice d times that of the sum at its mean: 1 for two, 3/4 for three.
    slope = float(jax.grad(sum_vulnerable_fraction_exact, 1)(dimension, 0.0))
    step = Fraction(1, 10**6)
    expected = float(sum_within(dimension, step) / step)
    assert slope == pytest.approx(expected, rel=1e-5)


def test_chebyshev_with_the_variance_of_a_uniform_coordinate():
    # It is 1/12, not the proof's 1/4; any less than 1/12 is no bound in one dimension.
    variance = np.var(uniform(1, 100_000, 1))
    assert variance == pytest.approx(1 / 12, rel=0.02)
    epsilon = 0.4
    exact = 1 - 2 * sum_below(Fraction(1, 10), 1)
    sharp, smaller = (1 - each / epsilon**2 for each in (1 / 12, 1 / 40))
    assert float(sum_vulnerable_fraction(1, epsilon)) == pytest.approx(sharp)
    assert sharp <= exact < smaller


@pytest.mark.parametrize("dimension", [3, 100])
def test_below_the_first_useful_radius_the_bound_is_zero_and_flat(dimension):
    epsilon = 0.99 / math.sqrt(12 * dimension)
    value, slope = jax.value_and_grad(sum_vulnerable_fraction, 1)(dimension, epsilon)
    assert value == 0 and slope == 0
    slope = jax.grad(sum_vulnerable_fraction, 1)(dimension, 0.0)
    assert slope == 0


EPSILONS = np.array([0.01, 0.05, 0.1, 0.3, 0.5, 1.0])


@given(measure=st.floats(0.01, 0.99))
def test_half_spaces_across_an_axis_of_the_cube_grow_at_least_as_said(measure):
    grown = np.minimum(measure + EPSILONS, 1)
    assert np.all(np.asarray(CUBE(measure, EPSILONS)) <= grown + 1e-6)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.6])
@pytest.mark.parametrize("dimension", [2, 8])
def test_half_spaces_of_the_sum_grow_at_least_as_said(dimension, share):
    total = Fraction(share) * dimension
    measure = sum_below(total, dimension)
    for epsilon in EPSILONS:
        # Within l2 distance epsilon of the half-space, at least inside of the cube.
        reach = Fraction(epsilon * math.sqrt(dimension))
        grown = sum_below(total + reach, dimension)
        assert float(cube_expansion(measure, epsilon)) <= grown + 1e-6


def test_corners_of_the_cube_grow_at_least_as_said():
    # A set that is no half-space: a small cube in a corner, by a sample.
    points = uniform(3, 20_000, 4)
    for side in (0.5, 0.8, 0.95):
        distance = np.linalg.norm(np.maximum(points - side, 0), axis=1)
        for epsilon in EPSILONS:
            grown = np.mean(distance <= epsilon)
            error = 5 * math.sqrt(grown * (1 - grown) / len(points)) + 1e-4
            assert float(cube_expansion(side**4, epsilon)) <= grown + error


def test_the_cube_bound_is_tight_for_small_radii_at_one_half():
    slope = jax.grad(cube_expansion, 1)(0.5, 0.0)
    assert float(slope) == pytest.approx(1, rel=1e-5)
    # As the appendix prints it, the normal and its inverse cancel, and more is claimed
    # than half of the cube grows to.
    printed = stats.norm.cdf(stats.norm.ppf(math.sqrt(2 * math.pi) * 0.39))
    assert printed > 0.5 + 0.39
    for epsilon in (0.1, 0.39):
        assert float(cube_expansion(0.5, epsilon)) <= 0.5 + epsilon


@given(measure=st.floats(0.5, 0.99), epsilon=st.floats(0, 2))
def test_the_exponential_forms_are_weaker(measure, epsilon):
    gaussian = float(CUBE(measure, epsilon))
    assert float(CUBE_SIMPLE(epsilon)) <= gaussian + 1e-6
    # With a factor of 1/2 it is still true.
    halved = 1 - (1 - float(CUBE_SIMPLE(epsilon))) / 2
    assert halved <= gaussian + 1e-6


CUBE_SIMPLE = jax.jit(cube_expansion_exponential)


def test_the_exponential_form_needs_half_of_the_cube():
    assert float(cube_expansion_exponential(0.9)) > float(cube_expansion(0.01, 0.9))


def test_the_modulus_is_the_depth_of_a_chord():
    for length in (0.0, 0.1, 1.0, 1.7, 2.0):
        # Two points of the unit circle that far apart, and what is left of the radius.
        half_angle = math.asin(length / 2)
        ends = [np.array([math.cos(a), math.sin(a)]) for a in (-half_angle, half_angle)]
        assert np.linalg.norm(ends[0] - ends[1]) == pytest.approx(length)
        depth = 1 - np.linalg.norm((ends[0] + ends[1]) / 2)
        assert float(ball_modulus(length)) == pytest.approx(depth, rel=1e-5, abs=1e-7)
    assert float(ball_modulus(1e-4)) == pytest.approx(1e-8 / 8, rel=1e-5)


def test_the_best_constant_is_an_eighth_and_the_papers_is_not():
    epsilons = np.linspace(1e-3, 2, 400)
    depth = 1 - np.sqrt(1 - epsilons**2 / 4)
    assert pytest.approx((2 - math.sqrt(3)) / 3) == BALL_CONSTANT
    for constant in (BALL_CONSTANT, BEST_BALL_CONSTANT):
        assert np.all(depth >= constant * epsilons**2 * (1 - 1e-9))
    assert np.any(depth < 1.001 * BEST_BALL_CONSTANT * epsilons**2)
    # Tight would mean that it is attained somewhere.
    assert np.all(depth > 1.3 * BALL_CONSTANT * epsilons**2)


def half_ball_below(height, dimension):
    """Share of the unit ball with a first coordinate of at most `height`."""
    height = min(max(height, -1.0), 1.0)
    tail = special.betainc((dimension + 1) / 2, 0.5, 1 - height**2) / 2
    return 1 - tail if height >= 0 else tail


@pytest.mark.parametrize("dimension", [1, 2, 10, 100, 3072])
def test_half_balls_concentric_balls_and_shells_grow_at_least_as_said(dimension):
    for epsilon in (0.01, 0.05, 0.1, 0.3, 0.5, 1.0, 2.0):
        grown = half_ball_below(epsilon, dimension)
        assert float(BALL(0.5, epsilon, dimension)) <= grown + 1e-6
        radius = 0.5 ** (1 / dimension)
        inner = min(radius + epsilon, 1) ** dimension
        assert float(BALL(0.5, epsilon, dimension)) <= inner + 1e-6
        shell = 1 - max(radius - epsilon, 0) ** dimension
        assert float(BALL(0.5, epsilon, dimension)) <= shell + 1e-6


def test_the_half_ball_is_that_of_a_sample(assert_share):
    directions = np.random.default_rng(5).normal(size=(20_000, 6))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    points = directions * uniform(6, 20_000, 1) ** (1 / 6)
    assert_share(points[:, 0] <= 0.25, half_ball_below(0.25, 6))


@settings(max_examples=15)
@given(
    measure=st.floats(0.1, 1),
    epsilon=st.floats(0, 2),
    dimension=st.integers(1, 4000).map(float),
)
def test_ball_bounds_are_ordered(measure, epsilon, dimension):
    full = float(BALL(measure, epsilon, dimension))
    best = float(BALL_SIMPLE(measure, epsilon, dimension, constant=BEST_BALL_CONSTANT))
    papers = float(BALL_SIMPLE(measure, epsilon, dimension, constant=BALL_CONSTANT))
    assert papers <= best + 1e-6 and best <= full + 1e-6
    expected = 1 - (1 - float(ball_modulus(epsilon))) ** (2 * dimension) / measure
    assert full == pytest.approx(max(expected, 0), abs=2e-3 if epsilon < 0.1 else 1e-4)


BALL_SIMPLE = jax.jit(ball_expansion_exponential)


@pytest.mark.parametrize("num_classes", [2, 5, 10, 40])
def test_slabs_of_the_cube_are_as_vulnerable_as_said(num_classes):
    # Classes of equal volume between hyperplanes: the share within epsilon of one.
    for epsilon in EPSILONS:
        slab = 1 / num_classes
        inner = (num_classes - 2) * min(2 * epsilon, slab)
        exact = min(inner + 2 * min(epsilon, slab), 1.0)
        assert float(cube_vulnerable_fraction(num_classes, epsilon)) <= exact + 1e-6


def test_two_half_balls_are_as_vulnerable_as_said():
    for dimension in (2, 10, 100, 784):
        for epsilon in (0.05, 0.1, 0.3, 1.0):
            exact = 2 * half_ball_below(epsilon, dimension) - 1
            found = float(ball_vulnerable_fraction(2, epsilon, dimension))
            assert found <= exact + 1e-6


def test_the_bound_of_classes_is_that_of_their_complements():
    # Applied to the classes themselves (P = 1/10) instead it would be another number.
    epsilons = np.array([0.3, 0.5, 1.0])
    expected = [1 - 10 * (1 - float(cube_expansion(0.9, each))) for each in epsilons]
    found = cube_vulnerable_fraction(10, epsilons)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    grown = float(ball_expansion(0.9, 0.09, 3072))
    found = float(ball_vulnerable_fraction(10, 0.09, 3072))
    assert found == pytest.approx(1 - 10 * (1 - grown), abs=1e-5)
    # The paper's 94 % and 97 %.
    assert float(cube_vulnerable_fraction(10, 0.5)) == pytest.approx(0.94, abs=0.005)
    assert found == pytest.approx(0.975, abs=0.005)


@pytest.mark.parametrize("num_classes", [2, 10, 1e3, 1e6, 1e8, 1e12])
def test_many_classes_are_no_more_vulnerable_than_in_float64(num_classes):
    epsilons = np.array([0, 1e-3, 0.01, 0.1, 0.3, 1])
    start = special.ndtri(1 / num_classes)
    ends = start - epsilons * math.sqrt(2 * math.pi)
    exact = -np.expm1(special.log_ndtr(ends) - special.log_ndtr(start))
    found = np.asarray(cube_vulnerable_fraction(num_classes, epsilons))
    assert found[0] == 0 and np.all(found <= exact + 3e-6)
    np.testing.assert_allclose(found, exact, atol=3e-6)
    epsilons = np.array([0, 0.01, 0.1, 0.3, 1])
    left = (1 - epsilons**2 / 4) ** 100 * num_classes / (1 - 1 / num_classes)
    found = np.asarray(ball_vulnerable_fraction(num_classes, epsilons, 100))
    np.testing.assert_allclose(found, np.maximum(1 - left, 0), atol=3e-6)


def test_more_classes_than_floats_can_tell_have_a_bound():
    found = np.asarray(cube_vulnerable_fraction(np.array([1e30, 1e38]), 0.1))
    assert found[0] == found[1] and 0.9 < found[0] < 1


def test_small_sets_of_the_cube_do_not_vanish():
    found = np.asarray(cube_expansion(1e-10, np.array([0, 0.5])))
    steps = np.array([0, 0.5]) * math.sqrt(2 * math.pi)
    exact = special.ndtr(special.ndtri(1e-10) + steps)
    np.testing.assert_allclose(found, exact, rtol=1e-5)


@pytest.mark.parametrize("dimension", [1, 1.5, 2, 10, 100])
def test_bounds_of_the_ball_have_a_slope_up_to_the_largest_radius(dimension):
    # (1 - epsilon^2 / 4)^d falls to 0 at 2, with slope -1 there on a line, else 0.
    slope = 1.0 if dimension == 1 else 0.0
    value, found = jax.value_and_grad(ball_expansion, 1)(0.5, 2.0, dimension)
    assert value == 1 and found == pytest.approx(slope / 0.5)
    value, found = jax.value_and_grad(ball_vulnerable_fraction, 1)(4, 2.0, dimension)
    assert value == 1 and found == pytest.approx(slope * 16 / 3)
    assert jax.grad(ball_expansion, 2)(0.5, 2.0, float(dimension)) == 0


@pytest.mark.parametrize("dimension", [2, 3, 10, 100, 784])
@pytest.mark.parametrize("distance", [1.0, 1.5, 2.0, 5.0])
def test_facets_are_as_many_as_caps_that_cover_the_sphere(dimension, distance):
    # Each facet, at distance 1 from the center, cuts a cap off the sphere of radius
    # `distance`, and the caps cover it; the share of one is exact here.
    cap = special.betainc((dimension - 1) / 2, 0.5, 1 - distance**-2) / 2
    if cap > 0:
        needed = -math.log(cap)
        assert float(log_facets_bound(dimension, distance)) <= needed + 1e-5


def test_polytopes_have_more_facets_than_the_bound():
    for n in (2, 3, 10, 100):
        assert float(facets_bound(n, math.sqrt(n))) <= 2 * n  # the cube
        assert float(log_facets_bound(n, math.sqrt(n))) <= n * math.log(2)  # its dual
    for m in range(2, 50):  # regular polygons of 2m edges
        assert float(facets_bound(2, 1 / math.cos(math.pi / (2 * m)))) <= 2 * m


def test_four_n_facets_within_two_contradict_the_bound_from_41_on():
    allowed = [n for n in range(1, 200) if float(facets_bound(n, 2)) <= 4 * n]
    assert allowed == list(range(1, 41))
    # 4^n never does.
    dimensions = np.arange(1.0, 5000.0)
    needed = np.asarray(log_facets_bound(dimensions, 2))
    assert np.all(needed <= dimensions * math.log(4))
