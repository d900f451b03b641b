"""The l_1 ball: what pixels move by adds up to at most the radius."""

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from jaxrobust.threat.arithmetic import add_toward_zero, pairwise_sum, per_example
from jaxrobust.threat.base import HAIR, ThreatModel
from jaxrobust.types import Images, PerExample, PRNGKey, Scalar, widened

__all__ = ["L1Ball"]

SLIDE_SHARE = 0.01
"""Share of the values that a step of PGD moves, as Tramèr & Boneh, 2019, have it."""


def _nearest(size: jax.Array, room: jax.Array, radius: jax.Array) -> jax.Array:
    r"""The nearest `z` to `size` with `0 <= z <= room` and a sum of at most `radius`.

    It is :math:`z_i = \min(\max(s_i - \lambda, 0), r_i)`, whose sum falls as
    :math:`\lambda` grows and is linear between the points at which a value leaves or
    reaches a bound. Bisection finds two neighbors of the root, without sorting, which
    compiled code does slowly; a step along the line between those points ends it, and
    has the derivatives.

    Args:
        size: `(batch, values)`, at least 0, finite.
        room: of the same shape, at least 0; may be infinite.
        radius: `(batch,)`, at least 0.
    """

    def at(threshold: jax.Array) -> jax.Array:
        return jnp.minimum(jnp.maximum(size - threshold[:, None], 0.0), room)

    def halve(
        _: jax.Array, ends: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = (low + high) / 2
        is_long = lax.stop_gradient(jnp.sum(at(middle), axis=1) > radius)
        return jnp.where(is_long, middle, low), jnp.where(is_long, high, middle)

    ends = (jnp.zeros_like(radius), lax.stop_gradient(jnp.max(size, axis=1)))
    # As many halvings as there are bits, and a few for thresholds far below the top.
    num_halvings = jnp.finfo(size.dtype).nmant + 8
    low, high = lax.fori_loop(0, num_halvings, halve, ends)
    low, high = lax.stop_gradient((low, high))
    middle = (low + high) / 2
    is_between = (size > middle[:, None]) & (size - middle[:, None] < room)
    count = jnp.maximum(jnp.sum(is_between, axis=1), 1).astype(size.dtype)
    root = middle + (jnp.sum(at(middle), axis=1) - radius) / count
    # Where it is cut, the derivative stays that of the line.
    root = root + lax.stop_gradient(jnp.clip(root, low, high) - root)
    is_inside = jnp.sum(at(jnp.zeros_like(root)), axis=1) <= radius
    found = at(jnp.where(is_inside, 0.0, root))

    def shorten(_: jax.Array, sizes: jax.Array) -> jax.Array:
        total = pairwise_sum(sizes)
        is_long = total > radius
        share = jnp.where(is_long, radius / jnp.where(is_long, total, 1.0), 1.0)
        return sizes * share[:, None]

    # What rounding left too long, as of sizes beside which the radius is a trifle. In a
    # loop, which measures just what leaves it: a compiler may compute a value outside
    # twice and round it differently.
    return lax.fori_loop(0, 2, shorten, found)


@dataclasses.dataclass(frozen=True)
class L1Ball(ThreatModel):
    r"""All images whose pixels differ by at most `epsilon` from the clean one in sum.

    The admissible set is :math:`\{x' : \|x' - x\|_1 \le \epsilon\} \cap [l, u]^d`.
    `project` moves to the nearest point of this intersection, not of one set after the
    other: with steps of few pixels, which the range soon stops, the difference decides
    how strong an attack is.

    References:
        Croce & Hein, 2021, arXiv:2103.01208, Section 2; Tramèr & Boneh, 2019,
        arXiv:1904.13000, for the steps of PGD.
    """

    name: ClassVar[str] = "l1"
    symbol: ClassVar[str] = "l₁"

    @classmethod
    def diameter(
        cls,
        shape: Sequence[int] | None,
        bounds: tuple[float, float] | None = (0.0, 1.0),
    ) -> float:
        if shape is None or bounds is None:
            return math.inf
        return (bounds[1] - bounds[0]) * math.prod(shape)

    @classmethod
    def usual_epsilon(cls, shape: Sequence[int]) -> float:
        """Maini et al., 2020, arXiv:1909.04068."""
        return 10.0 if shape[-1] == 1 else 12.0

    def norm(self, perturbation: Images) -> PerExample:
        flat = jnp.abs(widened(perturbation)).reshape(perturbation.shape[0], -1)
        return pairwise_sum(flat)

    def project(self, images: Images, center: Images) -> Images:
        perturbation = self.perturbation(images, center)
        if self.bounds is None:
            room = jnp.full_like(perturbation, jnp.inf)
        else:
            wide = widened(center)
            lower, upper = self.bounds
            room = jnp.where(perturbation > 0, upper - wide, wide - lower)
            room = jnp.maximum(room, 0.0)
        batch = center.shape[0]
        moved = _nearest(
            jnp.abs(perturbation).reshape(batch, -1),
            room.reshape(batch, -1),
            # A hair inside, because sums are only known up to rounding.
            jnp.full((batch,), self.radius(center) * (1 - HAIR)),
        )
        moved = jnp.sign(perturbation) * moved.reshape(center.shape)
        return self.clip(add_toward_zero(center, moved), center)

    def project_perturbation(self, perturbation: Images, radius: PerExample) -> Images:
        size = jnp.abs(perturbation).reshape(perturbation.shape[0], -1)
        moved = _nearest(size, jnp.full_like(size, jnp.inf), radius)
        return jnp.sign(perturbation) * moved.reshape(perturbation.shape)

    def sample(self, key: PRNGKey, center: Images) -> Images:
        sign_key, size_key = jax.random.split(key)
        wide = widened(center)
        batch, size = center.shape[0], center[0].size
        # Uniform in the simplex: exponential variables over their sum, of which the
        # last is what the ball has left.
        drawn = jax.random.exponential(size_key, (batch, size + 1), wide.dtype)
        share = drawn[:, :-1] / jnp.sum(drawn, axis=1, keepdims=True)
        signs = jax.random.rademacher(sign_key, center.shape, wide.dtype)
        moved = wide + self.radius(center) * signs * share.reshape(center.shape)
        return self.project(moved.astype(center.dtype), center)

    def free_gradient(self, images: Images, gradient: Images) -> Images:
        """The gradient, with 0 for values that the pixel range lets go no further."""
        if self.bounds is None:
            return gradient
        lower, upper = self.bounds
        is_stopped = jnp.where(gradient > 0, images >= upper, images <= lower)
        return jnp.where(is_stopped, 0, gradient)

    def steepest(self, gradient: Images) -> Images:
        flat = jnp.abs(gradient).reshape(gradient.shape[0], -1)
        chosen = jnp.argmax(flat, axis=1)[:, None] == jnp.arange(flat.shape[1])[None]
        return jnp.where(chosen.reshape(gradient.shape), jnp.sign(gradient), 0)

    def ascend(self, images: Images, gradient: Images, step_size: Scalar) -> Images:
        """A step in a hundredth of the values, those that climb fastest, alike in each.

        Values that the pixel range stops are passed over.
        """
        gradient = self.free_gradient(images, gradient)
        count = max(round(SLIDE_SHARE * gradient[0].size), 1)
        flat = jnp.abs(gradient).reshape(gradient.shape[0], -1)
        least = lax.top_k(flat, count)[0][:, -1]
        is_steep = jnp.abs(gradient) >= per_example(least, gradient)
        step = jnp.where(is_steep, jnp.sign(widened(gradient)), 0)
        length = jnp.maximum(self.norm(step), 1.0)
        return images + step_size * step / per_example(length, step)
