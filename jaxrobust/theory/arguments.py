"""Arguments of closed forms: what is known to Python is checked, the rest is not.

A formula takes numbers, or arrays of one shape, and is traced, mapped and
differentiated like any function of JAX; so a JAX array, which may be traced, is not
looked at. It computes in the default float type: float32 unless JAX is set otherwise.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

__all__ = ["count", "real", "whole"]


def _refuse_outside(name: str, value: ArrayLike, interval: str, fix: str) -> None:
    known = np.asarray(value, dtype=float)
    low, high = (float(end) for end in interval[1:-1].split(","))
    is_above = known >= low if interval[0] == "[" else known > low
    is_below = known <= high if interval[-1] == "]" else known < high
    # NaN lies in no interval.
    wrong = known[~(is_above & is_below)]
    if wrong.size:
        raise ValueError(f"`{name}` must be in {interval}, got {wrong[0]:g}; {fix}.")


def real(
    name: str, value: ArrayLike, interval: str = "(-inf, inf)", *, fix: str
) -> jax.Array:
    """A real argument in the default float type.

    Args:
        name: of the argument, for the message.
        value: number or array; JAX arrays are not checked.
        interval: allowed values, such as "[0, 1)".
        fix: what to do instead, for the message.

    Raises:
        ValueError: for a value outside.
    """
    if not isinstance(value, jax.Array):
        _refuse_outside(name, value, interval, fix)
    return jnp.asarray(value, dtype=float)


def whole(
    name: str, value: ArrayLike, interval: str, *, fix: str, most: int | None = None
) -> jax.Array:
    """An argument that counts something and may be traced.

    Args:
        name: of the argument, for the message.
        value: whole number or array of such; JAX arrays are not checked.
        interval: allowed values, such as "[0, inf)".
        fix: what to do instead, for the message.
        most: a larger number counts as this one, so that none is too large for JAX.

    Raises:
        TypeError: for a value that is not an integer.
        ValueError: for a value outside the interval.
    """
    if isinstance(value, int) and most is not None:
        value = min(value, most)
    known = value if isinstance(value, jax.Array) else np.asarray(value)
    if not jnp.issubdtype(known.dtype, jnp.integer):
        raise TypeError(
            f"`{name}` must be of integers, got {value!r}; give a whole number."
        )
    if not isinstance(known, jax.Array):
        _refuse_outside(name, known, interval, fix)
    if most is not None:
        # Before the cast to JAX's own integers, which would wrap around.
        known = known.clip(max=min(most, int(jnp.iinfo(known.dtype).max)))
    return jnp.asarray(known, dtype=int)


def count(name: str, value: int, interval: str = "[1, inf)", *, fix: str) -> int:
    """An argument that counts something and decides shapes, so it is never traced.

    Raises:
        TypeError: for a value that is not an integer of Python or NumPy.
        ValueError: for a value outside the interval.
    """
    if not isinstance(value, int | np.integer):
        raise TypeError(
            f"`{name}` must be an integer known to Python, got {value!r}; shapes "
            "depend on it, so mark it static under jit."
        )
    _refuse_outside(name, value, interval, fix)
    return int(value)
