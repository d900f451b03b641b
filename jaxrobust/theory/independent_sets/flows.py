"""What a maximum flow answers: components, sides, and the lightest vertex cover."""

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import breadth_first_order, connected_components, maximum_flow

__all__ = ["FINEST_UNITS", "MOST_UNITS", "components", "lightest_cover", "sides"]

MOST_UNITS = 2**30  # of a flow of scipy's, whose integers have 32 bits


FINEST_UNITS = 2**45  # of the weights; floats hold their sums, and halves, exactly


def _graph(
    count: int, tails: np.ndarray, heads: np.ndarray, values: np.ndarray
) -> csr_array:
    # scipy's graph routines take indices of 32 bits only.
    places = (tails.astype(np.int32), heads.astype(np.int32))
    return coo_array((values, places), shape=(count, count)).tocsr()


def _labeled_components(count: int, edges: np.ndarray) -> tuple[int, np.ndarray]:
    graph = _graph(count, edges[:, 0], edges[:, 1], np.ones(len(edges), np.int8))
    return connected_components(graph, directed=False)


def sides(
    count: int, edges: np.ndarray, parts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Which vertices lie in a component of two parts, and which of them on the left."""
    num_components, component = _labeled_components(count, edges)
    seen = np.unique(np.stack([component, parts]), axis=1)
    num_parts = np.bincount(seen[0], minlength=num_components)
    lowest = np.full(num_components, parts.max(initial=0))
    np.minimum.at(lowest, component, parts)
    return num_parts[component] <= 2, parts == lowest[component]


def components(count: int, edges: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
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

    The first flow is below `MOST_UNITS`. So is what a later round adds: each of the
    `size` arcs of the cut before lets a bit less than a unit more through, whose parts
    are the new units.
    """
    most = MOST_UNITS.bit_length() - 1
    first = max(0, limit.bit_length() - most)
    return [*range(first, 0, -max(1, most - size.bit_length())), 0]


def lightest_cover(
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
        network.data = np.minimum(network.data, MOST_UNITS).astype(np.int32)
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
