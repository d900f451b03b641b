r"""The transpose of a strided convolution, as a convolution without strides.

JAX's own transpose puts zeros between the pixels, and most of its products are with
them. With a stride of s, pixel :math:`sq + r` of the image gets the windows that begin
at whole multiples of s before it, so each remainder r has a kernel of its own, of every
s-th row and column, by which all the outputs are convolved; the remainders are channels
that are then put beside each other.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxrobust.bounds.convolving import by_platform, is_plain
from jaxrobust.bounds.program import Known, Step
from jaxrobust.convolutions import conv_directly

__all__ = ["strided_transpose"]


def strided_transpose(step: Step) -> Callable[[Array], Array] | None:
    """The transpose of a step, of one cotangent; None for what is done as well by JAX.

    Args:
        step: any.
    """
    if step.primitive != "conv_general_dilated":
        return None
    params = step.params
    strides, pads = params["window_strides"], params["padding"]
    is_possible = (
        len(strides) == 2
        and max(strides) > 1
        and isinstance(step.operands[1], Known)
        and {*params["lhs_dilation"], *params["rhs_dilation"]} == {1}
        and params["feature_group_count"] == params["batch_group_count"] == 1
        and min(before for before, _ in pads) >= 0
    )
    if not is_possible:
        return None
    lhs, rhs, out = params["dimension_numbers"]
    kernel = lax.transpose(step.constants[0], (*rhs[2:], rhs[1], rhs[0]))
    *sizes, channels, features = kernel.shape
    is_quick = not step.as_written and is_plain(step.equation)
    taps = [-(-size // stride) for size, stride in zip(sizes, strides, strict=True)]
    whole = [tap * stride for tap, stride in zip(taps, strides, strict=True)]
    edges = [(0, end - size, 0) for end, size in zip(whole, sizes, strict=True)]
    zero = jnp.zeros((), kernel.dtype)
    phases = lax.pad(kernel, zero, [*edges, (0, 0, 0), (0, 0, 0)])
    phases = phases.reshape(
        taps[0], strides[0], taps[1], strides[1], channels, features
    )
    phases = phases[::-1, :, ::-1].transpose(0, 2, 5, 1, 3, 4)
    phases = phases.reshape(*taps, features, strides[0] * strides[1] * channels)
    convolve = by_platform if is_quick else conv_directly
    form = step.forms[0]
    sides = [form.shape[axis] for axis in lhs[2:]]

    def transpose(rows: Array) -> Array:
        rows = lax.transpose(rows, (out[0], *out[2:], out[1]))
        # Zeros are put round them first: in the gradient of the kernel, XLA would swap
        # operands of which the second is larger, and then turn it, slowly on a CPU.
        around = [(tap - 1, tap - 1, 0) for tap in taps]
        rows = lax.pad(rows, zero, [(0, 0, 0), *around, (0, 0, 0)])
        found = convolve(rows, phases, 1, [(0, 0), (0, 0)], params["precision"])
        batch, height, width, _ = found.shape
        found = found.reshape(batch, height, width, *strides, channels)
        found = found.transpose(0, 1, 3, 2, 4, 5)
        found = found.reshape(batch, height * strides[0], width * strides[1], channels)
        edges = [
            (-before, before + side - length, 0)
            for (before, _), side, length in zip(
                pads, sides, found.shape[1:3], strict=True
            )
        ]
        found = lax.pad(found, zero, [(0, 0, 0), *edges, (0, 0, 0)])
        order = [0] * 4
        for place, axis in enumerate((lhs[0], *lhs[2:], lhs[1])):
            order[axis] = place
        return lax.transpose(found, order).astype(form.dtype)

    return transpose
