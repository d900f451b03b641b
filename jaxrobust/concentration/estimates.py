"""What an estimate of concentration is, and what may be asked for."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxrobust.arguments import require, require_count, require_in, require_shape
from jaxrobust.concentration.guarantee import Guarantee
from jaxrobust.concentration.regions import Region, Risks
from jaxrobust.data.points import as_points

__all__ = ["Estimate", "Visit", "reaches", "require_settings", "require_splits"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Visit:
    """One error region that a search looked at.

    Attributes:
        num_regions: rectangles, T.
        quantile: share of the densest training points that they were to cover, q.
        train: its risks on the training points.
        test: its risks on the test points.
        is_feasible: whether its risk is large enough by the rule of the search.
    """

    num_regions: int
    quantile: float
    train: Risks
    test: Risks
    is_feasible: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """An error region that grows little when it is expanded, and how far to trust it.

    Selected on the training points and reported on the test points, unless `settings`
    say otherwise.

    Attributes:
        method: "hyperrectangles", "balls" or "half-space".
        norm: of the expansion.
        epsilon: its radius, in units of [0, 1] pixels.
        alpha: least risk that was asked for; not that of every restart, see
            `num_feasible`.
        regions: the region of each restart.
        train: its risks on the training points, for each restart.
        test: its risks on the test points, for each restart.
        num_feasible: restarts whose risk is at least alpha: on the training points, and
            on the test points too if the rule of the search asks for that. Where it is
            not all of them, their mean risk may be below alpha.
        quantile: q of the rectangles; None for other methods.
        guarantee: of how well the training points stand for the distribution, for
            unions of as many regions as there were to choose from; None for
            half-spaces, to which the theorem does not refer.
        settings: everything else that was asked for.
        visits: what the search looked at, in order.
    """

    method: str
    norm: str
    epsilon: float
    alpha: float
    regions: tuple[Region, ...]
    train: tuple[Risks, ...]
    test: tuple[Risks, ...]
    num_regions: int
    num_feasible: int
    quantile: float | None = None
    guarantee: Guarantee | None = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    visits: tuple[Visit, ...] = ()

    def mean(self, split: str) -> Risks:
        """Mean risks over the restarts, of "train" or "test"."""
        return Risks(*np.mean(getattr(self, split), axis=0).tolist())

    def sd(self, split: str) -> Risks:
        """Population standard deviation over the restarts, of "train" or "test"."""
        return Risks(*np.std(getattr(self, split), axis=0).tolist())

    def as_row(self) -> dict[str, Any]:
        """All numbers, without the regions, as plain values for a results file."""
        row: dict[str, Any] = {
            "method": self.method,
            "norm": self.norm,
            "epsilon": self.epsilon,
            "alpha": self.alpha,
            "num_regions": self.num_regions,
            "num_feasible": self.num_feasible,
            "quantile": self.quantile,
            "settings": dict(self.settings),
            "guarantee": None if self.guarantee is None else self.guarantee.as_row(),
        }
        for split in ("train", "test"):
            row[split] = {
                "mean": self.mean(split)._asdict(),
                "sd": self.sd(split)._asdict(),
                "restarts": [each._asdict() for each in getattr(self, split)],
            }
        return row


def reaches(risk: float, alpha: float) -> bool:
    """Whether a share of points is at least `alpha`, up to the rounding of either."""
    return risk >= alpha - 1e-9


def require_settings(
    *, epsilon: float, alpha: float, **counts: int | Sequence[int]
) -> None:
    """Refuse what no method can work with.

    Raises:
        ValueError: for a radius that is not finite and non-negative, a share outside
            (0, 1), or a count below 1.
    """
    remedy = "radii are in units of [0, 1] pixels, so 8/255 rather than 8"
    require_in("epsilon", epsilon, "[0, inf)", remedy)
    require_in("alpha", alpha, "(0, 1)", "it is a share, so 0.05 for 5 %")
    for name, value in counts.items():
        require(np.size(value) > 0, name, "one number or more", value, "give one")
        require_count(name, value, "ask for one at least")


def require_splits(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, ...]:
    """Training and test images as rows of the same length.

    Raises:
        ValueError: for images of different sizes, or that are no points.
    """
    splits = as_points(train, "train"), as_points(test, "test")
    remedy = "give two splits of one data set, whose images are of one size"
    require_shape("test", splits[1], ("images", splits[0].shape[1]), remedy)
    return splits
