"""The closed forms along an axis, mostly the radius, as tables that can be drawn.

Each formula is a frozen configuration with a method `table`; bad numbers are refused by
the functions of `jaxrobust.theory`, which name the range.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, get_args

import jax
import numpy as np

from jaxrobust.arguments import require, require_choice
from jaxrobust.theory import (
    bernoulli,
    bounds,
    gaussian,
    no_free_lunch,
    optimal_robust_classifier,
)
from jaxrobust.theory.arguments import count, real
from jaxrobust.theory.hardness import hardness_gadget

__all__ = [
    "Ball",
    "Bernoulli",
    "Cube",
    "Facets",
    "FormulaTable",
    "Gaussians",
    "Graph",
    "NoFreeLunch",
]


class FormulaTable(NamedTuple):
    """Quantities along an axis.

    Attributes:
        title: what they are about.
        source: paper, and item in it.
        axis: name of the axis.
        values: on the axis.
        columns: by name as many numbers.
        notes: sentences for the reader.
        logarithms: natural ones of columns that may be too small for a float, by the
            name of the column. They are no part of its figure.
    """

    title: str
    source: str
    axis: str
    values: tuple[float, ...]
    columns: dict[str, tuple[float, ...]]
    notes: tuple[str, ...] = ()
    logarithms: Mapping[str, tuple[float, ...]] = MappingProxyType({})

    def cells(self) -> list[list[str]]:
        """Texts of a table; the first row is the header."""
        logs = {f"log of {name}": each for name, each in self.logarithms.items()}
        columns = self.columns | logs
        rows = zip(self.values, *columns.values(), strict=True)
        body = [[f"{number:.6g}" for number in row] for row in rows]
        return [[self.axis, *columns], *body]

    def as_record(self) -> dict[str, Any]:
        """Plain values, for a results file."""
        return self._asdict() | {"logarithms": dict(self.logarithms)}


def _column(values: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in np.asarray(values).reshape(-1))


def _along(
    function: Callable[[float], Any], values: Sequence[float]
) -> tuple[float, ...]:
    """A column, number by number, so that each is checked."""
    return _column([function(value) for value in values])


_DING = "Ding et al., 2019, arXiv:1902.08336, "
_SHAEIRI = "Shaeiri et al., 2020, arXiv:2003.13370, "
_TSIPRAS = "Tsipras et al., 2018, arXiv:1805.12152v1, "

_TENTHS = tuple(index / 10 for index in range(11))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gaussians:
    """Two Gaussian classes: the least l_2-robust error of any classifier."""

    distance: float = 2.0
    """Between the means."""
    sigma: float = 1.0
    """Standard deviation along every axis."""
    epsilons: tuple[float, ...] = _TENTHS
    """Radii, in the unit of the distance."""

    def table(self) -> FormulaTable:
        """The error by radius."""
        columns = {
            "robust error": _along(
                lambda epsilon: gaussian.optimal_error(
                    self.distance, self.sigma, epsilon
                ),
                self.epsilons,
            )
        }
        return FormulaTable(
            "Two Gaussians", _SHAEIRI + "Theorem 2", "epsilon", self.epsilons, columns
        )


_BernoulliNorm = Literal["l0", "linf"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bernoulli:
    """Product Bernoulli classes: the least robust error of any one."""

    num_features: int = 50
    """Coordinates in which the classes differ, k."""
    advantage: float = 0.3
    """Each agrees with the label with probability 1/2 plus this, t."""
    norm: _BernoulliNorm = "l0"
    """l0: the adversary flips coordinates; linf: it moves all of them."""
    epsilons: tuple[float, ...] = tuple(float(count) for count in range(0, 21, 2))
    """Coordinates that are flipped, or radii for coordinates -1 and 1."""

    def _flips(self) -> tuple[int, ...]:
        """The radii as whole numbers."""
        for epsilon in self.epsilons:
            require(
                0 <= epsilon < math.inf and epsilon == math.floor(epsilon),
                "epsilons",
                "whole numbers in [0, inf) with norm l0",
                float(epsilon),
                "they count flipped coordinates",
            )
        return tuple(map(int, self.epsilons))

    def table(self) -> FormulaTable:
        """The robust error by radius and the Bayes error, and their logarithms."""
        require_choice("norm", self.norm, get_args(_BernoulliNorm))
        settings = self.num_features, self.advantage
        if self.norm == "linf":
            radii, plain, log = (
                self.epsilons,
                bernoulli.linf_error,
                bernoulli.log_linf_error,
            )
        else:
            radii, plain, log = (
                self._flips(),
                bernoulli.l0_error,
                bernoulli.log_l0_error,
            )
        count = len(radii)
        columns = {
            "robust error": _along(lambda radius: plain(*settings, radius), radii),
            "Bayes error": count * _column(bernoulli.bayes_error(*settings)),
        }
        logarithms = {
            "robust error": _along(lambda radius: log(*settings, radius), radii),
            "Bayes error": count * _column(bernoulli.log_bayes_error(*settings)),
        }
        return FormulaTable(
            f"Product Bernoulli, {self.norm}",
            _SHAEIRI + ("Theorems 3, 5" if self.norm == "linf" else "Theorems 3, 4"),
            "epsilon",
            self.epsilons,
            columns,
            logarithms=logarithms,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoFreeLunch:
    """One strong and many weak features: accuracies of linear ones."""

    dimension: int = 100
    """Number of weak features, d."""
    strength: float = 4.0
    """h, their mean times the root of d."""
    reliability: float = 0.7
    """Probability that the strong feature is the label."""
    ratios: tuple[float, ...] = tuple(index / 4 for index in range(13))
    """Radii, in units of the mean of a weak feature."""

    def table(self) -> FormulaTable:
        """Robust accuracies of the classifiers of least standard and robust loss."""
        dimension = count("dimension", self.dimension, fix="count the weak features")
        fix = "give h, the mean of a weak feature times the root of their number"
        real("strength", self.strength, "(0, inf)", fix=fix)
        fix = "give radii in units of the mean of a weak feature"
        real("ratios", np.asarray(self.ratios), "[0, inf)", fix=fix)
        eta = self.strength / dimension**0.5
        shared = {"eta": eta, "reliability": self.reliability}
        best = jax.jit(partial(no_free_lunch.optimal_weights, dimension, **shared))
        plain = best(epsilon=0.0)

        def robust(ratio: float) -> Any:
            epsilon = ratio * eta
            weights = best(epsilon=epsilon)
            return no_free_lunch.accuracy(weights, epsilon=epsilon, **shared)

        columns = {
            "averaging": _along(
                lambda ratio: no_free_lunch.averaging_accuracy(
                    dimension, eta, ratio * eta
                ),
                self.ratios,
            ),
            "least standard loss": _along(
                lambda ratio: no_free_lunch.accuracy(
                    plain, epsilon=ratio * eta, **shared
                ),
                self.ratios,
            ),
            "least robust loss": _along(robust, self.ratios),
        }
        # At the least, for which the sentence is true also where the error underflows.
        least = float(np.finfo(np.float32).tiny)
        error = max(float(no_free_lunch.error(plain, **shared)), least)
        bound = no_free_lunch.adversarial_accuracy_bound(error, self.reliability)
        standard = f"{'at most ' if error == least else ''}{error:.3g}"
        return FormulaTable(
            "Robust accuracy with a robust and many weak features",
            _TSIPRAS + "Section 2",
            "epsilon / eta",
            self.ratios,
            columns,
            (
                f"A classifier of standard error {standard} has an adversarial "
                f"accuracy of at most {float(bound):.3g} at epsilon = 2 eta "
                "(Theorem 2.1).",
            ),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cube:
    """Uniform data on the cube: the share that is vulnerable."""

    num_classes: int = 10
    """Classes of equal volume."""
    dimension: int = 784
    """For labels by the sum of all coordinates."""
    epsilons: tuple[float, ...] = _TENTHS
    """Radii: l_2 for the classes of any shape, l_inf for the two examples."""

    def table(self) -> FormulaTable:
        """Lower bounds, and two classifications with known shares."""
        columns = {
            "any classes, l_2, at least": _along(
                lambda epsilon: bounds.cube_vulnerable_fraction(
                    self.num_classes, epsilon
                ),
                self.epsilons,
            ),
            "by one coordinate, l_inf": _along(
                bounds.coordinate_robust_error, self.epsilons
            ),
            "by the sum, l_inf, at least": _along(
                lambda epsilon: bounds.sum_vulnerable_fraction(self.dimension, epsilon),
                self.epsilons,
            ),
        }
        return FormulaTable(
            "Vulnerable share of the unit cube",
            _DING + "Section 2",
            "epsilon",
            self.epsilons,
            columns,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ball:
    """Uniform data on the ball: the share that is vulnerable."""

    num_classes: int = 10
    """Classes of equal volume."""
    dimension: int = 784
    """Of the ball."""
    epsilons: tuple[float, ...] = _TENTHS
    """l_2 radii, at most 2."""

    def table(self) -> FormulaTable:
        """The lower bound by radius."""
        columns = {
            "any classes, l_2, at least": _along(
                lambda epsilon: bounds.ball_vulnerable_fraction(
                    self.num_classes, epsilon, self.dimension
                ),
                self.epsilons,
            )
        }
        return FormulaTable(
            "Vulnerable share of the unit ball",
            _DING + "Theorem 2.1",
            "epsilon",
            self.epsilons,
            columns,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facets:
    """How many linear pieces a polytope near the ball has at least."""

    dimension: int = 784
    """Of the ball."""
    distances: tuple[float, ...] = (1.5, 2.0, 3.0, 5.0, 10.0)
    """Radius of the outer ball over that of the inner one, at least 1."""

    def table(self) -> FormulaTable:
        """The natural logarithm of the number, which itself would overflow."""
        columns = {
            "log of facets, at least": _along(
                lambda distance: bounds.log_facets_bound(self.dimension, distance),
                self.distances,
            )
        }
        return FormulaTable(
            "Facets of polytopes",
            _DING + "Theorem D.1",
            "distance",
            self.distances,
            columns,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Graph:
    """A graph as a distribution that is hard to classify robustly."""

    num_vertices: int = 5
    """Vertices are numbered from 0."""
    edges: tuple[str, ...] = ("0-1", "1-2", "2-3", "3-4")
    """Pairs of vertices, such as 0-1 1-2."""
    time_limit: float = 60.0
    """Seconds for the integer program."""

    def _pairs(self) -> np.ndarray:
        pairs = []
        for text in self.edges:
            first, dash, second = text.partition("-")
            is_pair = bool(dash) and first.isdigit() and second.isdigit()
            rule = "pairs of vertices such as 0-1"
            require(is_pair, "edges", rule, text, "vertices are numbered from 0")
            pairs.append((int(first), int(second)))
        return np.array(pairs, int).reshape(-1, 2)

    def table(self) -> FormulaTable:
        """The least robust error of the graph's distribution, and the packing."""
        gadget = hardness_gadget(self.num_vertices, self._pairs())
        found = optimal_robust_classifier(
            gadget.points,
            gadget.labels,
            norm=gadget.norm,
            epsilon=gadget.epsilon,
            reach="support",
            time_limit=self.time_limit,
        )
        packed = np.flatnonzero(found.is_robust).tolist()
        columns = {
            "least robust error": (found.robust_error,),
            "proven at least": (found.lower_bound,),
            "packed vertices": (float(len(packed)),),
        }
        notes = (f"Vertices classified robustly: {', '.join(map(str, packed))}.",)
        if not found.is_optimal:
            notes += ("The time limit came first: the error may be lower.",)
        return FormulaTable(
            "Robust classification of a graph",
            _SHAEIRI + "Lemma 1",
            "vertices",
            (float(self.num_vertices),),
            columns,
            notes,
        )
