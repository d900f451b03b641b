"""`jaxrobust limits concentration`."""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any, Literal

from jaxrobust import plots
from jaxrobust.arguments import require_count
from jaxrobust.cli.limits.examples import NeighborLine, OnData, cut
from jaxrobust.cli.limits.output import (
    RESULTS,
    draw,
    finish,
    flags_of,
    require_new,
    working,
    write,
)
from jaxrobust.concentration import (
    Estimate,
    Rule,
    estimate_half_space,
    estimate_l2,
    estimate_linf,
)
from jaxrobust.report import markdown_table, percent

__all__ = ["Concentration"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Concentration(OnData):
    """How little a set of given measure grows on a data set (Mahloujifar et al.).

    linf: complements of rectangles; l2: unions of balls, beside half-spaces. A search
    that was interrupted goes on when the same command is given again.
    """

    norm: Literal["linf", "l2"] = "linf"
    """Norm of the ball."""
    train_size: int | None = None
    """Number of training examples; by default all."""
    epsilon: float = 0.3
    """Radius, in units of [0, 1] pixels, such as 0.3 or 8/255."""
    alpha: float = 0.01
    """Least measure of the set: the risk of a model, say."""
    num_regions: tuple[int, ...] = ()
    """Rectangles or balls, or several to choose from; by default 10 rectangles, 20
    balls."""
    num_neighbors: int = 50
    """linf: the nearer an image is to that many, itself included, the denser it lies;
    at most the number of training images."""
    num_kmeans_restarts: int = 10
    """linf: starts of k-means; what is shown is their mean and deviation."""
    rule: Rule = "train"
    """linf: what selects the set; "train and test" is the rule of the authors' code."""
    slack: float = 0.0
    """l2: how much more than alpha the training risk is to be, relatively; the
    published numbers have .25 on MNIST."""
    max_centers: int | None = None
    """l2: centers drawn at random; by default all."""
    seed: int = 0
    """Of everything random."""

    def require_counts(self, num_train: int) -> None:
        """Refuse what rectangles cannot be made of, before neighbors are searched."""
        for flag, count in (
            ("--num-neighbors", self.num_neighbors),
            *(("--num-regions", number) for number in self.num_regions or (10,)),
        ):
            remedy = "ask for no more than there are training images"
            require_count(flag, count, remedy, most=num_train)

    def run(self) -> int:
        """Estimate, print and write."""
        require_new(self.output)
        train = cut(self.load("train"), self.train_size, "--train-size")
        test = self.load("test")
        if self.norm == "linf":
            self.require_counts(len(train))
        kept = self.output / "neighbors"
        began = time.perf_counter()
        shared: dict[str, Any] = {
            "epsilon": self.epsilon,
            "alpha": self.alpha,
            "seed": self.seed,
        }
        line = NeighborLine(is_wanted=not self.quiet)
        searched = shared | {"cache": kept, "progress": line}

        def rectangles() -> list[Estimate]:
            found = estimate_linf(
                train.images,
                test.images,
                num_rectangles=self.num_regions or 10,
                num_neighbors=self.num_neighbors,
                num_restarts=self.num_kmeans_restarts,
                rule=self.rule,
                **searched,
            )
            return [found]

        def balls() -> list[Estimate]:
            found = estimate_l2(
                train.images,
                test.images,
                num_balls=self.num_regions or 20,
                slack=self.slack,
                max_centers=self.max_centers,
                **searched,
            )
            splits = train.images, test.images
            return [
                found,
                estimate_half_space(*splits, **shared),
                estimate_half_space(*splits, search="best", **shared),
            ]

        with working(self.output):
            estimates = finish(rectangles if self.norm == "linf" else balls, kept)
            draw(_estimate_figure(estimates), self.output, "concentration")
            record = {
                "config": flags_of(self),
                "data": train.title,
                "num_train": len(train),
                "num_test": len(test),
                "seconds": round(time.perf_counter() - began, 1),
                "rows": [estimate.as_row() for estimate in estimates],
            }
            write(self.output, record)
        print(f"{train.title}, {len(train):,} training and {len(test):,} test images\n")
        print(markdown_table(_estimate_cells(estimates)), end="")
        for estimate in estimates:
            if estimate.guarantee is not None:
                print(f"\n{estimate.method}: {estimate.guarantee.describe()}")
        print(f"written: {self.output / RESULTS}")
        return 0


def _name(estimate: Estimate) -> str:
    is_best = estimate.settings.get("search") == "best"
    return estimate.method + (", best" if is_best else "")


def _share(estimate: Estimate, split: str, name: str) -> str:
    mean = percent(getattr(estimate.mean(split), name), 2)
    if len(estimate.test) == 1:
        return mean
    return f"{mean} ± {100 * getattr(estimate.sd(split), name):.2f}"


def _estimate_cells(estimates: Sequence[Estimate]) -> list[list[str]]:
    header = ["method", "T", "q", "risk, train", "risk, test"]
    cells = [[*header, "adversarial risk, train", "adversarial risk, test"]]
    for each in estimates:
        risks = [
            _share(each, split, name)
            for name in ("risk", "adversarial_risk")
            for split in ("train", "test")
        ]
        quantile = "-" if each.quantile is None else f"{each.quantile:.3f}"
        cells.append([_name(each), str(each.num_regions), quantile, *risks])
    return cells


def _estimate_figure(estimates: Sequence[Estimate]) -> "plots.Figure":
    rows = [
        {
            "name": _name(each),
            "risk": each.mean("test").risk,
            "adversarial_risk": each.mean("test").adversarial_risk,
        }
        for each in estimates
    ]
    first = estimates[0]
    title = f"{first.norm}, epsilon {first.epsilon:g}, on test images"
    return plots.risk_bars(rows, title=title)
