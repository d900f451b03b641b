"""What a primitive must say of itself to be bounded.

An affine step says how it rounds and what it makes of absolute values; JAX transposes
it. Any other step says the interval of its values, and two functions, affine in what
the step depends on, between which it lies.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import jax.numpy as jnp
from jaxtyping import Array

from jaxrobust.bounds.program import Dependent, Step
from jaxrobust.bounds.rounding import Bounds
from jaxrobust.types import known

__all__ = [
    "Affine",
    "Line",
    "Nonlinear",
    "Relaxation",
    "Rule",
    "SlopeName",
    "constant",
    "filled",
    "fixed",
    "is_relu",
    "lines",
]

SlopeName = Literal["dual", "zero", "adaptive"]
"""Which of the lower bounds of a convex step to take, or of the upper ones of a concave
step. For a relu of an argument in [l, u] with l < 0 < u, that of slope u / (u - l), as
above it (Wong & Kolter, 2018, arXiv:1711.00851), of slope 0, or of slope 1 if u > -l
and 0 else (Zhang et al., 2018, arXiv:1811.00866)."""

T = TypeVar("T")
Values = Array | list[Array]
IntervalRule = Callable[[Step, list[Bounds], bool], Bounds | list[Bounds]]


class Line(NamedTuple):
    """`slope * x + offset`, element by element.

    Attributes:
        slope: of the shape of the values, or one that broadcasts to it.
        offset: likewise.
    """

    slope: Array
    offset: Array

    def __call__(self, values: Array) -> Array:
        """The values on the line."""
        return self.slope * values + self.offset

    def size(self, magnitude: Array) -> Array:
        """The sum of the absolute terms for absolute values."""
        return jnp.abs(self.slope) * magnitude + jnp.abs(self.offset)


class Relaxation(NamedTuple):
    """Two functions between which a step lies.

    Attributes:
        lower: of what the step depends on, affine, nowhere above the step.
        upper: likewise, nowhere below it.
        lower_size: of the shape of the result, at least the sum of the absolute terms
            of `lower`, for rounding.
        upper_size: likewise, of `upper`.
    """

    lower: Callable[..., Array]
    upper: Callable[..., Array]
    lower_size: Array
    upper_size: Array


class Affine(NamedTuple):
    """A step that is affine in what it depends on.

    Attributes:
        interval: `(step, bounds, is_outward) -> bounds`.
        size: `(step, magnitudes) -> arrays`, the sum of the absolute terms of every
            element of the results.
        terms: roundings of an element of the results, and of one of the transpose.
        has_constant: whether its constants are added rather than multiplied.
    """

    interval: IntervalRule
    size: Callable[[Step, list[Array]], Values]
    terms: Callable[[Step], tuple[int, int]]
    has_constant: bool = True


class Nonlinear(NamedTuple):
    """Any other step; it has one result.

    Attributes:
        interval: `(step, bounds, is_outward) -> bounds`.
        relax: `(step, bounds, slope, is_outward) -> Relaxation`; the slope is an array
            of numbers in [0, 1], all of which hold, or None where there is no choice.
        slope: `(step, bounds, name) -> array`, of the shape of the result; None where
            there is no choice.
    """

    interval: Callable[[Step, list[Bounds], bool], Bounds]
    relax: Callable[[Step, list[Bounds], Any, bool], Relaxation]
    slope: Callable[[Step, list[Bounds], SlopeName], Array] | None = None


Rule = Affine | Nonlinear


def is_relu(step: Step) -> bool:
    """Whether a step is the maximum with 0."""
    if step.primitive != "max" or len(step.inputs) != 1:
        return False
    kink = known(step.constants[0])
    return kink is not None and not kink.any()


def constant(step: Step, bounds: Bounds) -> Relaxation:
    """The relaxation that knows the interval of the step only."""
    del step

    def below(*values: Array) -> Array:
        del values
        return bounds.lower

    def above(*values: Array) -> Array:
        del values
        return bounds.upper

    return Relaxation(below, above, jnp.abs(bounds.lower), jnp.abs(bounds.upper))


def lines(lower: Line, upper: Line, inputs: Bounds) -> Relaxation:
    """The relaxation of a function of one variable."""
    size = inputs.magnitude
    return Relaxation(lower, upper, lower.size(size), upper.size(size))


def filled(step: Step, inputs: Sequence[T], of_constant: Callable[[Any], T]) -> list[T]:
    """One for each operand: of the inputs, and of what is made of the constants."""
    given = iter(inputs)
    return [
        next(given) if isinstance(each, Dependent) else of_constant(each.value)
        for each in step.operands
    ]


def fixed(value: Any) -> Bounds:
    """Bounds of a constant."""
    return Bounds(value, value)
