"""What every experiment shares: options, models by recipe, and `results.json`.

An experiment is a module with `PRESETS` (configurations by name) and `run(config,
workspace)`. Its models are runs that are found by a hash of their recipe: an experiment
that was cut short goes on where it stopped when it is started again, and experiments
that need the same model train it once.
"""

import dataclasses
import json
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import tyro

from jaxrobust import hosts, plots
from jaxrobust.cli.ending import execute
from jaxrobust.cli.numbers import NUMBERS
from jaxrobust.cli.places import require_local_paths
from jaxrobust.cli.streams import lasting_streams
from jaxrobust.compilation import keep_compilations
from jaxrobust.keeping import (
    Kept,
    claimed,
    mark,
    read_json,
    require_writable,
    versions,
    write_json,
    write_whole,
)
from jaxrobust.networks import ModelConfig
from jaxrobust.plots import Figure
from jaxrobust.report import html_page, markdown_table
from jaxrobust.training import (
    Interrupted,
    Member,
    MeshConfig,
    NullReporter,
    Phase,
    Placement,
    Reporter,
    Run,
    SweepResult,
    TrainConfig,
    parse_part,
    reporter_for,
    sweep,
    train,
)
from jaxrobust.training.recipe.config_json import config_to_json

__all__ = [
    "Options",
    "PartDone",
    "Setting",
    "Workspace",
    "device_name",
    "main",
    "revision",
]

ROOT = Path(__file__).resolve().parent

RESULTS, REVISIONS = "results.json", "code.json"

WAIT = 60.0
"""Seconds to wait for another process that writes a line into the same file."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """How to run an experiment."""

    preset: str
    """Which configuration; see the presets in the module."""
    seed: int = 0
    """Of everything random."""
    data_dir: Path | None = None
    """Where prepared data sets lie; by default $JAXROBUST_DATA_DIR, $TFDS_DATA_DIR or
    ~/tensorflow_datasets."""
    workdir: Path | None = None
    """Tables and the report go here; by default runs/ and the name of the experiment,
    preset and seed. Started again, it goes on where it stopped."""
    models: Path | None = None
    """Trained models go here, and are found here by other experiments that need the
    same; by default `models` beside the work directory."""
    mesh: MeshConfig = MeshConfig()
    """Devices among which members and batches are divided."""
    batch_size: int | None = None
    """Images per step over all devices; by default that of the preset."""
    part: str | None = None
    """Train only one part of a sweep, such as 0/4 for the first of four; the whole
    experiment is run without it, once all parts are done."""
    profile: Path | None = None
    """Write a trace of a few training steps here, for TensorBoard or Perfetto."""
    publish: bool = False
    """Copy the results to the experiment's results/ directory, to be committed."""


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


def device_name() -> str:
    """The device computed on, and how many there are."""
    device = jax.devices()[0]
    name = device.device_kind
    if device.platform == "cpu":
        try:
            lines = Path("/proc/cpuinfo").read_text().splitlines()
            models = [
                line.split(":")[1].strip() for line in lines if "model name" in line
            ]
            name = f"{models[0]}, {len(models)} threads"
        except (OSError, IndexError):
            pass
    return f"{jax.device_count()} x {device.platform} ({name})"


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
        # Of several processes one speaks and writes.
        self.is_primary = hosts.is_primary()
        self._reporter = reporter if self.is_primary else NullReporter
        if self.is_primary:
            for path in (self.directory, self.models):
                path.mkdir(parents=True, exist_ok=True)

    def say(self, text: str) -> None:
        """Tell the person who started the experiment."""
        if self.is_primary:
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
        """
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


def run_experiment(
    name: str,
    preset: str,
    config: Any,
    run: Callable[[Any, Workspace], Mapping[str, Any]],
    workspace: Workspace,
) -> dict[str, Any]:
    """Run an experiment and write `results.json`, `tables.md` and `report.html`.

    Args:
        name: of the experiment, such as "large_perturbations/table1".
        preset: name of the configuration.
        config: a frozen dataclass.
        run: returns `rows`, and optionally `curves` and `notes` for the results, and
            `title`, `tables` and `figures` (PNG files by caption) for the report.
        workspace: where to work.

    Returns:
        What was written to `results.json`; `seconds` is the time spent training and
        evaluating, over all the times the experiment was started.
    """
    found = run(config, workspace)
    result = {
        "experiment": name,
        "preset": preset,
        "config": config_to_json(config),
        "seed": workspace.seed,
        "versions": versions(),
        "device": device_name(),
        "revision": ", ".join(workspace.revisions()) or workspace.revision,
        "seconds": round(workspace.seconds, 3),
        "notes": list(found.get("notes", ())),
        "rows": found["rows"],
    }
    result |= {"curves": found["curves"]} if "curves" in found else {}
    text = json.dumps(result, indent=1) + "\n"
    workspace.write(workspace.directory / RESULTS, text)
    tables = found.get("tables", {})
    text = "\n".join(
        f"{caption}\n\n{markdown_table(cells)}" for caption, cells in tables.items()
    )
    workspace.write(workspace.directory / "tables.md", text)
    details = {key: value for key, value in result.items() if key != "curves"}
    page = html_page(
        found["title"],
        paragraphs=result["notes"],
        tables=tables,
        figures=found.get("figures"),
        details=details,
    )
    workspace.write(workspace.directory / "report.html", page)
    return result


def _publish(workspace: Workspace, name: str, preset: str, figures: Sequence[Path]):
    paper, item = name.split("/")
    target = ROOT / paper / "results"
    target.mkdir(exist_ok=True)
    results = workspace.directory / RESULTS
    write_whole(target / f"{item}-{preset}.json", results.read_bytes())
    for path in figures:
        copy = target / f"{item}-{preset}-{path.stem}{path.suffix}"
        write_whole(copy, path.read_bytes())
    workspace.say(f"published in {target}")


class PartDone(Exception):
    """The members of this part are trained; what needs all of them is left."""


def main(
    name: str,
    presets: Mapping[str, Any],
    run: Callable[[Any, Workspace], Mapping[str, Any]],
    *,
    description: str,
    arguments: Sequence[str] | None = None,
) -> int:
    """The command line of an experiment; returns the exit code (0, 1, 2 or 75)."""
    with lasting_streams():
        options = tyro.cli(
            Options, description=description, args=arguments, registry=NUMBERS
        )
        default = f"{name.replace('/', '-')}-{options.preset}-seed{options.seed}"
        directory = options.workdir or Path("runs") / default

        def command() -> int:
            return _work(name, presets, run, options, directory)

        return hosts.leave(execute(name, command))


def _work(
    name: str,
    presets: Mapping[str, Any],
    run: Callable[[Any, Workspace], Mapping[str, Any]],
    options: Options,
    directory: Path,
) -> int:
    """Run the experiment that the options ask for."""
    if options.preset not in presets:
        raise ValueError(
            f"`--preset` must be one of {', '.join(presets)}, got {options.preset!r}; "
            "choose one of these."
        )
    require_local_paths(options)
    keep_compilations()
    hosts.initialize()
    config = presets[options.preset]
    if options.batch_size is not None:
        config = dataclasses.replace(config, batch_size=options.batch_size)
    part = None if options.part is None else parse_part(options.part)
    try:
        with _working(directory, part):
            workspace = Workspace(
                directory,
                models=options.models or directory.parent / "models",
                seed=options.seed,
                data_dir=options.data_dir,
                mesh=options.mesh,
                part=part,
                profile=options.profile,
            )
            run_experiment(name, options.preset, config, run, workspace)
            if options.publish and workspace.is_primary:
                pictures = sorted(directory.glob("*.svg"))
                _publish(workspace, name, options.preset, pictures)
    except PartDone as done:
        if hosts.is_primary():
            print(f"{name}: {done}")
        return 0
    except Interrupted as error:
        # An experiment goes on without being asked to.
        raise Interrupted(str(error).replace(" with --resume", "")) from error
    except KeyboardInterrupt as error:
        raise Interrupted(
            f"interrupted; run the same command to go on in {directory}"
        ) from error
    workspace.say((directory / "tables.md").read_text(encoding="utf-8"))
    workspace.say(f"report: {directory / 'report.html'}")
    return 0


@contextmanager
def _working(directory: Path, part: tuple[int, int] | None) -> Iterator[None]:
    """Have the work directory for oneself, and know that it can be written.

    The parts of a sweep work in the same one, each for itself.
    """
    if not hosts.is_primary():
        yield
        return
    own = RESULTS if part is None else f"part-{part[0]}-of-{part[1]}"
    with claimed(directory / own, what="workdir"):
        require_writable(directory / RESULTS)
        yield
