"""Where an experiment works: models by recipe, what is kept, which code made it.

Models are runs that are found by a hash of their recipe: an experiment that was cut
short goes on where it stopped when it is started again, and experiments that need the
same model train it once.
"""

import dataclasses
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxrobust import hosts, plots
from jaxrobust.keeping import (
    Kept,
    claimed,
    mark,
    plain,
    read_json,
    write_json,
    write_whole,
)
from jaxrobust.networks import ModelConfig
from jaxrobust.plots import Figure
from jaxrobust.training import (
    Member,
    MeshConfig,
    NullReporter,
    Phase,
    Placement,
    Reporter,
    Run,
    SweepResult,
    TrainConfig,
    reporter_for,
    sweep,
    train,
)
from jaxrobust.training.recipe.config_json import config_to_json

__all__ = ["ROOT", "Setting", "Workspace", "revision"]

ROOT = Path(__file__).resolve().parent

REVISIONS = "code.json"

WAIT = 60.0
"""Seconds to wait for another process that writes a line into the same file."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """The data, network and batches that all models of an experiment share."""

    dataset: str
    variant: str = "original"
    train_size: int | None = None
    model: ModelConfig
    batch_size: int = 128
    checkpoint_every: int = 1

    def recipe(self, workspace: "Workspace", *phases: Phase) -> TrainConfig:
        """What to do for the model that these phases give in this setting."""
        return TrainConfig(
            dataset=self.dataset,
            variant=self.variant,
            train_size=self.train_size,
            model=self.model,
            phases=phases,
            batch_size=self.batch_size,
            seed=workspace.seed,
        )

    def train(self, workspace: "Workspace", name: str, *phases: Phase) -> Run:
        """The model that these phases give in this setting."""
        recipe = self.recipe(workspace, *phases)
        return workspace.model(name, recipe, checkpoint_every=self.checkpoint_every)


def revision() -> str:
    """The git revision of the checkout; with "+" if files differ from it.

    Published results do not count: one experiment's must not mark the next one's.
    """

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    try:
        head = git("rev-parse", "--short=12", "HEAD")
        counted = (":/", ":(top,exclude)experiments/*/results/*")
        is_dirty = git("status", "--porcelain", "--untracked-files=no", "--", *counted)
    except OSError:
        return "unknown"
    return (head or "unknown") + ("+" if is_dirty else "")


class Workspace:
    """Where an experiment works, and what it has done so far.

    Args:
        directory: of results.
        models: directory of models, which experiments may share; by default
            `models` in the directory of results.
        seed: of everything random.
        data_dir: where prepared data sets lie.
        reporter: makes what shows the progress of a run.
        mesh: devices to train on.
        part: `(index, count)` of the sweep's members to train, and nothing else.
        profile: directory for a trace of the first models that are trained.
        is_quiet: whether to say nothing of the progress.
        committed: rows of committed results, which `row` takes rather than compute
            them again.
        is_shown_only: whether no model is trained: `row` knows a row or leaves it out.
    """

    def __init__(
        self,
        directory: Path,
        *,
        models: Path | None = None,
        seed: int = 0,
        data_dir: Path | None = None,
        reporter: Callable[[], Reporter] = reporter_for,
        mesh: MeshConfig | None = None,
        part: tuple[int, int] | None = None,
        profile: Path | None = None,
        is_quiet: bool = False,
        committed: Sequence[Mapping[str, Any]] = (),
        is_shown_only: bool = False,
    ):
        self.directory = Path(directory)
        self.models = self.directory / "models" if models is None else Path(models)
        self.seed = seed
        self.data_dir = data_dir
        self.seconds = 0.0
        # Asked before the work, which may take hours: it is the code that runs.
        self.revision = revision()
        self.placement = Placement(mesh)
        self.part = part
        self.profile = profile
        self.is_shown_only = is_shown_only
        self._committed = {each["key"]: dict(each) for each in committed}
        # Of several processes one speaks and writes.
        self.is_primary = hosts.is_primary()
        self.is_told = self.is_primary and not is_quiet
        self._reporter = reporter if self.is_told else NullReporter
        if self.is_primary:
            for path in (self.directory, self.models):
                path.mkdir(parents=True, exist_ok=True)

    def say(self, text: str) -> None:
        """Tell the person who started the experiment how far it is."""
        if self.is_told:
            print(text, flush=True)

    def write(self, path: Path, text: str) -> None:
        """Write a file so that it is never seen half done."""
        if self.is_primary:
            write_whole(path, text)

    def save_figure(self, name: str, figure: Figure) -> Path:
        """Write a figure as SVG, to be published, and as PNG, for the report."""
        paths = [self.directory / f"{name}.{suffix}" for suffix in ("svg", "png")]
        if self.is_primary:
            for path in paths:
                plots.save(figure, path)
        return paths[-1]

    def note_work(self, *revisions: str) -> None:
        """Remember which code made some of the numbers; by default the present one."""
        if not self.is_primary:
            return
        # Parts of a sweep note theirs in the same file.
        path = self.directory / REVISIONS
        with claimed(path, what="workdir", wait=WAIT):
            known = self.revisions()
            found = [each for each in revisions or (self.revision,)]
            found = [each for each in found if each not in known]
            if found:
                write_json(path, {"revisions": [*known, *found]}, indent=None)

    def revisions(self) -> list[str]:
        """Git revisions of all code that trained or evaluated here."""
        path = self.directory / REVISIONS
        return read_json(path)["revisions"] if path.is_file() else []

    def _begin(self, name: str, recipe: Any) -> Path:
        """The directory for the models of a recipe, whose code is written down.

        A recipe is what it says beside the defaults: settings that later versions add
        do not make another one of it. Should a default change, the models that were
        trained by the old one are refused when they are gone on with.

        Also that of models which other experiments trained, with other revisions.

        Raises:
            ValueError: if nothing is to be computed.
        """
        if self.is_shown_only:
            raise ValueError(
                f"`--shown-only` must be left out where {name} has to be trained, got "
                "it for an experiment whose rows need their models; leave it out."
            )
        directory = self.models / f"{name}-{mark(recipe)}"
        if not self.is_primary:
            return directory
        path = directory.with_name(f"{directory.name}.json")
        record: dict[str, Any] = {"is_done": False, "revisions": []}
        # Parts of a sweep, and other experiments, begin the same models.
        with claimed(path, what="models", wait=WAIT):
            if path.is_file():
                record = read_json(path)
            if not record["is_done"] and self.revision not in record["revisions"]:
                record["revisions"].append(self.revision)
                write_json(path, record, indent=None)
        self.note_work(*record["revisions"])
        return directory

    def _end(self, directory: Path) -> None:
        """Write down that all models of a recipe are trained."""
        path = directory.with_name(f"{directory.name}.json")
        if self.is_primary:
            with claimed(path, what="models", wait=WAIT):
                write_json(path, read_json(path) | {"is_done": True}, indent=None)

    def model(self, name: str, config: TrainConfig, **options: Any) -> Run:
        """The run of a recipe: trained now, gone on with, or already there."""
        directory = self._begin(name, config_to_json(config, has_defaults=False))
        self.say(f"--- {name}")
        run = train(
            config,
            directory,
            data_dir=self.data_dir,
            resume=True,
            reporter=self._reporter(),
            placement=self.placement,
            profile=self.profile,
            **options,
        )
        self.profile = None
        self._end(directory)
        self.seconds += sum(record["seconds"] for record in run.records)
        return run

    def sweep(
        self, name: str, members: Sequence[Member], **options: Any
    ) -> SweepResult:
        """The runs of members that train together, as `model` for one."""
        table = [
            [
                each.name,
                each.start_from,
                config_to_json(each.config, has_defaults=False),
            ]
            for each in members
        ]
        directory = self._begin(name, table)
        found = sweep(
            members,
            directory,
            data_dir=self.data_dir,
            resume=True,
            reporter=self._reporter(),
            placement=self.placement,
            part=self.part,
            profile=self.profile,
            **options,
        )
        self.profile = None
        if self.part is None:
            self._end(directory)
        self.seconds += sum(
            record["seconds"] for run in found.runs.values() for record in run.records
        )
        return found

    def cached(self, name: str, key: Any, compute: Callable[[], Any]) -> Any:
        """A JSON value computed once for a key, however often it is asked for.

        Time spent computing counts as time of the experiment.
        """

        def timed() -> dict[str, Any]:
            self.note_work()
            began = time.perf_counter()
            value = compute()
            return {"value": value, "seconds": time.perf_counter() - began}

        kept = Kept(self.directory, is_writer=self.is_primary)
        record = kept.numbers(name, key, timed)
        self.seconds += record["seconds"]
        return record["value"]

    def row(
        self, name: str, key: Any, compute: Callable[[], Mapping[str, Any]]
    ) -> dict[str, Any] | None:
        """A row that several experiments may show, computed once for a key.

        It is kept beside the models, and says which code computed it and how long that
        took, so that results may be put together of rows of several days or machines.

        Args:
            name: of the row, in files and in what is said.
            key: JSON-like, all that decides it.
            compute: makes it; a JSON-like mapping without `key`, `revision`, `seconds`.

        Returns:
            The row with these three; None if it is not known, and not to be computed.
        """
        plain_key = mark(plain(key))
        row = self._committed.get(plain_key)
        if row is None:
            kept = Kept(self.models, is_writer=self.is_primary)
            if self.is_shown_only and not kept.path(name, key, ".json").is_file():
                return None
            row = kept.numbers(name, key, lambda: self._timed(compute))
            row = {**row, "key": plain_key}
        self.note_work(*row["revision"].split(", "))
        self.seconds += row["seconds"]
        return row

    def _timed(self, compute: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """A row, with its code and the seconds that training and judging took."""
        before, began = self.seconds, time.perf_counter()
        found = dict(compute())
        elapsed = time.perf_counter() - began
        # Models may have been trained before, or in part; their records know how long.
        seconds = max(elapsed, self.seconds - before)
        self.seconds = before
        return {**found, "revision": self.revision, "seconds": round(seconds, 1)}
