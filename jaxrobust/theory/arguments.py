"""Arguments of closed forms and graphs: what is known is checked, the rest is not.

A formula takes numbers, or arrays of one shape, and is traced, mapped and
differentiated like any function of JAX; so a JAX array, which may be traced, is not
looked at. It computes in the default float type: float32 unless JAX is set otherwise.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import dtypes
from jax.typing import ArrayLike, DTypeLike

from jaxrobust.arguments import is_in, require, require_shape

__all__ = [
    "count",
    "real",
    "refuse_pairs",
    "require_integers",
    "vector",
    "vertex_pairs",
    "whole",
]


def _refuse_outside(
    name: str, value: ArrayLike, interval: str, fix: str, dtype: DTypeLike = float
) -> None:
    """Refuse values outside of the interval once they are numbers of a type."""
    with np.errstate(over="ignore", under="ignore"):
        known = np.asarray(value, dtype)
    # Below the normal numbers XLA may compute with 0.
    known = np.where(np.abs(known) < np.finfo(known.dtype).tiny, 0, known)
    wrong = known[~is_in(known, interval)]
    if wrong.size:
        kind = "" if dtype is float else f" in {known.dtype}"
        raise ValueError(
            f"`{name}` must be in {interval}, got {wrong[0]:g}{kind}; {fix}."
        )


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
        ValueError: for a value outside, before or after it is rounded.
    """
    if isinstance(value, jax.Array):
        return jnp.asarray(value, dtype=float)
    _refuse_outside(name, value, interval, fix)
    _refuse_outside(name, value, interval, fix, dtypes.canonicalize_dtype(float))
    return jnp.asarray(value, dtype=float)


def vector(
    name: str,
    value: ArrayLike,
    interval: str = "(-inf, inf)",
    *,
    length: int | None = None,
    at_least: int = 1,
    fix: str,
) -> jax.Array:
    """A vector of real arguments in the default float type.

    Args:
        name: of the argument, for the message.
        value: array; the shape of JAX arrays is checked too, which a trace knows, but
            their values are not.
        interval: allowed values, such as "[0, 1)".
        length: allowed number of entries, if there is one only.
        at_least: smallest number of entries otherwise.
        fix: what to do instead, for the message.

    Raises:
        ValueError: for another shape, or a value outside.
    """
    checked = real(name, value, interval, fix=fix)
    is_right = checked.size >= at_least if length is None else checked.size == length
    entries = f"at least {at_least}" if length is None else f"{length}"
    rule = f"a vector with a length of {entries}"
    require(checked.ndim == 1 and is_right, name, rule, checked.shape, fix)
    return checked


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


def require_integers(name: str, value: np.ndarray, fix: str) -> None:
    """Refuse an array of another type.

    Raises:
        ValueError: naming the type.
    """
    require(value.dtype.kind in "iu", name, "of integers", value.dtype.name, fix)


def vertex_pairs(edges: ArrayLike, num_vertices: int) -> np.ndarray:
    """The edges of a graph, `(edges, 2)`, as they were given.

    Args:
        edges: `(edges, 2)`, numbers of vertices; of any shape if there are none.
        num_vertices: of the graph.

    Raises:
        ValueError: for what is not two different vertices in [0, num_vertices).
    """
    edges = np.asarray(edges)
    if edges.size == 0:
        return np.zeros((0, 2), np.int64)
    require_shape("edges", edges, ("edges", 2), "give pairs of vertices")
    require_integers("edges", edges, "give numbers of vertices")
    is_out = ((edges < 0) | (edges >= num_vertices)).any(axis=1)
    rule = f"pairs of vertices in [0, {num_vertices})"
    refuse_pairs(edges[is_out], rule, "number the vertices from 0")
    is_loop = edges[:, 0] == edges[:, 1]
    refuse_pairs(edges[is_loop], "pairs of two different vertices", "drop the loop")
    return edges.astype(np.int64)


def refuse_pairs(wrong: np.ndarray, rule: str, fix: str) -> None:
    """Refuse edges of which some are wrong, naming the first of these."""
    for pair in wrong[:1].tolist():
        require(False, "edges", rule, tuple(pair), fix)
