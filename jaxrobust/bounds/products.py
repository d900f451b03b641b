r"""Products and quotients of two factors that both depend on the image.

For :math:`x \in [l_x, u_x]` and :math:`y \in [l_y, u_y]`,

.. math::
    l_y x + l_x y - l_x l_y \le xy \le u_y x + l_x y - l_x u_y,

and sums of products, such as those of attention, lie between the sums of both sides
(McCormick, "Computability of global solutions to factorable nonconvex programs", 1976;
for networks: Shi et al., 2020, arXiv:2002.06622).
"""

import math

import jax.numpy as jnp
from jaxtyping import Array

from jaxrobust.bounds.curves import reciprocal_lines, rounded, square_rule
from jaxrobust.bounds.program import Known, Step
from jaxrobust.bounds.rounding import ULPS, Bounds, gamma, smallest, widened
from jaxrobust.bounds.rules import (
    Line,
    Nonlinear,
    Relaxation,
    filled,
    fixed,
)

__all__ = ["PRODUCTS"]


def _hull(first: Bounds, second: Bounds) -> Bounds:
    """Of the elementwise products."""
    corners = [one * other for one in first for other in second]
    low, high = corners[0], corners[0]
    for corner in corners[1:]:
        low, high = jnp.minimum(low, corner), jnp.maximum(high, corner)
    return Bounds(low, high)


def _is_square(step: Step) -> bool:
    return step.inputs[0] == step.inputs[1]


def _mul_interval(step: Step, inputs: list[Bounds], is_outward: bool) -> Bounds:
    if _is_square(step):
        return square_rule.interval(step, inputs[:1], is_outward)
    found = _hull(*inputs)
    return widened(found, 3, found.magnitude) if is_outward else found


def _mul_relax(
    step: Step, inputs: list[Bounds], slope: None, is_outward: bool
) -> Relaxation:
    if not _is_square(step):
        return _bilinear_relax(step, inputs, slope, is_outward)
    found = square_rule.relax(step, inputs[:1], slope, is_outward)
    return Relaxation(
        lambda one, other: found.lower((one + other) / 2),
        lambda one, other: found.upper((one + other) / 2),
        found.lower_size,
        found.upper_size,
    )


def _terms(step: Step) -> int:
    """Products in one element of the result, or more."""
    if step.primitive == "mul":
        return 1
    if step.primitive == "dot_general":
        (contracted, _), _ = step.params["dimension_numbers"]
        return math.prod(step.forms[0].shape[axis] for axis in contracted)
    return math.prod(step.forms[1].shape)


def _sum_interval(step: Step, inputs: list[Bounds], is_outward: bool) -> Bounds:
    """Of sums of products, by centers and radii."""
    first, second = inputs
    if is_outward:
        share = 1.01 * (4 * gamma(_terms(step) + 4, first.lower.dtype))
        first, second = (
            Bounds(
                each.center - each.radius - (slack := share * each.magnitude),
                each.center + each.radius + slack,
            )
            for each in inputs
        )
    middle = step(first.center, second.center)
    reach = step(jnp.abs(first.center), second.radius)
    reach += step(first.radius, second.magnitude)
    found = Bounds(middle - reach, middle + reach)
    if not is_outward:
        return found
    size = step(first.magnitude, second.magnitude)
    return widened(found, 4 * _terms(step) + 8, size)


def _bilinear_relax(
    step: Step, inputs: list[Bounds], slope: None, is_outward: bool
) -> Relaxation:
    del slope
    (low, _), (least, most) = inputs
    size = step(inputs[0].magnitude, inputs[1].magnitude)
    slack = jnp.zeros_like(size)
    if is_outward:
        share = 8 * gamma(_terms(step) + 4, size.dtype)
        slack = share * size + _terms(step) * 64 * smallest(size.dtype)

    def lower(one: Array, other: Array) -> Array:
        return step(one, least) + step(low, other) - step(low, least) - slack

    def upper(one: Array, other: Array) -> Array:
        return step(one, most) + step(low, other) - step(low, most) + slack

    return Relaxation(lower, upper, 3 * size + slack, 3 * size + slack)


def _inverse(step: Step, ends: Bounds, is_outward: bool) -> tuple[Line, Line, Bounds]:
    (lower, upper), values = reciprocal_lines(ends)
    if is_outward:
        values = widened(values, 2 * ULPS)
        lower, upper = rounded((lower, upper), ends, values)
    return lower, upper, values


def _div_interval(step: Step, inputs: list[Bounds], is_outward: bool) -> Bounds:
    above, below = filled(step, inputs, fixed)
    _, _, inverse = _inverse(step, below, is_outward)
    found = _hull(above, inverse)
    is_apart = (below.lower > 0) | (below.upper < 0)
    found = Bounds(
        jnp.where(is_apart, found.lower, -jnp.inf),
        jnp.where(is_apart, found.upper, jnp.inf),
    )
    return widened(found, 6, found.magnitude) if is_outward else found


def _div_relax(
    step: Step, inputs: list[Bounds], slope: None, is_outward: bool
) -> Relaxation:
    """As a product with the inverse, which lies between lines of its own."""
    del slope
    above, below = filled(step, inputs, fixed)
    under, over, inverse = _inverse(step, below, is_outward)
    low = above.lower
    size = above.magnitude * inverse.magnitude
    sizes = [jnp.abs(low) * line.size(below.magnitude) for line in (under, over)]
    whole = 3 * size + jnp.maximum(*sizes)
    slack = jnp.zeros_like(whole)
    if is_outward:
        slack = 8 * gamma(8, size.dtype) * whole + 64 * smallest(size.dtype)

    def at(line: Line, other: Line, values: Array) -> Array:
        """`low` times one line where it is positive, times the other elsewhere."""
        return low * jnp.where(low >= 0, line(values), other(values))

    if isinstance(step.operands[0], Known):
        return Relaxation(
            lambda values: at(under, over, values) - slack,
            lambda values: at(over, under, values) + slack,
            whole + slack,
            whole + slack,
        )
    least, most = inverse

    def lower(one: Array, other: Array) -> Array:
        return least * one + at(under, over, other) - low * least - slack

    def upper(one: Array, other: Array) -> Array:
        return most * one + at(over, under, other) - low * most + slack

    return Relaxation(lower, upper, whole + slack, whole + slack)


PRODUCTS: dict[str, Nonlinear] = {
    "conv_general_dilated": Nonlinear(_sum_interval, _bilinear_relax),
    "div": Nonlinear(_div_interval, _div_relax),
    "dot_general": Nonlinear(_sum_interval, _bilinear_relax),
    "mul": Nonlinear(_mul_interval, _mul_relax),
}
"""By name; with a constant factor they are affine."""
