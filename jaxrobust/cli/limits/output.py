"""The directory into which a command on limits writes, and what it keeps there."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jaxrobust import plots
from jaxrobust.arguments import require
from jaxrobust.cli.attacking import AttackChoice
from jaxrobust.cli.loading import RunLoading
from jaxrobust.concentration.storage import rows_in
from jaxrobust.keeping import claimed, require_writable, versions, write_json
from jaxrobust.training import Interrupted

__all__ = [
    "RESULTS",
    "draw",
    "finish",
    "flags_of",
    "require_new",
    "working",
    "write",
]

RESULTS = "results.json"


def require_new(output: Path) -> None:
    """Refuse a directory that holds results, or a place where none can be made."""
    rule = f"a directory without {RESULTS}"
    is_new = not (output / RESULTS).exists()
    require(is_new, "output", rule, str(output), "choose another")
    # Of the directories on the way to it, the last that there is.
    last = next(path for path in (output, *output.parents) if path.exists())
    require(
        last.is_dir(),
        "output",
        "a directory, or the name of a new one",
        str(output),
        f"{str(last)!r} is a file, so choose another",
    )


@contextmanager
def working(output: Path) -> Iterator[None]:
    """Have the directory of the results for oneself, and know that it can be written.

    Begun when all else is checked, and before anything takes long.
    """
    with claimed(output / RESULTS, what="output"):
        # Whoever had it before may have written its results since it was looked at.
        require_new(output)
        require_writable(output / RESULTS)
        yield


def write(output: Path, record: Mapping[str, Any]) -> None:
    """The results, with the versions that made them."""
    write_json(output / RESULTS, {**record, "versions": versions()})


def draw(figure: "plots.Figure", output: Path, name: str) -> None:
    """A figure beside the results."""
    output.mkdir(parents=True, exist_ok=True)
    plots.save(figure, output / f"{name}.svg")


def flags_of(command: Any) -> dict[str, Any]:
    """The flags of a command that decide its numbers, as plain values."""
    flags = {}
    for name, value in vars(command).items():
        if name == "quiet":
            continue
        if isinstance(value, AttackChoice):
            flags |= dataclasses.asdict(value)
        elif not isinstance(value, RunLoading):
            flags[name] = str(value) if isinstance(value, Path) else value
        elif value.checkpoint != "newest":
            # Which weights are measured is a setting; where the network comes from is
            # none.
            flags["checkpoint"] = value.checkpoint
    return flags


def finish(compute: Callable[[], Any], *kept: Path) -> Any:
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
