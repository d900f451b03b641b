"""What every experiment shares: its options, `results.json` and the report.

An experiment is a module with `PRESETS` (configurations by name) and `run(config,
workspace)`. Started again, it goes on where it stopped.
"""

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import tyro

from experiments.workspace import ROOT, Workspace
from jaxrobust import hosts
from jaxrobust.cli.ending import execute
from jaxrobust.cli.numbers import NUMBERS
from jaxrobust.cli.places import require_local_paths
from jaxrobust.cli.streams import lasting_streams
from jaxrobust.compilation import keep_compilations
from jaxrobust.keeping import (
    claimed,
    read_json,
    require_writable,
    versions,
    write_whole,
)
from jaxrobust.report import html_page, markdown_table
from jaxrobust.training import Interrupted, MeshConfig, parse_part
from jaxrobust.training.recipe.config_json import config_to_json

__all__ = ["Options", "PartDone", "device_name", "main", "run_experiment"]

RESULTS = "results.json"


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
    check: bool = False
    """Exit with code 1 if a gate of the results does not hold."""
    publish: bool = False
    """Copy the results to the experiment's results/ directory, to be committed."""
    reuse: bool = False
    """Take rows that committed results of this paper hold, computed with the same
    settings, rather than compute them again; for experiments whose rows are models."""
    shown_only: bool = False
    """Train and judge no models: show the rows that are known so far, also while
    another process computes further ones with the same `--models`."""
    quiet: bool = False
    """Print results, warnings and errors only."""


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
            `title`, `tables` and `figures` (PNG files by caption) for the report; and
            optionally `gates`, what must hold: objects with `what`, `value`, `limit`
            and `holds`.
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
    result |= {name: found[name] for name in ("curves", "gates") if name in found}
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


def _committed(name: str) -> list[Mapping[str, Any]]:
    """All committed rows of the paper of an experiment that can be known again."""

    def rows(value: Any) -> Iterator[Mapping[str, Any]]:
        if isinstance(value, Mapping):
            if "key" in value:
                yield value
            value = list(value.values())
        for each in value if isinstance(value, list) else ():
            yield from rows(each)

    paths = sorted((ROOT / name.partition("/")[0] / "results").glob("*.json"))
    return [row for path in paths for row in rows(read_json(path)["rows"])]


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
            Options,
            prog=f"python -m experiments {name}",
            description=description,
            args=arguments,
            registry=NUMBERS,
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
                is_quiet=options.quiet,
                committed=_committed(name) if options.reuse else (),
                is_shown_only=options.shown_only,
            )
            result = run_experiment(name, options.preset, config, run, workspace)
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
    if workspace.is_primary:
        print((directory / "tables.md").read_text(encoding="utf-8"), flush=True)
        print(f"report: {directory / 'report.html'}", flush=True)
    failed = [gate for gate in result.get("gates", ()) if not gate["holds"]]
    for gate in failed if options.check and workspace.is_primary else ():
        what, value, limit = (gate[field] for field in ("what", "value", "limit"))
        print(f"{name}: {what} is {value}, limit {limit}", file=sys.stderr)
    return int(options.check and bool(failed))


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
