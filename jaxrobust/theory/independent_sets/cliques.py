"""Cliques, which bound independent sets, and how they are found."""

import time
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

from jaxrobust.arguments import require_in

__all__ = [
    "CliqueCover",
    "all_cliques",
    "as_wide",
    "certified_bound",
    "covered",
    "greedy_cover",
    "incidence",
    "padded",
    "violated_cliques",
]


class CliqueCover(NamedTuple):
    """Amounts on cliques: the proof of an upper bound.

    Attributes:
        cliques: `(cliques, members)`, vertices that are neighbors pairwise; -1 fills
            rows of fewer members. Rows of two are edges, and their amounts a flow.
        amounts: `(cliques,)`, non-negative, in the unit of the weights.
    """

    cliques: np.ndarray
    amounts: np.ndarray


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
    return covered(cliques, np.asarray(amounts), weights)


def violated_cliques(values: np.ndarray, adjacency: np.ndarray) -> list[np.ndarray]:
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


def covered(cliques: np.ndarray, amounts: np.ndarray, weights: np.ndarray) -> float:
    """The bound that amounts on cliques prove."""
    member = cliques >= 0
    load = np.bincount(
        cliques[member],
        weights=np.repeat(amounts, member.sum(axis=1)),
        minlength=len(weights),
    )
    return float(amounts.sum() + np.maximum(weights - load, 0.0).sum())


def incidence(cliques: np.ndarray, count: int) -> csr_array:
    """Which vertices lie in which clique, `(cliques, vertices)`."""
    member = cliques >= 0
    starts = np.concatenate([[0], np.cumsum(member.sum(axis=1))])
    ones = np.ones(starts[-1])
    return csr_array((ones, cliques[member], starts), shape=(len(cliques), count))


def greedy_cover(
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
    return padded(cliques), np.array(amounts, float)


def all_cliques(adjacency: np.ndarray, deadline: float) -> np.ndarray | None:
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
    return padded(cliques)


def as_wide(tables: list[np.ndarray]) -> list[np.ndarray]:
    """Tables of cliques, filled up to the widest."""
    width = max(table.shape[1] for table in tables)
    return [
        np.pad(table, ((0, 0), (0, width - table.shape[1])), constant_values=-1)
        for table in tables
    ]


def padded(cliques: list[np.ndarray]) -> np.ndarray:
    """Cliques as the rows of a table, filled up by -1."""
    width = max((len(clique) for clique in cliques), default=2)
    rows = np.full((len(cliques), width), -1, np.int64)
    for row, clique in zip(rows, cliques, strict=True):
        row[: len(clique)] = clique
    return rows
