r"""Distances between images, a block of some images and all of them at a time.

How they are exact. Where pixels are bytes, everything is done in whole numbers: l1 as a
sum of differences of bytes, squared l2 as :math:`|a|^2 + |b|^2 - 2 a \cdot b` with
bytes shifted to [-128, 127], whose inner product over at most 1,024 dimensions is a
whole number of at most 2^24, which a float32 matrix product cannot round. Where pixels
are other floats, such programs find distances up to a known error; every point that
could, by that error, be among the nearest is measured again, in double precision. If
nearly all points are wanted, it is faster to do all of it in double precision.
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxrobust.arguments import require, require_choice
from jaxrobust.data.points import accumulate, as_points, unit_values, whole

__all__ = [
    "NeighborLists",
    "Norm",
    "Report",
    "Space",
    "block_size_for",
    "finished",
    "free_memory",
]

Norm = Literal["l1", "l2"]

T = TypeVar("T")
R = TypeVar("R")

Report = Callable[[int, int], None]
"""Told how many points are done, and of how many."""

EXACT_DIMENSIONS = 1024
"""Dimensions over which inner products of shifted bytes are exact in float32."""

MAX_BYTE_DIMENSIONS = 33_000
"""Dimensions up to which squared l2 distances of bytes fit 32 bits."""

MEMORY = 2**29
"""Bytes that blocks take together, unless an eighth of what is free is less."""

MAX_BLOCK = 512
"""Points in a block at most; more of them make nothing faster."""

TILE_ROWS, TILE = 32, 1024
"""Points whose l1 distances are summed up together: these sums stay in the cache."""

ROUNDING = 2.0**-24
"""Largest relative error of one operation in float32."""


class NeighborLists(NamedTuple):
    """The nearest points of some points, nearest first, equally near ones by number.

    Attributes:
        distances: float32, (queries, k), in units of [0, 1] pixels; the first are 0.
        indices: int32, (queries, k), which points they are.
    """

    distances: np.ndarray
    indices: np.ndarray


@jax.jit
def _l1(rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Distances; of bytes as whole numbers in byte units: int32, exact.

    Args:
        rows: uint8 or float32, (row tiles, dimensions, points of a tile).
        columns: the same for all points, (tiles, dimensions, points of a tile).
    """
    is_bytes = rows.dtype == jnp.uint8
    kind = jnp.int32 if is_bytes else jnp.float32
    height, width = rows.shape[2], columns.shape[2]

    def term(x: jax.Array, y: jax.Array) -> jax.Array:
        x, y = x[:, None], y[None]
        if not is_bytes:
            return jnp.abs(x - y)
        # Bytes as long as possible: 64 of them are one AVX-512 register.
        return (jnp.maximum(x, y) - jnp.minimum(x, y)).astype(jnp.uint16)

    def tile(index: jax.Array, found: jax.Array) -> jax.Array:
        row, column = index // len(columns), index % len(columns)
        parts = (
            lax.dynamic_index_in_dim(rows, row, keepdims=False),
            lax.dynamic_index_in_dim(columns, column, keepdims=False),
        )
        zero = jnp.zeros((height, width), kind)
        sums = accumulate(term, zero, parts, lambda a, b: a + b.astype(a.dtype))
        return lax.dynamic_update_slice(found, sums, (row * height, column * width))

    empty = jnp.zeros((len(rows) * height, len(columns) * width), kind)
    return lax.fori_loop(0, len(rows) * len(columns), tile, empty)


@jax.jit
def _l2_of_bytes(rows: jax.Array, columns: jax.Array, norms: jax.Array) -> jax.Array:
    """Squared distances, in squares of byte units: int32, exact.

    Args:
        rows: float32 in [-128, 127], (rows, dimensions).
        columns: the same for all points, dimensions first.
        norms: int32, squared lengths of all points.
    """
    own = jnp.sum(jnp.square(rows.astype(jnp.int32)), axis=1)
    products = jnp.zeros((len(rows), columns.shape[1]), jnp.int32)
    for start in range(0, len(columns), EXACT_DIMENSIONS):
        part = slice(start, start + EXACT_DIMENSIONS)
        product = jnp.dot(rows[:, part], columns[part], precision=lax.Precision.HIGHEST)
        products += product.astype(jnp.int32)
    return own[:, None] + norms[None] - 2 * products


@jax.jit
def _l2_of_floats(rows: jax.Array, columns: jax.Array, norms: jax.Array) -> jax.Array:
    """Squared distances of centered points, up to rounding."""
    own = jnp.sum(jnp.square(rows), axis=1)
    product = jnp.dot(rows, columns, precision=lax.Precision.HIGHEST)
    return own[:, None] + norms[None] - 2 * product


def _l2_of_doubles(
    rows: np.ndarray, columns: np.ndarray, norms: np.ndarray
) -> np.ndarray:
    """Squared distances of centered points in double precision, which jax lacks."""
    block = rows @ columns
    block *= -2
    block += norms
    block += np.einsum("ij,ij->i", rows, rows)[:, None]
    return block


def _tiles(points: np.ndarray, size: int) -> np.ndarray:
    """Points with the dimension first, some at a time; filled up with zeros."""
    shape = (-(-len(points) // size), whole(points.shape[1]), size)
    tiles = np.zeros(shape, points.dtype)
    for index, tile in enumerate(tiles):
        part = points[index * size : (index + 1) * size]
        tile[: points.shape[1], : len(part)] = part.T
    return tiles


class Space:
    """Points with a norm, and the distances between them.

    Args:
        images: uint8 or floats of any shape, one image each.
        norm: "l1" or "l2".
        is_double: find blocks of floats in double precision, for l2; takes twice as
            long, and `measured` makes distances of all of it.

    Attributes:
        norm: as given.
        points: the images as rows, bytes or float32.
    """

    def __init__(self, images: np.ndarray, norm: Norm, *, is_double: bool = False):
        require_choice("norm", norm, ("l1", "l2"))
        remedy = "leave `is_double` out: sums of l1 hardly round"
        require(norm == "l2" or not is_double, "norm", "l2", norm, remedy)
        self.norm: Norm = norm
        self.points = as_points(images)
        dimensions = self.points.shape[1]
        # Whether blocks hold whole numbers, without rounding.
        self._is_exact = self.points.dtype == np.uint8 and (
            norm == "l1" or dimensions <= MAX_BYTE_DIMENSIONS
        )
        self._is_double = is_double and not self._is_exact
        if norm == "l1":
            self._rows, self._arguments = self._prepared_l1()
        elif self._is_double:
            self._rows, self._arguments = self._prepared_doubles()
        else:
            self._rows, self._arguments = self._prepared_l2()

    def __len__(self) -> int:
        return len(self.points)

    def block(self, which: np.ndarray) -> np.ndarray:
        """What tells distances of some points to all points apart: rises with them."""
        program: Callable[..., Any] = _l2_of_floats
        if self.norm == "l1":
            program = _l1
        elif self._is_exact:
            program = _l2_of_bytes
        elif self._is_double:
            program = _l2_of_doubles
        found = program(self._rows(which), *self._arguments)
        return np.asarray(found)[: len(which), : len(self)]

    def measured(self, block: np.ndarray) -> np.ndarray:
        """Distances from values of a block, in double precision.

        Exact for bytes; for other floats, of which `is_double` must have been said,
        right to 1e-6, and but for points that coincide to 1e-12.
        """
        values = block.astype(np.float64)
        if self._is_double:
            return np.sqrt(np.maximum(values, 0))
        return (values if self.norm == "l1" else np.sqrt(values)) / 255

    def distances(self, which: np.ndarray) -> np.ndarray:
        """Distances of some points to all points: float32, (some, all)."""
        if self._is_exact:
            return self.measured(self.block(which)).astype(np.float32)
        everything = np.arange(len(self))
        found = [self._direct(each, everything) for each in which]
        return np.stack(found).astype(np.float32)

    def kth(self, which: np.ndarray, block: np.ndarray, k: int) -> np.ndarray:
        """Distances of some points to their k-th nearest, from their block."""
        if self._is_exact:
            return self.measured(np.partition(block, k - 1, axis=1)[:, k - 1])
        pairs = self._candidates(which, block, k)
        return np.array([np.partition(each, k - 1)[k - 1] for _, each in pairs])

    def nearest(self, which: np.ndarray, block: np.ndarray, k: int) -> NeighborLists:
        """The k nearest of some points, from their block."""
        if self._is_exact:
            # Distance and number in one whole number: equally near ones have an order.
            keys = block.astype(np.int64) << 32
            keys |= np.arange(len(self), dtype=np.int64)
            if k < len(self):
                keys = np.partition(keys, k - 1, axis=1)[:, :k]
            keys.sort(axis=1)
            distances = self.measured(keys >> 32).astype(np.float32)
            return NeighborLists(distances, keys.astype(np.uint32).view(np.int32))
        rows = []
        for places, distances in self._candidates(which, block, k):
            order = np.lexsort((places, distances))[:k]
            rows.append((distances[order].astype(np.float32), places[order]))
        return NeighborLists(
            np.stack([row[0] for row in rows]),
            np.stack([row[1] for row in rows]).astype(np.int32),
        )

    def _prepared_l1(self):
        width = min(TILE, len(self))

        def rows(which: np.ndarray) -> np.ndarray:
            return _tiles(self.points[which], min(TILE_ROWS, len(which)))

        return rows, (jnp.asarray(_tiles(self.points, width)),)

    def _prepared_l2(self):
        if self._is_exact:

            def shifted(points: np.ndarray) -> np.ndarray:
                return points.astype(np.float32) - 128

            whole = self.points.astype(np.int32) - 128
            norms = np.sum(np.square(whole, out=whole), axis=1, dtype=np.int32)
        else:
            mean = unit_values(self.points).mean(axis=0, dtype=np.float64)
            mean = mean.astype(np.float32)

            def shifted(points: np.ndarray) -> np.ndarray:
                return unit_values(points) - mean

            values = shifted(self.points)
            norms = np.sum(np.square(values), axis=1)
            # A difference of shifted points is off by their rounding, a product of d
            # terms by d roundings; each relative to at most the largest length.
            steps = self.points.shape[1] + 20
            self._slack = 4 * steps * ROUNDING * float(norms.max())
        columns = jnp.asarray(np.ascontiguousarray(shifted(self.points).T))
        return lambda which: shifted(self.points[which]), (columns, jnp.asarray(norms))

    def _prepared_doubles(self):
        values = unit_values(self.points).astype(np.float64)
        # What is near the origin loses little when squares cancel.
        values -= values.mean(axis=0)
        norms = np.einsum("ij,ij->i", values, values)
        steps = self.points.shape[1] + 20
        self._slack = 4 * steps * 2.0**-53 * float(norms.max())
        return lambda which: values[which], (values.T, norms)

    def _direct(self, one: int, others: np.ndarray) -> np.ndarray:
        """Distances of one point to others, from differences in double precision."""
        values = unit_values(self.points[others]).astype(np.float64)
        values -= unit_values(self.points[one])
        if self.norm == "l1":
            return np.abs(values, out=values).sum(axis=1)
        return np.sqrt(np.square(values, out=values).sum(axis=1))

    def _candidates(
        self, which: np.ndarray, block: np.ndarray, k: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """For each point, a set that holds its k nearest, and their distances."""
        limits = np.partition(block, k - 1, axis=1)[:, k - 1].astype(np.float64)
        if self.norm == "l1":
            # Sums of d terms without cancellation.
            limits *= 1 + 4 * (self.points.shape[1] + 20) * ROUNDING
        else:
            limits += 2 * self._slack
        for one, row, limit in zip(which, block, limits, strict=True):
            places = np.flatnonzero(row <= limit)
            yield places, self._direct(one, places)


def finished(work: Callable[[T], R], blocks: Iterable[T]) -> Generator[R, None, None]:
    """What threads make of blocks, in the order of these, few of them ahead.

    Threads, since parts of a block are not parallel by themselves. Whoever stops early
    closes it: what has not begun never is.
    """
    rest, count = iter(blocks), _num_threads()
    with ThreadPoolExecutor(count) as pool:
        waiting = deque(pool.submit(work, each) for each in islice(rest, count))
        try:
            while waiting:
                done = waiting.popleft().result()
                waiting.extend(pool.submit(work, each) for each in islice(rest, 1))
                yield done
        finally:
            for each in waiting:
                each.cancel()


def _num_threads() -> int:
    return min(os.cpu_count() or 1, 8)


def block_size_for(num_points: int) -> int:
    """Points in a block so that those in work fit the memory there is."""
    # A number, its temporaries, and a key with its copy.
    per_point = num_points * (3 * 4 + 2 * 8) * _num_threads()
    free = free_memory()
    memory = MEMORY if free is None else min(MEMORY, free // 8)
    return int(np.clip(memory // per_point, 1, MAX_BLOCK))


def free_memory() -> int | None:
    """Bytes that can be had without swapping; None where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None
