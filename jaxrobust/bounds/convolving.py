"""Convolutions in the formulation that the platform computes fastest.

It is another one than the program's own only where rounding is not counted, since the
transforms among them round in another way than the sums that `rounding.py` bounds.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.extend.core import JaxprEqn
from jaxtyping import Array

from jaxrobust.convolutions import conv_directly, conv_on_cpu

__all__ = ["by_platform", "convolved", "is_plain"]


def is_plain(equation: JaxprEqn) -> bool:
    """Whether an equation is a convolution of images, with one stride and no more."""
    if equation.primitive.name != "conv_general_dilated":
        return False
    params = equation.params
    forms: list[Any] = [atom.aval for atom in (*equation.invars, *equation.outvars)]
    axes = params["dimension_numbers"].rhs_spec[2:]
    sides = [forms[1].shape[axis] for axis in axes]
    return (
        len(sides) == 2
        and len({*sides}) == len({*params["window_strides"]}) == 1
        and {*params["lhs_dilation"], *params["rhs_dilation"]} == {1}
        and params["feature_group_count"] == params["batch_group_count"] == 1
        and min(min(pad) for pad in params["padding"]) >= 0
        and {form.dtype for form in forms} == {jnp.dtype(jnp.float32)}
    )


def by_platform(
    images: Array,
    kernel: Array,
    strides: int,
    pads: Sequence[tuple[int, int]],
    precision: Any,
) -> Array:
    """As is fast on a CPU, in loops too, and `conv_directly` elsewhere."""
    return lax.platform_dependent(
        images,
        kernel,
        cpu=lambda images, kernel: conv_on_cpu(images, kernel, strides, pads),
        default=lambda images, kernel: conv_directly(
            images, kernel, strides, pads, precision
        ),
    )


def convolved(equation: JaxprEqn, images: Array, kernel: Array) -> Array:
    """What a plain convolution gives, but for rounding.

    Args:
        equation: one that `is_plain`.
        images: in the order of axes that the equation says.
        kernel: likewise.
    """
    params = equation.params
    lhs, rhs, out = params["dimension_numbers"]
    found = by_platform(
        lax.transpose(images, (lhs[0], *lhs[2:], lhs[1])),
        lax.transpose(kernel, (*rhs[2:], rhs[1], rhs[0])),
        params["window_strides"][0],
        params["padding"],
        params["precision"],
    )
    order = [0] * 4
    for place, axis in enumerate((out[0], *out[2:], out[1])):
        order[axis] = place
    return lax.transpose(found, order)
