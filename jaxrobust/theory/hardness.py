r"""Robust classification is NP-hard: from graphs to distributions and back.

Lemma 1 of Shaeiri et al. (2020) turns a graph into points, one per vertex and class,
such that an adversary can move a point to those of its neighbors and no others. A
classifier of the points is right on a vertex under attack if that vertex and its
neighbors get its label. So the vertices that are right are a packing: no two of them
are neighbors or have a common one. The largest packing is NP-hard to find, and a best
robust classifier gives it.

This holds for an adversary that stays on the points. One that may go anywhere between
them brings any two together, since all are within 2 epsilon, whatever the graph is;
then the least error is that of a constant classifier. Their proof does not say so.
"""

import math
from typing import NamedTuple

import numpy as np

from jaxrobust.arguments import (
    require,
    require_choice,
    require_count,
    require_in,
    require_shape,
)
from jaxrobust.theory.arguments import refuse_pairs, vertex_pairs
from jaxrobust.theory.finite import Norm
from jaxrobust.theory.independent_sets import IndependentSet, maximum_independent_set

__all__ = [
    "Gadget",
    "hardness_gadget",
    "independent_set_of_packing",
    "maximum_packing",
    "packing_graph",
    "packing_of_predictions",
    "predictions_of_packing",
]

_ORDERS = {"linf": math.inf, "l2": 2, "l1": 1, "l0": 0}


class Gadget(NamedTuple):
    """A distribution that is as hard to classify robustly as a graph is to pack.

    Attributes:
        points: `(vertices, vertices (vertices - 1) / 2)`, equally likely.
        labels: `(vertices,)`, each its own.
        norm: of the adversary, who must stay on the points.
        epsilon: its radius; neighbors are exactly so far apart, others further.
    """

    points: np.ndarray
    labels: np.ndarray
    norm: Norm
    epsilon: float


def hardness_gadget(
    num_vertices: int,
    edges: np.ndarray,
    *,
    norm: Norm = "linf",
    epsilon: float | None = None,
) -> Gadget:
    r"""The distribution of a graph.

    There is a coordinate for each pair of vertices. Only the points of these two are
    not 0 there: they are :math:`\lambda` both if the pair is an edge, and else one is
    :math:`-\lambda`, with :math:`\lambda = \epsilon / (2 k - 4)^{1/p}`. Neighbors then
    differ by :math:`\lambda` in :math:`2 k - 4` coordinates, others by :math:`2
    \lambda` in one more.

    In l0 the entries are :math:`1, 2, \dots`, row by row, so that two points differ in
    all :math:`d = k (k - 1) / 2` coordinates; in that of an edge both get the smaller
    of their entries, and then differ in :math:`\epsilon = d - 1`.

    Its least robust error is :math:`1 - s / k`, where :math:`s` is the size of the
    largest packing: `optimal_robust_classifier(points, labels, norm=norm,
    epsilon=epsilon, reach="support")`.

    Args:
        num_vertices: :math:`k`, at least 3.
        edges: `(edges, 2)`, different vertices in [0, k), each pair once.
        norm: linf, l2, l1 or l0.
        epsilon: radius, finite and above 0; None for 1. The graph decides it in l0,
            where None is d - 1.

    Raises:
        ValueError: for an argument out of range.

    References:
        Shaeiri et al., 2020, arXiv:2003.13370, Lemma 1 and the remark on
        l_0 that follows it.

    Differs from the paper: it prints lambda with the (2k-4)-th root of epsilon, with
    which neighbors are not epsilon apart.
    """
    edges = _checked(num_vertices, edges)
    remedy = "add vertices without edges, each of which adds 1 to the packing"
    require_count("num_vertices", num_vertices, remedy, least=3)
    require_choice("norm", norm, tuple(_ORDERS))
    first, second = np.triu_indices(num_vertices, 1)
    pair = np.arange(len(first))
    is_edge = np.isin(first * num_vertices + second, edges @ [num_vertices, 1])
    labels = np.arange(num_vertices)
    if norm == "l0":
        is_right = epsilon in (None, len(pair) - 1)
        rule = f"{len(pair) - 1} with norm l0 and {num_vertices} vertices"
        require(is_right, "epsilon", rule, epsilon, "leave it out")
        points = 1.0 + np.arange(num_vertices)[:, None] * len(pair) + pair
        points[second[is_edge], pair[is_edge]] = points[first[is_edge], pair[is_edge]]
        return Gadget(points, labels, norm, float(len(pair) - 1))
    epsilon = 1.0 if epsilon is None else epsilon
    require_in("epsilon", epsilon, "(0, inf)", "1.0 will do")
    points = np.zeros((num_vertices, len(pair)))
    points[first, pair], points[second, pair] = -1.0, 1.0
    points[first[is_edge], pair[is_edge]] = 1.0
    scale = epsilon / (2 * num_vertices - 4) ** (1 / _ORDERS[norm])
    return Gadget(scale * points, labels, norm, float(epsilon))


def maximum_packing(
    num_vertices: int, edges: np.ndarray, *, time_limit: float = 60.0
) -> IndependentSet:
    """The most vertices of which no two are neighbors or have a common one.

    By the graph alone, without a distribution: an integer program.

    Args:
        num_vertices: at least 1.
        edges: `(edges, 2)`, different vertices in [0, num_vertices), each pair once.
        time_limit: seconds, above 0.

    Returns:
        Weights are numbers of vertices; the certificate is one of the pairs that cannot
        be packed together, neighbors or neighbors of neighbors.

    Raises:
        ValueError: for an argument out of range.
    """
    around = _neighborhoods(num_vertices, edges).astype(np.float32)
    close = np.argwhere(np.triu(around @ around, 1) > 0)
    return maximum_independent_set(close, np.ones(num_vertices), time_limit=time_limit)


def _refuse_overlap(around: np.ndarray, is_packed: np.ndarray) -> None:
    claims = around[:, is_packed].sum(axis=1)
    if (claims > 1).any():
        vertex = int(claims.argmax())
        packed = np.flatnonzero(around[vertex] & is_packed)[:2].tolist()
        raise ValueError(
            "`is_packed` must choose vertices whose neighborhoods are disjoint, got "
            f"{packed[0]} and {packed[1]}, which meet at {vertex}; leave one out."
        )


def predictions_of_packing(
    num_vertices: int, edges: np.ndarray, is_packed: np.ndarray
) -> np.ndarray:
    """The classifier of a packing, which is right on it under attack.

    Args:
        num_vertices: at least 1.
        edges: `(edges, 2)`, different vertices in [0, num_vertices), each pair once.
        is_packed: `(vertices,)`.

    Returns:
        `(vertices,)`, a label for each point; that of the vertex itself where no packed
        one is near.

    Raises:
        ValueError: for an argument out of range, or for what is no packing.
    """
    around = _neighborhoods(num_vertices, edges)
    is_packed = np.asarray(is_packed, bool)
    require_shape("is_packed", is_packed, (num_vertices,), "give each vertex a flag")
    _refuse_overlap(around, is_packed)
    predictions = np.arange(num_vertices)
    vertices, packed = np.nonzero(around & is_packed)
    predictions[vertices] = packed
    return predictions


def packing_of_predictions(
    num_vertices: int, edges: np.ndarray, predictions: np.ndarray
) -> np.ndarray:
    """The packing of a classifier: the vertices that it gets right under attack.

    Args:
        num_vertices: at least 1.
        edges: `(edges, 2)`, different vertices in [0, num_vertices), each pair once.
        predictions: `(vertices,)`, the label of each point of the gadget.

    Returns:
        `(vertices,)`, whether a vertex and all its neighbors get its label. If the
        classifier has the least robust error, no packing is larger.

    Raises:
        ValueError: for an argument out of range.
    """
    around = _neighborhoods(num_vertices, edges)
    predictions = np.asarray(predictions)
    remedy = "classify each point of the gadget once"
    require_shape("predictions", predictions, (num_vertices,), remedy)
    is_own = predictions[None, :] == np.arange(num_vertices)[:, None]
    return (is_own | ~around).all(axis=1)


def packing_graph(num_vertices: int, edges: np.ndarray) -> tuple[int, np.ndarray]:
    """A graph whose largest packing is as large as a graph's largest independent set.

    Each edge gets a vertex in its middle, and these are joined to each other. Two of
    the old vertices then have a common neighbor if they had an edge, and are three
    steps apart if not. As independent sets are NP-hard to find, so are packings.

    Args:
        num_vertices: at least 1.
        edges: `(edges, 2)`, different vertices in [0, num_vertices), each pair once.

    Returns:
        Number of vertices and edges of the new graph; the old vertices come first.

    Raises:
        ValueError: for an argument out of range.
    """
    edges = _checked(num_vertices, edges)
    middles = num_vertices + np.arange(len(edges))
    halves = np.stack([edges.reshape(-1), np.repeat(middles, 2)], axis=1)
    first, second = np.triu_indices(len(edges), 1)
    joins = np.stack([middles[first], middles[second]], axis=1)
    return num_vertices + len(edges), np.concatenate([halves, joins])


def independent_set_of_packing(
    num_vertices: int, edges: np.ndarray, is_packed: np.ndarray
) -> np.ndarray:
    """The independent set that a packing of the `packing_graph` stands for.

    It is as large as the packing; the vertices left out are a vertex cover, which is
    smallest if the packing is largest.

    Args:
        num_vertices: of the graph itself, at least 1.
        edges: `(edges, 2)` of the graph itself.
        is_packed: `(vertices + edges,)`, a packing of its `packing_graph`.

    Returns:
        `(vertices,)`.

    Raises:
        ValueError: for an argument out of range, or for what is no packing.
    """
    edges = _checked(num_vertices, edges)
    is_packed = np.asarray(is_packed, bool)
    remedy = "give a packing of the graph of `packing_graph`"
    require_shape("is_packed", is_packed, (num_vertices + len(edges),), remedy)
    _refuse_overlap(_neighborhoods(*packing_graph(num_vertices, edges)), is_packed)
    chosen = is_packed[:num_vertices].copy()
    # A middle is near all vertices with edges, so an end of it can take its place.
    chosen[edges[is_packed[num_vertices:], 0]] = True
    return chosen


def _neighborhoods(num_vertices: int, edges: np.ndarray) -> np.ndarray:
    """`(vertices, vertices)`, whether two are neighbors or the same."""
    edges = _checked(num_vertices, edges)
    around = np.eye(num_vertices, dtype=bool)
    around[edges[:, 0], edges[:, 1]] = True
    return around | around.T


def _checked(num_vertices: int, edges: np.ndarray) -> np.ndarray:
    """The edges, the smaller vertex first."""
    remedy = "an empty graph has no distribution"
    require_count("num_vertices", num_vertices, remedy)
    edges = np.sort(vertex_pairs(edges, num_vertices), axis=1)
    different, times = np.unique(edges, axis=0, return_counts=True)
    rule = "different pairs, whatever their order"
    refuse_pairs(different[times > 1], rule, "drop the repetitions")
    return edges
