r"""Steps that are affine in what they depend on, each with the way it rounds.

None of them says its transpose, which JAX knows. A product with a constant is bounded
by center and radius, :math:`Wc \pm |W| r`, sums and copies by both ends.
"""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from jaxrobust.bounds.program import Known, Step
from jaxrobust.bounds.rounding import Bounds, gamma, smallest, widened
from jaxrobust.bounds.rules import Affine, Values, filled, fixed

__all__ = ["AFFINE", "absolute", "is_product_with_constant"]


def absolute(value: Any) -> Any:
    """Absolute values of coefficients; indices and flags stay."""
    is_number = jnp.issubdtype(jnp.result_type(value), jnp.inexact)
    return jnp.abs(value) if is_number else value


def _size(step: Step, magnitudes: list[Array]) -> Values:
    """The step with absolute constants, of magnitudes: sums of absolute terms."""
    return step(*magnitudes, of_constant=absolute)


def _copies(step: Step) -> int:
    """How often a value may stand in the result."""
    if step.primitive not in ("broadcast_in_dim", "gather"):
        return 1
    size = math.prod(step.shape)
    is_gather = step.primitive == "gather"
    return size if is_gather else size // max(math.prod(step.forms[0].shape), 1)


def _monotone(terms: Callable[[Step], int]) -> Affine:
    """A step that grows with all that it depends on.

    Args:
        terms: how many values go into one sum; 0 for copies.
    """

    def interval(
        step: Step, inputs: list[Bounds], is_outward: bool
    ) -> Bounds | list[Bounds]:
        lower = step(*(each.lower for each in inputs))
        upper = step(*(each.upper for each in inputs))
        if isinstance(lower, list):
            return [Bounds(*ends) for ends in zip(lower, upper, strict=True)]
        found = Bounds(lower, upper)
        if not (is_outward and terms(step)):
            return found
        size = _size(step, [each.magnitude for each in inputs])
        return widened(found, 2 * terms(step), size)  # type: ignore[arg-type]

    def both(step: Step) -> tuple[int, int]:
        return terms(step), max(terms(step), _copies(step))

    return Affine(interval, _size, both)


MOVING = _monotone(lambda step: 0)
"""Values are copied, left out, or put beside constants."""


def _reduced(step: Step) -> int:
    return math.prod(step.forms[0].shape[axis] for axis in step.params["axes"])


def _cumulated(step: Step) -> int:
    return step.shape[step.params["axis"]]


def _converted(step: Step) -> int:
    return int(jnp.issubdtype(step.forms[0].dtype, jnp.inexact))


def _windowed(step: Step) -> int:
    return math.prod(step.params["window_dimensions"])


def _subtract(step: Step, inputs: list[Bounds], is_outward: bool) -> Bounds:
    first, second = filled(step, inputs, fixed)
    found = Bounds(first.lower - second.upper, first.upper - second.lower)
    if not is_outward:
        return found
    size = _subtract_size(step, [each.magnitude for each in inputs])
    return widened(found, 2, size)


def _subtract_size(step: Step, magnitudes: list[Array]) -> Array:
    first, second = filled(step, magnitudes, jnp.abs)
    return first + second


def _negate(step: Step, inputs: list[Bounds], is_outward: bool) -> Bounds:
    del step, is_outward
    return Bounds(-inputs[0].upper, -inputs[0].lower)


def is_product_with_constant(step: Step) -> bool:
    """Whether one of two factors is constant; of a quotient, the divisor."""
    place = {"div": 1}.get(step.primitive)
    if place is not None:
        return isinstance(step.operands[place], Known)
    return any(isinstance(each, Known) for each in step.operands)


def _scaled(step: Step, inputs: list[Bounds], is_outward: bool) -> Bounds:
    """Elementwise: the ends, in whatever order the sign of the factor puts them."""
    ends = (step(inputs[0].lower), step(inputs[0].upper))
    found = Bounds(jnp.minimum(*ends), jnp.maximum(*ends))
    return widened(found, 3, found.magnitude) if is_outward else found


def _multiplied(step: Step, inputs: list[Bounds], is_outward: bool) -> Bounds:
    center, radius = inputs[0].center, inputs[0].radius
    if is_outward:
        # The error of center and radius, of both products, and of the network's own,
        # all relative to |W| (|c| + r): it is multiplied with the radius.
        dtype = center.dtype
        count = max(_product_terms(step))
        share = 1.01 * (3 * gamma(count + 4, dtype) + gamma(8, dtype))
        radius = radius + share * (jnp.abs(center) + radius) + smallest(dtype)
    middle, reach = step(center), step(radius, of_constant=absolute)
    found = Bounds(middle - reach, middle + reach)
    if not is_outward:
        return found
    tiny = _product_terms(step)[0] * smallest(middle.dtype)
    lower, upper = widened(found, 4, jnp.abs(middle) + reach)
    return Bounds(lower - tiny, upper + tiny)


def _product_terms(step: Step) -> tuple[int, int]:
    """Products in one element of the result, and of the transpose."""
    place = 0 if isinstance(step.operands[0], Known) else 1
    constant = jnp.shape(step.operands[place].value)  # type: ignore[union-attr]
    if step.primitive in ("mul", "div"):
        count = max(math.prod(step.shape) // math.prod(step.forms[0].shape), 1)
        return 2, 2 + count
    if step.primitive == "dot_general":
        contracted, mapped = step.params["dimension_numbers"]
        summed = math.prod(constant[axis] for axis in contracted[place])
        apart = math.prod(constant[axis] for axis in mapped[place])
        return summed, math.prod(constant) // max(summed * apart, 1)
    numbers = step.params["dimension_numbers"]
    if place == 0:
        count = math.prod(step.forms[0].shape)
        return count + math.prod(constant), count + math.prod(constant)
    features = constant[numbers.rhs_spec[0]]
    channels = constant[numbers.rhs_spec[1]]
    window = math.prod(constant) // (features * channels)
    return window * channels, window * features


_PRODUCT = Affine(_multiplied, _size, _product_terms, has_constant=False)
_SCALED = Affine(_scaled, _size, _product_terms, has_constant=False)

AFFINE: dict[str, Affine] = {
    "add": _monotone(lambda step: 1),
    "add_any": _monotone(lambda step: 1),
    "broadcast_in_dim": MOVING,
    "concatenate": MOVING,
    "conv_general_dilated": _PRODUCT,
    "convert_element_type": _monotone(_converted),
    "cumsum": _monotone(_cumulated),
    "div": _SCALED,
    "dot_general": _PRODUCT,
    "dynamic_slice": MOVING,
    "dynamic_update_slice": MOVING,
    "gather": MOVING,
    "mul": _SCALED,
    "neg": Affine(_negate, lambda step, sizes: sizes[0], lambda step: (0, 1)),
    "pad": MOVING,
    "reduce_sum": _monotone(_reduced),
    "reduce_window_sum": _monotone(_windowed),
    "reshape": MOVING,
    "rev": MOVING,
    "scatter": MOVING,
    "select_n": MOVING,
    "slice": MOVING,
    "split": MOVING,
    "squeeze": MOVING,
    "stack": MOVING,
    "sub": Affine(_subtract, _subtract_size, lambda step: (1, 1)),
    "transpose": MOVING,
}
"""By name. `table.py` says which products, quotients and selections are affine."""
