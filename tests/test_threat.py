import math
from fractions import Fraction

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxrobust.threat import (
    THREATS,
    L2Ball,
    LinfBall,
    ThreatModel,
    l2_norm,
)

DTYPES = [jnp.float32, jnp.bfloat16]
RADII = st.one_of(st.sampled_from([0.0, 1e-30, 1e-6, 0.3, 2.0]), st.floats(0.0, 2.0))
BOUNDS = [(0.0, 1.0), None]
ORDERS = {"linf": np.inf, "l2": 2, "l1": 1, "l0": 0}
WIDTHS = {"linf": 1.0, "l2": 1.0, "l1": 4.0, "l0": 12.0}
"""What a test calls a radius of 1, as far as images of 16 values go."""


def ball(kind: str, width, *bounds) -> ThreatModel:
    """The ball of a norm whose radius is that many widths."""
    return THREATS[kind](width * WIDTHS[kind], *bounds)


def exact_norm(threat: ThreatModel, moved, center) -> np.ndarray:
    """The norm of the perturbation in float64, where differences are exact."""

    def wide(images):
        return np.asarray(images.astype(jnp.float32)).astype(np.float64)

    difference = np.abs(wide(moved) - wide(center)).reshape(len(moved), -1)
    return np.linalg.norm(difference, ORDERS[threat.name], axis=1)


def assert_inside(threat: ThreatModel, moved, center) -> None:
    assert moved.dtype == center.dtype
    assert np.all(np.isfinite(np.asarray(moved.astype(jnp.float32))))
    assert np.all(
        exact_norm(threat, moved, center) <= np.float64(np.float32(threat.epsilon))
    )
    if threat.bounds is not None:
        assert float(moved.min()) >= threat.bounds[0]
        assert float(moved.max()) <= threat.bounds[1]


def some_images(seed: int, dtype, spread: float = 3.0):
    keys = jax.random.split(jax.random.key(seed), 3)
    center = jax.random.uniform(keys[0], (5, 4, 4, 1))
    # Corners and constant images are where rounding and division go wrong.
    center = center.at[0].set(0.0).at[1].set(1.0).astype(dtype)
    images = center + spread * jax.random.normal(keys[1], center.shape).astype(dtype)
    return images.at[2].set(center[2]), center


_project = jax.jit(lambda threat, images, center: threat.project(images, center))
_sample = jax.jit(lambda threat, key, center: threat.sample(key, center))


@pytest.mark.parametrize(
    ("kind", "bounds", "dtype"),
    [
        pytest.param(
            kind,
            bounds,
            dtype,
            id=f"{kind}-{bounds}-{dtype.__name__}",
            # What holds in the narrower type, or without the range, seldom fails alone.
            marks=[pytest.mark.slow]
            if kind in ("l1", "l0") and (dtype, bounds) != (jnp.float32, (0.0, 1.0))
            else [],
        )
        for kind in THREATS
        for bounds in BOUNDS
        for dtype in DTYPES
    ],
)
class TestBall:
    @pytest.mark.exact
    @given(epsilon=RADII, seed=st.integers(0, 10_000))
    def test_projection_never_leaves_the_ball_or_the_range(
        self, kind, bounds, dtype, epsilon, seed
    ):
        threat = ball(kind, epsilon, bounds)
        images, center = some_images(seed, dtype)
        assert_inside(threat, _project(threat, images, center), center)

    @pytest.mark.exact
    @given(epsilon=RADII, seed=st.integers(0, 10_000))
    def test_random_starts_never_leave_the_ball_or_the_range(
        self, kind, bounds, dtype, epsilon, seed
    ):
        threat = ball(kind, epsilon, bounds)
        _, center = some_images(seed, dtype)
        assert_inside(threat, _sample(threat, jax.random.key(seed), center), center)

    @pytest.mark.exact
    def test_pixels_that_are_not_finite_come_back_into_the_ball(
        self, kind, bounds, dtype
    ):
        threat = ball(kind, 0.25, bounds)
        images, center = some_images(3, dtype)
        images = images.at[0, 0].set(jnp.nan).at[1].set(jnp.inf).at[2].set(-jnp.inf)
        assert_inside(threat, _project(threat, images, center), center)

    @pytest.mark.exact
    def test_radius_zero_gives_the_clean_images(self, kind, bounds, dtype):
        threat = ball(kind, 0.0, bounds)
        images, center = some_images(4, dtype)
        np.testing.assert_array_equal(_project(threat, images, center), center)
        key = jax.random.key(0)
        np.testing.assert_array_equal(_sample(threat, key, center), center)

    def test_projecting_twice_is_projecting_once(self, kind, bounds, dtype):
        threat = ball(kind, 0.25, bounds)
        images, center = some_images(5, dtype)
        once = _project(threat, images, center)
        twice = _project(threat, once, center)
        tolerance = 1e-5 if dtype == jnp.float32 else 2**-7
        difference = (once - twice).astype(jnp.float32)
        assert float(jnp.abs(difference).max()) <= tolerance

    def test_images_well_inside_do_not_move(self, kind, bounds, dtype):
        threat = ball(kind, 2.0, bounds)
        center = jnp.full((3, 4, 4, 1), 0.5, dtype)
        images = center + jnp.asarray(0.125, dtype)
        np.testing.assert_allclose(
            _project(threat, images, center).astype(jnp.float32),
            images.astype(jnp.float32),
            rtol=1e-6 if dtype == jnp.float32 else 2**-8,
        )


@pytest.mark.exact
@pytest.mark.parametrize("epsilon", [0.1, 0.3, 0.7, 8 / 255, 1e-6, 1e-30])
@pytest.mark.parametrize("kind", ["linf", "l2", "l1"])
class TestFloat64:
    """As an auditor would check it, in rational numbers."""

    def assert_inside(self, kind, epsilon, moved, center):
        assert moved.dtype == np.float64
        pairs = zip(np.ravel(moved).tolist(), np.ravel(center).tolist(), strict=True)
        difference = [abs(Fraction(one) - Fraction(other)) for one, other in pairs]
        assert 0 <= moved.min() and moved.max() <= 1
        if kind == "linf":
            assert max(difference) <= Fraction(epsilon)
        else:
            power = ORDERS[kind]
            total = sum(distance**power for distance in difference)
            assert total <= Fraction(epsilon) ** power

    def test_images_stay_in_the_ball_and_fill_it(self, kind, epsilon):
        with jax.enable_x64(True):
            center = np.random.default_rng(0).uniform(size=(1, 4, 4, 1))
            threat = THREATS[kind](epsilon)
            far = jnp.asarray(center + np.where(center < 0.5, 2.0, -2.0))
            near = threat.sample(jax.random.key(0), jnp.asarray(center))
            for moved in (threat.project(far, jnp.asarray(center)), near):
                self.assert_inside(kind, epsilon, np.asarray(moved), center)
            # Half precision, as which these images were once handled, does not get
            # this near to the sphere; others stay a hair inside.
            norm = float(
                threat.norm(threat.project(far, jnp.asarray(center)) - center)[0]
            )
            tolerance = 1e-9 if kind == "linf" else 1e-5
            assert norm == pytest.approx(epsilon, rel=tolerance)


@pytest.mark.exact
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", THREATS)
def test_a_python_radius_is_never_rounded_up(kind, dtype):
    # Half of these are below the nearest float32.
    radii = [0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 2 / 255, 8 / 255, 16 / 255, 1 / 3, 1e-30]
    assert any(float(np.float32(radius)) > radius for radius in radii)
    images, center = some_images(11, dtype)
    for radius in radii:
        threat = THREATS[kind](radius, None)
        # As an argument of a compiled function jax makes the number a float32.
        for moved in (
            jax.jit(threat.project)(images, center),
            _project(threat, images, center),
        ):
            assert np.all(exact_norm(threat, moved, center) <= radius)


def test_a_radius_of_one_is_not_made_smaller():
    assert float(LinfBall(1.0).radius(jnp.zeros((1, 1)))) == 1.0
    assert float(LinfBall(jnp.float32(0.3)).radius(jnp.zeros(1))) == np.float32(0.3)
    with jax.enable_x64(True):
        exact = jnp.asarray(0.3, jnp.float64)
        assert float(LinfBall(exact).radius(jnp.zeros((1, 1)))) == 0.3
        below = LinfBall(exact).radius(jnp.zeros((1, 1), jnp.float32))
        assert float(below) == np.nextafter(np.float32(0.3), np.float32(0))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-0.5, 0.25)], ids=str)
@pytest.mark.parametrize(
    "kind",
    [pytest.param(k, marks=[pytest.mark.slow] * (k in ("l1", "l0"))) for k in THREATS],
)
class TestCentersOutsideTheRange:
    def test_the_ball_is_never_left(self, kind, bounds, dtype):
        threat = ball(kind, 0.25, bounds)
        images, center = some_images(12, dtype)
        center = (200 * center - 50).astype(dtype)
        moved = _project(threat, images * 10, center)
        assert np.all(exact_norm(threat, moved, center) <= threat.epsilon)
        sampled = _sample(threat, jax.random.key(0), center)
        assert np.all(exact_norm(threat, sampled, center) <= threat.epsilon)

    def test_radius_zero_gives_the_clean_images(self, kind, bounds, dtype):
        images, center = some_images(13, dtype)
        center = 200 * center - 50
        moved = _project(ball(kind, 0.0, bounds), images, center)
        np.testing.assert_array_equal(moved, center)

    def test_centers_in_the_range_are_cut_as_ever(self, kind, bounds, dtype):
        if kind in ("l1", "l0"):
            pytest.skip("the nearest point of both is not the cut of that of the ball")
        images, center = some_images(14, dtype)
        center = jnp.clip(center, *bounds)
        moved = _project(ball(kind, 0.25, bounds), images, center)
        free = _project(ball(kind, 0.25, None), images, center)
        np.testing.assert_array_equal(moved, jnp.clip(free, *bounds))


@pytest.mark.parametrize("kind", ["linf", "l2"])
@pytest.mark.slow
def test_the_projection_has_a_derivative_by_the_radius(kind):
    images, center = some_images(15, jnp.float32)
    images = center + 5 * jnp.sign(images - center - 1e-3)

    def norm(radius):
        moved = THREATS[kind](radius, None).project(images, center)
        return jnp.sum((moved - center) ** 2) ** 0.5

    # Every pixel of l_inf, and every image of l2, moves by the radius.
    expected = (center.size if kind == "linf" else len(center)) ** 0.5
    for derivative in (jax.grad, jax.jacfwd):
        assert float(derivative(norm)(0.3)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.exact
def test_center_constants_do_not_undo_the_exact_rounding():
    # Known to XLA while compiling, they once were reassociated through the sum.
    images, center = some_images(6, jnp.float32)
    threat = LinfBall(0.1, None)
    moved = jax.jit(lambda: threat.project(images, center))()
    assert_inside(threat, moved, center)


def test_linf_projection_is_the_nearest_point_of_the_box():
    images, center = some_images(7, jnp.float32)
    wide = np.asarray(center, np.float64)
    nearest = np.clip(np.asarray(images, np.float64), wide - 0.3, wide + 0.3)
    nearest = np.clip(nearest, 0, 1)
    moved = _project(LinfBall(0.3), images, center)
    np.testing.assert_allclose(moved, nearest, atol=1e-6)


def test_l2_projection_shortens_the_perturbation():
    images, center = some_images(8, jnp.float32)
    difference = np.asarray(images, np.float64) - np.asarray(center, np.float64)
    norm = np.sqrt((difference**2).sum(axis=(1, 2, 3), keepdims=True))
    nearest = np.asarray(center) + difference * np.minimum(
        1, 0.7 / np.maximum(norm, 0.7)
    )
    moved = _project(L2Ball(0.7, None), images, center)
    np.testing.assert_allclose(moved, nearest, atol=2e-5)


def test_l2_starts_are_uniform_in_the_ball():
    center = jnp.full((4000, 2, 1, 1), 0.5)
    moved = L2Ball(0.4, None).sample(jax.random.key(1), center)
    radius = np.sort(np.asarray(l2_norm(moved - center)) / 0.4)
    # In the plane the share of points within radius r is r^2 (Kolmogorov-Smirnov).
    gap = np.abs(radius**2 - (np.arange(4000) + 0.5) / 4000).max()
    assert gap < 1.63 / math.sqrt(4000)


def test_linf_starts_are_uniform_in_the_box():
    center = jnp.full((4000, 1, 1, 1), 0.5)
    moved = LinfBall(0.4, None).sample(jax.random.key(1), center)
    place = np.sort((np.asarray(moved - center).ravel() / 0.4 + 1) / 2)
    gap = np.abs(place - (np.arange(4000) + 0.5) / 4000).max()
    assert gap < 1.63 / math.sqrt(4000)


@pytest.mark.parametrize(
    ("kind", "dual"), [("linf", 1), ("l2", 2), ("l1", np.inf), ("l0", np.inf)]
)
def test_steepest_has_norm_one_and_reaches_the_dual_norm(kind, dual, key):
    threat = THREATS[kind](0.3)
    gradient = jax.random.normal(key, (6, 4, 4, 1))
    step = threat.steepest(gradient)
    np.testing.assert_allclose(threat.norm(step), 1.0, rtol=1e-5)
    gain = np.asarray(jnp.sum(step * gradient, axis=(1, 2, 3)))
    flat = np.asarray(gradient).reshape(6, -1)
    np.testing.assert_allclose(gain, np.linalg.norm(flat, dual, axis=1), rtol=1e-5)
    np.testing.assert_allclose(threat.dual_norm(gradient), gain, rtol=1e-6)


@pytest.mark.parametrize("kind", THREATS)
def test_steepest_of_no_gradient_is_no_step(kind):
    zeros = jnp.zeros((2, 3, 3, 1))
    np.testing.assert_array_equal(THREATS[kind](0.1).steepest(zeros), zeros)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_l2_norm_keeps_tiny_and_huge_values(scale):
    images = jnp.full((1, 2, 2, 1), scale, jnp.float32)
    assert float(l2_norm(images)[0]) == pytest.approx(2 * scale, rel=1e-6)


@pytest.mark.parametrize("kind", THREATS)
def test_many_radii_need_one_compilation(kind, key):
    images, center = some_images(9, jnp.float32)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def project(threat):
        return threat.project(images, center)

    for epsilon in (0.0, 0.1, 1.0):
        project(ball(kind, jnp.float32(epsilon)))


@pytest.mark.parametrize("kind", THREATS)
def test_mapping_over_radii_equals_a_loop(kind):
    images, center = some_images(10, jnp.float32)
    radii = jnp.asarray([0.0, 0.1, 0.5])
    mapped = jax.vmap(lambda e: ball(kind, e).project(images, center))(radii)
    for radius, moved in zip(radii, mapped, strict=True):
        alone = _project(ball(kind, radius), images, center)
        np.testing.assert_allclose(moved, alone, atol=1e-7)


@pytest.mark.parametrize("epsilon", [-0.1, math.nan, math.inf, np.float32(-1)])
@pytest.mark.parametrize("kind", THREATS)
def test_a_radius_that_is_no_radius_is_refused(kind, epsilon):
    with pytest.raises(ValueError, match=r"`epsilon` must be in \[0, inf\)"):
        THREATS[kind](epsilon)


@pytest.mark.parametrize("epsilon", [1e39, 10**40, np.float64(1e300)])
def test_a_radius_beyond_float32_is_refused(epsilon):
    with pytest.raises(ValueError, match=r"`epsilon` must be at most 3\.4"):
        LinfBall(epsilon)


@pytest.mark.parametrize("kind", THREATS)
def test_a_radius_for_each_image_is_refused(kind):
    images, center = some_images(16, jnp.float32)
    with pytest.raises(ValueError, match=r"must be one number, .*, got \(1,\)"):
        THREATS[kind](jnp.ones(1)).project(images, center)


@pytest.mark.parametrize("bounds", [(1.0, 0.0), (0.5, 0.5)])
def test_bounds_must_increase(bounds):
    with pytest.raises(ValueError, match="`bounds` must be increasing"):
        LinfBall(0.1, bounds)


def test_with_epsilon_changes_nothing_else():
    threat = LinfBall(0.1, (-1.0, 2.0)).with_epsilon(0.5)
    assert (threat.epsilon, threat.bounds) == (0.5, (-1.0, 2.0))
