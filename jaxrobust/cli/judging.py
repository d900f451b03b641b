"""What commands that judge runs have alike: which runs, which images, where to keep."""

import dataclasses
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import tyro

from jaxrobust import data, hosts
from jaxrobust.arguments import require
from jaxrobust.cli.command import Command
from jaxrobust.cli.loading import NetworkChoice
from jaxrobust.keeping import require_writable
from jaxrobust.precision import precision_note
from jaxrobust.training import (
    Checkpoint,
    Interrupted,
    Run,
    check_data,
    data_of,
    load_run_data,
    read_run,
    trained_norm,
)

__all__ = ["ImageChoice", "Judging", "ProgressLine"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageChoice:
    """Which weights of runs are judged, and on which images."""

    checkpoint: Checkpoint = "newest"
    """Weights of runs: newest; average, where one is kept (train --averaging); or best,
    those that were best on what was held out (train --validation)."""
    split: data.Split = "test"
    """Split of the data set that the run was trained on."""
    num_images: int | None = None
    """Take the first images of each class, in proportion; by default all."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judging(Command):
    """A command that judges runs; it goes on if it has a place for its state."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run directories."""
    dataset: str | None = None
    """Name or directory of the data that the runs were trained on; by default those of
    their configurations. For data that have moved, or were arrays of the caller."""
    data_dir: Path | None = None
    """Where prepared data sets lie."""
    output: Path | None = None
    """Also write the numbers and the settings as JSON to this new file."""
    journal: Path | None = None
    """Directory in which progress is kept; by default beside --output, until that is
    written."""
    networks: Annotated[NetworkChoice, tyro.conf.arg(name="")] = NetworkChoice()

    def groups(self, checkpoint: Checkpoint) -> list[list[Run]]:
        """The runs, those together that one program can judge."""
        groups: dict[Any, list[Run]] = {}
        for directory in dict.fromkeys(self.runs):
            run = self.networks.load_at(directory, checkpoint)
            if not run.is_complete:
                self.say(f"note: {directory} is not finished; this is its state by now")
            config = run.config
            kind = (repr(config.model), run.problem, data_of(run), config.variant)
            groups.setdefault((run.network, repr(kind)), []).append(run)
        return list(groups.values())

    def load(self, alike: Sequence[Run], images: ImageChoice) -> data.Dataset:
        """The images that runs on the same data are judged on."""
        where: dict[str, Any] = {
            "name": self.dataset,
            "data_dir": self.data_dir,
            "trust_code": self.networks.trust_code,
        }
        dataset = load_run_data(alike[0], images.split, **where)
        for run in alike[1:]:
            check_data(run, dataset, **where)
        num_images = images.num_images
        if num_images is None:
            return dataset
        if not 1 <= num_images <= len(dataset):
            raise ValueError(
                f"`--num-images` must be in [1, {len(dataset)}] for "
                f"{dataset.title}, got {num_images}; leave it out for all."
            )
        return data.subset(dataset, num_images)

    def norm_or_trained(self, norm: str | None) -> str:
        """The norm that was asked for, or that of the training."""
        if norm is not None:
            return norm
        trained = [read_run(directory)[0] for directory in self.runs]
        return trained_norm(trained, trust_code=self.networks.trust_code)

    def warn_of_precisions(self, runs: Sequence[Run]) -> None:
        """Say it if the runs, which a table compares, were trained differently."""
        trained = [(run.directory.name, run.config.matmul_precision) for run in runs]
        note = precision_note("the runs were trained", trained)
        if note is not None and hosts.is_primary():
            print(f"warning: {note}", file=sys.stderr)

    def require_new(self, *names: str) -> None:
        """Refuse files, by the names of their fields, that would be written over."""
        for name in names:
            path = getattr(self, name)
            is_new = path is None or not path.exists()
            require(is_new, name, "a new file", str(path), "choose another name")

    def require_places(self, *others: Path | None) -> None:
        """Refuse places that cannot be written to, before anything is computed."""
        if hosts.is_primary():
            for path in (self.output, self.journals, *others):
                if path is not None and not path.is_dir():
                    require_writable(path)

    @property
    def journals(self) -> Path | None:
        """Directory in which progress is kept; None for nowhere."""
        if self.journal is None and self.output is not None:
            return self.output.with_name(self.output.name + ".journal")
        return self.journal

    def journal_of(self, name: str) -> Path | None:
        """The journal of a part of the work."""
        return None if self.journals is None else self.journals / f"{name}.npz"

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """Within it, an interruption says how to go on."""
        try:
            yield
        except KeyboardInterrupt as error:
            if self.journals is None:
                print(
                    "jaxrobust: nothing is kept; with --output or --journal the same "
                    "command would go on",
                    file=sys.stderr,
                )
                raise
            raise Interrupted(
                "interrupted; the same command goes on from what is kept in "
                f"{self.journals}"
            ) from error

    def forget_journals(self) -> None:
        """Remove what was kept on the way; a journal that was asked for stays."""
        if self.output is not None and self.journal is None and self.journals:
            shutil.rmtree(self.journals, ignore_errors=True)


class ProgressLine:
    """A line on a terminal that says how far the work is."""

    def __init__(self, *, is_wanted: bool = True) -> None:
        is_told = is_wanted and hosts.is_primary()
        self.is_shown = is_told and sys.stderr.isatty()

    def write(self, text: str) -> None:
        """Write over the line."""
        if self.is_shown:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\x1b[K{text[:width]}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Take the line away."""
        if self.is_shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
