r"""What an image may become: the set of a threat model, and the least of a functional.

A ball of l_inf cut by the pixel range is a box. One of l_2 or l_1 lies in a box, too,
and a functional :math:`a` is at least :math:`a \cdot x - \epsilon \|a\|_*` on it, with
the dual norm. Where both the ball and the range count, any multiplier
:math:`\lambda \ge 0` of the ball's constraint gives a bound,

.. math::
    \min_{x' \in [l, u]} a \cdot x' + \lambda (g(x' - x) - g(\epsilon)),

with :math:`g(d) = \|d\|_2^2 / 2` or :math:`\|d\|_1`; the best of them is exact. It is
found by halving, and whatever was found holds.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from jaxrobust.bounds.rounding import Bounds, gamma, smallest
from jaxrobust.threat import L1Ball, L2Ball, LinfBall, ThreatModel
from jaxrobust.types import Images

__all__ = ["InputSet", "input_set", "require_bounded"]

HALVINGS = 24
"""Of the range of multipliers."""

KINDS = (LinfBall, L2Ball, L1Ball)


class InputSet(NamedTuple):
    """The images that a threat model allows in place of one.

    Attributes:
        norm: "linf", "l2" or "l1".
        image: `(1, *pixels)`.
        radius: of the ball, a number.
        box: the least box that holds the set.
        is_cut: whether the pixel range may cut the ball.
        is_outward: whether bounds are rounded outwards.
    """

    norm: str
    image: Array
    radius: Array
    box: Bounds
    is_cut: bool
    is_outward: bool

    def least(self, coefficients: Array) -> Array:
        """The least values of functionals on the set, or less.

        Args:
            coefficients: `(rows, 1, *pixels)`.

        Returns:
            `(rows,)`.
        """
        rows = coefficients.reshape(coefficients.shape[0], -1)
        image, low, high = (each.reshape(-1) for each in (self.image, *self.box))
        center, radius = (low + high) / 2, (high - low) / 2
        found = rows @ center - jnp.abs(rows) @ radius
        if self.norm != "linf":
            at_image = rows @ image
            ball = at_image - self.radius * _dual_norm(self.norm, rows)
            found = jnp.maximum(found, ball)
            if self.is_cut:
                gain = self._multiplied(rows, low - image, high - image)
                found = _larger(found, at_image + gain)
        if not self.is_outward:
            return found
        size = jnp.abs(rows) @ jnp.maximum(jnp.abs(low), jnp.abs(high))
        if self.norm != "linf":
            size = size + 2 * self.radius * _dual_norm(self.norm, rows)
        count = rows.shape[1]
        share = 1.01 * 6 * gamma(count + 8, rows.dtype)
        return found - share * size - 4 * count * smallest(rows.dtype)

    def _multiplied(self, rows: Array, low: Array, high: Array) -> Array:
        """The least of functionals of the perturbation, by the best multiplier."""
        low, high = low[None], high[None]
        epsilon = self.radius

        if self.norm == "l2":
            last = _dual_norm("l2", rows) / jnp.maximum(epsilon, 1e-12)

            def moved(multiplier: Array) -> Array:
                """The perturbations at which the least is attained."""
                scale = jnp.where(multiplier > 0, multiplier, 1.0)[:, None]
                return jnp.clip(-rows / scale, low, high)

            def length(multiplier: Array) -> Array:
                return jnp.sqrt(jnp.sum(jnp.square(moved(multiplier)), axis=1))

            def value(multiplier: Array) -> Array:
                step = lax.stop_gradient(moved(multiplier))
                whole = jnp.sum(
                    rows * step + multiplier[:, None] / 2 * jnp.square(step), axis=1
                )
                return whole - multiplier / 2 * jnp.square(epsilon)

        else:
            last = _dual_norm("l1", rows)
            room = jnp.where(rows > 0, -low, high)

            def length(multiplier: Array) -> Array:
                is_worth = jnp.abs(rows) > multiplier[:, None]
                return jnp.sum(jnp.where(is_worth, room, 0.0), axis=1)

            def value(multiplier: Array) -> Array:
                gain = jnp.maximum(jnp.abs(rows) - multiplier[:, None], 0.0)
                return -multiplier * epsilon - jnp.sum(room * gain, axis=1)

        def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
            small, large = ends
            middle = (small + large) / 2
            is_long = length(middle) > epsilon
            return jnp.where(is_long, middle, small), jnp.where(is_long, large, middle)

        ends = lax.stop_gradient((jnp.zeros_like(last), last))
        _, multiplier = lax.fori_loop(0, HALVINGS, halve, ends)
        return value(lax.stop_gradient(multiplier))


def _larger(first: Array, second: Array) -> Array:
    """The larger one, or the first where the second is no number."""
    return jnp.where(second > first, second, first)


def _dual_norm(norm: str, rows: Array) -> Array:
    if norm == "l1":
        return jnp.max(jnp.abs(rows), axis=1)
    # A root of 0 has no gradient, which would be taken times 0.
    square = jnp.sum(jnp.square(rows), axis=1)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


def require_bounded(threat: ThreatModel) -> None:
    """Refuse a threat model whose set is not known here.

    Raises:
        TypeError: for another one than those of l_inf, l_2 and l_1.
    """
    # A subclass may allow other images.
    if type(threat) not in KINDS:
        names = ", ".join(kind.__name__ for kind in KINDS)
        raise TypeError(
            f"`threat` must be one of {names} to have bounds, got "
            f"{type(threat).__name__}; take one of these whose ball holds yours."
        )


def input_set(threat: ThreatModel, image: Images, is_outward: bool) -> InputSet:
    """What a threat model allows in place of one image.

    Args:
        threat: of l_inf, l_2 or l_1; its radius may be traced.
        image: `(1, *pixels)`.
        is_outward: whether the set is rounded outwards.
    """
    radius = threat.radius(image)
    if is_outward:
        # The radius was rounded down, and sums are rounded to nearest.
        radius = radius * (1 + 4 * np.finfo(np.float32).eps) + smallest(radius.dtype)
    low, high = image - radius, image + radius
    if is_outward:
        slack = gamma(2, low.dtype) * (jnp.abs(image) + radius)
        low, high = low - slack, high + slack
    low, high = low.astype(image.dtype), high.astype(image.dtype)
    if threat.bounds is not None:
        least, most = threat.bounds
        # As `clip` of the threat model: no further than the clean image, which may lie
        # outside by mistake.
        low = jnp.maximum(low, jnp.minimum(least, image))
        high = jnp.minimum(high, jnp.maximum(most, image))
    return InputSet(
        threat.name,
        image,
        radius.astype(image.dtype),
        Bounds(low, high),
        threat.bounds is not None,
        is_outward,
    )
