"""What every closed form promises of its one number, whatever the others are."""

from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from jaxrobust.theory import bernoulli, bounds, gaussian, generalization, no_free_lunch
from jaxrobust.theory import ramp as ramps


class Case(NamedTuple):
    """A function of one number, and of others that are drawn."""

    name: str
    call: Callable[..., jax.Array]
    others: dict[str, st.SearchStrategy]
    domain: tuple[float, float]
    values: tuple[float, float]
    rises: bool


def numbers(low, high):
    return st.floats(low, high)


def vectors(size, low=-2.0, high=2.0):
    # On a grid: no weights that are nearly, but not, 0.
    steps = nps.arrays(np.int32, size, elements=st.integers(-8, 8))
    return steps.map(lambda each: np.float32(low + (each + 8) / 16 * (high - low)))


def linear_error(epsilon, norm, **others):
    return gaussian.linear_error(epsilon=epsilon, norm=norm, **others)


LINEAR = {
    "weights": vectors(2),
    "bias": numbers(-2, 2),
    "mean": vectors(2),
    "sigma": numbers(0.25, 3),
}
# A standard deviation of nearly 0 is a step, which has no slope to speak of.
WEIGHTS = vectors(4).filter(lambda each: np.linalg.norm(each[1:]) > 0.3)
LUNCH = {
    "weights": WEIGHTS,
    "eta": numbers(0.125, 2),
    "reliability": numbers(0.5, 0.9375),
}
FEW = st.integers(1, 10).map(float)
DIMENSION = st.integers(1, 3000).map(float)
COVER = {
    "num_examples": st.integers(100, 10**6).map(float),
    "failure": numbers(0.01, 0.5),
    "constant": numbers(0.5, 2),
    "dimension": numbers(1, 4),
}
HALF, ONE, ANY = (0.0, 0.5), (0.0, 1.0), (0.0, np.inf)

CASES = [
    Case(
        "gaussian.optimal_error",
        lambda x, **others: gaussian.optimal_error(epsilon=x, **others),
        {"distance": numbers(0, 4), "sigma": numbers(0.25, 3)},
        (0, 3),
        HALF,
        True,
    ),
    Case(
        "gaussian.linear_error l2",
        partial(linear_error, norm="l2"),
        LINEAR,
        (0, 3),
        ONE,
        True,
    ),
    Case(
        "gaussian.linear_error linf",
        partial(linear_error, norm="linf"),
        LINEAR,
        (0, 3),
        ONE,
        True,
    ),
    Case(
        "bernoulli.bayes_error",
        jax.jit(partial(bernoulli.bayes_error, 12)),
        {},
        (0.01, 0.49),
        HALF,
        False,
    ),
    Case(
        "bernoulli.l0_error",
        jax.jit(lambda x, budget: bernoulli.l0_error(12, x, budget)),
        {"budget": st.integers(0, 5)},
        (0.01, 0.49),
        HALF,
        False,
    ),
    Case(
        "no_free_lunch.averaging_accuracy",
        lambda x, **others: no_free_lunch.averaging_accuracy(epsilon=x, **others),
        {"dimension": st.integers(1, 30).map(float), "eta": numbers(0.125, 1)},
        (0, 2),
        ONE,
        False,
    ),
    Case(
        "no_free_lunch.adversarial_accuracy_bound",
        no_free_lunch.adversarial_accuracy_bound,
        {"reliability": numbers(0.5, 0.9375)},
        (0, 1),
        ONE,
        True,
    ),
    Case(
        "no_free_lunch.accuracy",
        lambda x, **others: no_free_lunch.accuracy(epsilon=x, **others),
        LUNCH,
        (0, 1),
        ONE,
        False,
    ),
    Case(
        "no_free_lunch.hinge_loss",
        lambda x, **others: no_free_lunch.hinge_loss(epsilon=x, **others),
        LUNCH,
        (0, 1),
        ANY,
        True,
    ),
    Case(
        "no_free_lunch.positive_part_mean",
        no_free_lunch.positive_part_mean,
        {"sigma": st.one_of(st.just(0.0), numbers(0.25, 2))},
        (-4, 4),
        ANY,
        True,
    ),
    Case(
        "bounds.coordinate_robust_error",
        bounds.coordinate_robust_error,
        {},
        (0, 1),
        ONE,
        True,
    ),
    Case(
        "bounds.sum_vulnerable_fraction",
        lambda x, dimension: bounds.sum_vulnerable_fraction(dimension, x),
        # From where the bound is above 0 in any dimension.
        {"dimension": DIMENSION},
        (0.3, 2),
        ONE,
        True,
    ),
    Case(
        "bounds.sum_vulnerable_fraction_exact",
        jax.jit(partial(bounds.sum_vulnerable_fraction_exact, 6)),
        {},
        (0, 1),
        ONE,
        True,
    ),
    Case(
        "bounds.cube_expansion",
        lambda x, measure: bounds.cube_expansion(measure, x),
        {"measure": numbers(0.01, 0.99)},
        (0, 1),
        ONE,
        True,
    ),
    Case(
        "bounds.cube_expansion_exponential",
        bounds.cube_expansion_exponential,
        {},
        (0, 1),
        ONE,
        True,
    ),
    Case("bounds.ball_modulus", bounds.ball_modulus, {}, (0, 1.9), ONE, True),
    Case(
        "bounds.ball_expansion",
        lambda x, **others: bounds.ball_expansion(epsilon=x, **others),
        {"measure": numbers(0.125, 1), "dimension": FEW},
        (0, 2),
        ONE,
        True,
    ),
    Case(
        "bounds.ball_expansion_exponential",
        lambda x, **others: bounds.ball_expansion_exponential(epsilon=x, **others),
        {"measure": numbers(0.125, 1), "dimension": FEW},
        (0, 1.9),
        ONE,
        True,
    ),
    Case(
        "bounds.cube_vulnerable_fraction",
        lambda x, num_classes: bounds.cube_vulnerable_fraction(num_classes, x),
        {"num_classes": st.integers(2, 100).map(float)},
        (0, 1),
        ONE,
        True,
    ),
    Case(
        "bounds.ball_vulnerable_fraction",
        lambda x, **others: bounds.ball_vulnerable_fraction(epsilon=x, **others),
        {"num_classes": st.integers(2, 9).map(float), "dimension": FEW},
        (0, 2),
        ONE,
        True,
    ),
    Case(
        "bounds.facets_bound",
        lambda x, dimension: bounds.facets_bound(dimension, x),
        {"dimension": st.integers(1, 9).map(float)},
        (1, 4),
        (1, np.inf),
        False,
    ),
    Case(
        "generalization.margin_bound, margin",
        generalization.margin_bound,
        COVER | {"width": numbers(0.25, 2), "radius": numbers(0.25, 1)},
        (0.01, 2),
        ANY,
        False,
    ),
    Case(
        "generalization.margin_bound, radius",
        lambda x, **others: generalization.margin_bound(radius=x, **others),
        COVER | {"width": numbers(0.25, 2), "smallest_margin": numbers(0.25, 2)},
        (0.25, 1),
        ANY,
        False,
    ),
    Case(
        "generalization.robustness_bound",
        lambda x, **others: generalization.robustness_bound(num_cells=x, **others),
        {
            "robustness": numbers(0, 1),
            "num_examples": st.integers(100, 10**6).map(float),
            "failure": numbers(0.01, 0.5),
            "largest_loss": numbers(0, 3),
        },
        (1, 100),
        ANY,
        True,
    ),
    Case(
        "ramp.ramp_loss",
        ramps.ramp_loss,
        {"width": numbers(0.25, 2)},
        (-3, 1),
        ONE,
        True,
    ),
    Case(
        "ramp.ramp_width",
        lambda x: ramps.ramp_width(jnp.asarray(x)[None]),
        {},
        (-2, 2),
        (1, np.inf),
        True,
    ),
]
NUM_POINTS = 257
BY_NAME = {case.name: case for case in CASES}


@cache
def program(name):
    slope = jax.value_and_grad(BY_NAME[name].call)
    return jax.jit(
        lambda points, others: jax.vmap(lambda x: slope(x, **others))(points)
    )


def points_of(case):
    return np.linspace(*case.domain, NUM_POINTS, dtype=np.float32)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@settings(max_examples=6)
@given(data=st.data())
def test_values_are_in_range_and_monotone_and_have_their_slope(case, data):
    others = data.draw(st.fixed_dictionaries(case.others))
    points = points_of(case)
    found = program(case.name)(points, others)
    values, slopes = (np.asarray(each, np.float64) for each in found)
    low, high = case.values
    assert np.all((values >= low - 1e-6) & (values <= high + 1e-6))
    sign = 1 if case.rises else -1
    size = max(1.0, np.abs(values).max())
    assert np.all(sign * np.diff(values) >= -1e-6 * size)
    # The difference quotient lies between the slopes at the ends, whether there is a
    # kink between or not, up to what an inflection and rounding add.
    quotients = np.diff(values) / np.diff(points.astype(np.float64))
    ends = slopes[:-1], slopes[1:]
    spread = 0.03 * np.abs(slopes).max() + 1e-4 * size
    assert np.all(quotients >= np.minimum(*ends) - spread)
    assert np.all(quotients <= np.maximum(*ends) + spread)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_mapped_function_has_the_values_of_a_loop_over_floats(case):
    usual = {"weights": np.float32([0.5, 0.25, -0.5, 1.0]), "mean": np.ones(2)}
    usual |= {"budget": 2, "num_classes": 3.0, "dimension": 2.0, "num_examples": 500.0}
    others = {name: usual.get(name, 0.75) for name in case.others}
    if "mean" in others:
        others |= {"weights": np.float32([0.5, -0.25]), "mean": np.float32([1, 1])}
    points = points_of(case)
    values, _ = program(case.name)(points, others)
    for index in (3, 250):
        single = case.call(float(points[index]), **others)
        assert single.shape == () and single.dtype == jnp.float32
        assert float(single) == pytest.approx(float(values[index]), rel=1e-5, abs=1e-6)
