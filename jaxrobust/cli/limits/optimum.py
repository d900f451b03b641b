"""`jaxrobust limits optimum`."""

import dataclasses
import functools
import shutil
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from jaxrobust import plots
from jaxrobust.arguments import require
from jaxrobust.cli.limits.examples import OnData, cut
from jaxrobust.cli.limits.output import (
    RESULTS,
    draw,
    finish,
    flags_of,
    require_new,
    working,
    write,
)
from jaxrobust.data import Dataset, of_classes
from jaxrobust.keeping import Kept, versions
from jaxrobust.limits import best_possible
from jaxrobust.limits.comparison import require_optimum
from jaxrobust.report import markdown_table, percent
from jaxrobust.theory import Norm

__all__ = ["Optimum"]

DEFAULT_SIZE = 2000
"""Training examples whose optimum is solved for, if there are so many."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimum(OnData):
    """The best robust error that any function reaches on training examples.

    Radii are solved for one after another; a command that was interrupted goes on with
    those that are missing when it is given again.
    """

    norm: Norm = "linf"
    """Norm of the ball."""
    epsilon: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4)
    """Radii, in units of [0, 1] pixels, such as 0.3 or 8/255; in l0 numbers of
    coordinates, pixels times channels."""
    train_size: int | Literal["default"] | None = "default"
    """Number of training examples; by default 2000, or all if there are fewer. None
    takes all."""
    classes: tuple[int, ...] = ()
    """Labels of the classes to be told apart, such as 3 7; by default all."""
    time_limit: float = 60.0
    """Seconds for the integer program at each radius, of more than two classes."""

    def examples(self) -> Dataset:
        """The examples that are asked about."""
        dataset = self.load("train")
        if self.classes:
            dataset = of_classes(dataset, self.classes)
        size = self.train_size
        if size == "default":
            size = min(DEFAULT_SIZE, len(dataset))
        return cut(dataset, size, "--train-size")

    def require_radii(self) -> None:
        """Refuse what cannot be solved for, before the first radius is."""
        is_any = bool(self.epsilon)
        remedy = "leave it out for 0.1 0.2 0.3 0.4"
        require(is_any, "--epsilon", "one radius or more", self.epsilon, remedy)
        for epsilon in self.epsilon:
            require_optimum(
                epsilon=epsilon,
                norm=self.norm,
                num_examples=1,
                time_limit=self.time_limit,
            )

    def run(self) -> int:
        """Solve, print and write."""
        require_new(self.output)
        self.require_radii()
        train = self.examples()
        kept = Kept(self.output / "radii")
        settings = {
            "data": train.fingerprint,
            "norm": self.norm,
            "time_limit": self.time_limit,
            "versions": versions(),
        }

        def solve(epsilon: float) -> dict[str, Any]:
            began = time.perf_counter()
            found = best_possible(
                train,
                epsilon=epsilon,
                norm=self.norm,
                num_examples=len(train),
                time_limit=self.time_limit,
            )
            return {
                "epsilon": epsilon,
                "robust_error": found.robust_error,
                "lower_bound": found.lower_bound,
                "is_optimal": found.is_optimal,
                "num_conflicts": found.num_conflicts,
                "seconds": round(time.perf_counter() - began, 2),
            }

        def row(epsilon: float) -> dict[str, Any]:
            key = settings | {"epsilon": epsilon}
            name = f"epsilon{epsilon:g}"
            return kept.numbers(name, key, functools.partial(solve, epsilon))

        with working(self.output):
            rows = finish(lambda: [row(each) for each in self.epsilon], kept.directory)
            self.write(train, rows)
            shutil.rmtree(kept.directory, ignore_errors=True)
        print(f"{train.title}, {len(train):,} training images\n")
        cells = [["ε", "least robust error", "proven at least", "conflicts", "seconds"]]
        cells += [
            [
                f"{row['epsilon']:g}",
                percent(row["robust_error"], 2),
                percent(row["lower_bound"], 2),
                f"{row['num_conflicts']:,}",
                f"{row['seconds']:.1f}",
            ]
            for row in rows
        ]
        print(markdown_table(cells), end="")
        if not all(row["is_optimal"] for row in rows):
            print("\nWhere the two differ the time limit came first.")
        print(f"written: {self.output / RESULTS}")
        return 0

    def write(self, train: Dataset, rows: Sequence[Mapping[str, Any]]) -> None:
        """Figure and results."""
        columns = {
            "least error": [row["robust_error"] for row in rows],
            "proven at least": [row["lower_bound"] for row in rows],
        }
        lines = [
            plots.Curve(name, self.epsilon, column) for name, column in columns.items()
        ]
        figure = plots.curves(
            lines,
            xlabel=f"epsilon ({self.norm})",
            ylabel="robust error",
            title=f"Any function, {train.title}, {len(train):,} examples",
        )
        draw(figure, self.output, "optimum")
        record = {
            "config": flags_of(self),
            "data": train.title,
            "num_train": len(train),
            "rows": rows,
        }
        write(self.output, record)
