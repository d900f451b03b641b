"""The balls of l_1 and l_0, and what all norms say of themselves."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrobust.threat import (
    THREATS,
    L0Ball,
    L1Ball,
    LinfBall,
    ThreatModel,
    norm_name,
    threat_of,
)


def drawn(seed, shape, spread):
    rng = np.random.default_rng(seed)
    center = rng.uniform(size=shape).astype(np.float32)
    moved = center + spread * rng.normal(size=shape)
    return jnp.asarray(moved, jnp.float32), jnp.asarray(center)


def nearest_l1(image, center, epsilon, bounds):
    """The nearest point of ball and range, by its threshold in float64."""
    moved = np.asarray(image, np.float64) - np.asarray(center, np.float64)
    lower, upper = bounds or (-np.inf, np.inf)
    room = np.where(moved > 0, upper - center, center - lower)

    def at(threshold):
        return np.clip(np.abs(moved) - threshold, 0, room)

    low, high = 0.0, float(np.abs(moved).max())
    if at(0.0).sum() <= epsilon:
        high = 0.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if at(middle).sum() > epsilon else (low, middle)
    return center + np.sign(moved) * at(high)


_project = jax.jit(lambda threat, images, center: threat.project(images, center))


class TestL1:
    @given(
        seed=st.integers(0, 10_000),
        epsilon=st.floats(0.01, 12),
        spread=st.sampled_from([0.05, 1.0, 20.0]),
        bounds=st.sampled_from([(0.0, 1.0), None]),
    )
    @settings(max_examples=25)
    def test_projection_is_the_nearest_point_of_ball_and_range(
        self, seed, epsilon, spread, bounds
    ):
        images, center = drawn(seed, (3, 20), spread)
        found = _project(L1Ball(epsilon, bounds), images, center)
        for row in range(3):
            one, clean = np.asarray(images)[row], np.asarray(center)[row]
            expected = nearest_l1(one, clean, epsilon, bounds)
            # A hair of the radius, and what float32 knows of far images.
            tolerance = 1e-5 * (epsilon + spread)
            np.testing.assert_allclose(found[row], expected, atol=tolerance)

    def test_starts_are_uniform_in_the_ball(self):
        center = jnp.full((4000, 2, 1, 1), 0.5)
        moved = L1Ball(0.4, None).sample(jax.random.key(1), center)
        moved = np.asarray(moved - center)[:, :, 0, 0] / 0.4
        for place in (np.abs(moved).sum(1) ** 2, np.mod(moved.sum(1) + 1, 2) / 2):
            # Of the area, a smaller ball has the square of its radius; the sum of both
            # coordinates is uniform (Kolmogorov-Smirnov).
            gap = np.abs(np.sort(place) - (np.arange(4000) + 0.5) / 4000).max()
            assert gap < 1.63 / math.sqrt(4000)

    @pytest.mark.slow
    def test_the_length_has_a_derivative_by_the_radius(self):
        images, center = drawn(2, (5, 20), 20.0)

        def length(radius):
            moved = L1Ball(radius, None).project(images, center)
            return jnp.sum(jnp.abs(moved - center))

        for derivative in (jax.grad, jax.jacfwd):
            assert float(derivative(length)(0.7)) == pytest.approx(5, rel=1e-3)

    def test_steps_pass_over_values_that_the_range_stops(self):
        images = jnp.asarray([[1.0, 0.0, 0.5, 0.5]])
        gradient = jnp.asarray([[9.0, -8.0, 2.0, 1.0]])
        moved = L1Ball(1.0).ascend(images, gradient, 0.25)
        np.testing.assert_allclose(moved, [[1.0, 0.0, 0.75, 0.5]])
        moved = L1Ball(1.0, None).ascend(images, gradient, 0.25)
        np.testing.assert_allclose(moved, [[1.25, 0.0, 0.5, 0.5]])


class TestL0:
    @given(
        seed=st.integers(0, 10_000),
        epsilon=st.integers(0, 5),
        spread=st.sampled_from([0.05, 1.0, 20.0]),
        bounds=st.sampled_from([(0.0, 1.0), None]),
    )
    @settings(max_examples=25)
    def test_projection_is_the_nearest_point_of_ball_and_range(
        self, seed, epsilon, spread, bounds
    ):
        images, center = drawn(seed, (3, 5), spread)
        found = np.asarray(_project(L0Ball(float(epsilon), bounds), images, center))
        images, center = (np.asarray(each, np.float64) for each in (images, center))
        inside = np.clip(images, *bounds) if bounds else images
        # Every choice of values that may change.
        choices = [
            np.where(np.isin(np.arange(5), chosen), inside, center)
            for chosen in itertools.combinations(range(5), epsilon)
        ]
        least = np.min([np.sum((each - images) ** 2, axis=1) for each in choices], 0)
        np.testing.assert_allclose(np.sum((found - images) ** 2, 1), least, rtol=1e-5)
        assert np.all(np.sum(found != np.float32(center), axis=1) <= epsilon)

    def test_of_equal_changes_the_first_are_kept(self):
        center = jnp.full((1, 4), 0.5)
        moved = L0Ball(2.0).project(
            center + jnp.asarray([[0.1, 0.1, 0.1, 0.1]]), center
        )
        np.testing.assert_array_equal(moved != center, [[True, True, False, False]])

    def test_starts_change_as_many_values_as_allowed_each_as_often(self):
        center = jnp.full((4000, 2, 2, 1), 0.5)
        moved = np.asarray(L0Ball(3.0).sample(jax.random.key(0), center))
        is_moved = (moved != 0.5).reshape(4000, 4)
        assert np.all(is_moved.sum(1) == 3)
        # 4.9 standard deviations of a coin with a chance of 3/4.
        assert np.all(np.abs(is_moved.mean(0) - 0.75) < 4.9 * (3 / 16 / 4000) ** 0.5)
        place = np.sort(moved.ravel()[is_moved.ravel()])
        gap = np.abs(place - (np.arange(len(place)) + 0.5) / len(place)).max()
        assert gap < 1.63 / math.sqrt(len(place))

    def test_a_radius_between_two_numbers_counts_as_the_lower_one(self):
        images, center = drawn(0, (2, 9), 1.0)
        moved = [L0Ball(radius).project(images, center) for radius in (3.0, 3.9)]
        np.testing.assert_array_equal(*moved)


@pytest.mark.parametrize("kind", THREATS)
def test_perturbations_are_moved_into_balls_with_a_radius_each(kind):
    moved = jax.random.normal(jax.random.key(0), (5, 3, 4))
    radius = jnp.asarray([0.0, 1.0, 2.0, 3.0, jnp.inf])
    found = np.asarray(THREATS[kind](0.0).project_perturbation(moved, radius))
    flat = np.asarray(moved).reshape(5, 12)
    for row, epsilon in enumerate(np.asarray(radius)):
        size = np.abs(flat[row])
        if kind == "linf":
            expected = np.minimum(size, epsilon)
        elif kind == "l2":
            expected = size * min(1, epsilon / np.linalg.norm(size))
        elif kind == "l1":
            zeros = np.zeros(12)
            expected = nearest_l1(size, zeros, epsilon, None) if row < 4 else size
        else:
            least = np.sort(size)[::-1][: int(min(epsilon, 12))]
            expected = size * (size >= (least[-1] if len(least) else np.inf))
        expected = np.sign(flat[row]) * expected
        np.testing.assert_allclose(found[row].ravel(), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "diameter"), [("linf", 3), ("l2", 6), ("l1", 12), ("l0", 4)]
)
def test_the_diameter_is_the_distance_of_opposite_corners(kind, diameter):
    threat = THREATS[kind]
    assert threat.diameter((2, 2, 1), (-1.0, 2.0)) == diameter
    corners = jnp.full((1, 2, 2, 1), 3.0)
    assert float(threat(0.0).norm(corners)[0]) == diameter
    # What a norm of one's own gets if it says nothing.
    other = ThreatModel.diameter.__func__(threat, (2, 2, 1), (-1.0, 2.0))
    assert other == pytest.approx(diameter)


@pytest.mark.parametrize("shape", [None, (2, 2, 1)])
@pytest.mark.parametrize(
    ("kind", "epsilon", "message"),
    [
        ("linf", 1.5, r"in \[0, 1\] in linf, got 1.5; .* 1.5/255 rather than 1.5"),
        ("l2", 2.5, r"in \[0, 2\] in l2 for images of 4 values, got 2.5"),
        ("l1", 4.5, r"in \[0, 4\] in l1 for images of 4 values, got 4.5"),
        ("l0", 5, r"in \[0, 4\] in l0 for images of 4 values, got 5; .* number of val"),
        ("l0", 0.3, "a whole number in l0, got 0.3; it is the number of values"),
    ],
)
def test_a_radius_in_another_unit_is_refused(kind, epsilon, message, shape):
    if shape is None and kind != "linf" and epsilon != 0.3:
        THREATS[kind].require_epsilon(epsilon)
        return
    with pytest.raises(ValueError, match=f"`radius` must be {message}"):
        THREATS[kind].require_epsilon(epsilon, shape, name="radius")


def test_only_boxes_have_corners():
    center = jnp.full((1, 2), 0.25)
    lower, upper = LinfBall(0.5).corners(center)
    np.testing.assert_allclose([lower[0, 0], upper[0, 0]], [0, 0.75], atol=1e-6)
    with pytest.raises(
        TypeError, match=r"must be a box, such as a LinfBall, .* L1Ball"
    ):
        L1Ball(0.5).corners(center)


def test_norms_are_found_by_name_and_by_class():
    assert [norm_name(kind) for kind in THREATS.values()] == list(THREATS)
    assert threat_of("l1") is threat_of(L1Ball) is L1Ball
    with pytest.raises(TypeError, match="`norm` must be a name or a subclass of Threa"):
        norm_name(dict)
    with pytest.raises(ValueError, match="must be one of linf, l2, l1, l0, got 'l3'"):
        threat_of("l3")

    class Hidden(LinfBall):
        pass

    with pytest.raises(ValueError, match="at the top of a module"):
        norm_name(Hidden)
