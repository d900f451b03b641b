"""The command `jaxrobust limits`: what was possible, in theory and on data."""

import dataclasses
import functools
import operator
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jaxrobust import plots
from jaxrobust.arguments import require, require_count
from jaxrobust.cli.loading import RunLoading
from jaxrobust.concentration import (
    Estimate,
    Rule,
    estimate_half_space,
    estimate_l2,
    estimate_linf,
)
from jaxrobust.concentration.storage import rows_in
from jaxrobust.data import Dataset, Split, load_arrays, of_classes, subset
from jaxrobust.evaluation import EvaluationConfig, evaluate
from jaxrobust.keeping import (
    Kept,
    claimed,
    require_writable,
    versions,
    write_json,
)
from jaxrobust.limits import best_possible, compare, formulas
from jaxrobust.limits.comparison import require_comparison, require_optimum
from jaxrobust.report import markdown_table, percent
from jaxrobust.theory import Norm
from jaxrobust.training import Interrupted, load_run_data

__all__ = ["LIMITS"]

RESULTS = "results.json"

DEFAULT_SIZE = 2000
"""Training examples whose optimum is solved for, if there are so many."""


def _require_new(output: Path) -> None:
    rule = f"a directory without {RESULTS}"
    is_new = not (output / RESULTS).exists()
    require(is_new, "output", rule, str(output), "choose another")
    # Of the directories on the way to it, the last that there is.
    last = next(each for each in (output, *output.parents) if each.exists())
    require(
        last.is_dir(),
        "output",
        "a directory, or the name of a new one",
        str(output),
        f"{str(last)!r} is a file, so choose another",
    )


@contextmanager
def _working(output: Path) -> Iterator[None]:
    """Have the directory of the results for oneself, and know that it can be written.

    Begun when all else is checked, and before anything takes long.
    """
    with claimed(output / RESULTS, what="output"):
        # Whoever had it before may have written its results since it was looked at.
        _require_new(output)
        require_writable(output / RESULTS)
        yield


def _write(output: Path, record: Mapping[str, Any]) -> None:
    write_json(output / RESULTS, {**record, "versions": versions()})


def _draw(figure: plots.Figure, output: Path, name: str) -> None:
    output.mkdir(parents=True, exist_ok=True)
    plots.save(figure, output / f"{name}.svg")


def _cut(dataset: Dataset, size: int | None, flag: str) -> Dataset:
    """The first of each class, in proportion; None for all."""
    if size is None:
        return dataset
    remedy = f"leave it out for all of {dataset.title}"
    require_count(flag, size, remedy, most=len(dataset))
    return subset(dataset, size)


class NeighborLine:
    """A line on a terminal that says how many neighbors are found."""

    def __init__(self) -> None:
        self.is_shown = sys.stderr.isatty()

    def __call__(self, num_done: int, num_all: int) -> None:
        """Write over the line, and take it away at the end."""
        if not self.is_shown:
            return
        share = percent(num_done / max(num_all, 1))
        text = f"nearest neighbors: {num_done:,} of {num_all:,} ({share})"
        text = "" if num_done >= num_all else text
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def _finish(compute: Callable[[], Any], *kept: Path) -> Any:
    """Compute, and say where the work is kept if it is interrupted.

    Args:
        compute: what takes long.
        *kept: files of results, or caches of searches; an interruption that finds no
            work in any of them is passed on as it is.
    """
    try:
        return compute()
    except KeyboardInterrupt as error:
        places = [str(place) for place in kept if _holds_work(place)]
        if not places:
            raise
        raise Interrupted(
            "interrupted; the same command goes on from what is kept in "
            + " and ".join(places)
        ) from error


def _holds_work(kept: Path) -> bool:
    return kept.is_file() or any(kept.glob("*.json")) or rows_in(kept) > 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Written:
    output: Path = Path("limits")
    """Directory for results.json and figures; it must hold no other results."""

    def table(self) -> formulas.FormulaTable:
        """What the formula gives."""
        raise NotImplementedError

    def run(self) -> int:
        """Print the table and write it."""
        _require_new(self.output)
        table = self.table()
        with _working(self.output):
            self.write(table)
        print(f"{table.title} ({table.source})\n")
        print(markdown_table(table.cells()), end="")
        for note in table.notes:
            print(f"\n{note}")
        print(f"written: {self.output / RESULTS}")
        return 0

    def write(self, table: formulas.FormulaTable) -> None:
        """Figures and results."""
        figures: tuple[tuple[str, Mapping[str, Sequence[float]], str], ...] = (
            ("theory", table.columns, ""),
            ("logarithms", table.logarithms, "natural logarithm"),
        )
        for name, columns, ylabel in figures:
            if not columns:
                continue
            lines = [
                plots.Curve(label, table.values, column)
                for label, column in columns.items()
            ]
            figure = plots.curves(
                lines, xlabel=table.axis, ylabel=ylabel, title=table.title
            )
            _draw(figure, self.output, name)
        _write(self.output, {"config": _flags(self), **table.as_record()})


def _flags(command: Any) -> dict[str, Any]:
    """The flags of a command, as plain values."""
    flags = {}
    for name, value in vars(command).items():
        if not isinstance(value, RunLoading):
            flags[name] = str(value) if isinstance(value, Path) else value
        elif value.checkpoint != "newest":
            # Which weights are measured is a setting; where the network comes from is
            # none.
            flags["checkpoint"] = value.checkpoint
    return flags


def _written(formula: type) -> type:
    """The command that writes the table of a formula."""
    command = dataclasses.make_dataclass(
        formula.__name__, [], bases=(formula, _Written), frozen=True, kw_only=True
    )
    command.__doc__ = formula.__doc__
    return command


@dataclasses.dataclass(frozen=True, kw_only=True)
class _OnData:
    data: str = "digits"
    """digits, mnist, fashion_mnist, kmnist, cifar10, cifar100, svhn_cropped, or a
    directory with train.npz and test.npz."""
    data_dir: Path | None = None
    """Where prepared data sets lie."""
    output: Path = Path("limits")
    """Directory for results.json, the figure and what is kept on the way; it must hold
    no other results."""

    def load(self, split: Split) -> Dataset:
        """A whole split."""
        return load_arrays(self.data, split, data_dir=self.data_dir)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Concentration(_OnData):
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
    num_restarts: int = 10
    """linf: of k-means."""
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
        _require_new(self.output)
        train = _cut(self.load("train"), self.train_size, "--train-size")
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
        searched = shared | {"cache": kept, "progress": NeighborLine()}

        def rectangles() -> list[Estimate]:
            found = estimate_linf(
                train.images,
                test.images,
                num_rectangles=self.num_regions or 10,
                num_neighbors=self.num_neighbors,
                num_restarts=self.num_restarts,
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

        with _working(self.output):
            estimates = _finish(rectangles if self.norm == "linf" else balls, kept)
            _draw(_estimate_figure(estimates), self.output, "concentration")
            record = {
                "config": _flags(self),
                "data": train.title,
                "num_train": len(train),
                "num_test": len(test),
                "seconds": round(time.perf_counter() - began, 1),
                "rows": [estimate.as_row() for estimate in estimates],
            }
            _write(self.output, record)
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


def _estimate_figure(estimates: Sequence[Estimate]) -> plots.Figure:
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimum(_OnData):
    """The best robust error that any function reaches on training examples.

    Radii are solved for one after another; a command that was interrupted goes on with
    those that are missing when it is given again.
    """

    norm: Norm = "linf"
    """Norm of the ball."""
    epsilons: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4)
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
        return _cut(dataset, size, "--train-size")

    def require_radii(self) -> None:
        """Refuse what cannot be solved for, before the first radius is."""
        is_any = bool(self.epsilons)
        remedy = "leave it out for 0.1 0.2 0.3 0.4"
        require(is_any, "--epsilons", "one radius or more", self.epsilons, remedy)
        for epsilon in self.epsilons:
            require_optimum(
                epsilon=epsilon,
                norm=self.norm,
                num_examples=1,
                time_limit=self.time_limit,
            )

    def run(self) -> int:
        """Solve, print and write."""
        _require_new(self.output)
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

        with _working(self.output):
            rows = _finish(
                lambda: [row(each) for each in self.epsilons], kept.directory
            )
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
            plots.Curve(name, self.epsilons, column) for name, column in columns.items()
        ]
        figure = plots.curves(
            lines,
            xlabel=f"epsilon ({self.norm})",
            ylabel="robust error",
            title=f"Any function, {train.title}, {len(train):,} examples",
        )
        _draw(figure, self.output, "optimum")
        record = {
            "config": _flags(self),
            "data": train.title,
            "num_train": len(train),
            "rows": rows,
        }
        _write(self.output, record)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compare:
    """A trained model beside the limits on its own data, at its own clean error.

    A command that was interrupted, in the attacks on the model or in the search for
    neighbors that follows, goes on when it is given again.
    """

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="run")]
    """Directory of the run."""
    epsilon: float = 0.3
    """Radius, in units of [0, 1] pixels, such as 0.3 or 8/255."""
    norm: Literal["linf", "l2"] = "linf"
    """Norm of the ball."""
    num_steps: int = 200
    """Steps of PGD, which evaluates the model."""
    step_size: float = 0.01
    """Length of a step, in units of [0, 1] pixels."""
    num_restarts: int = 5
    """Random starts of PGD."""
    num_images: int | None = None
    """Test images that the model is attacked on; by default all."""
    train_size: int | None = None
    """Training examples of the estimate; by default all. Of fewer than 50 the density
    is measured by the distance to the furthest."""
    num_regions: int | None = None
    """Rectangles or balls; by default 10 or 20."""
    num_optimum: int = 2000
    """Training examples of the finite optimum, at most all; 0 for none."""
    time_limit: float = 60.0
    """Seconds for the integer program of the finite optimum."""
    dataset: str | None = None
    """Name or directory of the data that the run was trained on; by default those of
    its configuration. For data that have moved, or were arrays of the caller."""
    data_dir: Path | None = None
    """Where prepared data sets lie."""
    seed: int = 0
    """Of everything random."""
    output: Path = Path("limits")
    """Directory for results.json, the figure and what is kept on the way; it must hold
    no other results."""
    loading: Annotated[RunLoading, tyro.conf.arg(name="")] = RunLoading()

    def run(self) -> int:
        """Evaluate, estimate, print and write."""
        _require_new(self.output)
        run = self.loading.load(self.source)
        where: dict[str, Any] = {
            "name": self.dataset,
            "data_dir": self.data_dir,
            "trust_code": self.loading.trust_code,
        }
        train = load_run_data(run, "train", **where)
        test = load_run_data(run, "test", **where)
        test = _cut(test, self.num_images, "--num-images")
        train = _cut(train, self.train_size, "--train-size")
        config = EvaluationConfig(
            epsilons=(self.epsilon,),
            norm=self.norm,
            num_steps=self.num_steps,
            step_size=self.step_size,
            num_restarts=self.num_restarts,
            seed=self.seed,
        )
        settings: dict[str, Any] = {
            "epsilon": self.epsilon,
            "norm": self.norm,
            "num_regions": self.num_regions,
            "num_optimum": self.num_optimum,
            "time_limit": self.time_limit,
        }
        require_comparison(train, **settings)
        attacks, kept = self.output / "attacks.npz", self.output / "neighbors"
        with _working(self.output):
            found = _finish(
                lambda: compare(
                    evaluate(run.logits_fn, test, config, journal=attacks),
                    train,
                    test,
                    **settings,
                    seed=self.seed,
                    cache=kept,
                    progress=NeighborLine(),
                ),
                attacks,
                kept,
            )
            rows = found.as_rows()
            title = f"{test.title}, {self.norm}, epsilon {self.epsilon:g}"
            _draw(plots.risk_bars(rows, title=title), self.output, "comparison")
            record = {"config": _flags(self), "data": test.title, "rows": rows}
            _write(self.output, record | {"estimate": found.estimate.as_row()})
            attacks.unlink(missing_ok=True)
        cells = [["", "risk", "adversarial risk", "meaning"]]
        cells += [
            [
                row["name"],
                percent(row["risk"], 2),
                percent(row["adversarial_risk"], 2),
                row["meaning"],
            ]
            for row in rows
        ]
        print(f"{self.source}, {self.norm}, epsilon {self.epsilon:g}\n")
        print(markdown_table(cells), end="")
        print(f"written: {self.output / RESULTS}")
        return 0


def _any_of(commands: Mapping[str, type]) -> Any:
    """The union of commands, by their names."""
    parts: list[Any] = [
        Annotated[command, tyro.conf.subcommand(name)]
        for name, command in commands.items()
    ]
    return functools.reduce(operator.or_, parts)


def _named(union: Any, name: str, description: str) -> Any:
    return Annotated[union, tyro.conf.subcommand(name, description=description)]


_FORMULAS = {
    "gaussians": formulas.Gaussians,
    "bernoulli": formulas.Bernoulli,
    "no-free-lunch": formulas.NoFreeLunch,
    "cube": formulas.Cube,
    "ball": formulas.Ball,
    "facets": formulas.Facets,
    "graph": formulas.Graph,
}
_THEORY = _any_of({name: _written(formula) for name, formula in _FORMULAS.items()})
_ON_DATA = _any_of(
    {"concentration": Concentration, "optimum": Optimum, "compare": Compare}
)

LIMITS: Any = _named(
    _named(_THEORY, "theory", "One of the closed forms of the papers.") | _ON_DATA,
    "limits",
    "What no classifier can do: in theory, and on data.",
)
"""For the union of all commands."""
