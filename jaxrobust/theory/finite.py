r"""The best robust classifier of a finite distribution, whatever its form.

A point is classified robustly if its whole ball of radius epsilon has its label, so two
points of different labels conflict if their balls meet. Points without conflict can all
be right at once: give each ball the label of its center. Hence the least robust error
is the weight of the lightest vertex cover of the conflicts (Bhagoji et al., 2019), for
any number of classes. It bounds the error of every model on these points from below.

Balls are closed, so they meet if their centers are at most 2 epsilon apart. A pixel
range changes nothing: the midpoint of two points in a box lies in the box.

In l_0 an adversary changes coordinates, at most :math:`m = \lfloor \epsilon \rfloor` of
them, and balls meet if their centers differ in at most :math:`2 m`. For if a point
differs from both centers in at most m, they differ from each other in at most 2 m; and
if they do, then one of them with half of these coordinates, rounded up, taken from the
other differs from either in at most m. It lies in every box that holds both.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Literal, NamedTuple, get_args

import numpy as np
from scipy.sparse import coo_array
from scipy.spatial.distance import cdist

from jaxrobust.arguments import require, require_choice, require_in, require_shape
from jaxrobust.theory.arguments import require_integers
from jaxrobust.theory.independent_sets import CliqueCover, maximum_independent_set

__all__ = [
    "NearestPointClassifier",
    "Norm",
    "Reach",
    "RobustOptimum",
    "conflicting_pairs",
    "optimal_robust_classifier",
]

Norm = Literal["linf", "l2", "l1", "l0"]
Reach = Literal["space", "support"]
"""Where the adversary may move a point: anywhere, or to other points only."""

_METRICS: dict[str, Literal["chebyshev", "euclidean", "cityblock", "hamming"]] = {
    "linf": "chebyshev",
    "l2": "euclidean",
    "l1": "cityblock",
    "l0": "hamming",
}
_ORDERS = {"linf": math.inf, "l2": 2, "l1": 1, "l0": 0}
_BLOCK = 1024  # points on a side; a block of distances is 8 MiB
_PREFIX = 64  # coordinates that a first look takes


def _distance_table(left: np.ndarray, right: np.ndarray, norm: Norm) -> np.ndarray:
    table = cdist(left, right, _METRICS[norm])
    # Hamming's is a share of the coordinates.
    return np.rint(table * left.shape[1]) if norm == "l0" else table


@dataclasses.dataclass(frozen=True, eq=False)
class NearestPointClassifier:
    """Gives an input the label of the nearest of some points.

    With the points that can be robust together, it is right on the whole ball of each:
    there, that point is within epsilon, and those of other labels are further away.

    Attributes:
        points: `(points, coordinates)`.
        labels: `(points,)`.
        norm: what near means.
    """

    points: np.ndarray
    labels: np.ndarray
    norm: Norm

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Labels `(inputs,)` of inputs `(inputs, ...)` as large as the points.

        Raises:
            ValueError: if the inputs have another number of coordinates.
        """
        inputs = np.asarray(inputs)
        flat = inputs.reshape(len(inputs), -1)
        size = self.points.shape[1]
        rule = f"of {size} coordinates each"
        remedy = "give inputs of the shape of the points"
        require(flat.shape[1] == size, "inputs", rule, inputs.shape, remedy)
        nearest = np.zeros(len(flat), np.int64)
        for here in _blocks(len(flat)):
            closest = np.full(len(flat[here]), math.inf)
            for there in _blocks(len(self.points)):
                table = _distance_table(flat[here], self.points[there], self.norm)
                found = table.argmin(axis=1)
                distance = table[np.arange(len(table)), found]
                is_closer = distance < closest
                nearest[here] = np.where(is_closer, found + there.start, nearest[here])
                closest = np.minimum(closest, distance)
        return self.labels[nearest]


class RobustOptimum(NamedTuple):
    """What the best robust classifier reaches on a finite distribution.

    Attributes:
        robust_error: share of the weight that the classifier loses under attack, in
            [0, 1]; the least possible if `is_optimal`.
        lower_bound: proven for every classifier, at most `robust_error`.
        is_optimal: whether the two agree, to a millionth; that is less than one point
            if all weigh the same and are fewer than a million. Always true of two
            classes.
        is_robust: `(points,)`, whether the classifier is right on the whole ball.
        num_conflicts: pairs of points that cannot both be robust.
        certificate: cliques of conflicts, with amounts. One minus the `certified_bound`
            of it bounds the error from below: for two classes it is a matching, and
            proves `lower_bound`; for more it may prove less.
        classifier: from inputs to labels; reaches `robust_error`.
    """

    robust_error: float
    lower_bound: float
    is_optimal: bool
    is_robust: np.ndarray
    num_conflicts: int
    certificate: CliqueCover
    classifier: NearestPointClassifier


def optimal_robust_classifier(
    points: np.ndarray,
    labels: np.ndarray,
    *,
    weights: np.ndarray | None = None,
    norm: Norm = "linf",
    epsilon: float,
    reach: Reach = "space",
    tolerance: float | None = None,
    time_limit: float = 60.0,
) -> RobustOptimum:
    r"""The classifier of least robust error among all functions of the input.

    It minimizes :math:`\sum_i w_i \max_{\|x' - x_i\| \le \epsilon} 1[h(x') \ne y_i]`
    over all :math:`h`. For two classes this takes polynomial time, by a maximum flow.
    For more it is NP-hard (see `hardness_gadget`); then an integer program has
    `time_limit` seconds, and `is_optimal` tells whether it came to an end.

    Args:
        points: `(points, ...)`, finite; trailing axes count as coordinates.
        labels: `(points,)` of integers.
        weights: `(points,)`, non-negative with sum 1; None for equal ones.
        norm: linf, l2, l1 or l0.
        epsilon: radius, finite and non-negative, in the unit of the points; in l0 the
            number of coordinates that may change, where a fraction adds nothing.
        reach: "space" lets the adversary go anywhere in the ball; "support" only to
            other points in it, as the proof of hardness needs.
        tolerance: see `conflicting_pairs`.
        time_limit: seconds for the integer program, above 0. What comes before takes
            its time: seconds for thousands of points.

    Raises:
        ValueError: for an argument out of range.

    References:
        Bhagoji, Cullina and Mittal, 2019, "Lower bounds on adversarial robustness from
        optimal transport", arXiv:1909.12272, Theorem 1 and its finite case: the least
        error of two classes is a matching of least cost.
    """
    points, labels = _checked(points, labels, norm, epsilon, reach, tolerance)
    count = len(points)
    weights = (
        np.full(count, 1 / count) if weights is None else np.asarray(weights, float)
    )
    _refuse_weights(weights, count)
    require_in("time_limit", time_limit, "(0, inf]", "it is in seconds")
    conflicts = conflicting_pairs(
        points, labels, norm=norm, epsilon=epsilon, reach=reach, tolerance=tolerance
    )
    found = maximum_independent_set(conflicts, weights, labels, time_limit=time_limit)
    is_robust = found.is_chosen
    error = float(weights[~is_robust].sum())
    return RobustOptimum(
        error,
        max(0.0, error - (found.upper_bound - found.weight)),
        found.is_optimal,
        is_robust,
        len(conflicts),
        found.certificate,
        NearestPointClassifier(points[is_robust], labels[is_robust], norm),
    )


def conflicting_pairs(
    points: np.ndarray,
    labels: np.ndarray,
    *,
    norm: Norm = "linf",
    epsilon: float,
    reach: Reach = "space",
    tolerance: float | None = None,
) -> np.ndarray:
    r"""Pairs of points that no classifier gets right robustly at once.

    Their labels differ, and the adversary can bring both to the same place. The memory
    is that of the points, of the pairs found and of a few blocks of distances.

    Args:
        points: `(points, ...)`, finite; trailing axes count as coordinates.
        labels: `(points,)` of integers.
        norm: linf, l2, l1 or l0.
        epsilon: radius, finite and non-negative, in the unit of the points; in l0 the
            number of coordinates that may change, where a fraction adds nothing.
        reach: "space" or "support", see `optimal_robust_classifier`.
        tolerance: non-negative distance, added to the reach so that balls that touch
            count as meeting in spite of rounding: 8-bit images lie on a grid, so many
            pairs are exactly 2 epsilon apart. None is :math:`4 u \max|x|
            d^{1/p}` for coordinates of relative precision :math:`u`; 5e-7 (linf) or
            1e-5 (l2) for MNIST in float32. It is 0 in l0, whose distances are counted;
            coordinates are compared there as float64.

    Returns:
        `(pairs, 2)`, indices of points, the smaller one first.

    Raises:
        ValueError: for an argument out of range.
    """
    points, labels = _checked(points, labels, norm, epsilon, reach, tolerance)
    margin = tolerance
    if norm == "l0":
        margin, epsilon = margin or 0.0, math.floor(epsilon)
    elif margin is None:
        dtype = points.dtype if points.dtype.kind == "f" else np.float64
        largest = float(np.abs(points).max(initial=0.0))
        growth = points.shape[1] ** (1 / _ORDERS[norm])
        margin = 4 * float(np.finfo(dtype).eps) * largest * growth
    if reach == "support":
        return _meeting_on_support(points, labels, epsilon + margin, norm)
    found = [np.zeros((0, 2), np.int64)]
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    for index, first in enumerate(members):
        # The others in one piece, so that many small classes make no small blocks.
        second = np.concatenate([*members[index + 1 :], np.zeros(0, np.int64)])
        for rows, columns in _near(
            points[first], points[second], 2 * epsilon + margin, norm
        ):
            found.append(np.stack([first[rows], second[columns]], axis=1))
    pairs = np.sort(np.concatenate(found), axis=1)
    return pairs[np.lexsort(pairs.T[::-1])]


def _checked(
    points: np.ndarray,
    labels: np.ndarray,
    norm: str,
    epsilon: float,
    reach: str,
    tolerance: float | None,
) -> tuple[np.ndarray, np.ndarray]:
    """The points as rows, and the labels."""
    points, labels = np.asarray(points), np.asarray(labels)
    require(
        points.ndim >= 2 and 0 not in points.shape,
        "points",
        "a non-empty array (points, ...)",
        points.shape,
        "give a row per point",
    )
    is_real = points.dtype.kind in "fiu"
    remedy = "give real numbers"
    require(is_real, "points", "floats or integers", points.dtype.name, remedy)
    points = points.reshape(len(points), -1)
    require_in("points", points, "(-inf, inf)", "drop rows that are not numbers")
    require_shape("labels", labels, (len(points),), "give one per point")
    require_integers("labels", labels, "give the numbers of classes")
    require_choice("norm", norm, get_args(Norm))
    require_choice("reach", reach, get_args(Reach))
    unit = "it is in the unit of the points"
    require_in("epsilon", epsilon, "[0, inf)", unit)
    if tolerance is not None:
        require_in("tolerance", tolerance, "[0, inf)", unit)
    return points, labels


def _refuse_weights(weights: np.ndarray, count: int) -> None:
    require_shape("weights", weights, (count,), "give one per point")
    remedy = "give a point that does not count a weight of 0"
    require_in("weights", weights, "[0, inf)", remedy)
    total = float(weights.sum())
    remedy = "divide them by their sum" if total else "give some point a weight"
    require(abs(total - 1) <= 1e-6, "weights", "of the sum 1", total, remedy)


def _blocks(count: int) -> Iterator[slice]:
    for start in range(0, count, _BLOCK):
        yield slice(start, min(start + _BLOCK, count))


def _near(
    first: np.ndarray, second: np.ndarray, radius: float, norm: Norm
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Indices of all pairs within the radius, block by block.

    Few coordinates suffice to see that most pairs are too far apart, since their
    distance never exceeds that of all; those that vary most come first.
    """
    if not (len(first) and len(second)):
        return
    order = np.argsort(-np.var(first, axis=0, dtype=np.float64), kind="stable")
    for here in _blocks(len(first)):
        left = first[here][:, order].astype(np.float64)
        for there in _blocks(len(second)):
            right = second[there][:, order].astype(np.float64)
            prefix = _distance_table(left[:, :_PREFIX], right[:, :_PREFIX], norm)
            # Room for rounding: a sum of fewer terms may come out a bit larger.
            is_near = prefix <= radius * (1 + 1e-12)
            if left.shape[1] > _PREFIX and is_near.mean() > 0.1:
                is_near = _distance_table(left, right, norm) <= radius
                rows, columns = np.nonzero(is_near)
            else:
                rows, columns = np.nonzero(is_near)
                is_near = _distances(left, right, rows, columns, norm) <= radius
                rows, columns = rows[is_near], columns[is_near]
            yield rows + here.start, columns + there.start


def _distances(
    left: np.ndarray, right: np.ndarray, rows: np.ndarray, columns: np.ndarray, norm
) -> np.ndarray:
    found = np.zeros(len(rows))
    for here in _blocks(len(rows)):
        difference = left[rows[here]] - right[columns[here]]
        found[here] = np.linalg.norm(difference, _ORDERS[norm], axis=1)
    return found


def _meeting_on_support(
    points: np.ndarray, labels: np.ndarray, radius: float, norm: Norm
) -> np.ndarray:
    """Pairs of different labels that some point is within the radius of."""
    near = [np.stack(pair) for pair in _near(points, points, radius, norm)]
    rows, columns = np.concatenate(near, axis=1)
    shape = (len(points), len(points))
    reaches = coo_array((np.ones(len(rows), np.int32), (rows, columns)), shape=shape)
    meet = (reaches.tocsr() @ reaches.T.tocsr()).tocoo()
    is_conflict = (meet.row < meet.col) & (labels[meet.row] != labels[meet.col])
    pairs = np.stack([meet.row, meet.col], axis=1)[is_conflict].astype(np.int64)
    return pairs[np.lexsort(pairs.T[::-1])]
