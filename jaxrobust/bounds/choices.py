"""Maxima and minima, what is chosen by comparing, and absolute values.

A maximum lies above each of its arguments and above all their means, so the lower bound
is a choice (`SlopeName`): for a relu, the share of its argument. Its upper bound is the
chord for one argument beside a constant; of several arguments, the one that is surely
largest, or else the largest of the upper ends.
"""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxrobust.bounds.program import Known, Step, refused
from jaxrobust.bounds.rounding import Bounds, gamma, smallest
from jaxrobust.bounds.rules import (
    Line,
    Nonlinear,
    Relaxation,
    SlopeName,
    filled,
    fixed,
    lines,
)

__all__ = ["CHOICES", "is_choice_of_constants"]

BELOW = -jnp.inf


def _turned(bounds: Bounds) -> Bounds:
    return Bounds(-bounds.upper, -bounds.lower)


def _mirrored(found: Relaxation) -> Relaxation:
    """The relaxation of `-f(-x)`, of that of f."""
    return Relaxation(
        lambda *values: -found.upper(*(-each for each in values)),
        lambda *values: -found.lower(*(-each for each in values)),
        found.upper_size,
        found.lower_size,
    )


def _is_unstable(low: Array, high: Array) -> Array:
    return (low < 0) & (high > 0)


def _chord(low: Array, high: Array) -> Array:
    """The slope of the line above a relu, on an interval of its argument."""
    is_unstable = _is_unstable(low, high)
    slope = jnp.minimum(high / jnp.where(is_unstable, high - low, 1.0), 1.0)
    return jnp.where(is_unstable, slope, (low >= 0).astype(low.dtype))


def _relu_slope(low: Array, high: Array, name: SlopeName) -> Array:
    """The slope of the line below a relu, where there is a choice."""
    if name == "dual":
        return _chord(low, high)
    if name == "zero":
        return jnp.zeros_like(low)
    return (high > -low).astype(low.dtype)


def _beside_constant(
    kink: Any, ends: Bounds, slope: Array, is_outward: bool
) -> Relaxation:
    """Of `max(x, kink)`."""
    low, high = ends.lower - kink, ends.upper - kink
    is_unstable, above = _is_unstable(low, high), _chord(low, high)
    below = jnp.where(is_unstable, slope, above)
    # kink + slope * (x - kink), and above it what the chord has at the lower end.
    lower = Line(below, kink - below * kink)
    lift = jnp.where(is_unstable, -above * low, 0.0)
    upper = Line(above, kink - above * kink + lift)
    if is_outward:
        dtype = ends.lower.dtype
        size = ends.magnitude + jnp.abs(kink)
        # Nothing is rounded where a relu is the identity or constant.
        slack = gamma(12, dtype) * size + 12 * smallest(dtype)
        slack = jnp.where(is_unstable | (kink != 0), slack, 0.0)
        lower = Line(below, lower.offset - slack)
        upper = Line(above, upper.offset + slack)
    return lines(lower, upper, ends)


def _max_slope(step: Step, inputs: list[Bounds], name: SlopeName) -> Array:
    if len(inputs) == 1:
        (kink,), (ends,) = step.constants, inputs
        found = _relu_slope(ends.lower - kink, ends.upper - kink, name)
    else:
        # Of the argument that is surely largest, whatever the name.
        first, second = inputs
        found = (first.lower >= second.lower).astype(first.lower.dtype)
    return jnp.broadcast_to(found, step.shape)


def _max_interval(step: Step, inputs: list[Bounds], is_outward: bool) -> Bounds:
    del is_outward
    first, second = filled(step, inputs, fixed)
    return Bounds(
        jnp.maximum(first.lower, second.lower), jnp.maximum(first.upper, second.upper)
    )


def _max_relax(
    step: Step, inputs: list[Bounds], slope: Any, is_outward: bool
) -> Relaxation:
    if len(inputs) == 1:
        return _beside_constant(step.constants[0], inputs[0], slope, is_outward)
    first, second = inputs
    is_first, is_second = first.lower >= second.upper, second.lower >= first.upper
    share = jnp.where(is_first, 1.0, jnp.where(is_second, 0.0, slope))
    is_known = is_first | is_second
    top = jnp.where(is_known, 0.0, jnp.maximum(first.upper, second.upper))
    weights = jnp.where(is_known, share, 0.0), jnp.where(is_known, 1 - share, 0.0)

    def lower(one: Array, other: Array) -> Array:
        return share * one + (1 - share) * other

    def upper(one: Array, other: Array) -> Array:
        return weights[0] * one + weights[1] * other + top

    size = lower(first.magnitude, second.magnitude)
    whole = upper(first.magnitude, second.magnitude) - top + jnp.abs(top)
    return Relaxation(lower, upper, size, whole)


def _min_interval(step: Step, inputs: list[Bounds], is_outward: bool) -> Bounds:
    del is_outward
    first, second = filled(step, inputs, fixed)
    return Bounds(
        jnp.minimum(first.lower, second.lower), jnp.minimum(first.upper, second.upper)
    )


def _min_slope(step: Step, inputs: list[Bounds], name: SlopeName) -> Array:
    if len(inputs) == 1:
        (kink,), (ends,) = step.constants, inputs
        found = _relu_slope(kink - ends.upper, kink - ends.lower, name)
    else:
        first, second = inputs
        found = (first.upper <= second.upper).astype(first.lower.dtype)
    return jnp.broadcast_to(found, step.shape)


def _min_relax(
    step: Step, inputs: list[Bounds], slope: Any, is_outward: bool
) -> Relaxation:
    turned = [_turned(each) for each in inputs]
    if len(inputs) == 1:
        kink = -step.constants[0]
        return _mirrored(_beside_constant(kink, turned[0], slope, is_outward))
    return _mirrored(_max_relax(step, turned, slope, is_outward))


def _abs_interval(step: Step, inputs: list[Bounds], is_outward: bool) -> Bounds:
    del step, is_outward
    low, high = inputs[0]
    return Bounds(
        jnp.maximum(jnp.maximum(low, -high), 0.0),
        jnp.maximum(jnp.abs(low), jnp.abs(high)),
    )


def _abs_slope(step: Step, inputs: list[Bounds], name: SlopeName) -> Array:
    del step
    (ends,) = inputs
    if name == "zero":
        return jnp.full_like(ends.lower, 0.5)
    return _relu_slope(ends.lower, ends.upper, name)


def _abs_relax(
    step: Step, inputs: list[Bounds], slope: Any, is_outward: bool
) -> Relaxation:
    """As twice a relu less its argument."""
    del step
    (ends,) = inputs
    found = _beside_constant(jnp.zeros_like(ends.lower), ends, slope, is_outward)
    lower, upper = found.lower, found.upper
    assert isinstance(lower, Line) and isinstance(upper, Line)
    lower, upper = (
        Line(2 * each.slope - 1, 2 * each.offset) for each in (lower, upper)
    )
    return lines(lower, upper, ends)


def _largest(
    values: Bounds, axis: int, arrange: Callable[[Array], Array]
) -> Relaxation:
    """Of the largest along an axis.

    Args:
        values: with the candidates along the axis.
        axis: of the candidates.
        arrange: from what the step depends on to candidates, affine.
    """
    low, high = values
    winner = jnp.argmax(low, axis=axis)
    is_winner = jax.nn.one_hot(winner, low.shape[axis], axis=axis, dtype=low.dtype)
    best = jnp.max(low, axis=axis)
    others = jnp.max(jnp.where(is_winner > 0, BELOW, high), axis=axis)
    is_known = best >= others
    top = jnp.where(is_known, 0.0, jnp.max(high, axis=axis))
    known = jnp.expand_dims(is_known, axis).astype(low.dtype) * is_winner

    def lower(inputs: Array) -> Array:
        return jnp.sum(is_winner * arrange(inputs), axis=axis)

    def upper(inputs: Array) -> Array:
        return jnp.sum(known * arrange(inputs), axis=axis) + top

    size = jnp.where(is_winner > 0, values.magnitude, 0.0)
    whole = jnp.sum(size, axis=axis)
    return Relaxation(lower, upper, whole, whole + jnp.abs(top))


def _reduce_max_relax(
    step: Step, inputs: list[Bounds], slope: Any, is_outward: bool
) -> Relaxation:
    del slope, is_outward
    axes = step.params["axes"]

    def arrange(values: Array) -> Array:
        kept = [axis for axis in range(values.ndim) if axis not in axes]
        moved = lax.transpose(values, (*kept, *axes))
        return moved.reshape(*moved.shape[: len(kept)], -1)

    ends = Bounds(*map(arrange, inputs[0]))
    return _largest(ends, ends.lower.ndim - 1, arrange)


def _windows(step: Step, values: Array, filler: float) -> Array:
    """Strided slices of what a window sees, one for each place in it, side by side."""
    params = step.params
    if any(size != 1 for size in params["base_dilation"]):
        why = "which pools over gaps in its input"
        raise refused(step.primitive, step.source, why, "pool without `base_dilation`")
    edges = [(*pad, 0) for pad in params["padding"]]
    padded = lax.pad(values, jnp.asarray(filler, values.dtype), edges)
    sizes, strides = params["window_dimensions"], params["window_strides"]
    places = []
    for offsets in itertools.product(*map(range, sizes)):
        starts = [
            offset * dilation
            for offset, dilation in zip(offsets, params["window_dilation"], strict=True)
        ]
        limits = [
            start + (length - 1) * stride + 1
            for start, length, stride in zip(starts, step.shape, strides, strict=True)
        ]
        places.append(lax.slice(padded, starts, limits, strides))
    return jnp.stack(places)


def _window_max_relax(
    step: Step, inputs: list[Bounds], slope: Any, is_outward: bool
) -> Relaxation:
    del slope, is_outward
    ends = Bounds(*(_windows(step, end, BELOW) for end in inputs[0]))
    return _largest(ends, 0, lambda values: _windows(step, values, 0.0))


def _growing(step: Step, inputs: list[Bounds], is_outward: bool) -> Bounds:
    """Of a step that grows with its argument, without rounding."""
    del is_outward
    return Bounds(*map(step, inputs[0]))


def _of_negative(relax: Callable[..., Relaxation]) -> Callable[..., Relaxation]:
    """Of a minimum, as that of a maximum of what is turned round."""

    def relaxed(
        step: Step, inputs: list[Bounds], slope: Any, is_outward: bool
    ) -> Relaxation:
        turned = [_turned(each) for each in inputs]
        return _mirrored(relax(step, turned, slope, is_outward))

    return relaxed


def _clamp_interval(step: Step, inputs: list[Bounds], is_outward: bool) -> Bounds:
    del is_outward
    low, ends, high = filled(step, inputs, fixed)
    return Bounds(
        jnp.minimum(jnp.maximum(ends.lower, low.lower), high.lower),
        jnp.minimum(jnp.maximum(ends.upper, low.upper), high.upper),
    )


def _clamp_slope(step: Step, inputs: list[Bounds], name: SlopeName) -> Array:
    """The share of the steepest line below that may be taken."""
    low, high = inputs[0]
    if name == "adaptive":
        floor = step.constants[0]
        return (high - floor > floor - low).astype(low.dtype)
    return jnp.full_like(low, name == "dual")


def _clamp_relax(
    step: Step, inputs: list[Bounds], slope: Any, is_outward: bool
) -> Relaxation:
    """Between flat ends: a line goes through one corner, and reaches the other end."""
    if len(inputs) > 1 or isinstance(step.operands[1], Known):
        why = "between ends that depend on the image"
        remedy = "write it as `jnp.minimum(jnp.maximum(...), ...)`"
        raise refused(step.primitive, step.source, why, remedy)
    floor, ceiling = step.constants
    (ends,) = inputs
    values = _clamp_interval(step, inputs, is_outward)

    def below(
        low: Array, high: Array, floor: Array, ceiling: Array, share: Array | float
    ) -> Line:
        """Through the corner (floor, floor); a chord where there is none."""
        is_cut = low < floor
        start = jnp.where(is_cut, floor, low)
        at_start = jnp.clip(start, floor, ceiling)
        width = jnp.where(high > start, high - start, 1.0)
        rise = (jnp.clip(high, floor, ceiling) - at_start) / width
        rise = jnp.where(high > start, jnp.clip(rise, 0.0, 1.0), 0.0)
        rise = jnp.where(is_cut, share * rise, rise)
        return Line(rise, at_start - rise * start)

    lower = below(ends.lower, ends.upper, floor, ceiling, slope)
    turned = below(-ends.upper, -ends.lower, -ceiling, -floor, 1.0)
    upper = Line(turned.slope, -turned.offset)
    if is_outward:
        dtype = ends.lower.dtype
        whole = ends.magnitude + values.magnitude
        slack = gamma(12, dtype) * whole + 12 * smallest(dtype)
        lower = Line(lower.slope, lower.offset - slack)
        upper = Line(upper.slope, upper.offset + slack)
    return lines(lower, upper, ends)


def is_choice_of_constants(step: Step) -> bool:
    """Whether a selection goes by a predicate that is constant."""
    return isinstance(step.operands[0], Known)


def _selected(which: Bounds, cases: list[Any], unsure: Any) -> Any:
    """Where it is known, what is chosen; else something that holds for both."""
    no, yes = cases
    return jnp.where(which.lower, yes, jnp.where(which.upper, unsure, no))


def _require_two(step: Step) -> None:
    if len(step.operands) != 3:
        why = "which chooses one of several by what depends on the image"
        raise refused(step.primitive, step.source, why, "choose one of two")


def _select_interval(step: Step, inputs: list[Bounds], is_outward: bool) -> Bounds:
    del is_outward
    _require_two(step)
    which, no, yes = filled(step, inputs, fixed)
    return Bounds(
        _selected(which, [no.lower, yes.lower], jnp.minimum(no.lower, yes.lower)),
        _selected(which, [no.upper, yes.upper], jnp.maximum(no.upper, yes.upper)),
    )


def _select_relax(
    step: Step, inputs: list[Bounds], slope: Any, is_outward: bool
) -> Relaxation:
    del slope
    which, *_ = filled(step, inputs, fixed)
    values = _select_interval(step, inputs, is_outward)

    def chosen(end: Array) -> Callable[..., Array]:
        def one(*given: Array) -> Array:
            _, no, yes = filled(step, given, lambda value: value)
            return _selected(which, [no, yes], end)

        return one

    size = values.magnitude
    return Relaxation(chosen(values.lower), chosen(values.upper), size, size)


def _compared(compare: Callable[..., Bounds]) -> Nonlinear:
    """Of flags: whether something surely holds, and whether it may."""

    def interval(step: Step, inputs: list[Bounds], is_outward: bool) -> Bounds:
        del is_outward
        return compare(*filled(step, inputs, fixed))

    return Nonlinear(interval, _no_relaxation)


def _no_relaxation(
    step: Step, inputs: list[Bounds], slope: Any, is_outward: bool
) -> Relaxation:
    del inputs, slope, is_outward
    why = "whose flags are used as numbers"
    raise refused(step.primitive, step.source, why, "choose by `jnp.where`")


def _less(first: Bounds, second: Bounds) -> Bounds:
    return Bounds(first.upper < second.lower, first.lower < second.upper)


def _less_or_equal(first: Bounds, second: Bounds) -> Bounds:
    return Bounds(first.upper <= second.lower, first.lower <= second.upper)


def _not(first: Bounds) -> Bounds:
    return Bounds(~first.upper, ~first.lower)


def _equal(first: Bounds, second: Bounds) -> Bounds:
    is_point = (first.lower == second.upper) & (first.upper == second.lower)
    meet = (first.lower <= second.upper) & (second.lower <= first.upper)
    return Bounds(is_point, meet)


def _unequal_interval(step: Step, inputs: list[Bounds], is_outward: bool) -> Bounds:
    del is_outward
    if len(step.inputs) == 2 and step.inputs[0] == step.inputs[1]:
        # How NaN is asked for; what is NaN has no bounds anyway.
        no = jnp.zeros(step.shape, bool)
        return Bounds(no, no)
    return _not(_equal(*filled(step, inputs, fixed)))


CHOICES: dict[str, Nonlinear] = {
    "abs": Nonlinear(_abs_interval, _abs_relax, _abs_slope),
    "and": _compared(
        lambda one, two: Bounds(one.lower & two.lower, one.upper & two.upper)
    ),
    "clamp": Nonlinear(_clamp_interval, _clamp_relax, _clamp_slope),
    "eq": _compared(_equal),
    "ge": _compared(lambda one, two: _less_or_equal(two, one)),
    "gt": _compared(lambda one, two: _less(two, one)),
    "le": _compared(_less_or_equal),
    "lt": _compared(_less),
    "max": Nonlinear(_max_interval, _max_relax, _max_slope),
    "min": Nonlinear(_min_interval, _min_relax, _min_slope),
    "ne": Nonlinear(_unequal_interval, _no_relaxation),
    "not": _compared(_not),
    "or": _compared(
        lambda one, two: Bounds(one.lower | two.lower, one.upper | two.upper)
    ),
    "reduce_max": Nonlinear(_growing, _reduce_max_relax),
    "reduce_min": Nonlinear(_growing, _of_negative(_reduce_max_relax)),
    "reduce_window_max": Nonlinear(_growing, _window_max_relax),
    "reduce_window_min": Nonlinear(_growing, _of_negative(_window_max_relax)),
    "select_n": Nonlinear(_select_interval, _select_relax),
}
"""By name."""
