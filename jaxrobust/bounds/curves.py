r"""Functions of one variable: their intervals, and the lines between which they lie.

A convex function lies above its tangents and below its chords. One that is convex and
then concave lies above a chord from end to end as long as the chord leaves the left end
no steeper than the function does, and else above the steepest of the tangents left of
the turn that passes below the right end; that one is found by halving, and any that was
found holds. Upper lines are those of the function turned round.

References:
    Zhang et al., 2018, arXiv:1811.00866, Section 3.2 and Table 2.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxrobust.bounds.program import Step
from jaxrobust.bounds.rounding import ULPS, Bounds, gamma, smallest, unit, widened
from jaxrobust.bounds.rules import (
    Line,
    Nonlinear,
    Relaxation,
    constant,
    lines,
)

__all__ = ["CURVES", "finite", "reciprocal_lines", "rounded", "square_rule"]

Function = Callable[..., Array]

HALVINGS = 20
"""Of the interval in which a tangent point is sought."""


def _chord_slope(function: Function, derivative: Function, ends: Bounds) -> Array:
    low, high = ends
    width = high - low
    # Of two ends that nearly meet the quotient is nothing but rounding.
    is_wide = width > 64 * unit(width.dtype) * ends.magnitude
    rise = function(high) - function(low)
    quotient = rise / jnp.where(is_wide, width, 1.0)
    return jnp.where(is_wide, quotient, derivative(ends.center))


def _chord_above(function: Function, derivative: Function, ends: Bounds) -> Line:
    """Above a convex function, whatever the rounding of the slope."""
    slope = _chord_slope(function, derivative, ends)
    return Line(slope, jnp.maximum(*(function(end) - slope * end for end in ends)))


def _chord_below(function: Function, derivative: Function, ends: Bounds) -> Line:
    """Below a concave function."""
    slope = _chord_slope(function, derivative, ends)
    return Line(slope, jnp.minimum(*(function(end) - slope * end for end in ends)))


def _tangent(function: Function, derivative: Function, point: Array) -> Line:
    slope = derivative(point)
    return Line(slope, function(point) - slope * point)


def _choose(is_first: Array, first: Line, second: Line) -> Line:
    return Line(
        jnp.where(is_first, first.slope, second.slope),
        jnp.where(is_first, first.offset, second.offset),
    )


def _convex(
    function: Function, derivative: Function, ends: Bounds
) -> tuple[Line, Line]:
    tangent = _tangent(function, derivative, ends.center)
    return tangent, _chord_above(function, derivative, ends)


def _concave(
    function: Function, derivative: Function, ends: Bounds
) -> tuple[Line, Line]:
    tangent = _tangent(function, derivative, ends.center)
    return _chord_below(function, derivative, ends), tangent


def _below_turning(function: Function, derivative: Function, ends: Bounds) -> Line:
    """Below a function that is convex left of 0 and concave right of it."""
    low, high = ends
    at_high = function(high)

    def halve(_: Array, points: tuple[Array, Array]) -> tuple[Array, Array]:
        valid, other = points
        middle = (valid + other) / 2
        line = _tangent(function, derivative, middle)
        is_below = line(high) <= at_high
        return jnp.where(is_below, middle, valid), jnp.where(is_below, other, middle)

    last = jnp.clip(0.0, low, high)
    start = lax.stop_gradient((low, last))
    point, _ = lax.stop_gradient(lax.fori_loop(0, HALVINGS, halve, start))
    tangent = _tangent(function, derivative, point)
    chord = _chord_below(function, derivative, ends)
    middle = _tangent(function, derivative, ends.center)
    is_chord = (low >= 0) | (chord.slope <= derivative(low))
    mixed = _choose(is_chord, chord, tangent)
    return _choose(high <= 0, middle, mixed)


def _turning(
    function: Function, derivative: Function, ends: Bounds
) -> tuple[Line, Line]:
    """The lines of a function that is convex left of 0 and concave right of it."""
    lower = _below_turning(function, derivative, ends)
    turned = _below_turning(
        lambda values: -function(-values),
        lambda values: derivative(-values),
        Bounds(-ends.upper, -ends.lower),
    )
    return lower, Line(turned.slope, -turned.offset)


_LINES = {"convex": _convex, "concave": _concave, "turning": _turning}


def finite(found: tuple[Line, Line], values: Bounds) -> tuple[Line, Line]:
    """Lines that are numbers: where one is none, the interval in its place."""

    def one(line: Line, end: Array) -> Line:
        is_finite = jnp.isfinite(line.slope) & jnp.isfinite(line.offset)
        return _choose(is_finite, line, Line(jnp.zeros_like(end), end))

    return one(found[0], values.lower), one(found[1], values.upper)


def rounded(
    found: tuple[Line, Line], inputs: Bounds, values: Bounds
) -> tuple[Line, Line]:
    """Lines moved apart by what rounding may have taken from them.

    Slopes and values are within `ULPS` units, derivatives besides within as many of 1:
    all of it relative to the terms of the line and the values at the ends.
    """
    dtype = inputs.lower.dtype
    size, share = inputs.magnitude, gamma(4 * ULPS, dtype)

    def slack(line: Line) -> Array:
        whole = line.size(size) + values.magnitude + size
        return share * whole + 64 * smallest(dtype)

    lower, upper = found
    return (
        Line(lower.slope, lower.offset - slack(lower)),
        Line(upper.slope, upper.offset + slack(upper)),
    )


@dataclasses.dataclass(frozen=True)
class Curve:
    """A function of one variable.

    Attributes:
        function: elementwise.
        derivative: likewise.
        form: "convex", "concave", or "turning", from convex to concave at 0.
        is_negative: whether what is meant is minus this function.
        is_falling: whether it falls, rather than grows.
    """

    function: Function
    derivative: Function
    form: Literal["convex", "concave", "turning"]
    is_negative: bool = False
    is_falling: bool = False

    def interval(self, step: Step, inputs: list[Bounds], is_outward: bool) -> Bounds:
        """Of the values."""
        low, high = (step(end) for end in inputs[0])
        found = Bounds(high, low) if self.is_falling else Bounds(low, high)
        return widened(found, 2 * ULPS) if is_outward else found

    def relax(
        self, step: Step, inputs: list[Bounds], slope: None, is_outward: bool
    ) -> Relaxation:
        """The lines."""
        del slope
        (ends,) = inputs
        lower, upper = _LINES[self.form](self.function, self.derivative, ends)
        if self.is_negative:
            lower, upper = (Line(-each.slope, -each.offset) for each in (upper, lower))
        values = self.interval(step, inputs, is_outward)
        lower, upper = finite((lower, upper), values)
        if is_outward:
            lower, upper = rounded((lower, upper), ends, values)
        return lines(lower, upper, ends)


def _rule(curve: Curve) -> Nonlinear:
    return Nonlinear(curve.interval, curve.relax)


def _erf_slope(values: Array) -> Array:
    return 2 / math.sqrt(math.pi) * jnp.exp(-jnp.square(values))


def _logistic_slope(values: Array) -> Array:
    share = lax.logistic(values)
    return share * (1 - share)


def _even_interval(
    values: Callable[..., Array], inputs: Bounds, is_outward: bool
) -> Bounds:
    """Of a function that is least at 0, and grows from there to both sides."""
    low, high = inputs
    ends = (values(low), values(high))
    has_zero = (low <= 0) & (high >= 0)
    least = jnp.where(has_zero, values(jnp.zeros_like(low)), jnp.minimum(*ends))
    found = Bounds(least, jnp.maximum(*ends))
    return widened(found, 2 * ULPS) if is_outward else found


def _even_rule(function: Callable[[Step], Function], slope: Callable) -> Nonlinear:
    """Of a convex function that is least at 0."""

    def interval(step: Step, inputs: list[Bounds], is_outward: bool) -> Bounds:
        return _even_interval(function(step), inputs[0], is_outward)

    def relax(
        step: Step, inputs: list[Bounds], choice: None, is_outward: bool
    ) -> Relaxation:
        del choice
        values = interval(step, inputs, is_outward)
        found = _convex(function(step), slope(step), inputs[0])
        found = finite(found, values)
        if is_outward:
            found = rounded(found, inputs[0], values)
        return lines(*found, inputs[0])

    return Nonlinear(interval, relax)


square_rule = _even_rule(
    lambda step: jnp.square, lambda step: lambda values: 2 * values
)
"""Also of a product with itself."""


def _reciprocal_interval(ends: Bounds, exponent: int) -> Bounds:
    low, high = (lax.integer_pow(end, exponent) for end in ends)
    is_apart = (ends.lower > 0) | (ends.upper < 0)
    return Bounds(
        jnp.where(is_apart, jnp.minimum(low, high), -jnp.inf),
        jnp.where(is_apart, jnp.maximum(low, high), jnp.inf),
    )


def reciprocal_lines(
    ends: Bounds, exponent: int = -1
) -> tuple[tuple[Line, Line], Bounds]:
    """Lines and interval of a negative power, on intervals without 0.

    Where 0 is inside, nothing is known: the lines are infinite.
    """
    # There the numbers of another interval are put, lest they are NaN in gradients.
    is_apart = (ends.lower > 0) | (ends.upper < 0)
    inside = Bounds(*(jnp.where(is_apart, end, 1.0) for end in ends))

    def function(values: Array) -> Array:
        return lax.integer_pow(values, exponent)

    def derivative(values: Array) -> Array:
        return exponent * lax.integer_pow(values, exponent - 1)

    convex = _convex(function, derivative, inside)
    other = convex if exponent % 2 == 0 else _concave(function, derivative, inside)
    found = [
        _choose(inside.lower > 0, one, two)
        for one, two in zip(convex, other, strict=True)
    ]
    values = _reciprocal_interval(ends, exponent)
    infinite = [Line(jnp.zeros_like(end), end) for end in values]
    lower, upper = (
        _choose(is_apart, line, end) for line, end in zip(found, infinite, strict=True)
    )
    return (lower, upper), values


def _power_interval(step: Step, inputs: list[Bounds], is_outward: bool) -> Bounds:
    exponent = step.params["y"]
    if exponent > 0 and exponent % 2 == 0:
        return _even_interval(step, inputs[0], is_outward)
    if exponent < 0:
        found = _reciprocal_interval(inputs[0], exponent)
    else:
        found = Bounds(*map(step, inputs[0]))
    return widened(found, 2 * ULPS) if is_outward else found


def _power_relax(
    step: Step, inputs: list[Bounds], choice: None, is_outward: bool
) -> Relaxation:
    exponent, (ends,) = step.params["y"], inputs
    values = _power_interval(step, inputs, is_outward)

    def derivative(points: Array) -> Array:
        return exponent * lax.integer_pow(points, exponent - 1)

    if exponent < 0:
        found, _ = reciprocal_lines(ends, exponent)
    elif exponent % 2 == 0:
        found = _convex(step, derivative, ends)
    elif exponent == 1:
        return Curve(step, jnp.ones_like, "convex").relax(
            step, inputs, choice, is_outward
        )
    else:
        lower, upper = _turning(
            lambda points: -step(points), lambda points: -derivative(points), ends
        )
        found = Line(-upper.slope, -upper.offset), Line(-lower.slope, -lower.offset)
    found = finite(found, values)
    if is_outward:
        found = rounded(found, ends, values)
    return lines(*found, ends)


def _staircase(step: Step, inputs: list[Bounds], is_outward: bool) -> Bounds:
    del is_outward
    return Bounds(*map(step, inputs[0]))


def _flat(
    step: Step, inputs: list[Bounds], choice: None, is_outward: bool
) -> Relaxation:
    del choice
    return constant(step, _staircase(step, inputs, is_outward))


_STAIRCASE = Nonlinear(_staircase, _flat)

CURVES: dict[str, Nonlinear] = {
    "ceil": _STAIRCASE,
    "erf": _rule(Curve(lax.erf, _erf_slope, "turning")),
    "erfc": _rule(
        Curve(
            lambda values: -lax.erfc(values),
            _erf_slope,
            "turning",
            is_negative=True,
            is_falling=True,
        )
    ),
    "exp": _rule(Curve(jnp.exp, jnp.exp, "convex")),
    "exp2": _rule(
        Curve(jnp.exp2, lambda values: math.log(2) * jnp.exp2(values), "convex")
    ),
    "expm1": _rule(Curve(jnp.expm1, jnp.exp, "convex")),
    "floor": _STAIRCASE,
    "integer_pow": Nonlinear(_power_interval, _power_relax),
    "log": _rule(Curve(jnp.log, lambda values: 1 / values, "concave")),
    "log1p": _rule(Curve(jnp.log1p, lambda values: 1 / (1 + values), "concave")),
    "logistic": _rule(Curve(lax.logistic, _logistic_slope, "turning")),
    "round": _STAIRCASE,
    "rsqrt": _rule(
        Curve(
            lax.rsqrt,
            lambda values: -0.5 * lax.rsqrt(values) / values,
            "convex",
            is_falling=True,
        )
    ),
    "sign": _STAIRCASE,
    "sqrt": _rule(Curve(jnp.sqrt, lambda values: 0.5 * lax.rsqrt(values), "concave")),
    "square": square_rule,
    "tanh": _rule(
        Curve(jnp.tanh, lambda values: 1 - jnp.square(jnp.tanh(values)), "turning")
    ),
}
"""By name."""
