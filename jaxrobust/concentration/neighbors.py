"""Exact distances from each point to its nearest neighbors, itself included.

Rows of points are compared with all points, a block at a time, and what is not wanted
is forgotten: no matrix of all distances is held beside the result. Lists are as large
as asked for, up to twice that matrix. Blocks are finished in order and kept in a cache
if there is one, so that a search that was killed goes on.
"""

from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from jaxrobust.arguments import require, require_count
from jaxrobust.concentration.storage import Shapes, Store
from jaxrobust.data.distances import (
    NeighborLists,
    Norm,
    Report,
    Space,
    block_size_for,
    finished,
)
from jaxrobust.keeping import fingerprint

__all__ = ["kth_neighbor_distances", "neighbor_lists"]


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
    size = block_size or block_size_for(len(space))
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

        starts = range(store.done, len(which), size)
        with closing(finished(work, starts)) as done:
            try:
                for start, values in done:
                    store.put(start, values)
                    if progress is not None:
                        progress(store.done, len(which))
            finally:
                # Also after Ctrl-C: what is done is kept, what has not begun never is.
                store.keep()
    return store.arrays
