"""The heaviest independent set: flows first, an integer program for the rest."""

import time
from typing import NamedTuple

import numpy as np

from jaxrobust.arguments import require, require_in, require_shape
from jaxrobust.theory.arguments import vertex_pairs
from jaxrobust.theory.independent_sets.cliques import CliqueCover, as_wide
from jaxrobust.theory.independent_sets.flows import (
    FINEST_UNITS,
    MOST_UNITS,
    components,
    lightest_cover,
    sides,
)
from jaxrobust.theory.independent_sets.hard import solve_component

__all__ = ["IndependentSet", "maximum_independent_set"]


class IndependentSet(NamedTuple):
    """The heaviest independent set that was found, and how much heavier one could be.

    Attributes:
        is_chosen: `(vertices,)`.
        weight: of the chosen ones.
        upper_bound: proven of every independent set. It can be below that of the
            certificate, since branching proves more than a linear program.
        is_optimal: whether weight and bound agree, to a millionth of the total weight;
            that is less than one vertex if a million are equally heavy.
        certificate: proves a bound by itself.
    """

    is_chosen: np.ndarray
    weight: float
    upper_bound: float
    is_optimal: bool
    certificate: CliqueCover


def maximum_independent_set(
    edges: np.ndarray,
    weights: np.ndarray,
    parts: np.ndarray | None = None,
    *,
    time_limit: float = 60.0,
) -> IndependentSet:
    r"""The heaviest set of vertices without two neighbors.

    Exact up to the tolerance of `is_optimal`, unless time runs out, which `is_optimal`
    and `upper_bound` then tell. Weights are counted in a common unit if they have one,
    the smallest weight over a whole number up to 1000, as equal weights do. Others are
    rounded down to :math:`2^{-45}` of the total; the bound allows for that, by less
    than a millionth up to :math:`10^7` vertices.

    Args:
        edges: `(edges, 2)`, vertices in [0, vertices); no loops. Repeated and turned
            edges count once.
        weights: `(vertices,)`, finite and non-negative.
        parts: `(vertices,)` of integers; vertices of the same part must not be
            neighbors. Two parts in a component make it a flow. None puts each vertex
            in a part of its own.
        time_limit: seconds for the linear and integer programs, all together; the
            flows, which come first, are not stopped. The solver looks at the clock
            between its steps, so long ones end later.

    Raises:
        ValueError: for an argument out of range.

    References:
        Nemhauser and Trotter, 1975, Mathematical Programming 8 (half-integral
        relaxation). Padberg, 1973, Mathematical Programming 5 (cliques).
    """
    weights = np.asarray(weights, np.float64)
    edges, parts = _checked(edges, weights, parts, time_limit)
    units, unit = _whole_units(weights)
    is_chosen, proof = _solve(units, edges, parts, time.monotonic() + time_limit)
    weight, total = float(weights[is_chosen].sum()), float(weights.sum())
    bound = total - proof.left_out * unit
    if bound < weight + 1e-12 * total:  # sums differ by rounding only
        bound = weight
    gap = units[~is_chosen].sum() - proof.left_out
    assert gap >= 0, "a set is heavier than its bound"
    return IndependentSet(
        is_chosen,
        weight,
        bound,
        bound - weight <= 1e-6 * total,
        proof.certificate(unit),
    )


class _Proof:
    """Cliques of several parts of the graph, and the weight they show to be lost."""

    def __init__(self):
        self.rows: list[tuple[np.ndarray, np.ndarray]] = []
        self.left_out = 0.0

    def add(self, cliques: np.ndarray, amounts: np.ndarray, *, left_out: float):
        self.rows.append((cliques, amounts))
        self.left_out += float(left_out)

    def certificate(self, unit: float) -> CliqueCover:
        cliques = as_wide([rows for rows, _ in self.rows])
        amounts = np.concatenate([each for _, each in self.rows]) * unit
        used = amounts > 0
        return CliqueCover(np.concatenate(cliques)[used], amounts[used])


def _checked(
    edges: np.ndarray,
    weights: np.ndarray,
    parts: np.ndarray | None,
    time_limit: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Edges without repetition, the smaller vertex first, and the parts."""
    count = len(weights)
    remedy = "give each of one or more vertices a weight of at least 0"
    require_shape("weights", weights, ("vertices",), remedy)
    require(count > 0, "weights", "of one or more vertices", weights, remedy)
    require_in("weights", weights, "[0, inf)", remedy)
    require_in("time_limit", time_limit, "(0, inf]", "it is in seconds")
    codes = np.unique(np.sort(vertex_pairs(edges, count), axis=1) @ [count, 1])
    edges = np.stack(np.divmod(codes, count), axis=1)
    parts = np.arange(count) if parts is None else np.asarray(parts)
    require_shape("parts", parts, (count,), "give each vertex a part")
    parts = np.unique(parts, return_inverse=True)[1].reshape(-1)
    within = parts[edges[:, 0]] == parts[edges[:, 1]]
    if within.any():
        raise ValueError(
            "`parts` must differ for neighbors, got the same for "
            f"{tuple(edges[within][0].tolist())!r}; leave `parts` out if unsure."
        )
    return edges, parts


def _whole_units(weights: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights as integers, and what one of them weighs."""
    distinct = np.unique(weights[weights > 0])
    if not len(distinct):
        return np.zeros(len(weights), np.int64), 1.0
    ratios = distinct / distinct[0]
    total = weights.sum() / distinct[0]
    for denominator in range(1, min(1000, int(MOST_UNITS / total)) + 1):
        scaled = ratios * denominator
        if np.allclose(scaled, np.rint(scaled), rtol=1e-12, atol=0):
            unit = float(distinct[0]) / denominator
            return np.rint(weights / unit).astype(np.int64), unit
    unit = float(weights.sum()) / FINEST_UNITS
    return np.floor(weights / unit).astype(np.int64), unit


def _solve(
    units: np.ndarray, edges: np.ndarray, parts: np.ndarray, deadline: float
) -> tuple[np.ndarray, _Proof]:
    """Which vertices to choose, and what shows that hardly more can be."""
    count = len(units)
    is_chosen = np.ones(count, bool)
    proof = _Proof()

    def solve_flows(edges: np.ndarray) -> np.ndarray:
        """Solves the components of two parts; returns the edges of the others."""
        is_easy, is_left = sides(count, edges, parts)
        here = is_easy[edges[:, 0]]
        cover, pairs, flow = lightest_cover(units, is_left, edges[here])
        is_chosen[cover] = False
        proof.add(pairs, flow, left_out=flow.sum())
        return edges[~here]

    hard = solve_flows(edges)
    if len(hard):
        # The relaxation: each vertex twice, each edge from either copy to the other.
        shift = np.array([0, count])
        twice = np.concatenate([hard + shift, hard[:, ::-1] + shift])
        cover, pairs, flow = lightest_cover(
            np.concatenate([units, units]), np.arange(2 * count) < count, twice
        )
        copies = cover[:count].astype(int) + cover[count:]
        is_chosen[copies == 2] = False
        is_open, pairs = copies == 1, pairs % count
        # Flow either stays among the open vertices, or pays for those left out.
        settled = ~is_open[pairs].all(axis=1)
        paid = units[copies == 2].sum()
        proof.add(pairs[settled], flow[settled] / 2, left_out=paid)
        hard = solve_flows(hard[is_open[hard].all(axis=1)])
    for vertices, inner in components(count, hard):
        found = solve_component(units[vertices], inner, parts[vertices], deadline)
        is_chosen[vertices] = found.is_chosen
        total = units[vertices].sum()
        members = np.where(found.cliques < 0, -1, vertices[found.cliques])
        proof.add(members, found.amounts, left_out=total - found.bound)
    return is_chosen, proof
