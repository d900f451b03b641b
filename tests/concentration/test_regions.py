"""Regions against their definitions, and the numbers of the theorems."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from jaxrobust.concentration import (
    Balls,
    HalfSpace,
    Hyperrectangles,
    Risks,
    equal_volume_epsilon,
    gaussian_concentration,
    generalization_guarantee,
    half_space,
)
from jaxrobust.data.points import Columns, as_points, unit_values

SIZES = st.sampled_from([(1, 1, 1), (40, 3, 2), (40, 20, 5)])
RADII = st.sampled_from([0.0, 8 / 255, 0.3])


def problem(size, dimensions, number, seed):
    rng = np.random.default_rng(seed)
    points = rng.integers(0, 256, (size, dimensions)).astype(np.uint8)
    chosen = rng.integers(0, 256, (number, dimensions)) / 255
    return points, chosen, rng


@given(sizes=SIZES, epsilon=RADII, seed=st.integers(0, 100))
def test_rectangles_are_what_their_definition_says(sizes, epsilon, seed):
    points, centers, rng = problem(*sizes, seed)
    widths = rng.integers(0, 120, centers.shape) / 255
    region = Hyperrectangles(centers, widths)
    # In whole numbers, where a point on the boundary is on the boundary.
    offsets = np.abs(points[:, None].astype(int) - np.rint(centers * 255).astype(int))
    beyond = (offsets - np.rint(widths * 255).astype(int)).max(axis=2).min(axis=1)
    is_in = beyond <= 0
    is_near = beyond <= epsilon * 255 + 1e-9
    np.testing.assert_allclose(region.gap(points), beyond / 255, atol=1e-6)
    np.testing.assert_array_equal(region.contains(points), is_in)
    np.testing.assert_array_equal(region.contains(points, epsilon), is_near)
    found = region.risks(points, epsilon)
    # What the expanded rectangles leave, and what they leave without expansion.
    assert found == pytest.approx((1 - is_near.mean(), 1 - is_in.mean()))
    assert region.risks(Columns.of(points), epsilon) == found


@pytest.mark.exact
def test_of_one_rectangle_the_adversarial_risk_is_exact():
    # The error region outside of [-.6, .6] reaches to .4 when it grows by .2.
    points = np.linspace(-1, 1, 2001, dtype=np.float32)[:, None]
    found = Hyperrectangles(np.zeros((1, 1)), np.full((1, 1), 0.4)).risks(points, 0.2)
    assert found == pytest.approx(Risks(0.4, 0.6), abs=1.1e-3)


@given(sizes=SIZES, epsilon=RADII, seed=st.integers(0, 100))
def test_balls_are_what_their_definition_says(sizes, epsilon, seed):
    points, centers, _ = problem(*sizes, seed)
    squares = (points[:, None].astype(int) - np.rint(centers * 255).astype(int)) ** 2
    distances = np.sqrt(squares.sum(axis=2)) / 255
    # Each ball ends at a point, which lies on its boundary.
    radii = distances[seed % len(points)]
    region = Balls(centers, radii)
    for radius in (0.0, epsilon):
        expected = (distances <= radii + radius + 1e-9).any(axis=1)
        np.testing.assert_array_equal(region.contains(points, radius), expected)
    expected = (region.contains(points).mean(), region.contains(points, epsilon).mean())
    assert region.risks(points, epsilon) == pytest.approx(expected)
    np.testing.assert_allclose(
        region.gap(points), (distances - radii).min(axis=1), atol=2e-6
    )


@pytest.mark.parametrize("kind", ["bytes", "floats", "far"])
def test_balls_hold_their_centers_and_little_else(kind):
    rng = np.random.default_rng(0)
    points = rng.integers(0, 256, (300, 3072)).astype(np.uint8)
    points[1] = points[0]
    points[1, 5] ^= 1
    if kind != "bytes":
        points = unit_values(points) + np.float32(1e-4 if kind == "floats" else 30)
    values = unit_values(points).astype(np.float64)
    for number in (1, 300):
        region = Balls(unit_values(points[:number]), np.zeros(number))
        assert region.risks(points, 0.0) == pytest.approx((number / 300,) * 2, abs=0)
        assert not region.gap(points)[:number].any()
    # To much less than the tolerance, also where points are nearly the same.
    expected = np.linalg.norm(values - values[0], axis=1)
    found = Balls(unit_values(points[:1]), np.zeros(1)).gap(points)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_a_half_space_is_open_and_grows_by_its_direction():
    region = HalfSpace(np.array([0.0, 2.0]), 1.0)  # where y > .5
    points = np.array([[9.0, 0.5], [0.0, 0.51], [0.0, 0.31], [0.0, 0.29]], np.float32)
    np.testing.assert_allclose(region.gap(points), [0, -0.01, 0.19, 0.21], atol=1e-6)
    assert region.contains(points).tolist() == [False, True, False, False]
    assert region.contains(points, 0.2).tolist() == [True, True, True, False]
    assert region.risks(points, 0.2) == Risks(0.25, 0.75)


def test_without_rectangles_or_balls_nothing_is_inside():
    points = np.zeros((4, 3), np.uint8)
    nothing = np.zeros((0, 3))
    assert Hyperrectangles(nothing, nothing).risks(points, 0.5) == Risks(1.0, 1.0)
    assert Balls(nothing, np.zeros(0)).risks(points, 0.5) == Risks(0.0, 0.0)


def test_regions_are_trees_of_arrays():
    region = Balls(np.ones((2, 3)), np.ones(2))
    doubled = jax.tree.map(lambda leaf: 2 * leaf, region)
    assert isinstance(doubled, Balls) and doubled.radii.tolist() == [2, 2]


def test_images_become_bytes_only_where_nothing_is_lost():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 2, 4, 1)).astype(np.uint8)
    for same in (images, images / np.float32(255), images / 255):
        np.testing.assert_array_equal(as_points(same), images.reshape(6, 8))
    floats = (images / 255).astype(np.float32)
    for other in (floats + 1e-6, floats * 3 - 1, rng.normal(size=(6, 8))):
        found = as_points(other)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, other.reshape(6, 8).astype(np.float32))
    np.testing.assert_array_equal(unit_values(as_points(images)), floats.reshape(6, 8))


@pytest.mark.parametrize(
    ("epsilon", "dimensions", "rule"),
    [
        *((0.1, 784, 1.57973), (0.2, 784, 3.15946), (0.3, 784, 4.73919)),
        *((2 / 255, 3072, 0.245259), (4 / 255, 3072, 0.490519)),
        *((8 / 255, 3072, 0.981037), (0.01, 3072, 0.312706)),
        *((0.02, 3072, 0.625411), (0.03, 3072, 0.938117)),
    ],
)
def test_l2_radii_of_the_paper(epsilon, dimensions, rule):
    # MC-V1.
    assert equal_volume_epsilon(epsilon, dimensions) == pytest.approx(rule, rel=3e-6)


@pytest.mark.parametrize(
    ("epsilon", "dimensions", "exact"),
    [
        *((0.1, 784, 1.36180), (0.2, 784, 2.72360), (0.3, 784, 4.08541)),
        (2 / 255, 3072, 0.210689),
        # The ball of volume 1 in one, two and three dimensions.
        *((0.5, 1, 0.5), (0.5, 2, np.pi**-0.5), (0.5, 3, (0.75 / np.pi) ** (1 / 3))),
    ],
)
def test_l2_radii_of_equal_volume(epsilon, dimensions, exact):
    found = equal_volume_epsilon(epsilon, dimensions, exact=True)
    assert found == pytest.approx(exact, rel=4e-6)


def test_concentration_of_the_gaussian():
    assert gaussian_concentration(0.01, 1) == pytest.approx(0.0923622, abs=5e-8)
    assert gaussian_concentration(0.3, 0) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("arguments", "delta", "exponent", "phi"),
    [
        ((784, 10, 60_000), 0.01, 198612.8, 1.0),
        ((1, 2, 10**6), 0.1, -58.97264, 1.957e-25),
        ((1, 5, 10**7), 0.1, -651.545, None),
    ],
)
def test_the_guarantee_of_the_paper(arguments, delta, exponent, phi):
    # MC-V3; the logarithm of phi holds the factor 8.
    found = generalization_guarantee(*arguments, delta=delta)
    assert found.log_phi - np.log(8) == pytest.approx(exponent, rel=1e-6)
    if phi is not None:
        assert found.phi == pytest.approx(phi, rel=1e-3)
    assert found.is_vacuous == (exponent > 0)
    assert found.probability == pytest.approx(0.0 if exponent > 0 else 1.0)
    assert ("vacuous" in found.describe()) == found.is_vacuous
    assert found.as_row()["is_vacuous"] is found.is_vacuous


def test_a_guarantee_between_nothing_and_certainty():
    found = generalization_guarantee(1, 2, 280_000, delta=0.1)
    exponent = 2 * np.log(2) * np.log(280_000) - 280_000 * 0.01 / 128
    expected = 8 * np.exp(exponent)
    assert found.phi == pytest.approx(expected) and 0.05 < expected < 0.25
    assert found.probability == pytest.approx(1 - 4 * expected)
    # It is about the minimum over a collection, not about what was found.
    said = found.describe()
    assert said.startswith(f"with probability at least {found.probability:.6g} the min")
    assert (
        "unions of 2 on the training points lies between h(alpha - 0.1) - 0.1" in said
    )
    assert "what a search found need not be the minimum" in said


def test_of_one_region_the_theorem_is_that_of_two():
    # ln 1 = 0 made it claim .94 here, where half of the points lie outside of a box
    # that holds the other half: each is the furthest in some of so many dimensions.
    found = generalization_guarantee(4000, 1, 4000, delta=0.45)
    assert found == generalization_guarantee(4000, 2, 4000, delta=0.45)
    assert found.num_regions == 2 and found.is_vacuous
    assert not generalization_guarantee(1, 1, 10**6, delta=0.1).is_vacuous


@pytest.mark.parametrize(
    ("number", "is_applicable"), [(10, True), (40, False), (75, False)]
)
def test_the_theorem_asks_for_many_samples(number, is_applicable):
    found = generalization_guarantee(3072, number, 50_000)
    assert found.is_applicable is is_applicable and found.is_vacuous
    assert ("asks for T^4" in found.describe()) is not is_applicable


def test_half_spaces_are_the_oracle_of_the_gaussian():
    points = np.random.default_rng(0).normal(size=(200_000, 2)).astype(np.float32)
    region = half_space(points, np.array([0.6, 0.8]), 0.05)
    found = region.risks(points, 1.0)
    assert found.risk == 0.05
    expected = gaussian_concentration(0.05, 1.0)
    # Three standard deviations of a share of that many points, and of the quantile.
    assert found.adversarial_risk == pytest.approx(expected, abs=6e-3)
    assert expected == pytest.approx(stats.norm.cdf(stats.norm.ppf(0.05) + 1))
