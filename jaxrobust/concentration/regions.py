"""Unions of rectangles, unions of balls, and half-spaces: what lies in them, and near.

Everything is read off one number for each point, its `gap`: how far it is from the
region, or, where negative, how deep inside. The expansion of the region by epsilon is
where the gap is at most epsilon; its boundary belongs to it.
"""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxrobust.data.points import (
    Columns,
    accumulate,
    as_columns,
    as_points,
    unit_values,
)

__all__ = [
    "TOLERANCE",
    "Balls",
    "HalfSpace",
    "Hyperrectangles",
    "Region",
    "Risks",
    "risks_of",
]

TOLERANCE = 1e-6
"""How far outside a point still counts as on the boundary, relative to distances above
1: pixels are float32, and 9/255 - 1/255 shall not be further than 8/255."""

CANCELED = 1e-6
"""Share of a sum of squares below which a difference of them is computed directly; in
double precision what is above has a root that is right to 1e-9 of that of the sum."""

BLOCK = 4096
"""Points whose gaps are computed at once."""


class Risks(NamedTuple):
    """Measures of an error region and of its expansion, as shares of the points.

    Attributes:
        risk: share in the error region, in [0, 1].
        adversarial_risk: share within epsilon of it; for rectangles an upper bound.
    """

    risk: float
    adversarial_risk: float


@jax.jit
def _linf_gaps(
    blocks: jax.Array, centers: jax.Array, half_widths: jax.Array
) -> jax.Array:
    """Gap of each point of each block to the nearest rectangle."""

    def term(x: jax.Array, c: jax.Array, h: jax.Array) -> jax.Array:
        return jnp.abs(x[None] - c[:, None]) - h[:, None]

    def of_block(block: jax.Array) -> jax.Array:
        first = jnp.full((centers.shape[1], block.shape[1]), -jnp.inf, block.dtype)
        columns = (block, centers, half_widths)
        return jnp.min(accumulate(term, first, columns, jnp.maximum), axis=0)

    return lax.map(of_block, blocks)


def _blocks(images: np.ndarray) -> Iterator[np.ndarray]:
    """Points as rows in double precision, some at a time."""
    points = as_points(images)
    for start in range(0, len(points), BLOCK):
        yield unit_values(points[start : start + BLOCK]).astype(np.float64)


class Hyperrectangles(NamedTuple):
    """A union of boxes that are parallel to the axes; without any, the empty set.

    Attributes:
        centers: (rectangles, dimensions), in units of [0, 1] pixels.
        half_widths: half the length of each side, non-negative, as many.
    """

    centers: np.ndarray
    half_widths: np.ndarray

    def gap(self, points: np.ndarray | Columns) -> np.ndarray:
        """The linf distance of each point; inside, minus that to the boundary."""
        columns = (
            points if isinstance(points, Columns) else Columns.of(as_points(points))
        )
        if not len(self.centers):
            return np.full(columns.size, np.inf, np.float32)
        # Further rectangles that hold nothing: a few programs serve all numbers.
        missing = ((0, -len(self.centers) % 4), (0, 0))
        gaps = _linf_gaps(
            columns.blocks,
            as_columns(np.pad(self.centers, missing)),
            # In the dimensions that are none, every point is deep inside.
            as_columns(
                np.pad(self.half_widths, missing, constant_values=-np.inf), fill=np.inf
            ),
        )
        return np.asarray(gaps).reshape(-1)[: columns.size]

    def contains(
        self, points: np.ndarray | Columns, epsilon: float = 0.0
    ) -> np.ndarray:
        """Whether each point lies in the union of the boxes expanded by `epsilon`."""
        return _is_within(self.gap(points), epsilon)

    def risks(self, points: np.ndarray | Columns, epsilon: float) -> Risks:
        """Those of the complement of the expanded boxes, the error region.

        All that is within `epsilon` of it lies outside the boxes themselves, whose
        share therefore bounds the adversarial risk from above; with one box it is it.
        """
        return risks_of(self.gap(points), epsilon, is_complement=True)


class Balls(NamedTuple):
    """A union of closed Euclidean balls; without any, the empty set.

    Attributes:
        centers: (balls, dimensions), in units of [0, 1] pixels.
        radii: non-negative, as many.
    """

    centers: np.ndarray
    radii: np.ndarray

    def gap(self, points: np.ndarray) -> np.ndarray:
        """The l2 distance of each point; inside, the largest of distance - radius."""
        if not len(self.centers):
            return np.full(len(points), np.inf)
        centers = np.asarray(self.centers, np.float64)
        norms = np.sum(centers**2, axis=1)
        found = []
        for x in _blocks(points):
            sums = np.sum(x**2, axis=1)[:, None] + norms
            squares = sums - 2 * (x @ centers.T)
            # Next to a center nothing is left of the difference but rounding, whose
            # root is not small: there it is the sum of squared differences.
            is_small = squares < CANCELED * sums
            for index in np.flatnonzero(is_small.any(axis=0)):
                rows = np.flatnonzero(is_small[:, index])
                differences = x[rows] - centers[index]
                squares[rows, index] = np.sum(np.square(differences), axis=1)
            gaps = np.sqrt(np.maximum(squares, 0)) - self.radii
            found.append(gaps.min(axis=1))
        return np.concatenate(found)

    def contains(self, points: np.ndarray, epsilon: float = 0.0) -> np.ndarray:
        """Whether each point lies in the union of the balls expanded by `epsilon`."""
        return _is_within(self.gap(points), epsilon, self._scale())

    def risks(self, points: np.ndarray, epsilon: float) -> Risks:
        """Those of the union of the balls, the error region."""
        return risks_of(self.gap(points), epsilon, scale=self._scale())

    def _scale(self) -> float:
        return float(np.max(self.radii, initial=0.0))


class HalfSpace(NamedTuple):
    """The open half-space of the points whose projection is above a number.

    Attributes:
        direction: (dimensions,), not zero.
        offset: the number, in units of the projection.
    """

    direction: np.ndarray
    offset: float

    def projection(self, points: np.ndarray) -> np.ndarray:
        """The inner product of each point with the direction, in double precision."""
        direction = np.asarray(self.direction, np.float64)
        parts = [block @ direction for block in _blocks(points)]
        return np.concatenate(parts)

    def gap(self, points: np.ndarray) -> np.ndarray:
        """The l2 distance of each point; inside, minus that to the boundary."""
        length = np.linalg.norm(np.asarray(self.direction, np.float64))
        return (self.offset - self.projection(points)) / length

    def contains(self, points: np.ndarray, epsilon: float = 0.0) -> np.ndarray:
        """Whether each point lies in the open half-space expanded by `epsilon`."""
        return self.gap(points) < epsilon

    def risks(self, points: np.ndarray, epsilon: float) -> Risks:
        """Those of the half-space, the error region."""
        gaps = self.gap(points)
        return Risks(float(np.mean(gaps < 0)), float(np.mean(gaps < epsilon)))


Region = Hyperrectangles | Balls | HalfSpace


def _is_within(gaps: np.ndarray, epsilon: float, scale: float = 0.0) -> np.ndarray:
    return gaps <= epsilon + TOLERANCE * max(1.0, scale + epsilon)


def risks_of(
    gaps: np.ndarray,
    epsilon: float,
    *,
    is_complement: bool = False,
    scale: float = 0.0,
) -> Risks:
    """Shares of points in an error region and near it, from their gaps to a union.

    Args:
        gaps: as a region gives them.
        epsilon: radius, in the norm of the gaps.
        is_complement: whether the error region is what the expanded union leaves,
            rather than the union itself.
        scale: largest distance that the gaps were computed from.
    """
    inside, near = (_is_within(gaps, radius, scale) for radius in (0.0, epsilon))
    # Complements are counted: 1 - 0.9 is less than a tenth.
    shares = (~near, ~inside) if is_complement else (inside, near)
    return Risks(*(float(np.mean(each)) for each in shares))
