"""Bounds of all elements of a value, as many at a time as memory holds."""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxrobust.bounds.backward import least, substitute
from jaxrobust.bounds.inputs import InputSet
from jaxrobust.bounds.program import Program
from jaxrobust.bounds.rounding import Bounds
from jaxrobust.bounds.rules import Relaxation

__all__ = ["MEMORY", "block_size", "substituted"]

MEMORY = 2**30
"""Bytes that the coefficients of one block may take, if nothing else is said."""

COPIES = 6
"""Arrays of the size of the largest value that a row needs at once: coefficients before
and after a step, both signs of them, and sizes."""


def block_size(program: Program, number: int, batch: int, memory: int) -> int:
    """How many elements of a value are bounded at a time; at least 1.

    Args:
        program: of one image.
        number: of the value.
        batch: images that are mapped together.
        memory: bytes.
    """
    sizes = [
        math.prod(form.shape) * form.dtype.itemsize
        for other, form in program.forms.items()
        if other <= number
    ]
    of_row = COPIES * batch * max(sizes)
    return max(1, min(memory // of_row, math.prod(program.forms[number].shape)))


def substituted(
    program: Program,
    number: int,
    bounds: dict[int, Bounds],
    relaxations: dict[int, Relaxation],
    inputs: InputSet,
    block: int,
) -> Bounds:
    """Bounds of each element of a value, put back through the program.

    Args:
        program: of one image.
        number: of the value.
        bounds: of all values before it.
        relaxations: as for `substitute`.
        inputs: what the image may become.
        block: how many elements at a time.
    """
    form = program.forms[number]
    size = math.prod(form.shape)

    def ends(places: Array) -> tuple[Array, Array]:
        rows = jax.nn.one_hot(places, size, dtype=form.dtype)
        rows = rows.reshape(len(places), *form.shape)

        both = jnp.concatenate([rows, -rows])
        functional = substitute(
            program, number, both, bounds, relaxations, inputs.is_outward
        )
        lower, minus_upper = jnp.split(least(functional, bounds, inputs), 2)
        return lower, -minus_upper

    if block >= size:
        lower, upper = ends(jnp.arange(size))
    else:
        count = -(-size // block)
        places = jnp.arange(count * block).reshape(count, block)
        lower, upper = (each.reshape(-1)[:size] for each in lax.map(ends, places))
    return Bounds(
        lower.astype(form.dtype).reshape(form.shape),
        upper.astype(form.dtype).reshape(form.shape),
    )
