"""Each function lies between its two lines, on any interval, at any point of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxrobust.bounds import choices, curves, interval, linear
from jaxrobust.bounds.program import trace
from jaxrobust.bounds.rounding import Bounds
from jaxrobust.bounds.rules import Line, Nonlinear
from jaxrobust.bounds.table import NONLINEAR, rule_of
from jaxrobust.threat import LinfBall
from tests.bounds.networks import dense, random_dense

NUM_INTERVALS = 600
NUM_POINTS = 65

FUNCTIONS = {
    "abs": jnp.abs,
    "ceil": jnp.ceil,
    "clamp": lambda values: lax.clamp(-0.75, values, 0.5),
    "erf": lax.erf,
    "erfc": lax.erfc,
    "exp": jnp.exp,
    "expm1": jnp.expm1,
    "fourth": lambda values: lax.integer_pow(values, 4),
    "inverse": lambda values: lax.integer_pow(values, -1),
    "inverse_square": lambda values: lax.integer_pow(values, -2),
    "log": jnp.log,
    "log1p": jnp.log1p,
    "logistic": lax.logistic,
    "max": lambda values: jnp.maximum(values, -0.25),
    "min": lambda values: jnp.minimum(values, 0.5),
    "relu": lambda values: jnp.maximum(values, 0.0),
    "rsqrt": lax.rsqrt,
    "sqrt": jnp.sqrt,
    "square": jnp.square,
    "tanh": jnp.tanh,
    "third": lambda values: lax.integer_pow(values, 3),
}
POSITIVE = {"log", "rsqrt", "sqrt"}
"""Known for positive arguments only."""


def intervals(name):
    """Wide and narrow ones, around 0 and far from it, and points."""
    rng = np.random.default_rng(5)
    center = rng.normal(size=NUM_INTERVALS) * rng.choice([0.1, 1, 4], NUM_INTERVALS)
    radius = 10 ** rng.uniform(-6, 0.7, NUM_INTERVALS)
    radius[:20] = 0
    low, high = center - radius, center + radius
    if name in POSITIVE:
        low, high = np.abs(low) + 1e-3, np.abs(low) + 1e-3 + 2 * radius
    if name == "log1p":
        low, high = np.abs(low) - 0.999, np.abs(low) - 0.999 + 2 * radius
    low, high = np.float32(low), np.float32(high)
    return Bounds(low, np.maximum(low, high))


def violation(name, rule=None):
    """By how much the function leaves lines and interval, in float64; 0 if nowhere."""
    ends = intervals(name)

    @jax.jit
    def computed(ends):
        (step,) = trace(
            lambda images: FUNCTIONS[name](images), jnp.ones((1, NUM_INTERVALS))
        ).steps
        own = rule or rule_of(step)
        assert isinstance(own, Nonlinear)
        ends = Bounds(*(end[None] for end in ends))
        found = []
        names = ("dual", "zero", "adaptive") if own.slope else ("dual",)
        for each in names:
            slope = own.slope(step, [ends], each) if own.slope else None
            relaxed = own.relax(step, [ends], slope, True)
            pairs = (relaxed.lower, relaxed.upper)
            both = [
                line
                if isinstance(line, Line)
                else Line(
                    line(0 * ends.lower + 1) - (offset := line(0 * ends.lower)), offset
                )
                for line in pairs
            ]
            found.append(
                [
                    [jnp.broadcast_to(x, (1, NUM_INTERVALS))[0] for x in line]
                    for line in both
                ]
            )
        shares = jnp.linspace(0, 1, NUM_POINTS)[:, None]
        points = ends.lower * (1 - shares) + ends.upper * shares
        points = jnp.clip(points, ends.lower, ends.upper)
        values = FUNCTIONS[name](points)
        return found, own.interval(step, [ends], True), points, values

    found, values_ends, points, values = jax.device_get(computed(ends))
    assert not np.isnan(values).any()
    points, values = np.float64(points), np.float64(values)
    worst = 0.0
    for lower, upper in found:
        below, above = (
            np.float64(slope) * points + np.float64(offset)
            for slope, offset in (lower, upper)
        )
        # A point of an interval with 0 has no inverse.
        finite = np.isfinite(values)
        worst = max(worst, np.max((below - values)[finite]))
        worst = max(worst, np.max((values - above)[finite]))
    worst = max(worst, np.max(values_ends.lower - values, where=finite, initial=0))
    return max(worst, np.max(values - values_ends.upper, where=finite, initial=0))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_lies_between_its_lines(name):
    assert violation(name) == 0


def test_every_function_of_one_variable_is_among_them():
    seen = {
        trace(lambda images, each=each: each(images), jnp.ones((1, 2)))
        .steps[0]
        .primitive
        for each in FUNCTIONS.values()
    }
    # Those that are as others: exp2 as exp, and the other staircases as `ceil`.
    assert {*curves.CURVES} - seen == {"exp2", "floor", "round", "sign"}


def wrong(name, part):
    """The rule of a primitive with one side of its relaxation moved inwards."""
    rule = NONLINEAR[name]

    def relax(step, inputs, slope, is_outward):
        found = rule.relax(step, inputs, slope, is_outward)
        shift = 1e-4 if part == "lower" else -1e-4
        line = getattr(found, part)
        return found._replace(**{part: lambda *values: line(*values) + shift})

    return rule._replace(relax=relax)


@pytest.mark.parametrize("part", ["lower", "upper"])
@pytest.mark.parametrize("name", ["tanh", "exp", "max"])
def test_a_wrong_line_is_caught(name, part):
    function = "relu" if name == "max" else name
    assert violation(function) == 0
    assert violation(function, wrong(name, part)) > 5e-5


def test_a_wrong_relaxation_is_caught_by_samples(monkeypatch):
    # A chord too low by a little, planted where networks are bounded.
    layers = random_dense(0, 3, 6, 2)
    image = np.full((1, 3), 0.5, np.float32)
    rng = np.random.default_rng(0)
    samples = np.float32(rng.uniform(0.4, 0.6, (4000, 3)))
    logits = np.asarray(dense(*layers)(samples))

    def is_sound():
        found = jax.jit(lambda image: linear(dense(*layers), LinfBall(0.1), image))
        lower, upper = jax.device_get(found(image))
        return bool((logits >= lower).all() and (logits <= upper).all())

    assert is_sound()
    chord = choices._chord
    monkeypatch.setattr(choices, "_chord", lambda low, high: 0.5 * chord(low, high))
    assert not is_sound()


def test_a_wrong_interval_is_caught_by_samples(monkeypatch):
    image = np.full((1, 3), 0.5, np.float32)
    samples = np.float32(np.random.default_rng(0).uniform(0.4, 0.6, (4000, 3)))
    weights = np.float32(np.random.default_rng(1).normal(size=(3, 2)))

    def logits_fn(images):
        return jnp.tanh(images @ weights)

    logits = np.asarray(logits_fn(samples))

    def is_sound():
        lower, upper = interval(logits_fn, LinfBall(0.1), image)
        lower, upper = np.asarray(lower), np.asarray(upper)
        return bool((logits >= lower).all() and (logits <= upper).all())

    assert is_sound()
    rule = NONLINEAR["tanh"]
    narrow = rule._replace(
        interval=lambda *given: Bounds(*(0.8 * end for end in rule.interval(*given)))
    )
    monkeypatch.setitem(NONLINEAR, "tanh", narrow)
    assert not is_sound()
