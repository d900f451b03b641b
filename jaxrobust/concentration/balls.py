"""Concentration in l2: error regions that are unions of a few balls.

Balls round training points are added one after another: each time the one that adds
least to the expanded region for each point that it adds to the region itself.
"""

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxrobust.arguments import require, require_in
from jaxrobust.concentration.estimates import (
    Estimate,
    reaches,
    require_settings,
    require_splits,
)
from jaxrobust.concentration.guarantee import generalization_guarantee
from jaxrobust.concentration.neighbors import neighbor_lists
from jaxrobust.concentration.regions import Balls
from jaxrobust.concentration.storage import in_gigabytes
from jaxrobust.data.distances import NeighborLists, Report, Space, free_memory
from jaxrobust.data.points import unit_values

__all__ = ["Candidates", "candidate_balls", "estimate_l2", "greedy_balls"]

ROWS = 256
"""Centers that are looked at together."""

NUM_RECOUNTED = 64
"""Centers whose balls are counted over all points together."""


class Candidates(NamedTuple):
    """Training points, and the centers that balls may have.

    Attributes:
        space: the training points.
        centers: which of them may be centers.
        lists: their neighbors, themselves included.
    """

    space: Space
    centers: np.ndarray
    lists: NeighborLists


class _Best(NamedTuple):
    """A ball: its cost, and its place in the order in which balls are tried."""

    cost: int
    row: int
    place: int


UNKNOWN = np.iinfo(np.int32).max
NONE = _Best(UNKNOWN, UNKNOWN, UNKNOWN)


def candidate_balls(
    train: np.ndarray,
    alpha: float,
    *,
    max_centers: int | None = None,
    seed: int = 0,
    block_size: int | None = None,
    cache: Path | str | None = None,
    progress: Report | None = None,
) -> Candidates:
    """The centers that balls may have, with their 2 ceil(n alpha) nearest neighbors.

    Args:
        train: uint8 or floats of any shape, one image each.
        alpha: least risk, in (0, 1).
        max_centers: number of centers drawn at random from the training points, if
            there are more; None for all. All points are counted in any case.
        seed: of the draw.
        block_size: as for `neighbor_lists`; changes no number.
        cache: directory that keeps the lists, so that a killed search goes on, and
            from which they are read as needed.
        progress: told how many lists are done, and of how many.

    Raises:
        ValueError: if there is less room than the lists take, 8 bytes a neighbor, and
            the search that follows, up to 8 more of memory.
    """
    space = Space(train, "l2")
    size = len(space)
    _require_memory(size, alpha, max_centers, is_on_disk=cache is not None)
    centers = np.arange(size)
    if max_centers is not None and max_centers < size:
        rng = np.random.default_rng(seed)
        centers = np.sort(rng.choice(size, max_centers, replace=False))
    lists = neighbor_lists(
        space,
        _list_length(size, alpha),
        queries=centers,
        block_size=block_size,
        cache=cache,
        progress=progress,
    )
    return Candidates(space, centers, lists)


def _require_memory(
    size: int, alpha: float, max_centers: int | None, *, is_on_disk: bool
) -> None:
    """Refuse lists, and what `greedy_balls` counts in them, that memory cannot hold."""
    number = size if max_centers is None else min(size, max_centers)
    length = _list_length(size, alpha)
    bytes_each = 2 * np.min_scalar_type(length).itemsize
    if not is_on_disk:
        bytes_each += 8
    needed, free = number * length * bytes_each, free_memory()
    if free is None or needed <= free:
        return
    elsewhere = "" if is_on_disk else ", or a `cache`, where lists take no memory"
    raise ValueError(
        f"`alpha` must leave lists that the memory holds, got {alpha!r}: {number:,} "
        f"lists of {length:,} neighbors take {in_gigabytes(needed)}, with "
        f"{in_gigabytes(free)} free; give fewer centers by `max_centers`, a smaller "
        f"`alpha`{elsewhere}."
    )


def _list_length(size: int, alpha: float) -> int:
    return min(size, 2 * _ceil(size * alpha))


def _ceil(value: float) -> int:
    """Rounded up, unless only rounding made it more than a whole number."""
    return math.ceil(value - 1e-9)


def _target(size: int, alpha: float, slack: float) -> int:
    """How many points balls are to cover."""
    target = min(_ceil(size * alpha * (1 + slack)), size)
    length = _list_length(size, alpha)
    require(
        target <= length,
        "slack",
        f"such that no more than {length} points, the length of the lists, are covered",
        slack,
        f"it asks for {target}, so ask for less",
    )
    return target


def greedy_balls(
    candidates: Candidates,
    epsilon: float,
    alpha: float,
    *,
    num_balls: int,
    slack: float = 0.0,
) -> Balls:
    r"""Balls that hold ceil(n alpha (1 + slack)) training points, and little beyond.

    Ball t of T holds at least an equal share of the points that are still to be
    covered, and at most all of them: for every center u and every such number m its
    radius r is the distance to the m-th point of u's list that is not yet covered. Of
    all (u, m) the first is taken for which the number of points that join the expanded
    region (within r + epsilon) minus that of the points that join the region (within r)
    is least.

    Both numbers are counted over all training points, also where r + epsilon is more
    than the furthest neighbor in the list.

    Args:
        candidates: centers and their neighbors.
        epsilon: l2 radius, in units of [0, 1] pixels.
        alpha: least risk, in (0, 1).
        num_balls: T; fewer are used where that covers enough.
        slack: how much more than `alpha` the training risk is to be, relatively.

    References:
        Mahloujifar et al., 2019, arXiv:1905.12202, Algorithm 2.
    """
    space, centers, lists = candidates
    size = len(space)
    length = _list_length(size, alpha)
    if lists.distances.shape[1] != length:
        raise ValueError(
            "`candidates` must be made with the same `alpha`, got lists of "
            f"{lists.distances.shape[1]} neighbors, and {alpha!r} takes {length}; call "
            "candidate_balls with it."
        )
    target = _target(size, alpha, slack)
    reaches = _reach(lists.distances, 0.0), _reach(lists.distances, epsilon)
    is_covered = np.zeros(size, bool)
    is_near = np.zeros(size, bool)
    found: list[tuple[int, float]] = []
    for index in range(num_balls):
        missing = target - int(is_covered.sum())
        if missing <= 0:
            break
        fewest = -(-missing // (num_balls - index))
        step = _Step(
            candidates, *reaches, epsilon, is_covered, is_near, fewest, missing
        )
        best = step.best()
        radius = float(lists.distances[best.row, best.place])
        found.append((int(centers[best.row]), radius))
        (distances,) = space.distances(centers[best.row : best.row + 1])
        is_covered |= distances <= radius
        is_near |= distances <= radius + epsilon
    which = np.array([center for center, _ in found])
    radii = np.array([radius for _, radius in found])
    return Balls(unit_values(space.points[which]), radii)


def _reach(distances: np.ndarray, epsilon: float) -> np.ndarray:
    """For each entry of each list, how many entries are at most `epsilon` further."""
    found = np.empty(distances.shape, np.min_scalar_type(distances.shape[1]))
    for row, each in zip(found, distances, strict=True):
        wide = each.astype(np.float64)
        row[:] = np.searchsorted(wide, wide + epsilon, side="right")
    return found


class _Step(NamedTuple):
    """The search for one ball.

    Attributes:
        candidates: centers and their neighbors.
        inside: for each entry of each list, how many entries the ball to it holds.
        within: how many its expansion holds; where that is all of them, there may be
            more beyond the list.
        epsilon: radius of the expansion.
        is_covered: which points are in the region already.
        is_near: which points are in the expanded region already.
        fewest: points that the ball must add to the region.
        most: points that it may add.
    """

    candidates: Candidates
    inside: np.ndarray
    within: np.ndarray
    epsilon: float
    is_covered: np.ndarray
    is_near: np.ndarray
    fewest: int
    most: int

    def best(self) -> _Best:
        """The first ball of least cost.

        The cost of a ball that reaches beyond the list of its center is at least what
        the list says; only those that could be the best are counted again.
        """
        starts = range(0, len(self.candidates.centers), ROWS)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            parts = list(pool.map(self._by_lists, starts))
        best = min((part[0] for part in parts if part[0] is not None), default=NONE)
        floors = np.concatenate([part[1] for part in parts])
        order = np.argsort(floors, kind="stable")
        for start in range(0, len(order), NUM_RECOUNTED):
            rows = order[start : start + NUM_RECOUNTED]
            rows = rows[floors[rows] <= best.cost]
            if not len(rows):
                break
            best = min(best, *self._by_points(np.sort(rows)))
        return best

    def _balls(self, rows: np.ndarray | slice) -> tuple[np.ndarray, np.ndarray]:
        """Which entries of lists are balls to be tried, and how many they would add."""
        is_new = ~self.is_covered[self.candidates.lists.indices[rows]]
        counts = np.cumsum(is_new, axis=1, dtype=np.int32)
        is_ball = is_new & (counts >= self.fewest) & (counts <= self.most)
        added = np.take_along_axis(counts, self.inside[rows].astype(np.intp) - 1, 1)
        return is_ball, added

    def _by_lists(self, start: int) -> tuple[_Best | None, np.ndarray]:
        """The best ball that ends within its list, and a bound on those that do not.

        Returns:
            That ball of some rows, if any, and the least cost that other balls of each
            row can have.
        """
        rows = slice(start, start + ROWS)
        is_ball, added = self._balls(rows)
        length = is_ball.shape[1]
        near = ~self.is_near[self.candidates.lists.indices[rows]]
        counts = np.cumsum(near, axis=1, dtype=np.int32)
        within = self.within[rows]
        costs = np.take_along_axis(counts, within.astype(np.intp) - 1, 1) - added
        is_beyond = within == length
        if length == len(self.candidates.space):
            is_beyond[:] = False
        # Where not even the ball itself ends within the list, nothing is known: points
        # beyond it may tie with its last, and make the ball better if they are near.
        costs[is_beyond & (self.inside[rows] == length)] = -len(self.candidates.space)
        floors = np.where(is_ball & is_beyond, costs, UNKNOWN).min(axis=1)
        costs = np.where(is_ball & ~is_beyond, costs, UNKNOWN)
        row, place = divmod(int(np.argmin(costs)), length)
        if costs[row, place] == UNKNOWN:
            return None, floors
        return _Best(int(costs[row, place]), start + row, place), floors

    def _by_points(self, rows: np.ndarray) -> list[_Best]:
        """The best ball of each center, counted over all points."""
        is_ball, _ = self._balls(rows)
        radii = self.candidates.lists.distances[rows].astype(np.float64)
        distances = self.candidates.space.distances(self.candidates.centers[rows])
        found = []
        for index, row in enumerate(rows):
            places = np.flatnonzero(is_ball[index])
            ends = radii[index, places]
            new = np.sort(distances[index, ~self.is_covered]).astype(np.float64)
            near = np.sort(distances[index, ~self.is_near]).astype(np.float64)
            costs = np.searchsorted(near, ends + self.epsilon, side="right")
            costs -= np.searchsorted(new, ends, side="right")
            first = int(np.argmin(costs))
            found.append(_Best(int(costs[first]), int(row), int(places[first])))
        return found


def estimate_l2(
    train: np.ndarray | Candidates,
    test: np.ndarray,
    *,
    epsilon: float,
    alpha: float,
    num_balls: int | Sequence[int] = 20,
    slack: float = 0.0,
    max_centers: int | None = None,
    delta: float = 0.01,
    seed: int = 0,
    block_size: int | None = None,
    cache: Path | str | None = None,
    progress: Report | None = None,
) -> Estimate:
    """How little a set of measure `alpha` can grow in l2, by balls.

    Args:
        train: uint8 or floats of any shape, one image each; or what `candidate_balls`
            made of them with the same `alpha`, so that several estimates share it.
        test: images of the same size, on which the region is reported.
        epsilon: radius, in units of [0, 1] pixels.
        alpha: least risk of the error region on the training points, in (0, 1); the
            room that the lists take is in proportion, from a half on that of all
            distances.
        num_balls: T, or several, of which the one with the smallest adversarial risk
            on the training points is taken.
        slack: how much more than `alpha` the training risk is to be, relatively: the
            published numbers have .25 on MNIST, .05 on Fashion-MNIST and 0 on CIFAR-10
            and SVHN.
        max_centers: number of centers drawn at random, if there are more points; None
            for all. The time falls in proportion.
        delta: deviation for which the guarantee is given.
        seed: of the draw; without one, nothing is random.
        block_size: as for `neighbor_lists`; changes no number.
        cache: directory that keeps the neighbors, so that a killed search goes on.
        progress: told how many lists are done, and of how many.

    Raises:
        ValueError: for an argument out of range, or if there is less room than the
            neighbors take.

    References:
        Mahloujifar et al., 2019, arXiv:1905.12202, Algorithm 2.
    """
    counts = {"num_balls": num_balls}
    if max_centers is not None:
        counts["max_centers"] = max_centers
    require_settings(epsilon=epsilon, alpha=alpha, **counts)
    remedy = "it is relative, so 0.25 for a quarter more than `alpha`"
    require_in("slack", slack, "[0, inf)", remedy)
    is_made = isinstance(train, Candidates)
    points, others = require_splits(train.space.points if is_made else train, test)
    _target(len(points), alpha, slack)
    candidates = train
    if not isinstance(candidates, Candidates):
        candidates = candidate_balls(
            points,
            alpha,
            max_centers=max_centers,
            seed=seed,
            block_size=block_size,
            cache=cache,
            progress=progress,
        )
    choices = [num_balls] if isinstance(num_balls, int) else list(num_balls)
    tried = []
    for choice in choices:
        region = greedy_balls(candidates, epsilon, alpha, num_balls=choice, slack=slack)
        tried.append((region.risks(points, epsilon), choice, region))
    risks, choice, region = min(tried, key=lambda each: each[0].adversarial_risk)
    return Estimate(
        method="balls",
        norm="l2",
        epsilon=epsilon,
        alpha=alpha,
        regions=(region,),
        train=(risks,),
        test=(region.risks(others, epsilon),),
        num_regions=choice,
        num_feasible=int(reaches(risks.risk, alpha)),
        guarantee=generalization_guarantee(
            points.shape[1], max(choices), len(points), delta=delta
        ),
        settings={
            "num_balls": choices,
            "slack": slack,
            "num_centers": len(candidates.centers),
            "seed": seed,
        },
    )
