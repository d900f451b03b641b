r"""Intervals of every value of a program, from the image on (interval bounds).

At the first product of an l_2 or l_1 ball with weights, the interval is also had by the
dual norm of each row, :math:`Wx \pm \epsilon \|W_i\|_*`, as long as each value of the
stretch before it is a multiple of one pixel of its own; both are intersected.

References:
    Gowal et al., 2018, arXiv:1810.12715, Section 3.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from jaxrobust.bounds.affine import absolute
from jaxrobust.bounds.inputs import InputSet
from jaxrobust.bounds.program import Known, Program, Step
from jaxrobust.bounds.rounding import Bounds, gamma, widened
from jaxrobust.bounds.rules import Affine
from jaxrobust.bounds.table import rule_of

__all__ = ["Refine", "intersection", "propagate", "relu_arguments"]

Refine = Callable[[int, dict[int, Bounds]], Bounds]
"""Better bounds of the value of a number, from those of all values before it."""


class _Pixels(NamedTuple):
    """Values that are each a multiple of a pixel of its own, plus a constant.

    Attributes:
        value: of the clean image.
        scale: absolute factors, at least 0.
    """

    value: Array
    scale: Array


_REARRANGED = (
    "convert_element_type",
    "neg",
    "pad",
    "reshape",
    "rev",
    "slice",
    "squeeze",
    "transpose",
)
_SHIFTED = ("add", "sub")
_SCALED = ("div", "mul")


def _pixels(step: Step, given: _Pixels) -> _Pixels | None:
    """What becomes of such values; None if they are none any more."""
    value, scale = step(given.value), given.scale
    if step.primitive == "neg":
        return _Pixels(value, scale)
    if step.primitive in _REARRANGED:
        return _Pixels(value, step(scale, of_constant=lambda each: 0 * each))
    if step.shape == scale.shape and step.primitive in _SHIFTED:
        return _Pixels(value, scale)
    if step.shape == scale.shape and step.primitive in _SCALED:
        return _Pixels(value, step(scale, of_constant=jnp.abs))
    return None


def _dual_norms(step: Step, scale: Array, norm: str) -> Array | None:
    """Of the rows of a product, or more; None where that is not cheap."""
    if norm == "l2":
        return jnp.sqrt(step(jnp.square(scale), of_constant=jnp.square))
    place = 0 if isinstance(step.operands[0], Known) else 1
    weights = jnp.abs(step.constants[0])
    if place == 0:
        return None
    if step.primitive == "conv_general_dilated":
        numbers = step.params["dimension_numbers"]
        axis = numbers.rhs_spec[0]
        others = tuple(each for each in range(weights.ndim) if each != axis)
        largest = jnp.max(weights, axis=others) * jnp.max(scale)
        shape = [1] * weights.ndim
        shape[numbers.out_spec[1]] = largest.size
        return jnp.broadcast_to(largest.reshape(shape), step.shape)
    is_dense = step.params["dimension_numbers"] == (((1,), (0,)), ((), ()))
    if not is_dense or weights.ndim != 2:
        return None
    return jnp.max(weights * scale.T, axis=0)[None]


def intersection(first: Bounds, second: Bounds) -> Bounds:
    """What both say; a number that is none says nothing."""
    lower, upper = first
    return Bounds(
        jnp.where(second.lower > lower, second.lower, lower),
        jnp.where(second.upper < upper, second.upper, upper),
    )


def _in_ball(step: Step, given: _Pixels, inputs: InputSet, box: Bounds) -> Bounds:
    """The interval of the first product, by the dual norm as well."""
    norms = _dual_norms(step, given.scale, inputs.norm)
    if norms is None:
        return box
    middle, reach = step(given.value), inputs.radius * norms
    found = Bounds(middle - reach, middle + reach)
    rule = rule_of(step)
    if inputs.is_outward and isinstance(rule, Affine):
        count = 3 * rule.terms(step)[0] + 16
        size = step(jnp.abs(given.value), of_constant=absolute)
        found = widened(found, count, size + (1 + gamma(count, norms.dtype)) * reach)
    return intersection(box, found)


def propagate(
    program: Program, inputs: InputSet, refine: Refine | None = None
) -> dict[int, Bounds]:
    """Intervals of all values of a program.

    Args:
        program: of one image.
        inputs: what the image may become.
        refine: what else is known of the values that go into nonlinear steps.

    Returns:
        Bounds by number of the value.

    Raises:
        UnboundedError: for a primitive without a rule.
    """
    bounds = {0: inputs.box}
    pixels: dict[int, _Pixels] = {}
    if inputs.norm != "linf":
        pixels[0] = _Pixels(inputs.image, jnp.ones_like(inputs.image))
    refined = {0}
    for step in program.steps:
        rule = rule_of(step)
        if refine is not None and not isinstance(rule, Affine):
            for number in sorted({*step.inputs} - refined):
                if not jnp.issubdtype(program.forms[number].dtype, jnp.inexact):
                    continue
                bounds[number] = refine(number, bounds)
                refined.add(number)
        ends = [bounds[number] for number in step.inputs]
        found = rule.interval(step, ends, inputs.is_outward)
        results = found if isinstance(found, list) else [found]
        if len(step.inputs) == 1 and isinstance(rule, Affine):
            given = pixels.get(step.inputs[0])
            if given is not None and step.primitive in _PRODUCTS:
                results = [_in_ball(step, given, inputs, results[0])]
            elif given is not None and (after := _pixels(step, given)) is not None:
                pixels[step.outputs[0]] = after
        bounds |= dict(zip(step.outputs, results, strict=True))
        if not isinstance(rule, Affine):
            # Nothing is known of it but by its rule.
            refined |= {*step.outputs}
    return bounds


_PRODUCTS = ("conv_general_dilated", "dot_general")


def relu_arguments(program: Program) -> tuple[int, ...]:
    """Numbers of the values that go into a relu, a maximum with a constant."""
    return tuple(
        step.inputs[0]
        for step in program.steps
        if step.primitive == "max" and len(step.inputs) == 1
    )
