"""The least robust error of any function on a part of MNIST, by radius.

    python -m experiments concentration/optimum --preset cpu

Two images of different classes whose balls meet cannot both be classified robustly;
the least error that this leaves is solved for exactly (two classes) or by an integer
program with a bound (ten). It bounds every classifier on these images, and says how far
a radius is from being hopeless on data like them.

Presets:
    smoke: digits; shows that the program runs, nothing else.
    cpu: 2,000 MNIST images of all classes, in linf and l2; the same for 3 against 7.
    paper: as `cpu`, with ten minutes for each radius.

No paper of the five has this; the method is that of Bhagoji, Cullina and Mittal, 2019.
"""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from experiments.workspace import Workspace
from jaxrobust import plots
from jaxrobust.data import Dataset, load_arrays, of_classes, subset
from jaxrobust.limits import best_possible
from jaxrobust.report import percent


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """Images to be told apart, and radii."""

    norm: Literal["linf", "l2"]
    epsilons: tuple[float, ...]
    classes: tuple[int, ...] = ()
    """All if none are named."""

    @property
    def name(self) -> str:
        """What is told apart, and in which norm."""
        classes = " against ".join(map(str, self.classes)) or "all classes"
        return f"{classes}, {self.norm}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Data, and what is asked of them."""

    dataset: str
    problems: tuple[Problem, ...]
    train_size: int = 2000
    time_limit: float = 60.0
    """Seconds for the integer program at each radius."""


_LINF = (0.1, 0.2, 0.3, 0.35, 0.4, 0.45, 0.49)
_L2 = (1.0, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0)

PRESETS = {
    "smoke": Config(
        dataset="digits",
        problems=(
            Problem(norm="linf", epsilons=(0.1, 0.4)),
            Problem(norm="l2", epsilons=(0.5, 1.5), classes=(3, 7)),
        ),
        train_size=200,
        time_limit=5,
    ),
    "cpu": Config(
        dataset="mnist",
        problems=(
            Problem(norm="linf", epsilons=_LINF),
            Problem(norm="linf", epsilons=_LINF, classes=(3, 7)),
            Problem(norm="l2", epsilons=_L2),
            Problem(norm="l2", epsilons=_L2, classes=(3, 7)),
        ),
    ),
}
PRESETS["paper"] = dataclasses.replace(PRESETS["cpu"], time_limit=600.0)


def _solved(
    problem: Problem, epsilon: float, config: Config, workspace: Workspace
) -> dict[str, Any]:
    """The optimum at a radius, computed once."""

    def compute() -> dict[str, Any]:
        train = _images(problem, config, workspace)
        began = time.perf_counter()
        found = best_possible(
            train,
            epsilon=epsilon,
            norm=problem.norm,
            num_examples=len(train),
            time_limit=config.time_limit,
        )
        seconds = time.perf_counter() - began
        workspace.say(
            f"{problem.name}, epsilon {epsilon:g}: {found.robust_error:.2%}, "
            f"{seconds:.0f} s"
        )
        return {
            "title": train.title,
            "num_images": len(train),
            "num_conflicts": found.num_conflicts,
            "robust_error": found.robust_error,
            "lower_bound": found.lower_bound,
            "is_optimal": found.is_optimal,
            "solver_seconds": round(seconds, 2),
        }

    key = [config.dataset, config.train_size, config.time_limit]
    key += [problem.norm, problem.classes, epsilon]
    return workspace.cached("optimum", key, compute)


def _images(problem: Problem, config: Config, workspace: Workspace) -> Dataset:
    train = load_arrays(config.dataset, "train", data_dir=workspace.data_dir)
    if problem.classes:
        train = of_classes(train, problem.classes)
    return subset(train, min(config.train_size, len(train)))


def run(config: Config, workspace: Workspace) -> Mapping[str, Any]:
    """Solve every problem at every radius."""
    rows = [
        {
            "problem": problem.name,
            "norm": problem.norm,
            "epsilon": epsilon,
            **_solved(problem, epsilon, config, workspace),
        }
        for problem in config.problems
        for epsilon in problem.epsilons
    ]
    sizes = ", ".join(
        f"{size:,}" for size in sorted({row["num_images"] for row in rows})
    )
    notes = [
        f"Data: {rows[0]['title']}, {sizes} training images each, the first of "
        "each class. No function of the image errs on less of them under attack. For "
        "images drawn at random the mean of this number bounds the least error on the "
        "whole distribution from below.",
    ]
    if not all(row["is_optimal"] for row in rows):
        notes.append(
            f"Where two numbers stand the integer program, which had "
            f"{config.time_limit:g} seconds, proved only the lower one."
        )
    return {
        "title": "The least robust error of any function",
        "rows": rows,
        "notes": notes,
        "tables": {"Least robust error": results_table({"rows": rows})},
        "figures": {
            f"Least robust error in {norm}": workspace.save_figure(
                f"optimum-{norm}", _drawn(rows, norm)
            )
            for norm in dict.fromkeys(problem.norm for problem in config.problems)
        },
    }


def _drawn(rows: Sequence[Mapping[str, Any]], norm: str) -> plots.Figure:
    chosen = [row for row in rows if row["norm"] == norm]
    lines = []
    for name in dict.fromkeys(row["problem"] for row in chosen):
        part = [row for row in chosen if row["problem"] == name]
        radii = [row["epsilon"] for row in part]
        lines.append(plots.Curve(name, radii, [row["robust_error"] for row in part]))
    return plots.curves(
        lines, xlabel=f"epsilon ({norm})", ylabel="least robust error of any function"
    )


def results_table(result: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the table, also from a committed results file."""
    cells = [["images", "ε", "least robust error", "pairs that cannot both be right"]]
    for row in result["rows"]:
        error = percent(row["robust_error"], 2)
        if not row["is_optimal"]:
            error = f"{percent(row['lower_bound'], 2)} to {error}"
        conflicts = f"{row['num_conflicts']:,}"
        cells.append([row["problem"], f"{row['epsilon']:g}", error, conflicts])
    return cells
