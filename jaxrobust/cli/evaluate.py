"""`jaxrobust evaluate`."""

import dataclasses
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jaxrobust import data, hosts
from jaxrobust.cli.common import require_runs
from jaxrobust.cli.loading import RunLoading
from jaxrobust.cli.streams import require_printed
from jaxrobust.evaluation import (
    EnsembleConfig,
    Evaluation,
    EvaluationConfig,
    Progress,
    evaluate_ensemble_models,
    evaluate_models,
)
from jaxrobust.keeping import plain, require_writable, versions, write_whole
from jaxrobust.losses import LossName
from jaxrobust.report import (
    evaluation_row,
    interval_table,
    markdown_table,
    percent,
    stage_table,
)
from jaxrobust.training import (
    Interrupted,
    Run,
    applied,
    check_data,
    data_of,
    load_run_data,
)

__all__ = ["Evaluate", "EvaluationLine"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Clean and robust accuracy of runs, with 95 % intervals, by PGD or the ensemble.

    An evaluation that was interrupted, or killed, goes on when the same command is
    given again, if it has a place for its state: --output or --journal.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run directories."""
    attack: Literal["pgd", "standard"] = "pgd"
    """pgd, or standard: Auto-PGD on two losses, FAB and Square, each on what the
    others left (AutoAttack's order)."""
    split: data.Split = "test"
    """Split of the data set that the run was trained on."""
    dataset: str | None = None
    """Name or directory of the data that the runs were trained on; by default those of
    their configurations. For data that have moved, or were arrays of the caller."""
    num_images: int | None = None
    """Take the first images of each class, in proportion; by default all."""
    data_dir: Path | None = None
    """Where prepared data sets lie."""
    output: Path | None = None
    """Also write the numbers as JSON to this new file."""
    journal: Path | None = None
    """Directory in which progress is kept; by default beside --output, until that is
    written."""
    epsilons: tuple[float, ...] = (0.3,)
    """Radii, in units of [0, 1] pixels, such as 0.3 or 8/255."""
    norm: Literal["linf", "l2"] = "linf"
    """Norm of the ball."""
    num_steps: int | Literal["default"] | None = "default"
    """Steps of each attack; by default 200 for pgd, 100 for standard. None takes
    floor(2.5 * epsilon / step_size), for pgd."""
    num_restarts: int | None = None
    """Runs of each attack; by default 5 for pgd, 1 for standard."""
    batch_size: int | None = None
    """Images attacked at once; by default 250 for pgd, and what takes some seconds for
    standard."""
    seed: int = 0
    """Of everything random in the attacks."""
    step_size: float | None = None
    """pgd: length of a step, in units of [0, 1] pixels; by default 0.01."""
    loss: LossName | None = None
    """pgd: what the attack climbs; by default cross_entropy."""
    keep: Literal["last", "best"] | None = None
    """pgd: iterate that counts; by default the last."""
    search: Literal["every", "bisect"] | None = None
    """pgd: every radius (the default), or bisection, which takes about log2 as many
    attacks and trusts that who withstands a radius withstands the smaller ones."""
    num_targets: int | None = None
    """standard: target classes of each example; by default 9."""
    num_queries: int | None = None
    """standard: squares that Square tries; by default 5000."""
    stages: tuple[str, ...] | None = None
    """standard: attacks in their order; by default apgd-ce apgd-t fab-t square."""
    loading: Annotated[RunLoading, tyro.conf.arg(name="")] = RunLoading()

    def config(self) -> EvaluationConfig | EnsembleConfig:
        """The evaluation that the flags ask for.

        Raises:
            ValueError: for a flag of the other attack, or one out of range.
        """
        own = {
            "pgd": ("step_size", "loss", "keep", "search"),
            "standard": ("num_targets", "num_queries", "stages"),
        }
        for attack, names in own.items():
            for name in names:
                if attack != self.attack and getattr(self, name) is not None:
                    flag = name.replace("_", "-")
                    raise ValueError(
                        f"`--{flag}` must not be given with --attack {self.attack}, "
                        f"got {getattr(self, name)!r}; leave it out, or choose "
                        f"--attack {attack}."
                    )
        names = ("num_restarts", "batch_size", *own[self.attack])
        given: dict[str, Any] = {
            name: getattr(self, name)
            for name in names
            if getattr(self, name) is not None
        }
        given |= {"epsilons": self.epsilons, "norm": self.norm, "seed": self.seed}
        if self.num_steps != "default":
            given["num_steps"] = self.num_steps
        if self.attack == "pgd":
            return EvaluationConfig(**given)
        if self.num_steps is None:
            raise ValueError(
                "`--num-steps` must be at least 1 with --attack standard, got None; "
                "100 is its default."
            )
        return EnsembleConfig(**given)

    def groups(self) -> list[list[Run]]:
        """The runs, those together that one program can evaluate."""
        groups: dict[Any, list[Run]] = {}
        for directory in dict.fromkeys(self.runs):
            run = self.loading.load(directory)
            if not run.is_complete:
                print(f"note: {directory} is not finished; this is its state by now")
            config = run.config
            kind = (repr(config.model), run.problem, data_of(run), config.variant)
            groups.setdefault((run.network, repr(kind)), []).append(run)
        return list(groups.values())

    def load(self, alike: Sequence[Run]) -> data.Dataset:
        """The images that runs on the same data are evaluated on."""
        where: dict[str, Any] = {
            "name": self.dataset,
            "data_dir": self.data_dir,
            "trust_code": self.loading.trust_code,
        }
        dataset = load_run_data(alike[0], self.split, **where)
        for run in alike[1:]:
            check_data(run, dataset, **where)
        if self.num_images is None:
            return dataset
        if not 1 <= self.num_images <= len(dataset):
            raise ValueError(
                f"`--num-images` must be in [1, {len(dataset)}] for "
                f"{dataset.title}, got {self.num_images}; leave it out for all."
            )
        return data.subset(dataset, self.num_images)

    def run(self) -> int:
        """Evaluate each run and print a table."""
        require_runs(self.runs)
        config = self.config()
        if self.output is not None and self.output.exists():
            raise ValueError(
                f"`output` must be a new file, got {str(self.output)!r}, which exists; "
                "choose another name."
            )
        journals = self.journal
        if journals is None and self.output is not None:
            journals = self.output.with_name(self.output.name + ".journal")
        found: dict[Path, Evaluation] = {}
        shown = EvaluationLine()
        try:
            groups = self.groups()
            if hosts.is_primary():
                for path in (self.output, journals):
                    if path is not None and not path.is_dir():
                        require_writable(path)
            for index, alike in enumerate(groups):
                journal = None if journals is None else journals / f"{index}.npz"
                results = self.evaluate(alike, config, journal, shown)
                directories = [run.directory for run in alike]
                found |= dict(zip(directories, results, strict=True))
        except KeyboardInterrupt as error:
            if journals is None:
                print(
                    "jaxrobust: nothing is kept; with --output or --journal the same "
                    "command would go on",
                    file=sys.stderr,
                )
                raise
            raise Interrupted(
                f"interrupted; the same command goes on from what is kept in {journals}"
            ) from error
        finally:
            shown.clear()
        rows = [
            {"model": directory.name, **evaluation_row(found[directory])}
            for directory in self.runs
        ]
        if hosts.is_primary():
            try:
                # First: what is shown can fail, and the numbers are not to be lost.
                self.write(rows, config)
            finally:
                self.show(found, rows)
            if self.output is not None and self.journal is None and journals:
                # Its work is done; a journal that was asked for stays.
                shutil.rmtree(journals, ignore_errors=True)
        return 0

    def write(
        self, rows: list[dict[str, Any]], config: EvaluationConfig | EnsembleConfig
    ) -> None:
        """The numbers as JSON, if they are asked for."""
        if self.output is None:
            return
        record = {
            "split": self.split,
            "num_images": self.num_images,
            "checkpoint": self.loading.checkpoint,
            "attack": self.attack,
            "config": dataclasses.asdict(config),
            "versions": versions(),
            "rows": rows,
        }
        text = json.dumps(plain(record), indent=2) + "\n"
        write_whole(self.output, text, is_new=True)

    def show(
        self, found: Mapping[Path, Evaluation], rows: Sequence[Mapping[str, Any]]
    ) -> None:
        """Print the numbers, which must arrive if they are kept nowhere else."""
        for directory in self.runs:
            num_bad = found[directory].num_bad_gradients
            if num_bad:
                print(
                    f"warning: {num_bad} attacks on {directory} met gradients that are "
                    "not finite; its robust accuracy is not to be trusted"
                )
        print(markdown_table(interval_table(rows)), end="")
        for row in rows:
            if "stages" in row:
                print(f"\n{row['model']}, what each attack left:\n")
                print(markdown_table(stage_table(row)), end="")
        if self.output is None:
            require_printed()

    def evaluate(
        self,
        alike: Sequence[Run],
        config: EvaluationConfig | EnsembleConfig,
        journal: Path | None,
        shown: "EvaluationLine",
    ) -> Sequence[Evaluation]:
        """The runs that share a program."""
        apply = applied(alike[0].network)
        weights = [run.weights for run in alike]
        dataset = self.load(alike)
        show = partial(shown.show, [run.directory.name for run in alike])
        if isinstance(config, EnsembleConfig):
            return evaluate_ensemble_models(
                apply, weights, dataset, config, journal=journal, progress=show
            )
        return evaluate_models(
            apply, weights, dataset, config, journal=journal, progress=show
        )


class EvaluationLine:
    """A line on a terminal that says how far an evaluation is."""

    def __init__(self) -> None:
        self.is_shown = hosts.is_primary() and sys.stderr.isatty()

    def show(self, names: Sequence[str], progress: Progress) -> None:
        """Write over the line."""
        if not self.is_shown:
            return
        shares = ", ".join(
            f"ε {radius:g}: {percent(share)}"
            for radius, share in progress.robust_accuracy.items()
        )
        text = (
            f"{names[progress.model]}, {progress.stage}: {progress.num_done} attacks, "
            f"at most {progress.num_left} left; {shares}"
        )
        width = shutil.get_terminal_size().columns - 1
        print(f"\r\x1b[K{text[:width]}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Take the line away."""
        if self.is_shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
