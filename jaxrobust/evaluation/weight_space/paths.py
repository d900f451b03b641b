"""Curves through weight space, and how far a loss rises along them."""

from math import comb
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.arguments import require
from jaxrobust.types import Params, Scalar

__all__ = ["Path", "barrier_height", "bezier_path", "line", "require_alike"]


class Path(NamedTuple):
    r"""A Bezier curve through weight space; with two points, a straight line.

    .. math:: w(t) = \sum_i \binom{n}{i} t^i (1-t)^{n-i} w_i, \quad t \in [0, 1]

    Arrays that are not floats are those of the first point.

    Attributes:
        points: weights, at least two; the curve starts at the first and ends at the
            last, exactly, and only leans towards those between.
    """

    points: tuple[Params, ...]

    def __repr__(self) -> str:
        return f"Path({len(self.points)} points)"

    def at(self, share: Scalar) -> Params:
        """Weights at a share of the way, in [0, 1]; may be traced."""
        degree = len(self.points) - 1
        factors = [
            comb(degree, index) * share**index * (1 - share) ** (degree - index)
            for index in range(degree + 1)
        ]

        def mix(*leaves: jax.Array) -> jax.Array:
            if not jnp.issubdtype(jnp.result_type(leaves[0]), jnp.inexact):
                return leaves[0]
            total = sum(
                factor * leaf for factor, leaf in zip(factors, leaves, strict=True)
            )
            return jnp.asarray(total, jnp.result_type(leaves[0]))

        return jax.tree.map(mix, *self.points)


def require_alike(first: Params, other: Params, name: str) -> None:
    """Refuse weights of networks that differ in shape."""

    def shapes(tree: Params) -> dict[str, tuple[int, ...]]:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {jax.tree_util.keystr(path): jnp.shape(leaf) for path, leaf in leaves}

    one, two = shapes(first), shapes(other)
    for key in dict.fromkeys([*one, *two]):
        if one.get(key) != two.get(key):
            raise ValueError(
                f"`{name}` must have the arrays of the first weights, got "
                f"{two.get(key, 'nothing')} against {one.get(key, 'nothing')} at "
                f"{key or 'the top'}; give weights of the same network."
            )


def line(weights_0: Params, weights_1: Params) -> Path:
    """The straight line `(1 - t) weights_0 + t weights_1`.

    Raises:
        ValueError: if the two differ in the shape of an array.
    """
    require_alike(weights_0, weights_1, "weights_1")
    return Path((weights_0, weights_1))


def bezier_path(weights_0: Params, weights_1: Params, control: Params) -> Path:
    r"""The quadratic Bezier curve :math:`(1-t)^2 w_0 + 2 t (1-t) c + t^2 w_1`.

    Raises:
        ValueError: if weights differ in the shape of an array.

    References:
        Garipov et al., 2018, arXiv:1802.10026, Section 3.2.
    """
    require_alike(weights_0, control, "control")
    require_alike(weights_0, weights_1, "weights_1")
    return Path((weights_0, control, weights_1))


def barrier_height(alphas: Any, losses: Any) -> np.ndarray:
    """How far a loss rises on its way above the straight line between its ends.

    The maximum over the path of `L(a) - ((1 - a) L(0) + a L(1))`; never negative, since
    the ends count.

    Args:
        alphas: increasing shares from 0 to 1, `(points,)`.
        losses: at these, `(..., points)`.

    Returns:
        One height for each curve, `(...)`, in the unit of the loss.

    Raises:
        ValueError: if the shares do not go from 0 to 1.
    """
    alphas, losses = np.asarray(alphas, float), np.asarray(losses, float)
    require(
        alphas[0] == 0 and alphas[-1] == 1 and np.all(np.diff(alphas) > 0),
        "alphas",
        "increasing from 0 to 1",
        alphas.tolist(),
        "a barrier is measured between the ends of the path",
    )
    chord = (1 - alphas) * losses[..., :1] + alphas * losses[..., -1:]
    return np.max(losses - chord, axis=-1)
