"""Concentration in linf: error regions outside of a few rectangles.

The training points are sorted by density; the densest share q of them is covered by T
rectangles, found by k-means; the error region is what the rectangles, expanded by
epsilon, leave; and q is searched for by bisection. What is reported, as in the paper,
are rectangles from other starts at that q, whose risk may be less than was asked for.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxrobust.arguments import require_choice, require_count
from jaxrobust.concentration.estimates import (
    Estimate,
    Visit,
    reaches,
    require_settings,
    require_splits,
)
from jaxrobust.concentration.guarantee import generalization_guarantee
from jaxrobust.concentration.neighbors import kth_neighbor_distances
from jaxrobust.concentration.regions import Hyperrectangles
from jaxrobust.data.distances import Report
from jaxrobust.data.points import (
    Columns,
    accumulate,
    as_columns,
    unit_values,
)

__all__ = [
    "Clusters",
    "Rule",
    "SortedPoints",
    "cluster",
    "cover",
    "estimate_linf",
    "search_quantile",
    "sort_by_density",
    "visit",
]

Rule = Literal["train", "train and test"]
"""The splits on which a region is selected, see `estimate_linf`."""

MAX_ROUNDS = 30
WIDTH = 0.005
"""Width of the interval of q at which the bisection ends."""


TRIES = 4
"""Times as many restarts as are wanted, where only feasible ones are."""


class SortedPoints(NamedTuple):
    """A data set ready for the search.

    Attributes:
        train: training points as rows, the densest first.
        train_columns: the same for compiled loops.
        test_columns: test points for compiled loops.
    """

    train: np.ndarray
    train_columns: Columns
    test_columns: Columns


class Clusters(NamedTuple):
    """What k-means found, for one or more starts.

    Attributes:
        labels: int32, (starts, points), the cluster of each point.
        centers: float32, (starts, clusters, dimensions), the means; infinite where a
            cluster has no points.
        num_rounds: int32, (starts,).
    """

    labels: np.ndarray
    centers: np.ndarray
    num_rounds: np.ndarray


def sort_by_density(
    train: np.ndarray,
    test: np.ndarray,
    *,
    num_neighbors: int = 50,
    block_size: int | None = None,
    cache: Path | str | None = None,
    progress: Report | None = None,
) -> SortedPoints:
    """Training points by the l1 distance to their k-th nearest, themselves included.

    Args:
        train: uint8 or floats of any shape, one image each.
        test: the same.
        num_neighbors: k, in [1, number of training points].
        block_size: as for `kth_neighbor_distances`; changes no number.
        cache: directory that keeps the distances, so that a killed search goes on.
        progress: told how many distances are done, and of how many.

    Raises:
        ValueError: for images that are no points, or an argument out of range.
    """
    train, test = require_splits(train, test)
    remedy = "50 is usual, and there are no more than the training points"
    require_count("num_neighbors", num_neighbors, remedy, most=len(train))
    distances = kth_neighbor_distances(
        train,
        num_neighbors,
        norm="l1",
        block_size=block_size,
        cache=cache,
        progress=progress,
    )
    train = train[np.argsort(distances, kind="stable")]
    return SortedPoints(train, Columns.of(train), Columns.of(test))


@jax.jit
def _k_means(
    blocks: jax.Array, count: jax.Array, starts: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """k-means of the first points of blocks; `starts` is (starts, dimensions, T)."""
    num_blocks, num_dimensions, size = blocks.shape
    num_clusters = starts.shape[2]
    num_used = (count + size - 1) // size

    def distance(x: jax.Array, c: jax.Array) -> jax.Array:
        return jnp.abs(x[None] - c[:, None])

    def assigned(centers: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The label of each point, and the sum and number of those of each cluster."""

        def one_block(index: jax.Array, found):
            labels, sums, counts = found
            block = lax.dynamic_index_in_dim(blocks, index, keepdims=False)
            first = jnp.zeros((num_clusters, size))
            distances = accumulate(distance, first, (block, centers), jnp.add)
            nearest = jnp.argmin(distances, axis=0).astype(jnp.int32)
            is_used = index * size + jnp.arange(size) < count
            is_nearest = nearest[None] == jnp.arange(num_clusters)[:, None]
            members = (is_nearest & is_used[None]).astype(jnp.float32)
            sums += jnp.dot(block, members.T, precision=lax.Precision.HIGHEST)
            # A point that is not used is in no cluster; 0 leaves the sum of labels.
            labels = lax.dynamic_update_index_in_dim(
                labels, jnp.where(is_used, nearest, 0), index, 0
            )
            return labels, sums, counts + members.sum(axis=1)

        empty = (
            jnp.zeros((num_blocks, size), jnp.int32),
            jnp.zeros((num_dimensions, num_clusters)),
            jnp.zeros(num_clusters),
        )
        return lax.fori_loop(0, num_used, one_block, empty)

    def one_round(state):
        num_rounds, centers, labels, _ = state
        before = jnp.sum(labels)
        labels, sums, counts = assigned(centers)
        # An empty cluster is gone: nothing is nearest to infinity.
        means = jnp.where(counts[None] > 0, sums / counts[None], jnp.inf)
        is_over = (num_rounds > 0) & (jnp.sum(labels) == before)
        return num_rounds + 1, means, labels, is_over

    def one_start(start: jax.Array):
        labels = jnp.zeros((num_blocks, size), jnp.int32)
        first = (jnp.int32(0), start, labels, jnp.array(False))
        rounds, centers, labels, _ = lax.while_loop(
            lambda state: (state[0] < MAX_ROUNDS) & ~state[3], one_round, first
        )
        return labels.reshape(-1), centers.T, rounds

    return lax.map(one_start, starts)


def cluster(columns: Columns, count: int, starts: np.ndarray) -> Clusters:
    """k-means in l1 with means as centers, of the first `count` points.

    A round assigns every point to the nearest center in l1 (the first of several), and
    moves each center to the mean of its points, not to the median that l1 suggests. It
    ends when the sum of the labels is that of the round before, or after 30 rounds.

    Args:
        columns: points.
        count: how many of them, from the first, are clustered.
        starts: (starts, clusters, dimensions), where the centers begin, for each start
            of the algorithm; infinite for none.

    References:
        Mahloujifar et al., 2019, arXiv:1905.12202, Algorithm 1.

    Differs from the paper: a cluster that loses all its points is left out, where the
    authors' code divides by zero.
    """
    first = jnp.stack([as_columns(each) for each in starts])
    labels, centers, rounds = _k_means(columns.blocks, jnp.int32(count), first)
    dimensions = starts.shape[2]
    return Clusters(
        np.asarray(labels)[:, :count],
        np.asarray(centers)[:, :, :dimensions],
        np.asarray(rounds),
    )


def cover(
    points: SortedPoints,
    quantile: float,
    num_rectangles: int,
    *,
    seed: int = 0,
    num_restarts: int = 1,
    first_restart: int = 0,
) -> list[Hyperrectangles]:
    """Rectangles that hold the densest training points, for each restart.

    Each is centered at the mean of its cluster and as wide as its furthest member asks
    for in every dimension; it is not the tightest box.

    Args:
        points: sorted by density.
        quantile: q in [0, 1]: the first floor(n q) points are covered.
        num_rectangles: T; no more than there are points to cover are made.
        seed: of the starts, which are random points of those to be covered; together
            with the numbers above it decides them.
        num_restarts: how often, from other starts.
        first_restart: number of the first of them; those before are left out.
    """
    size, dimensions = points.train.shape
    # A product such as 100 * .29 shall not lose a point to rounding.
    count = int(np.floor(size * quantile + 1e-9))
    if count == 0:
        nothing = np.zeros((0, dimensions), np.float32)
        return [Hyperrectangles(nothing, nothing)] * num_restarts
    dense = points.train[:count]
    starts = np.full((num_restarts, num_rectangles, dimensions), np.inf, np.float32)
    number = min(num_rectangles, count)
    for restart, start in enumerate(starts, first_restart):
        rng = np.random.default_rng([seed, num_rectangles, count, restart])
        chosen = rng.choice(count, number, replace=False)
        start[:number] = unit_values(dense[chosen])
    clusters = cluster(points.train_columns, count, starts)
    return [
        _rectangles(dense, labels, centers)
        for labels, centers in zip(clusters.labels, clusters.centers, strict=True)
    ]


def _rectangles(
    dense: np.ndarray, labels: np.ndarray, centers: np.ndarray
) -> Hyperrectangles:
    """The rectangle of each cluster that has points."""
    found = []
    for label in np.unique(labels):
        members = dense[labels == label]
        lower, upper = unit_values(np.stack([members.min(axis=0), members.max(axis=0)]))
        center = centers[label]
        # Rounding is monotone: it is the largest of the members' rounded distances.
        found.append((center, np.maximum(upper - center, center - lower)))
    return Hyperrectangles(*map(np.stack, zip(*found, strict=True)))


def visit(
    points: SortedPoints,
    rectangles: Hyperrectangles,
    epsilon: float,
    alpha: float,
    *,
    quantile: float,
    num_rectangles: int,
    rule: Rule = "train",
) -> Visit:
    """The risks of what rectangles leave, and whether the risk reaches `alpha`."""
    train = rectangles.risks(points.train_columns, epsilon)
    test = rectangles.risks(points.test_columns, epsilon)
    splits = (train,) if rule == "train" else (train, test)
    is_feasible = all(reaches(each.risk, alpha) for each in splits)
    return Visit(
        num_regions=num_rectangles,
        quantile=quantile,
        train=train,
        test=test,
        is_feasible=is_feasible,
    )


def search_quantile(
    points: SortedPoints,
    num_rectangles: int,
    *,
    epsilon: float,
    alpha: float,
    rule: Rule = "train",
    seed: int = 0,
) -> list[Visit]:
    """Bisection of q: the larger, the more is covered and the smaller the risk.

    Args:
        points: sorted by density.
        num_rectangles: T.
        epsilon: linf radius, in units of [0, 1] pixels.
        alpha: least risk.
        rule: on which splits the risk must be at least `alpha`: "train", as in the
            paper, or "train and test", as in the authors' code.
        seed: of everything random.

    Returns:
        What was looked at, in order.
    """
    lower, upper = 0.0, 1.0
    visits = []
    while upper - lower > WIDTH:
        middle = (lower + upper) / 2
        (rectangles,) = cover(points, middle, num_rectangles, seed=seed)
        about = {"quantile": middle, "num_rectangles": num_rectangles, "rule": rule}
        visits.append(visit(points, rectangles, epsilon, alpha, **about))
        if visits[-1].is_feasible:
            lower = middle
        else:
            upper = middle
    return visits


def estimate_linf(
    train: np.ndarray | SortedPoints,
    test: np.ndarray | None = None,
    *,
    epsilon: float,
    alpha: float,
    num_rectangles: int | Sequence[int] = 10,
    num_neighbors: int = 50,
    num_restarts: int = 10,
    feasible_only: bool = False,
    rule: Rule = "train",
    delta: float = 0.01,
    seed: int = 0,
    block_size: int | None = None,
    cache: Path | str | None = None,
    progress: Report | None = None,
) -> Estimate:
    r"""How little a set of measure `alpha` can grow in linf, by rectangles.

    Args:
        train: uint8 or floats of any shape, one image each; or what `sort_by_density`
            made of both splits, so that several estimates share it.
        test: the same; left out with sorted points.
        epsilon: radius, in units of [0, 1] pixels.
        alpha: least risk, in (0, 1), of the error regions that q and T are chosen by.
            The restarts that are reported may fall short of it: `Estimate.num_feasible`
            says how many do not, and `feasible_only` leaves out those that do.
        num_rectangles: T, or several, of which the one with the smallest adversarial
            risk is taken.
        num_neighbors: k, in [1, number of training points].
        num_restarts: of k-means at the chosen q and T; what is reported.
        feasible_only: report only restarts whose risk is at least `alpha` by the rule:
            further ones are made, up to 4 times `num_restarts` in all, until there are
            that many. There may be fewer in the end; if there is none, the region that
            the search found is reported. It favors starts that leave more.
        rule: "train" selects on the training points alone. "train and test", the rule
            of the authors' code, asks for the risk on both splits and selects by the
            adversarial risk on the test points, which it is then reported on.
        delta: deviation for which the guarantee is given.
        seed: of everything random.
        block_size: as for `kth_neighbor_distances`; changes no number.
        cache: directory that keeps the distances, so that a killed search goes on.
        progress: told how many distances are done, and of how many.

    Raises:
        ValueError: for an argument out of range, or if no quantile that was looked at
            leaves a risk of `alpha`.

    References:
        Mahloujifar et al., 2019, arXiv:1905.12202, Algorithm 1.

    Differs from the paper: neighbors are exact; empty clusters are left out.
    """
    counts = {"num_rectangles": num_rectangles, "num_neighbors": num_neighbors}
    require_settings(epsilon=epsilon, alpha=alpha, num_restarts=num_restarts, **counts)
    require_choice("rule", rule, ("train", "train and test"))
    choices = [num_rectangles] if isinstance(num_rectangles, int) else num_rectangles
    if isinstance(train, SortedPoints):
        splits = (train.train,)
    elif test is None:
        raise ValueError(
            "`test` must hold the test images, got None; only sorted points do without."
        )
    else:
        splits = require_splits(train, test)
    num_points, dimensions = splits[0].shape
    remedy = "ask for no more than there are training points"
    require_count("num_rectangles", choices, remedy, most=num_points)
    points = train
    if not isinstance(points, SortedPoints):
        points = sort_by_density(
            *splits,
            num_neighbors=num_neighbors,
            block_size=block_size,
            cache=cache,
            progress=progress,
        )
    settings = {"epsilon": epsilon, "alpha": alpha, "rule": rule, "seed": seed}
    visits = [
        each
        for choice in choices
        for each in search_quantile(points, choice, **settings)
    ]
    split = "train" if rule == "train" else "test"
    feasible = [each for each in visits if each.is_feasible]
    if not feasible:
        most = max(each.train.risk for each in visits)
        raise ValueError(
            f"`alpha` must be a risk that some rectangles leave, got {alpha!r}, and "
            f"the largest found on the training points is {most:.4g}; ask for less, "
            "or for a smaller epsilon."
        )
    best = min(feasible, key=lambda each: getattr(each, split).adversarial_risk)
    where = points, best.quantile, best.num_regions
    about = {
        "quantile": best.quantile,
        "num_rectangles": best.num_regions,
        "rule": rule,
    }
    found: list[tuple[Hyperrectangles, Visit]] = []
    for first in range(0, (TRIES if feasible_only else 1) * num_restarts, num_restarts):
        # Other starts than those of the search, of which the luckiest was taken.
        made = cover(
            *where, seed=seed + 1, num_restarts=num_restarts, first_restart=first
        )
        seen = [(each, visit(points, each, epsilon, alpha, **about)) for each in made]
        found += [pair for pair in seen if pair[1].is_feasible or not feasible_only]
        if len(found) >= num_restarts:
            break
    if not found:
        (region,) = cover(*where, seed=seed)
        found = [(region, best)]
    found = found[:num_restarts]
    return Estimate(
        method="hyperrectangles",
        norm="linf",
        epsilon=epsilon,
        alpha=alpha,
        regions=tuple(region for region, _ in found),
        train=tuple(each.train for _, each in found),
        test=tuple(each.test for _, each in found),
        num_regions=best.num_regions,
        num_feasible=sum(each.is_feasible for _, each in found),
        quantile=best.quantile,
        guarantee=generalization_guarantee(
            dimensions, max(choices), num_points, delta=delta
        ),
        settings={
            "num_rectangles": list(choices),
            "num_neighbors": num_neighbors,
            "num_restarts": num_restarts,
            "feasible_only": feasible_only,
            "rule": rule,
            "seed": seed,
        },
        visits=tuple(visits),
    )
