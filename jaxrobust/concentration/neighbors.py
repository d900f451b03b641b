r"""Exact distances from each point to its nearest neighbors, itself included.

Rows of points are compared with all points, a block at a time, and what is not wanted
is forgotten: no matrix of all distances is held beside the result. Lists are as large
as asked for, up to twice that matrix. Blocks are finished in order and kept in a cache
if there is one, so that a search that was killed goes on.

How it is exact. Where pixels are bytes, everything is done in whole numbers: l1 as a
sum of differences of bytes, squared l2 as :math:`|a|^2 + |b|^2 - 2 a \cdot b` with
bytes shifted to [-128, 127], whose inner product over at most 1,024 dimensions is a
whole number of at most 2^24, which a float32 matrix product cannot round. Where pixels
are other floats, such programs find distances up to a known error; every point that
could, by that error, be among the nearest is measured again, in double precision.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxrobust.arguments import require, require_choice, require_count
from jaxrobust.concentration.points import accumulate, as_points, unit_values, whole
from jaxrobust.concentration.storage import Shapes, Store, free_memory
from jaxrobust.keeping import fingerprint

__all__ = [
    "NeighborLists",
    "Norm",
    "Space",
    "kth_neighbor_distances",
    "neighbor_lists",
]

Norm = Literal["l1", "l2"]

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

    Attributes:
        norm: as given.
        points: the images as rows, bytes or float32.
    """

    def __init__(self, images: np.ndarray, norm: Norm):
        require_choice("norm", norm, ("l1", "l2"))
        self.norm: Norm = norm
        self.points = as_points(images)
        dimensions = self.points.shape[1]
        # Whether blocks hold whole numbers, without rounding.
        self._is_exact = self.points.dtype == np.uint8 and (
            norm == "l1" or dimensions <= MAX_BYTE_DIMENSIONS
        )
        if norm == "l1":
            self._rows, self._arguments = self._prepared_l1()
        else:
            self._rows, self._arguments = self._prepared_l2()

    def __len__(self) -> int:
        return len(self.points)

    def block(self, which: np.ndarray) -> np.ndarray:
        """What tells distances of some points to all points apart: rises with them."""
        program = _l1
        if self.norm == "l2":
            program = _l2_of_bytes if self._is_exact else _l2_of_floats
        found = program(self._rows(which), *self._arguments)
        return np.asarray(found)[: len(which), : len(self)]

    def distances(self, which: np.ndarray) -> np.ndarray:
        """Distances of some points to all points: float32, (some, all)."""
        if self._is_exact:
            return self._measured(self.block(which)).astype(np.float32)
        everything = np.arange(len(self))
        found = [self._direct(each, everything) for each in which]
        return np.stack(found).astype(np.float32)

    def kth(self, which: np.ndarray, block: np.ndarray, k: int) -> np.ndarray:
        """Distances of some points to their k-th nearest, from their block."""
        if self._is_exact:
            return self._measured(np.partition(block, k - 1, axis=1)[:, k - 1])
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
            distances = self._measured(keys >> 32).astype(np.float32)
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

    def _measured(self, block: np.ndarray) -> np.ndarray:
        """Distances from the whole numbers of a block, in double precision."""
        values = block.astype(np.float64)
        return (values if self.norm == "l1" else np.sqrt(values)) / 255

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


def kth_neighbor_distances(
    images: np.ndarray,
    k: int,
    *,
    norm: Norm = "l1",
    block_size: int | None = None,
    cache: Path | str | None = None,
    progress: Report | None = None,
) -> np.ndarray:
    """The distance of each point to the k-th nearest point, itself counted as first.

    Args:
        images: uint8 or floats of any shape, one image each.
        k: in [1, number of points]; 1 gives 0.
        norm: "l1" or "l2".
        block_size: points compared with all points at once; None for as many as fit
            the memory there is. Changes no number.
        cache: directory in which the result is kept, under a name made of the data and
            the settings; None to keep none.
        progress: told how many points are done, and of how many, after each block.

    Returns:
        Float64, (points,), in units of [0, 1] pixels. Exact for bytes and k/255; for
        other floats right to 1e-12 of their float32 values.

    Raises:
        ValueError: for an argument out of range, a cache that is damaged or that of
            something else, or if there is no memory for the result.
        OSError: if there is no room for it on the disk.
        InUseError: if another search for the same is filling the cache.
    """
    space = Space(images, norm)
    everything = np.arange(len(space))
    arrays = {"distances": ((len(space),), np.float64)}

    def found(which: np.ndarray, block: np.ndarray) -> dict[str, np.ndarray]:
        return {"distances": space.kth(which, block, k)}

    settings = {"kind": "kth", "k": int(k)}
    done = _search(
        space, everything, settings, arrays, found, block_size, cache, progress
    )
    return np.array(done["distances"])


def neighbor_lists(
    images: np.ndarray | Space,
    k: int,
    *,
    norm: Norm = "l2",
    queries: np.ndarray | None = None,
    block_size: int | None = None,
    cache: Path | str | None = None,
    progress: Report | None = None,
) -> NeighborLists:
    """The k nearest points of each point, itself counted as one.

    Args:
        images: uint8 or floats of any shape, one image each; or a `Space`, whose norm
            is taken.
        k: in [1, number of points].
        norm: "l1" or "l2".
        queries: numbers of the points whose neighbors are wanted; None for all.
        block_size: points compared with all points at once; None for as many as fit
            the memory there is. Changes no number.
        cache: directory in which the result is kept, under a name made of the data and
            the settings, to be read from there as needed; None to keep it in memory,
            8 bytes for each neighbor.
        progress: told how many points are done, and of how many, after each block.

    Raises:
        ValueError: for an argument out of range, a cache that is damaged or that of
            something else, or if there is no memory for the result.
        OSError: if there is no room for it on the disk.
        InUseError: if another search for the same is filling the cache.
    """
    space = images if isinstance(images, Space) else Space(images, norm)
    which = np.arange(len(space)) if queries is None else np.asarray(queries)
    remedy = "give numbers of points, or None for all"
    require(which.size > 0, "queries", "one point or more", which.tolist(), remedy)
    require_count("queries", which, remedy, least=0, most=len(space) - 1)
    shape = (len(which), k)
    arrays = {"distances": (shape, np.float32), "indices": (shape, np.int32)}

    def found(which: np.ndarray, block: np.ndarray) -> dict[str, np.ndarray]:
        return space.nearest(which, block, k)._asdict()

    settings = {
        "kind": "lists",
        "k": int(k),
        "queries": fingerprint(which.astype(np.int64)),
    }
    done = _search(space, which, settings, arrays, found, block_size, cache, progress)
    return NeighborLists(done["distances"], done["indices"])


def _search(
    space: Space,
    which: np.ndarray,
    settings: Mapping[str, Any],
    arrays: Shapes,
    found: Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]],
    block_size: int | None,
    cache: Path | str | None,
    progress: Report | None,
) -> dict[str, np.ndarray]:
    """Fill arrays with what is found for some points, block by block."""
    k = settings["k"]
    remedy = "ask for no more neighbors than there are points"
    require_count("k", k, remedy, most=len(space))
    if block_size is not None:
        require_count("block_size", block_size, "None chooses one")
    # Threads, since parts of a block are not parallel by themselves.
    num_threads = min(os.cpu_count() or 1, 8)
    size = block_size or _chosen_block_size(len(space), num_threads)
    name = f"{space.norm}-{settings['kind']}-{k}"
    # The data take a while to hash, and without a cache nobody asks.
    data = "" if cache is None else fingerprint(space.points)
    about = {"norm": space.norm, **settings, "data": data}
    with Store(cache, name, about, arrays) as store:

        def work(start: int) -> tuple[int, dict[str, np.ndarray]]:
            part = which[start : start + size]
            # The last block is filled up, so that one program serves all.
            filled = np.pad(part, (0, min(size, len(which)) - len(part)), mode="edge")
            return start, found(part, space.block(filled)[: len(part)])

        starts = iter(range(store.done, len(which), size))
        waiting: deque[Future[tuple[int, dict[str, np.ndarray]]]] = deque()
        with ThreadPoolExecutor(num_threads) as pool:
            try:
                waiting.extend(
                    pool.submit(work, each) for each in islice(starts, num_threads)
                )
                while waiting:
                    start, values = waiting.popleft().result()
                    waiting.extend(
                        pool.submit(work, each) for each in islice(starts, 1)
                    )
                    store.put(start, values)
                    if progress is not None:
                        progress(store.done, len(which))
            finally:
                # Also after Ctrl-C: what is done is kept, what has not begun never is.
                for each in waiting:
                    each.cancel()
                store.keep()
    return store.arrays


def _chosen_block_size(num_points: int, num_threads: int) -> int:
    """Points in a block so that those in work fit the memory there is."""
    # A number, its temporaries, and a key with its copy.
    per_point = num_points * (3 * 4 + 2 * 8) * num_threads
    free = free_memory()
    memory = MEMORY if free is None else min(MEMORY, free // 8)
    return int(np.clip(memory // per_point, 1, MAX_BLOCK))
