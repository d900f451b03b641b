"""Components that flows leave open: cuts by cliques, exchanges, integer programs."""

import math
import time
from typing import NamedTuple

import numpy as np
from scipy.optimize import LinearConstraint, linprog, milp

from jaxrobust.theory.independent_sets.cliques import (
    all_cliques,
    as_wide,
    covered,
    greedy_cover,
    incidence,
    padded,
    violated_cliques,
)
from jaxrobust.theory.independent_sets.flows import MOST_UNITS, lightest_cover

__all__ = ["solve_component"]

_LARGEST_DENSE = 8192  # vertices whose table of neighbors is 64 MiB


class _Component(NamedTuple):
    is_chosen: np.ndarray
    bound: float
    cliques: np.ndarray
    amounts: np.ndarray


def solve_component(
    units: np.ndarray, edges: np.ndarray, parts: np.ndarray, deadline: float
) -> _Component:
    """An independent set of a connected graph that the relaxation left open."""
    heaviest = np.bincount(parts, weights=units).argmax()
    is_chosen = _exchanged(parts == heaviest, units, edges, parts, deadline)
    value = units[is_chosen].sum()
    # Whole units are exact if they are few; of many, the solvers take floats, and the
    # last bits of a bound are not worth an integer program.
    scale = max(1.0, units.sum() / MOST_UNITS)
    slack = int(units.sum() - 1) // MOST_UNITS
    half = units.sum() // 2  # by the relaxation, which settled none of the vertices
    if len(units) > _LARGEST_DENSE:
        return _Component(is_chosen, half, np.zeros((0, 2), np.int64), np.zeros(0))
    adjacency = np.zeros((len(units), len(units)), bool)
    adjacency[edges[:, 0], edges[:, 1]] = True
    adjacency |= adjacency.T
    cliques, amounts = greedy_cover(adjacency, units)
    bound = min(half, _whole(covered(cliques, amounts, units)))
    is_open = np.ones(len(units), bool)
    if bound > value + slack and (
        relaxed := _relaxed(units, scale, adjacency, cliques, value + slack, deadline)
    ):
        limit = covered(relaxed.cliques, relaxed.prices, units)
        if _whole(limit) <= bound:
            bound, cliques, amounts = _whole(limit), relaxed.cliques, relaxed.prices
        rounded = _rounded(relaxed.values, adjacency)
        other = _exchanged(rounded, units, edges, parts, deadline)
        if units[other].sum() > value:
            is_chosen, value = other, units[other].sum()
        # A set with a given vertex stays so far below the limit. Only vertices whose
        # sets can still weigh a unit more than the one at hand, up to rounding, count.
        load = incidence(relaxed.cliques, len(units)).T @ relaxed.prices
        below = np.maximum(load - units, 0.0)
        is_open = limit - below >= value + 1 - 1e-6 - 1e-9 * limit
    if (
        bound > value + slack
        and (rows := all_cliques(adjacency, deadline)) is not None
        and (left := deadline - time.monotonic()) > 0
    ):
        exact = milp(
            -units / scale,
            integrality=np.ones(len(units)),
            bounds=(0.0, is_open.astype(float)),
            constraints=LinearConstraint(incidence(rows, len(units)), -np.inf, 1),
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
            A_ub=incidence(cliques, len(units)),
            b_ub=np.ones(len(cliques)),
            bounds=(0, 1),
            options={"time_limit": left},
        )
        if solution.status != 0:
            break
        prices = np.maximum(-solution.ineqlin.marginals, 0.0) * scale
        found = _Relaxed(solution.x, cliques, prices)
        if _whole(covered(cliques, prices, units)) <= enough:
            break
        violated = violated_cliques(solution.x, adjacency)
        if not violated:
            break
        new = np.unique(padded(violated), axis=0)
        cliques = np.concatenate(as_wide([cliques, new]))
    return found


def _whole(bound: float) -> int:
    """The largest whole number that rounding errors allow under a bound."""
    return math.floor(bound * (1 + 1e-12) + 1e-9)


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
        cover, *_ = lightest_cover(units, is_new, edges[between])
        exchanged = (others | is_new) & ~cover
        if units[exchanged].sum() > units[is_chosen].sum():
            is_chosen = exchanged
            waiting = [other for other in np.unique(parts) if other != part]
    return is_chosen
