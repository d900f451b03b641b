"""A run directory: what is in it, how it is begun, who may use it.

`config.json` says what the run is, `metrics.jsonl` has a line for each epoch,
`checkpoints/` the newest states, and `best/` that of the best epoch on held-out
examples, if some are.
"""

import json
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxrobust.data import DATASETS
from jaxrobust.hosts import is_primary
from jaxrobust.hosts.together import failing_together
from jaxrobust.keeping import claimed, difference, read_json, versions, write_json
from jaxrobust.keeping.claims import LOCK
from jaxrobust.keeping.writing import PART
from jaxrobust.training.recipe.config import TrainConfig
from jaxrobust.training.recipe.config_json import config_from_json, config_to_json
from jaxrobust.training.recipe.older import renewed
from jaxrobust.training.recipe.own import CodeWarning, Own
from jaxrobust.training.recipe.problem import Problem, TrainedOn

__all__ = [
    "BEST",
    "CHECKPOINTS",
    "CONFIG",
    "METRICS",
    "Described",
    "RunError",
    "as_today",
    "begin_run",
    "check_directory",
    "check_network",
    "check_same_run",
    "claimed_together",
    "is_free",
    "read_description",
    "read_record",
    "read_run",
    "settings_difference",
    "shape_difference",
]


CONFIG, METRICS = "config.json", "metrics.jsonl"
CHECKPOINTS, BEST = "checkpoints", "best"


class RunError(ValueError):
    """A run directory cannot be used as asked."""


class Described(NamedTuple):
    """What `config.json` says of a run."""

    config: TrainConfig
    problem: Problem
    trained_on: TrainedOn | None
    network: dict[str, Any] | None


def read_description(directory: Path) -> Described:
    """What `config.json` says.

    Raises:
        RunError: if there is no such run, or its file cannot be read.
    """
    path = Path(directory) / CONFIG
    if not path.is_file():
        raise RunError(
            f"`run` must be a run directory, got {str(directory)!r}, which has no "
            f"{CONFIG}; train one with `jaxrobust train --run-dir {directory}`."
        )
    record = read_record(path)
    try:
        config = config_from_json(TrainConfig, renewed(record["config"]))
        problem = record["problem"]
        shape = tuple(problem["image_shape"])
        data = record.get("data")
        return Described(
            config,
            Problem(problem["title"], shape, problem["num_classes"]),
            None if data is None else TrainedOn(**data),
            record.get("network"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error


def read_run(directory: Path) -> tuple[TrainConfig, Problem]:
    """The configuration and the problem of a run; see `read_description`."""
    return read_description(directory)[:2]


def read_record(path: Path) -> dict[str, Any]:
    """What a JSON file of a run or sweep says.

    Raises:
        RunError: naming the file, if it is not what was written.
    """
    try:
        return read_json(path)
    except ValueError as error:
        raise RunError(str(error)) from error


def is_free(directory: Path) -> bool:
    """Whether a directory is missing, or has nothing in it that was written whole.

    A process that was killed may leave a part of a file, or the file of its claim.
    """
    if not directory.exists():
        return True
    return all(path.name.endswith((PART, LOCK)) for path in directory.iterdir())


@contextmanager
def claimed_together(
    directories: Sequence[Path], *, wait: float = 0.0
) -> Iterator[None]:
    """Keep other processes out of directories; those of one job share the claim.

    Args:
        directories: of runs, or of a sweep, whether or not they are there.
        wait: seconds to wait for another one's claim to end.

    Raises:
        InUseError: in all processes of the job, if another job holds one of them.
        OSError: likewise, if a claim cannot be written down.
    """
    with ExitStack() as claims:
        with failing_together():
            for directory in directories if is_primary() else ():
                claims.enter_context(claimed(directory, what="run_dir", wait=wait))
        yield


def check_directory(directory: Path, *, resume: bool) -> bool:
    """Whether a directory holds a run to go on with; False if it is free.

    Raises:
        RunError: if the directory holds something and `resume` is off, or if what it
            holds is not a run.
    """
    if is_free(directory):
        return False
    if not (directory / CONFIG).is_file():
        raise RunError(
            f"`run_dir` must be new or a run directory, got {str(directory)!r}, which "
            f"holds files but no {CONFIG}; choose another directory."
        )
    if not resume:
        raise RunError(
            f"`run_dir` must be new, got {str(directory)!r}, which holds a run; "
            "resume it (--resume, or resume=True) or choose another directory."
        )
    return True


def settings_difference(before: Any, now: Any) -> list[str]:
    """Lines that name each place in which JSON-like settings differ.

    A path is the same place however it is written.
    """
    return difference(_with_places_of(before, now), now)


PLACES = ("start_from", "dataset", "title", "name")
"""Settings that are, or may be, paths; the title of files is where they are, and the
name of a network may be that of the file in which it stands."""


def _with_places_of(before: Any, now: Any) -> Any:
    """The first settings, with paths as the second write them, if they are the same."""
    if isinstance(before, dict) and isinstance(now, dict):
        return {
            name: now[name]
            if name in PLACES and _is_same_place(value, now.get(name))
            else _with_places_of(value, now.get(name))
            for name, value in before.items()
        }
    is_list = isinstance(before, list) and isinstance(now, list)
    if is_list and len(before) == len(now):
        pairs = zip(before, now, strict=True)
        return [_with_places_of(one, other) for one, other in pairs]
    return before


def _is_same_place(before: Any, now: Any) -> bool:
    is_path = all(
        isinstance(text, str) and text not in DATASETS for text in (before, now)
    )
    return is_path and os.path.realpath(before) == os.path.realpath(now)


def _description(
    config: TrainConfig, problem: Problem, trained_on: TrainedOn, own: Own | None
) -> dict[str, Any]:
    record = {
        "config": config_to_json(config),
        "problem": problem._asdict(),
        "data": trained_on._asdict(),
    }
    if own is not None:
        record["network"] = own.record
    return json.loads(json.dumps(record))


def as_today(path: Path, record: dict[str, Any]) -> dict[str, Any]:
    """The JSON of a run's configuration, as this version writes the same one.

    Args:
        path: of the file that has it.
        record: what has the configuration.

    Raises:
        RunError: if it is none.
    """
    try:
        config = config_from_json(TrainConfig, renewed(record["config"]))
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error
    return json.loads(json.dumps(config_to_json(config)))


def check_same_run(
    config: TrainConfig,
    directory: Path,
    problem: Problem,
    trained_on: TrainedOn,
    own: Own | None = None,
) -> None:
    """Refuse to go on with a run under other settings or on other data.

    A file of the user's own network that has changed is warned of.

    Raises:
        RunError: naming each setting that differs.
    """
    now = _description(config, problem, trained_on, None)
    before = read_record(directory / CONFIG)
    before["config"] = as_today(directory / CONFIG, before)
    # Data are what is in them. Older versions did not record it.
    for record in (before, now):
        data = record.get("data") if before.get("data") else None
        record["data"] = data and {"fingerprint": data["fingerprint"]}
    lines = settings_difference({key: before.get(key) for key in now}, now)
    if lines:
        raise RunError(
            f"`run_dir` must hold the run that is asked for, got {str(directory)!r}, "
            f"which differs in {'; '.join(lines)}; choose another directory or the "
            "same settings and data."
        )
    check_network(directory, before.get("network"), own)


def check_network(
    directory: Path, before: dict[str, Any] | None, own: Own | None
) -> None:
    """Refuse a network of other arrays; warn of code that has changed."""
    if before is None or own is None:
        return
    lines = difference(before["arrays"], own.record["arrays"])
    if lines:
        shown = "; ".join(lines[:4]) + ("; ..." if len(lines) > 4 else "")
        raise RunError(
            f"`network` must have the arrays of the run in {str(directory)!r}, got one "
            f"with others: {shown}; hand over the network that it was trained with."
        )
    then, now = before["sha256"], own.record["sha256"]
    if then is not None and now is not None and then != now:
        warnings.warn(
            f"the file of the network has changed since the run in {directory} began; "
            "its numbers may be other ones now",
            CodeWarning,
            stacklevel=4,
        )


def begin_run(
    config: TrainConfig,
    directory: Path,
    problem: Problem,
    trained_on: TrainedOn,
    own: Own | None = None,
) -> None:
    """Make the directory of a new run, which is claimed, and write its `config.json`.

    Raises:
        OSError: if it cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for part in directory.glob(f"*{PART}"):
        part.unlink()
    record = _description(config, problem, trained_on, own)
    write_json(directory / CONFIG, record | {"versions": versions()})


def shape_difference(one: Any, other: Any) -> list[str]:
    """Lines that name each array which two trees do not share in name and shape."""

    def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {jax.tree_util.keystr(path): leaf.shape for path, leaf in leaves}

    before, after = shapes(one), shapes(other)
    return [
        f"{name}: {before.get(name, 'missing')} against {after.get(name, 'missing')}"
        for name in dict.fromkeys([*before, *after])
        if before.get(name) != after.get(name)
    ]
