"""Concentration in l2: error regions that are half-spaces."""

import math
from typing import Literal

import numpy as np
from scipy import linalg

from jaxrobust.arguments import require_choice
from jaxrobust.concentration.estimates import (
    Estimate,
    reaches,
    require_settings,
    require_splits,
)
from jaxrobust.concentration.regions import HalfSpace
from jaxrobust.data.points import unit_values

__all__ = [
    "estimate_half_space",
    "half_space",
    "longer_tails",
    "principal_directions",
    "projections",
]

Search = Literal["principal", "best"]

BLOCK = 4096
"""Points in double precision at once."""


def number_of(size: int, alpha: float) -> int:
    """ceil(n alpha), where only rounding never adds a point."""
    return math.ceil(size * alpha - 1e-9)


def principal_directions(points: np.ndarray, number: int) -> np.ndarray:
    """Unit directions in which centered points vary most, the first one first.

    Args:
        points: rows, bytes or floats.
        number: of directions, in [1, dimensions].
    """
    size, dimensions = points.shape
    total, squares = np.zeros(dimensions), np.zeros((dimensions, dimensions))
    for start in range(0, size, BLOCK):
        block = unit_values(points[start : start + BLOCK]).astype(np.float64)
        total += block.sum(axis=0)
        squares += block.T @ block
    mean = total / size
    covariance = squares / size - np.outer(mean, mean)
    chosen = (max(0, dimensions - number), dimensions - 1)
    _, vectors = linalg.eigh(covariance, subset_by_index=chosen)
    return vectors.T[::-1]


def projections(points: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Inner products in double precision, (directions, points)."""
    parts = [
        directions @ unit_values(points[start : start + BLOCK]).astype(np.float64).T
        for start in range(0, len(points), BLOCK)
    ]
    return np.concatenate(parts, axis=1)


def half_space(points: np.ndarray, direction: np.ndarray, alpha: float) -> HalfSpace:
    """The half-space in a direction that holds the furthest ceil(n alpha) points.

    Where points tie at its boundary it holds fewer, since it is open.
    """
    (offset,) = _offsets(projections(points, direction[None]), alpha)
    return HalfSpace(direction, float(offset))


def _offsets(projected: np.ndarray, alpha: float) -> np.ndarray:
    """For each direction the number that ceil(n alpha) projections are above."""
    size = projected.shape[1]
    place = size - 1 - number_of(size, alpha)
    if place < 0:
        return np.full(len(projected), -np.inf)
    return np.partition(projected, place, axis=1)[:, place]


def longer_tails(points: np.ndarray, projected: np.ndarray, alpha: float) -> np.ndarray:
    """For each direction, one whose furthest points are further out on average.

    It leads from the mean of all points to the mean of the furthest ones. Their mean
    projection is convex in the direction, and this is where its tangent is largest on
    the unit sphere, so it never falls.

    Args:
        points: rows, bytes or floats.
        projected: their projections, (directions, points).
        alpha: share of points that count as furthest.
    """
    size = projected.shape[1]
    number = number_of(size, alpha)
    tails = np.argpartition(projected, size - number, axis=1)[:, size - number :]
    mean = unit_values(points).mean(axis=0, dtype=np.float64)
    steps = [
        unit_values(points[tail]).mean(axis=0, dtype=np.float64) - mean
        for tail in tails
    ]
    lengths = np.linalg.norm(steps, axis=1, keepdims=True)
    return np.asarray(steps) / np.where(lengths > 0, lengths, 1)


def estimate_half_space(
    train: np.ndarray,
    test: np.ndarray,
    *,
    epsilon: float,
    alpha: float,
    search: Search = "principal",
    num_directions: int = 20,
    num_random: int = 20,
    num_steps: int = 10,
    seed: int = 0,
) -> Estimate:
    """How little a half-space of measure `alpha` can grow in l2.

    Args:
        train: uint8 or floats of any shape, one image each.
        test: images of the same size, on which the half-space is reported.
        epsilon: radius, in units of [0, 1] pixels.
        alpha: least risk on the training points, in (0, 1); where points tie at the
            boundary it may not be reached, see `Estimate.num_feasible`.
        search: "principal" for the first principal component with either sign, the
            published baseline; "best" also for further ones, random directions, and
            those that lead from each of them to a longer tail. The one with the least
            adversarial risk on the training points is taken, so "best" is never worse
            there.
        num_directions: principal components for "best".
        num_random: random directions for "best".
        num_steps: towards a longer tail, from each of them.
        seed: of the random directions.

    Raises:
        ValueError: for an argument out of range.

    References:
        Gilmer et al., 2018, arXiv:1801.02774.

    Differs from the paper: both signs are tried, where the code takes that of the
    library.
    """
    require_settings(epsilon=epsilon, alpha=alpha, num_directions=num_directions)
    require_choice("search", search, ("principal", "best"))
    points, others = require_splits(train, test)
    number = 1 if search == "principal" else num_directions
    number = min(number, points.shape[1])
    starts = list(principal_directions(points, number))
    if search == "best":
        rng = np.random.default_rng(seed)
        drawn = rng.normal(size=(num_random, points.shape[1]))
        starts += list(drawn / np.linalg.norm(drawn, axis=1, keepdims=True))
    directions = np.concatenate([np.stack(starts), -np.stack(starts)])
    best, least, num_tried = directions[0], math.inf, 0
    rounds = 1 + (num_steps if search == "best" else 0)
    for index in range(rounds):
        projected = projections(points, directions)
        offsets = _offsets(projected, alpha)[:, None]
        costs = np.mean(projected > offsets - epsilon, axis=1)
        # Where points tie at the boundary, less than alpha may be above it.
        is_short = np.mean(projected > offsets, axis=1) < alpha - 1e-9
        costs += 1.0 * is_short
        first = int(np.argmin(costs))
        if costs[first] < least:
            best, least = directions[first], costs[first]
        num_tried += len(directions)
        if index + 1 < rounds:
            directions = longer_tails(points, projected, alpha)
    region = half_space(points, best, alpha)
    risks = region.risks(points, epsilon)
    return Estimate(
        method="half-space",
        norm="l2",
        epsilon=epsilon,
        alpha=alpha,
        regions=(region,),
        train=(risks,),
        test=(region.risks(others, epsilon),),
        num_regions=1,
        num_feasible=int(reaches(risks.risk, alpha)),
        settings={
            "search": search,
            "num_directions": number,
            "num_random": num_random if search == "best" else 0,
            "num_steps": num_steps if search == "best" else 0,
            "num_tried": num_tried,
            "seed": seed,
        },
    )
