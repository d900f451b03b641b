"""Numbers of the papers' formulas, worked out apart from this library.

Each row of `closed_forms.json` names its source, as in "LP-V4", a function and its
arguments. An expected number is a text, since its digits say how well it is known.
"""

import json
from functools import cache, partial
from inspect import signature
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxrobust import theory
from jaxrobust.theory import bounds
from jaxrobust.theory.no_free_lunch import (
    accuracy,
    circle_weights,
    hinge_loss,
    optimal_weights,
    positive_part_mean,
)

ROWS = json.loads(Path(__file__).with_name("closed_forms.json").read_text())


@cache
def optimum(dimension):
    return jax.jit(partial(optimal_weights, dimension))


def minimizer(dimension, eta):
    weights = optimum(dimension)(eta, 0.0)
    attacked = partial(accuracy, epsilon=2 * eta, moves_first=False)
    rest = np.linalg.norm(weights[1:])
    judged = [each(weights, eta=eta) for each in (hinge_loss, accuracy, attacked)]
    return [weights[0], rest, *judged]


def minimizer_attacked(dimension, eta):
    return accuracy(optimum(dimension)(eta, 0.0), eta=eta, epsilon=2 * eta)


def robust_minimizer(dimension, eta, epsilon):
    weights = optimum(dimension)(eta, epsilon)
    rest = np.linalg.norm(weights[1:])
    shares = [accuracy(weights, eta=eta, epsilon=each) for each in (epsilon, 0.0)]
    return [weights[0], rest, *shares]


def loss_at(dimension, eta, angle):
    return hinge_loss(circle_weights(angle, dimension), eta=eta)


def disagreeing_part(dimension, eta, angle):
    first, rest = np.cos(angle), np.sin(angle)
    mean = 1 + first - rest * eta * dimension**0.5
    return 0.3 * positive_part_mean(mean, rest)


def paper_ball_vulnerable_fraction(num_classes, epsilon, dimension):
    measure = 1 - 1 / num_classes
    grown = bounds.ball_expansion_exponential(measure, epsilon, dimension)
    return 1 - num_classes * (1 - grown)


@cache
def function_of(call):
    """A function of this file, or of the library, compiled once for all rows."""
    if "." not in call:
        return globals()[call]
    module, name = call.split(".")
    function = getattr(getattr(theory, module), name)
    parameters = signature(function).parameters.values()
    static = [each.name for each in parameters if each.annotation is int]
    return jax.jit(function, static_argnames=static)


def tolerance(digits):
    """Half of the last digit's place, and what float32 may add."""
    decimals = digits.partition(".")[2]
    return 0.51 * 10.0 ** -len(decimals) + 1e-5 * abs(float(digits))


@pytest.mark.parametrize(
    "row", ROWS, ids=lambda row: f"{row['source']}-{row['call']}-{row['arguments']}"
)
def test_the_number_is_that_of_the_source(row):
    arguments = {
        name: np.array(value) if isinstance(value, list) else value
        for name, value in row["arguments"].items()
    }
    found = np.asarray(function_of(row["call"])(**arguments), np.float64)
    expected = row["expected"]
    expected = [expected] if isinstance(expected, str) else expected
    found = np.atleast_1d(found)
    found = found[row["at"]] if "at" in row else found
    assert found.shape == (len(expected),)
    for value, digits in zip(found, expected, strict=True):
        assert abs(value - float(digits)) <= tolerance(digits), (value, digits)
