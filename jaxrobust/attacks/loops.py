"""The loop over the steps of an attack, whose number may be traced."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer

from jaxrobust.types import Scalar

__all__ = ["CHUNK", "repeated"]

Carry = TypeVar("Carry")

CHUNK = 5
"""Steps that a GPU takes between two looks of the host at how many are left.

It divides the numbers of steps that the literature takes: 10, 20, 40, 50, 100. With n
of them, `count // n + count % n + 2` looks are left of `count + 1`: of 41 for 40 steps,
10; of 8 for 7, 5. Larger chunks save few more, and cost members of a sweep that are
mapped over different numbers of steps up to n - 1 steps that none of them needs.
"""


def repeated(
    count: Scalar,
    body: Callable[[jax.Array, Carry], Carry],
    start: Carry,
    *,
    is_known: bool = False,
) -> Carry:
    """`lax.fori_loop(0, count, body, start)`, of which GPUs seldom ask how long it is.

    Where the number of passes is traced, XLA has a GPU copy to the host whether there
    is another one, and waits for it, before every pass
    (`xla/backends/gpu/runtime/while_thunk.cc`). A loop of known length is started
    without looking. So a GPU takes as many whole chunks of `CHUNK` passes as there are,
    and what is left one by one: no pass is in vain, and none is masked, unless `vmap`
    gives copies different numbers. The result is that of the plain loop, which other
    platforms keep.

    It is for loops over steps. Its program holds the body twice, four times if it is
    used inside a step. Where data decide when a loop ends, or one pass is much work (a
    batch of queries for every image), a plain one will do.

    Args:
        count: of the passes, none if negative; may be traced.
        body: `(index, carry) -> carry`, traced once.
        start: the carry before the first pass.
        is_known: whether the number is one of Python that was made an array, which the
            compiler knows, too.
    """
    if is_known or not isinstance(count, Tracer):
        return lax.fori_loop(0, count, body, start)
    # The loops of all platforms are traced. They share what is traced of the body,
    # which costs most, as long as all count in the same type, not in a weak one beside;
    # `inline` leaves no trace of that in the program.
    once = jax.jit(body, inline=True)
    count = lax.convert_element_type(count, jnp.result_type(count))

    def plain(count: jax.Array, start: Carry) -> Carry:
        return lax.fori_loop(jnp.zeros_like(count), count, once, start)

    def chunked(count: jax.Array, start: Carry) -> Carry:
        num_chunks = jnp.maximum(count, 0) // CHUNK

        def chunk(number: jax.Array, carry: Carry) -> Carry:
            def within(place: jax.Array, carry: Carry) -> Carry:
                index = lax.convert_element_type(number * CHUNK + place, count.dtype)
                return once(index, carry)

            return lax.fori_loop(0, CHUNK, within, carry)

        carry = lax.fori_loop(0, num_chunks, chunk, start)
        return lax.fori_loop(num_chunks * CHUNK, count, once, carry)

    return lax.platform_dependent(
        count, start, cuda=chunked, rocm=chunked, default=plain
    )
