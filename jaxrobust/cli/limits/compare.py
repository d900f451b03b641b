"""`jaxrobust limits compare`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jaxrobust import plots
from jaxrobust.cli.attacking import AttackChoice
from jaxrobust.cli.command import Command
from jaxrobust.cli.limits.examples import NeighborLine, cut
from jaxrobust.cli.limits.output import (
    RESULTS,
    draw,
    finish,
    flags_of,
    require_new,
    working,
    write,
)
from jaxrobust.cli.loading import RunLoading
from jaxrobust.evaluation import evaluate
from jaxrobust.limits import compare
from jaxrobust.limits.comparison import require_comparison
from jaxrobust.report import markdown_table, percent
from jaxrobust.training import load_run_data

__all__ = ["Compare"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compare(Command):
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
    attacks: Annotated[AttackChoice, tyro.conf.arg(name="")] = AttackChoice()
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
        require_new(self.output)
        run = self.loading.load(self.source)
        where: dict[str, Any] = {
            "name": self.dataset,
            "data_dir": self.data_dir,
            "trust_code": self.loading.trust_code,
        }
        train = load_run_data(run, "train", **where)
        test = load_run_data(run, "test", **where)
        test = cut(test, self.num_images, "--num-images")
        train = cut(train, self.train_size, "--train-size")
        builders = self.attacks.builders()
        settings: dict[str, Any] = {
            "epsilon": self.epsilon,
            "norm": self.norm,
            "num_regions": self.num_regions,
            "num_optimum": self.num_optimum,
            "time_limit": self.time_limit,
        }
        require_comparison(train, **settings)
        attacks, kept = self.output / "attacks.npz", self.output / "neighbors"
        with working(self.output):
            found = finish(
                lambda: compare(
                    evaluate(
                        run.logits_fn,
                        test,
                        builders,
                        [self.epsilon],
                        norm=self.norm,
                        seed=self.seed,
                        journal=attacks,
                    ),
                    train,
                    test,
                    **settings,
                    seed=self.seed,
                    cache=kept,
                    progress=NeighborLine(is_wanted=not self.quiet),
                ),
                attacks,
                kept,
            )
            rows = found.as_rows()
            title = f"{test.title}, {self.norm}, epsilon {self.epsilon:g}"
            draw(plots.risk_bars(rows, title=title), self.output, "comparison")
            record = {"config": flags_of(self), "data": test.title, "rows": rows}
            write(self.output, record | {"estimate": found.estimate.as_row()})
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
