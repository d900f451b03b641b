r"""Functionals of a program's values, put back step by step towards the image.

A functional :math:`\sum_k A_k z_k + b` of some values is bounded from below by one of
earlier values. At an affine step :math:`z = Wx + c` the coefficients become
:math:`W^T A`, by JAX's transposition (but for `strided.py`), and :math:`A \cdot c` goes
to the constant; at any other step the positive coefficients go by the lower function of
its relaxation, the negative ones by the upper. All rows are mapped together.

Rounded outwards, each substitution costs :math:`\gamma_n |A| S` (`rounding.py`), so the
computed coefficients need not be exact: what they miss of the exact product is small
against :math:`|A| |W| |x|`.

References:
    Zhang et al., 2018, arXiv:1811.00866; Xu et al., 2020, arXiv:2002.12920.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxrobust.bounds.inputs import InputSet
from jaxrobust.bounds.program import Program, Step
from jaxrobust.bounds.rounding import Bounds, gamma, smallest, unit
from jaxrobust.bounds.rules import Affine, Line, Relaxation
from jaxrobust.bounds.strided import strided_transpose
from jaxrobust.bounds.table import rule_of

__all__ = ["Functional", "least", "substitute"]


class Functional(NamedTuple):
    """Rows of coefficients of some values, with constants.

    Attributes:
        coefficients: by number of the value, `(rows, *shape)`.
        constant: `(rows,)`.
        error: `(rows,)`, what rounding may have taken so far.
    """

    coefficients: dict[int, Array]
    constant: Array
    error: Array


def _transposed(
    function: Callable[..., Any], forms: Sequence[jax.ShapeDtypeStruct]
) -> tuple[Any, Callable[[Any], list[Array | None]]]:
    """The constant part of an affine function, and the transpose of the rest.

    Of flags nothing is transposed.
    """
    is_number = [jnp.issubdtype(form.dtype, jnp.inexact) for form in forms]
    zeros = [jnp.zeros(form.shape, form.dtype) for form in forms]

    def of_numbers(*numbers: Array) -> Any:
        given = iter(numbers)
        return function(
            *(
                next(given) if is_one else zero
                for is_one, zero in zip(is_number, zeros, strict=True)
            )
        )

    numbers = [zero for is_one, zero in zip(is_number, zeros, strict=True) if is_one]
    constant, pull = jax.vjp(of_numbers, *numbers)

    def transpose(rows: Any) -> list[Array | None]:
        found = iter(jax.vmap(pull)(rows))
        return [next(found) if is_one else None for is_one in is_number]

    return constant, transpose


def _summed(rows: Array, values: Array, dtype: Any) -> Array:
    """Each row times the values, summed in a type."""
    flat = rows.reshape(rows.shape[0], -1).astype(dtype)
    return flat @ values.reshape(-1).astype(dtype)


def _coarsest(step: Step) -> Any:
    """The type with the fewest bits that a step takes or gives."""
    dtypes = [form.dtype for form in (*step.forms, *step.results)]
    dtypes = [dtype for dtype in dtypes if jnp.issubdtype(dtype, jnp.inexact)]
    return max(dtypes, key=unit)


def _copies(step: Step) -> int:
    """How many elements of a nonlinear step's result one of its arguments goes into."""
    sizes = [max(math.prod(form.shape), 1) for form in step.forms]
    if step.primitive in ("conv_general_dilated", "dot_general"):
        return max(sizes)
    return math.prod(step.shape) // min(sizes) + math.prod(
        step.params.get("window_dimensions", ())
    )


class _Substitution:
    """Coefficients on their way back."""

    def __init__(
        self,
        target: int,
        rows: Array,
        bounds: dict[int, Bounds],
        is_outward: bool,
        num_steps: int,
    ):
        self.coefficients = {target: rows}
        self.bounds = bounds
        self.dtype = jnp.promote_types(rows.dtype, jnp.float32)
        self.constant = jnp.zeros(rows.shape[:1], self.dtype)
        self.error = jnp.zeros_like(self.constant)
        self.is_outward = is_outward
        self.num_steps = num_steps

    def take(self, step: Step) -> list[Array] | None:
        """The coefficients of a step's results, which are needed no more."""
        found = [self.coefficients.pop(number, None) for number in step.outputs]
        if all(each is None for each in found):
            return None
        num_rows = self.constant.shape[0]
        return [
            jnp.zeros((num_rows, *form.shape), form.dtype) if each is None else each
            for each, form in zip(found, step.results, strict=True)
        ]

    def add(self, step: Step, parts: Sequence[Array | None]) -> None:
        for number, part in zip(step.inputs, parts, strict=True):
            if part is None:
                continue
            before = self.coefficients.get(number)
            if before is None:
                self.coefficients[number] = part
                continue
            self.coefficients[number] = both = before + part
            if self.is_outward:
                size = self.bounds[number].magnitude
                self.lose(both, self.relative(2, part.dtype, size))

    def sizes(self, step: Step) -> list[Array]:
        """Largest absolute values of what a step depends on."""
        return [self.bounds[number].magnitude for number in step.inputs]

    def relative(self, count: int, dtype: Any, sizes: Array) -> Array:
        """The largest error of so many roundings."""
        share = 1.01 * gamma(count, dtype)
        return share * sizes.astype(self.dtype) + count * smallest(dtype)

    def of_sum(self, rows: Array, values: Array) -> Array:
        """The error of adding up a row times values to the constant."""
        count = rows[0].size + self.num_steps + 8
        return self.relative(count, self.dtype, jnp.abs(values))

    def lose(self, rows: Array, errors: Array) -> None:
        """Note errors of the values that the coefficients stand before."""
        self.error = self.error + _summed(jnp.abs(rows), errors, self.dtype)

    def affine(self, step: Step, rule: Affine, rows: list[Array]) -> None:
        strided = strided_transpose(step)
        constant: Any = None
        if strided is not None:
            self.add(step, [jax.vmap(strided)(rows[0])])
        else:
            constant, transpose = _transposed(step, step.forms)
            self.add(step, transpose(rows if isinstance(constant, list) else rows[0]))
        is_list = isinstance(constant, list)
        constants = constant if is_list else [constant]
        errors: list[Any] = [0.0] * len(rows)
        if step.constants and rule.has_constant:
            for place, (row, each) in enumerate(zip(rows, constants, strict=True)):
                self.constant = self.constant + _summed(row, each, self.dtype)
                errors[place] = self.of_sum(row, each)
        if not self.is_outward:
            return
        terms = rule.terms(step)
        if terms[0] or terms[1] > 1:
            sizes = rule.size(step, self.sizes(step))
            count = sum(terms) + 8
            for place, size in enumerate(sizes if is_list else [sizes]):
                size = self.relative(count, _coarsest(step), jnp.asarray(size))
                errors[place] = errors[place] + size
        for row, error in zip(rows, errors, strict=True):
            if not isinstance(error, float):
                self.lose(row, error)

    def nonlinear(self, step: Step, found: Relaxation, rows: Array) -> None:
        is_line = isinstance(found.lower, Line) and isinstance(found.upper, Line)
        if is_line and [step.shape] == [form.shape for form in step.forms]:
            self.line(step, found, rows)
            return
        halves = (
            (jnp.maximum(rows, 0), found.lower, found.lower_size),
            (jnp.minimum(rows, 0), found.upper, found.upper_size),
        )
        for half, function, size in halves:
            constant, transpose = _transposed(function, step.forms)
            self.add(step, transpose(half))
            self.relaxed(step, half, constant, size)

    def line(self, step: Step, found: Relaxation, rows: Array) -> None:
        r"""A function of one variable: what transposing gives, in fewer passes.

        With lines l and u, :math:`\max(A, 0) l + \min(A, 0) u` is
        :math:`A (l + u) / 2 + |A| (l - u) / 2`.
        """
        lower: Any = found.lower
        upper: Any = found.upper
        sizes = jnp.abs(rows)
        pairs = [
            jnp.broadcast_arrays(*ends, jnp.zeros(step.shape, rows.dtype))[:2]
            for ends in zip(lower, upper, strict=True)
        ]
        (slope, off), (constant, apart) = (
            ((below + above) / 2, (below - above) / 2) for below, above in pairs
        )
        self.add(step, [rows * slope[None] + sizes * off[None]])
        self.constant = self.constant + _summed(rows, constant, self.dtype)
        largest = jnp.abs(constant) + jnp.abs(apart)
        size = found.lower_size + found.upper_size
        self.relaxed(step, sizes, apart, size, largest)

    def relaxed(
        self,
        step: Step,
        rows: Array,
        constant: Array,
        size: Array,
        largest: Array | None = None,
    ) -> None:
        """Add the constant part of a relaxation, and note the errors of all of it."""
        constant, size = (
            jnp.broadcast_to(each, step.shape) for each in (constant, size)
        )
        self.constant = self.constant + _summed(rows, constant, self.dtype)
        if self.is_outward:
            error = self.relative(_copies(step) + 16, _coarsest(step), size)
            terms = constant if largest is None else largest
            self.lose(rows, error + self.of_sum(rows, terms))


def substitute(
    program: Program,
    target: int,
    rows: Array,
    bounds: dict[int, Bounds],
    relaxations: dict[int, Relaxation],
    is_outward: bool,
) -> Functional:
    """A functional of one value in terms of earlier ones, nowhere above it.

    Args:
        program: of one image.
        target: number of the value.
        rows: coefficients of it, `(rows, *shape)`.
        bounds: of all earlier values; only their magnitudes count, for rounding.
        relaxations: of steps that are not affine, by number of their result. The
            results of others are left as they are.
        is_outward: whether errors of rounding are noted.
    """
    num_steps = len(program.steps)
    state = _Substitution(target, rows, bounds, is_outward, num_steps)
    sources: dict[int, Array] = {}
    for step in reversed(program.steps):
        found = state.take(step)
        if found is None:
            continue
        rule = rule_of(step)
        if isinstance(rule, Affine):
            state.affine(step, rule, found)
        elif step.outputs[0] in relaxations:
            state.nonlinear(step, relaxations[step.outputs[0]], found[0])
        else:
            sources[step.outputs[0]] = found[0]
    return Functional(sources | state.coefficients, state.constant, state.error)


def least(functional: Functional, bounds: dict[int, Bounds], inputs: InputSet) -> Array:
    """The least value of a functional on intervals and on the set of the image.

    Returns:
        `(rows,)`; minus infinity where it is no number.
    """
    total = functional.constant - functional.error
    dtype = total.dtype
    for number, rows in functional.coefficients.items():
        if number == 0:
            total = total + inputs.least(rows)
            continue
        flat = rows.reshape(rows.shape[0], -1).astype(dtype)
        ends = Bounds(*(end.reshape(-1).astype(dtype) for end in bounds[number]))
        total = total + flat @ ends.center - jnp.abs(flat) @ ends.radius
        if inputs.is_outward:
            count = flat.shape[1]
            size = jnp.abs(flat) @ ends.magnitude
            total = total - 1.01 * 3 * gamma(count + 8, dtype) * size
            total = total - 4 * count * smallest(dtype)
    if inputs.is_outward:
        total = total - 8 * gamma(1, dtype) * jnp.abs(total)
    return jnp.where(jnp.isnan(total), -jnp.inf, total)
