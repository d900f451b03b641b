r"""Heaviest independent sets, each with a bound that can be checked.

An independent set holds no two neighbors of a graph, and what it leaves out is a vertex
cover. With two classes the conflicts of robust classification make a bipartite graph,
where a maximum flow gives the optimum (König, Egerváry). With more it is NP-hard, and
three steps keep the hard part small: components are solved apart; the linear
relaxation, which is a flow too, settles many vertices for good (Nemhauser and Trotter);
the rest goes to an integer program whose constraints are cliques.

The proof of a bound is a clique cover. At most one vertex of a clique is chosen, so any
non-negative amounts on cliques bound every independent set: `certified_bound`.
"""

import math
import time
from typing import NamedTuple

import numpy as np
from scipy.optimize import LinearConstraint, linprog, milp
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import (
    breadth_first_order,
    connected_components,
    maximum_flow,
)

from jaxrobust.arguments import require, require_in, require_shape
from jaxrobust.theory.arguments import vertex_pairs

__all__ = [
    "CliqueCover",
    "IndependentSet",
    "certified_bound",
    "maximum_independent_set",
]

_MOST_UNITS = 2**30  # of a flow of scipy's, whose integers have 32 bits
_FINEST_UNITS = 2**45  # of the weights; floats hold their sums, and halves, exactly
_LARGEST_DENSE = 8192  # vertices whose table of neighbors is 64 MiB


class CliqueCover(NamedTuple):
    """Amounts on cliques: the proof of an upper bound.

    Attributes:
        cliques: `(cliques, members)`, vertices that are neighbors pairwise; -1 fills
            rows of fewer members. Rows of two are edges, and their amounts a flow.
        amounts: `(cliques,)`, non-negative, in the unit of the weights.
    """

    cliques: np.ndarray
    amounts: np.ndarray


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


def certified_bound(
    certificate: CliqueCover, edges: np.ndarray, weights: np.ndarray
) -> float:
    r"""The bound that a certificate proves: no independent set is heavier.

    For cliques :math:`Q` with amounts :math:`y_Q`, it is :math:`\sum_Q y_Q + \sum_v
    \max(0, w_v - \sum_{Q \ni v} y_Q)`, whatever the amounts are.

    Args:
        certificate: of these edges.
        edges: `(edges, 2)`.
        weights: `(vertices,)`, non-negative.

    Raises:
        ValueError: if a row is no clique, or an amount is negative.
    """
    cliques, amounts = certificate
    weights = np.asarray(weights, np.float64)
    require_in("amounts", amounts, "[0, inf)", "a negative amount proves nothing")
    count = len(weights)
    known = np.unique(np.sort(np.asarray(edges, np.int64).reshape(-1, 2)) @ [count, 1])
    for first in range(cliques.shape[1]):
        for second in range(first):
            pairs = np.sort(cliques[:, [second, first]].astype(np.int64), axis=1)
            pairs = pairs[pairs[:, 0] >= 0]
            is_known = np.isin(pairs @ [count, 1], known)
            if not is_known.all():
                pair = tuple(pairs[~is_known][0].tolist())
                raise ValueError(
                    f"`cliques` must hold neighbors only, got {pair!r}, which is no "
                    "edge; give the edges that the certificate was made for."
                )
    return _covered(cliques, np.asarray(amounts), weights)


class _Proof:
    """Cliques of several parts of the graph, and the weight they show to be lost."""

    def __init__(self):
        self.rows: list[tuple[np.ndarray, np.ndarray]] = []
        self.left_out = 0.0

    def add(self, cliques: np.ndarray, amounts: np.ndarray, *, left_out: float):
        self.rows.append((cliques, amounts))
        self.left_out += float(left_out)

    def certificate(self, unit: float) -> CliqueCover:
        cliques = _as_wide([rows for rows, _ in self.rows])
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
    for denominator in range(1, min(1000, int(_MOST_UNITS / total)) + 1):
        scaled = ratios * denominator
        if np.allclose(scaled, np.rint(scaled), rtol=1e-12, atol=0):
            unit = float(distinct[0]) / denominator
            return np.rint(weights / unit).astype(np.int64), unit
    unit = float(weights.sum()) / _FINEST_UNITS
    return np.floor(weights / unit).astype(np.int64), unit


def _graph(
    count: int, tails: np.ndarray, heads: np.ndarray, values: np.ndarray
) -> csr_array:
    # scipy's graph routines take indices of 32 bits only.
    places = (tails.astype(np.int32), heads.astype(np.int32))
    return coo_array((values, places), shape=(count, count)).tocsr()


def _labeled_components(count: int, edges: np.ndarray) -> tuple[int, np.ndarray]:
    graph = _graph(count, edges[:, 0], edges[:, 1], np.ones(len(edges), np.int8))
    return connected_components(graph, directed=False)


def _sides(
    count: int, edges: np.ndarray, parts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Which vertices lie in a component of two parts, and which of them on the left."""
    num_components, component = _labeled_components(count, edges)
    seen = np.unique(np.stack([component, parts]), axis=1)
    num_parts = np.bincount(seen[0], minlength=num_components)
    lowest = np.full(num_components, parts.max(initial=0))
    np.minimum.at(lowest, component, parts)
    return num_parts[component] <= 2, parts == lowest[component]


def _components(count: int, edges: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Vertices and renumbered edges of each component with edges, small ones first."""
    if not len(edges):
        return []
    _, component = _labeled_components(count, edges)
    sizes = np.bincount(component)
    found = []
    for index in sorted(np.unique(component[edges[:, 0]]), key=lambda i: sizes[i]):
        vertices = np.flatnonzero(component == index)
        inner = edges[component[edges[:, 0]] == index]
        found.append((vertices, np.searchsorted(vertices, inner)))
    return found


def _shifts(limit: int, size: int) -> list[int]:
    """Bits to leave out of the weights of a flow, round by round, the last time none.

    The first flow is below `_MOST_UNITS`. So is what a later round adds: each of the
    `size` arcs of the cut before lets a bit less than a unit more through, whose parts
    are the new units.
    """
    most = _MOST_UNITS.bit_length() - 1
    first = max(0, limit.bit_length() - most)
    return [*range(first, 0, -max(1, most - size.bit_length())), 0]


def _lightest_cover(
    units: np.ndarray, is_left: np.ndarray, edges: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The lightest vertex cover of a bipartite graph, by a maximum flow.

    Returns:
        Which vertices are in it; the edges with flow, the left vertex first; the flow
        on each. The flow through a vertex is at most its units, and its sum is what the
        cover weighs.
    """
    count = len(units)
    if not len(edges):
        nothing = np.zeros(0, np.int64)
        return np.zeros(count, bool), np.zeros((0, 2), np.int64), nothing
    edges = np.where(is_left[edges[:, :1]], edges, edges[:, ::-1])
    vertices = np.unique(edges)
    left, right = np.searchsorted(vertices, edges).T
    size, is_left = len(vertices), is_left[vertices]
    inner, source, sink = np.arange(size), size, size + 1
    tails = np.concatenate([np.where(is_left, source, inner), left])
    heads = np.concatenate([np.where(is_left, inner, sink), right])
    # More than either end lets through: a cheapest cut never runs between the sides.
    between = np.minimum(units[edges[:, 0]], units[edges[:, 1]])
    limits = [units[vertices][side].sum() for side in (is_left, ~is_left)]
    flow = csr_array((size + 2, size + 2), dtype=np.int64)
    residual, last = flow, 0
    for shift in _shifts(int(min(limits)), size):
        capacity = np.concatenate([units[vertices] >> shift, (between >> shift) + 1])
        flow = flow * (1 << (last - shift if last else 0))
        network = csr_array(_graph(size + 2, tails, heads, capacity) - flow)
        # What is cut off here is more than all that can still flow.
        network.data = np.minimum(network.data, _MOST_UNITS).astype(np.int32)
        more = maximum_flow(network, source, sink).flow
        flow, last = flow + more.astype(np.int64), shift
        residual = csr_array(network - more)
    residual.eliminate_zeros()
    reached = np.zeros(size + 2, bool)
    reached[breadth_first_order(residual, source, return_predecessors=False)] = True
    is_cover = np.zeros(count, bool)
    is_cover[vertices] = np.where(is_left, ~reached[:size], reached[:size])
    flow = coo_array(flow)
    used = (flow.data > 0) & (flow.row < size) & (flow.col < size)
    pairs = np.stack([vertices[flow.row[used]], vertices[flow.col[used]]], axis=1)
    return is_cover, pairs, flow.data[used].astype(np.int64)


def _solve(
    units: np.ndarray, edges: np.ndarray, parts: np.ndarray, deadline: float
) -> tuple[np.ndarray, _Proof]:
    """Which vertices to choose, and what shows that hardly more can be."""
    count = len(units)
    is_chosen = np.ones(count, bool)
    proof = _Proof()

    def solve_flows(edges: np.ndarray) -> np.ndarray:
        """Solves the components of two parts; returns the edges of the others."""
        is_easy, is_left = _sides(count, edges, parts)
        here = is_easy[edges[:, 0]]
        cover, pairs, flow = _lightest_cover(units, is_left, edges[here])
        is_chosen[cover] = False
        proof.add(pairs, flow, left_out=flow.sum())
        return edges[~here]

    hard = solve_flows(edges)
    if len(hard):
        # The relaxation: each vertex twice, each edge from either copy to the other.
        shift = np.array([0, count])
        twice = np.concatenate([hard + shift, hard[:, ::-1] + shift])
        cover, pairs, flow = _lightest_cover(
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
    for vertices, inner in _components(count, hard):
        found = _solve_component(units[vertices], inner, parts[vertices], deadline)
        is_chosen[vertices] = found.is_chosen
        total = units[vertices].sum()
        members = np.where(found.cliques < 0, -1, vertices[found.cliques])
        proof.add(members, found.amounts, left_out=total - found.bound)
    return is_chosen, proof


class _Component(NamedTuple):
    is_chosen: np.ndarray
    bound: float
    cliques: np.ndarray
    amounts: np.ndarray


def _solve_component(
    units: np.ndarray, edges: np.ndarray, parts: np.ndarray, deadline: float
) -> _Component:
    """An independent set of a connected graph that the relaxation left open."""
    heaviest = np.bincount(parts, weights=units).argmax()
    is_chosen = _exchanged(parts == heaviest, units, edges, parts, deadline)
    value = units[is_chosen].sum()
    # Whole units are exact if they are few; of many, the solvers take floats, and the
    # last bits of a bound are not worth an integer program.
    scale = max(1.0, units.sum() / _MOST_UNITS)
    slack = int(units.sum() - 1) // _MOST_UNITS
    half = units.sum() // 2  # by the relaxation, which settled none of the vertices
    if len(units) > _LARGEST_DENSE:
        return _Component(is_chosen, half, np.zeros((0, 2), np.int64), np.zeros(0))
    adjacency = np.zeros((len(units), len(units)), bool)
    adjacency[edges[:, 0], edges[:, 1]] = True
    adjacency |= adjacency.T
    cliques, amounts = _greedy_cover(adjacency, units)
    bound = min(half, _whole(_covered(cliques, amounts, units)))
    is_open = np.ones(len(units), bool)
    if bound > value + slack and (
        relaxed := _relaxed(units, scale, adjacency, cliques, value + slack, deadline)
    ):
        limit = _covered(relaxed.cliques, relaxed.prices, units)
        if _whole(limit) <= bound:
            bound, cliques, amounts = _whole(limit), relaxed.cliques, relaxed.prices
        rounded = _rounded(relaxed.values, adjacency)
        other = _exchanged(rounded, units, edges, parts, deadline)
        if units[other].sum() > value:
            is_chosen, value = other, units[other].sum()
        # A set with a given vertex stays so far below the limit. Only vertices whose
        # sets can still weigh a unit more than the one at hand, up to rounding, count.
        load = _incidence(relaxed.cliques, len(units)).T @ relaxed.prices
        below = np.maximum(load - units, 0.0)
        is_open = limit - below >= value + 1 - 1e-6 - 1e-9 * limit
    if (
        bound > value + slack
        and (rows := _all_cliques(adjacency, deadline)) is not None
        and (left := deadline - time.monotonic()) > 0
    ):
        exact = milp(
            -units / scale,
            integrality=np.ones(len(units)),
            bounds=(0.0, is_open.astype(float)),
            constraints=LinearConstraint(_incidence(rows, len(units)), -np.inf, 1),
            options={"time_limit": left, "mip_rel_gap": 0.0},
        )
        if exact.x is not None:
            other = exact.x > 0.5
            is_valid = not other[edges].all(axis=1).any()
            if is_valid and units[other].sum() > value:
                is_chosen, value = other, units[other].sum()
        proven = -math.inf if exact.mip_dual_bound is None else -exact.mip_dual_bound
        if exact.status in (0, 1) and math.isfinite(proven):
            # The solver's own tolerances are of this size.
            proven += 1e-6 + 1e-7 * abs(proven)
            bound = min(bound, math.floor(proven * scale))
    return _Component(is_chosen, max(bound, value), cliques, amounts)


class _Relaxed(NamedTuple):
    values: np.ndarray
    cliques: np.ndarray
    prices: np.ndarray


def _relaxed(
    units: np.ndarray,
    scale: float,
    adjacency: np.ndarray,
    cliques: np.ndarray,
    enough: float,
    deadline: float,
) -> _Relaxed | None:
    """The linear program of some cliques and of those that its solutions violate.

    It ends when none is found, which means that all edges hold, when it proves that
    nothing above `enough` exists, or when time runs out; each answer proves a bound.
    """
    found = None
    while (left := deadline - time.monotonic()) > 0:
        solution = linprog(
            -units / scale,
            A_ub=_incidence(cliques, len(units)),
            b_ub=np.ones(len(cliques)),
            bounds=(0, 1),
            options={"time_limit": left},
        )
        if solution.status != 0:
            break
        prices = np.maximum(-solution.ineqlin.marginals, 0.0) * scale
        found = _Relaxed(solution.x, cliques, prices)
        if _whole(_covered(cliques, prices, units)) <= enough:
            break
        violated = _violated(solution.x, adjacency)
        if not violated:
            break
        new = np.unique(_padded(violated), axis=0)
        cliques = np.concatenate(_as_wide([cliques, new]))
    return found


def _violated(values: np.ndarray, adjacency: np.ndarray) -> list[np.ndarray]:
    """Maximal cliques whose values sum to more than 1: one for each such edge's end."""
    order = np.argsort(-values, kind="stable")
    neighbors, values = adjacency[np.ix_(order, order)], values[order]
    found = []
    for start in range(int((values > 1e-6).sum())):
        # The largest values first, so an edge with a sum above 1 is never missed.
        for second in np.flatnonzero(neighbors[start])[:3]:
            clique = [start, int(second)]
            common = neighbors[start] & neighbors[second]
            while common.any():
                clique.append(int(common.argmax()))
                common &= neighbors[clique[-1]]
            if values[clique].sum() > 1 + 1e-6:
                found.append(np.sort(order[clique]))
    return found


def _whole(bound: float) -> int:
    """The largest whole number that rounding errors allow under a bound."""
    return math.floor(bound * (1 + 1e-12) + 1e-9)


def _covered(cliques: np.ndarray, amounts: np.ndarray, weights: np.ndarray) -> float:
    member = cliques >= 0
    load = np.bincount(
        cliques[member],
        weights=np.repeat(amounts, member.sum(axis=1)),
        minlength=len(weights),
    )
    return float(amounts.sum() + np.maximum(weights - load, 0.0).sum())


def _incidence(cliques: np.ndarray, count: int) -> csr_array:
    member = cliques >= 0
    starts = np.concatenate([[0], np.cumsum(member.sum(axis=1))])
    ones = np.ones(starts[-1])
    return csr_array((ones, cliques[member], starts), shape=(len(cliques), count))


def _rounded(values: np.ndarray, adjacency: np.ndarray) -> np.ndarray:
    """A maximal independent set, those of large values first."""
    is_chosen = np.zeros(len(values), bool)
    is_free = np.ones(len(values), bool)
    for vertex in np.argsort(-values, kind="stable"):
        if is_free[vertex]:
            is_chosen[vertex] = True
            is_free &= ~adjacency[vertex]
    return is_chosen


def _exchanged(
    is_chosen: np.ndarray,
    units: np.ndarray,
    edges: np.ndarray,
    parts: np.ndarray,
    deadline: float,
) -> np.ndarray:
    """An independent set that no exchange against vertices of one part improves.

    The best exchange of chosen vertices against some of one part is a flow; such steps
    follow each other until no part gains.
    """
    first, second = edges.T
    waiting = list(np.unique(parts))
    while waiting and time.monotonic() < deadline:
        part = waiting.pop(0)
        is_new = parts == part
        others = is_chosen & ~is_new
        between = (others[first] & is_new[second]) | (is_new[first] & others[second])
        cover, *_ = _lightest_cover(units, is_new, edges[between])
        exchanged = (others | is_new) & ~cover
        if units[exchanged].sum() > units[is_chosen].sum():
            is_chosen = exchanged
            waiting = [other for other in np.unique(parts) if other != part]
    return is_chosen


def _greedy_cover(
    adjacency: np.ndarray, units: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Cliques with amounts that no vertex exceeds, those of few neighbors first."""
    left = units.copy()
    order = np.argsort(adjacency.sum(axis=1), kind="stable")
    sorted_neighbors = adjacency[np.ix_(order, order)]
    cliques, amounts = [], []
    for rank, vertex in enumerate(order):
        while left[vertex] > 0:
            clique, common = [rank], sorted_neighbors[rank] & (left[order] > 0)
            while common.any():
                clique.append(int(common.argmax()))
                common &= sorted_neighbors[clique[-1]]
            members = order[clique]
            amount = left[members].min()
            left[members] -= amount
            if len(members) > 1:
                cliques.append(members)
                amounts.append(amount)
    return _padded(cliques), np.array(amounts, float)


def _all_cliques(adjacency: np.ndarray, deadline: float) -> np.ndarray | None:
    """Maximal cliques that hold every edge; None if time runs out."""
    missing = np.triu(adjacency, 1)
    cliques = []
    for vertex in range(len(adjacency)):
        if time.monotonic() > deadline:
            return None
        while missing[vertex].any():
            clique, common = [vertex], adjacency[vertex].copy()
            while common.any():
                # New edges first, so that few cliques hold them all.
                fresh = common & missing[vertex]
                clique.append(int((fresh if fresh.any() else common).argmax()))
                common &= adjacency[clique[-1]]
            members = np.sort(clique)
            missing[np.ix_(members, members)] = False
            cliques.append(members)
    return _padded(cliques)


def _as_wide(tables: list[np.ndarray]) -> list[np.ndarray]:
    width = max(table.shape[1] for table in tables)
    return [
        np.pad(table, ((0, 0), (0, width - table.shape[1])), constant_values=-1)
        for table in tables
    ]


def _padded(cliques: list[np.ndarray]) -> np.ndarray:
    width = max((len(clique) for clique in cliques), default=2)
    rows = np.full((len(cliques), width), -1, np.int64)
    for row, clique in zip(rows, cliques, strict=True):
        row[: len(clique)] = clique
    return rows
