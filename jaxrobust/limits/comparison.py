"""A model's errors beside what concentration, and what any function at all, allows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from jaxrobust.arguments import require_choice, require_count, require_in
from jaxrobust.concentration import Estimate, estimate_l2, estimate_linf
from jaxrobust.data import Dataset, as_float, subset
from jaxrobust.evaluation import Evaluation
from jaxrobust.theory import Norm, RobustOptimum, optimal_robust_classifier

__all__ = [
    "Comparison",
    "best_possible",
    "compare",
    "require_comparison",
    "require_optimum",
]

NUM_REGIONS = {"linf": 10, "l2": 20}
"""Rectangles and balls, as Mahloujifar et al. (2019) take on MNIST, Table 2."""

NUM_NEIGHBORS = 50
"""Of the density that rectangles go by, if there are so many examples."""


class Comparison(NamedTuple):
    """Errors of a model, and limits at the same risk and radius.

    Attributes:
        norm: of the ball.
        epsilon: its radius, in units of [0, 1] pixels.
        clean_error: of the model, in [0, 1].
        adversarial_error: of the model under the attack that it was evaluated by; its
            true one is at least that.
        num_examples: that the model was evaluated on.
        estimate: of concentration, at a risk of at least the clean error.
        optimum: the best that any function reaches on a finite part of the data, which
            bounds every model's error on that part; None if it was not asked for.
        num_optimum: examples of that part.
    """

    norm: str
    epsilon: float
    clean_error: float
    adversarial_error: float
    num_examples: int
    estimate: Estimate
    optimum: RobustOptimum | None
    num_optimum: int

    def as_rows(self) -> list[dict[str, Any]]:
        """One row for each: name, risk, adversarial risk (shares), and its meaning."""
        mean, sd = self.estimate.mean("test"), self.estimate.sd("test")
        rows = [
            {
                "name": "model",
                "risk": self.clean_error,
                "adversarial_risk": self.adversarial_error,
                "sd": None,
                "meaning": f"errors on {self.num_examples} test examples; attacks "
                "bound the adversarial one from below",
            },
            {
                "name": "concentration",
                "risk": mean.risk,
                "adversarial_risk": mean.adversarial_risk,
                "sd": sd.adversarial_risk,
                "meaning": "an error region that grows only so much: concentration of "
                "measure forces no more adversarial risk than that",
            },
        ]
        if self.optimum is not None:
            rows.append(
                {
                    "name": "finite optimum",
                    "risk": 0.0,
                    "adversarial_risk": self.optimum.lower_bound,
                    "sd": None,
                    "meaning": f"every function errs on as much of {self.num_optimum} "
                    "training examples; not transferable to others",
                }
            )
        return rows


def require_optimum(
    *, epsilon: float, norm: str, num_examples: int, time_limit: float
) -> None:
    """Refuse what `best_possible` cannot work with, before anything is computed.

    Raises:
        ValueError: for a norm other than linf, l2, l1 and l0, a radius that is not
            finite and non-negative, no examples, or no time.
    """
    require_choice("norm", norm, get_args(Norm))
    remedy = (
        "radii are in units of [0, 1] pixels, so 8/255 rather than 8, but in l0 "
        "numbers of coordinates"
    )
    require_in("epsilon", epsilon, "[0, inf)", remedy)
    require_count("num_examples", num_examples, "2000 is usual")
    require_in("time_limit", time_limit, "(0, inf]", "it is in seconds")


def require_comparison(
    train: Dataset,
    *,
    epsilon: float,
    norm: str = "linf",
    num_regions: int | None = None,
    num_restarts: int = 10,
    num_optimum: int = 2000,
    time_limit: float = 60.0,
) -> None:
    """Refuse what `compare` cannot work with, before a model is evaluated.

    The arguments are those of `compare`.

    Raises:
        ValueError: for an argument out of range.
    """
    require_choice("norm", norm, tuple(NUM_REGIONS))
    require_optimum(epsilon=epsilon, norm=norm, num_examples=1, time_limit=time_limit)
    if num_regions is not None:
        remedy = f"None takes {NUM_REGIONS[norm]}"
        require_count("num_regions", num_regions, remedy)
    count = NUM_REGIONS[norm] if num_regions is None else num_regions
    if norm == "linf":
        remedy = "ask for no more than there are training examples"
        require_count("num_regions", count, remedy, most=len(train))
    require_count("num_restarts", num_restarts, "10 is usual")
    remedy = "0 leaves the finite optimum out"
    require_count("num_optimum", num_optimum, remedy, least=0)


def best_possible(
    dataset: Dataset,
    *,
    epsilon: float,
    norm: Norm = "linf",
    num_examples: int = 2000,
    time_limit: float = 60.0,
) -> RobustOptimum:
    """The best robust error that any function reaches on examples of a data set.

    Args:
        dataset: images in [0, 1] once they are floats, and labels.
        epsilon: radius, in units of [0, 1] pixels; in l0 the number of coordinates
            (pixels times channels) that may change.
        norm: linf, l2, l1 or l0.
        num_examples: the first of each class, in proportion; at most all.
        time_limit: seconds for the integer program, of more than two classes.

    Raises:
        ValueError: for an argument out of range.
    """
    require_optimum(
        epsilon=epsilon, norm=norm, num_examples=num_examples, time_limit=time_limit
    )
    part = subset(dataset, min(num_examples, len(dataset)))
    points = np.asarray(as_float(part.images)).reshape(len(part), -1)
    return optimal_robust_classifier(
        points, np.asarray(part.labels), norm=norm, epsilon=epsilon,
        time_limit=time_limit,
    )  # fmt: skip


def compare(
    evaluation: Evaluation,
    train: Dataset,
    test: Dataset,
    *,
    epsilon: float,
    norm: Literal["linf", "l2"] = "linf",
    num_regions: int | None = None,
    num_restarts: int = 10,
    num_optimum: int = 2000,
    time_limit: float = 60.0,
    seed: int = 0,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Lay a model beside the limits, at its own clean error.

    Args:
        evaluation: of the model on `test`, at `epsilon` among others.
        train: examples that the error region is selected on. The density that
            rectangles go by is that of 50 neighbors, or of all if there are fewer.
        test: examples that it is reported on.
        epsilon: radius, in units of [0, 1] pixels.
        norm: linf (rectangles) or l2 (balls); that of the evaluation.
        num_regions: rectangles (no more than training examples) or balls; None for 10
            or 20, as the paper takes on MNIST.
        num_restarts: of the rectangles.
        num_optimum: training examples for the finite optimum, at most all; 0 for none.
        time_limit: seconds for the integer program of the finite optimum.
        seed: of everything random.
        cache: directory that keeps the neighbors, so that a killed search goes on.
        progress: told how many neighbors are done, and of how many.

    Raises:
        ValueError: for a radius that was not evaluated, or an argument out of range.

    References:
        Mahloujifar et al., 2019, arXiv:1905.12202, Table 2.
    """
    require_comparison(
        train,
        epsilon=epsilon,
        norm=norm,
        num_regions=num_regions,
        num_restarts=num_restarts,
        num_optimum=num_optimum,
        time_limit=time_limit,
    )
    is_robust = evaluation.at(epsilon)
    clean_error = 1 - evaluation.clean_accuracy
    # No region has a measure of 0, so a faultless model is taken for the least fault.
    alpha = max(clean_error, 1 / evaluation.num_examples)
    shared: dict[str, Any] = {
        "epsilon": epsilon,
        "alpha": alpha,
        "seed": seed,
        "cache": cache,
        "progress": progress,
    }
    if num_regions is None:
        num_regions = NUM_REGIONS[norm]
    if norm == "linf":
        estimate = estimate_linf(
            train.images,
            test.images,
            num_rectangles=num_regions,
            num_neighbors=min(NUM_NEIGHBORS, len(train)),
            num_restarts=num_restarts,
            feasible_only=True,
            **shared,
        )
    else:
        estimate = estimate_l2(
            train.images, test.images, num_balls=num_regions, **shared
        )
    optimum = None
    num_optimum = min(num_optimum, len(train))
    if num_optimum:
        optimum = best_possible(
            train,
            epsilon=epsilon,
            norm=norm,
            num_examples=num_optimum,
            time_limit=time_limit,
        )
    return Comparison(
        norm,
        epsilon,
        clean_error,
        1 - float(np.mean(is_robust)),
        evaluation.num_examples,
        estimate,
        optimum,
        num_optimum,
    )
