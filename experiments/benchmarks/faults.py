"""Every operation under every fault: what is lost, and what is silently wrong.

    python -m experiments benchmarks/faults --preset cpu

An operation (train, extend, sweep, evaluate, report, limits, export, experiments) runs
undisturbed once. Then, for each fault, it is started again in a directory of its own,
disturbed, the fault is taken away, and the same command is given again. The fault was
withstood if no process hung or showed a traceback, every exit code and message says
what happened, and the final result equals the undisturbed one to the bit.

Processes, signals, file systems and damaged bytes are real ones. Small and read-only
disks are mounted where this user may do that; where not, those cells are not tried, but
a limit on the size of files and files in the way of directories stand for them.

Presets:
    smoke: one cell of three faults; shows that it runs.
    ci: those that are tests, too; about ten minutes on 2 cores.
    cpu: all of them; about an hour on 2 cores.
"""

import dataclasses
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments import trials
from experiments.bench import Bench, Operation
from experiments.disturbances import (
    STREAMS,
    Sign,
    after,
    appears,
    flip,
    halve,
    maps,
    opens,
)
from experiments.operations import OPERATIONS, READERS
from experiments.trials import Disturb, Missed, Trial
from experiments.workspace import Workspace

__all__ = ["CELLS", "EVERYDAY", "FAULTS", "SLOW", "Cell", "Outcome", "run_cell"]


class Cell(NamedTuple):
    """One fault of one operation.

    Attributes:
        operation: what is disturbed.
        fault: column of the table.
        detail: when, or which, or how.
        disturb: does all of it.
    """

    operation: Operation
    fault: str
    detail: str
    disturb: Disturb

    @property
    def name(self) -> str:
        """Of all three."""
        return f"{self.operation.title}, {self.fault}, {self.detail}"


class Outcome(NamedTuple):
    """What became of a cell.

    Attributes:
        is_tried: whether the fault took place.
        complaints: what did not hold; empty if all did.
        notes: what was found on the way.
    """

    is_tried: bool
    complaints: list[str]
    notes: list[str]


def run_cell(cell: Cell, bench: Bench, *, attempts: int = 4) -> Outcome:
    """Disturb an operation and judge it.

    Args:
        cell: what to do.
        bench: where.
        attempts: to be there in time; processes are quick, and moments short.
    """
    notes: list[str] = []
    for _ in range(attempts):
        place = bench.place(f"cell {cell.name}", cell.operation)
        trial = Trial(bench, cell.operation, place)
        try:
            cell.disturb(trial)
        except Missed as missed:
            notes.append(str(missed))
            continue
        finally:
            shutil.rmtree(place, ignore_errors=True)
        return Outcome(True, trial.complaints, trial.notes)
    return Outcome(False, [], notes)


FAULTS = (
    "kill -9",
    "SIGTERM at start-up",
    "two processes",
    "full disk",
    "read-only",
    "failing stdout",
    "ASCII stdout",
    "damaged file",
)
"""Columns of the table."""

MAIN = (
    *("train", "extend", "sweep", "evaluate", "report", "limits compare", "export"),
    "experiments",
)
"""Titles of the operations that meet every fault; the others are killed, and their
files are damaged."""

EVERYDAY = (
    "train, kill -9, checkpoint 4 under way",
    "train, damaged file, arrays (half), a bit flipped",
)
"""Cells of the everyday tests."""

SLOW = (
    *("train, kill -9, checkpoint 0 begun", "sweep, kill -9, table under way"),
    *("evaluate, kill -9, journal written", "limits optimum, kill -9, radii"),
    *("export, kill -9, file", "experiments, kill -9, value"),
    *("train, SIGTERM at start-up, data", "train, SIGTERM at start-up, compilation"),
    *("train, two processes, at once", "train, two processes, the first stopped"),
    "train, two processes, evaluate while a checkpoint is written",
    "experiments, two processes, at once",
    *("train, full disk, half of the room", "evaluate, full disk, half of the room"),
    *("train, full disk, a limit on files", "report, full disk, half of the room"),
    *("train, read-only, from the start", "evaluate, read-only, what it reads"),
    *("train, read-only, a file in the way", "train, failing stdout, full"),
    *("train, failing stdout, reader leaves", "evaluate, failing stdout, closed"),
    *("report, ASCII stdout, LC_ALL=C", "experiments, read-only, from the start"),
    "train, damaged file, config (half), a bit flipped",
    "sweep, damaged file, table (half), a bit flipped",
    "evaluate, damaged file, journal, a bit flipped",
    "report, damaged file, arrays, cut in half",
    "experiments, damaged file, value, a bit flipped",
)
"""Cells of the slow tests: of each kind the one that tells most."""


def _terminations(operation: Operation) -> Iterator[tuple[str, Disturb]]:
    """Names and disturbances of a process that is asked to stop before it works."""
    for sign in (after("the interpreter", 0.2), maps("imports", "jaxlib")):
        yield sign.name, trials.terminated(sign, is_heard=False)
    if operation.name != "export":  # which reads none
        yield "data", trials.terminated(opens("data", r"digits\.csv"))
    yield "first file", trials.terminated(appears("first file", r"[^/]*"))
    compiles = appears("compilation", r".*-cache", below="cold")
    yield "compilation", trials.terminated(compiles, is_cold=True)
    if operation.num_batches:
        steps = appears("checkpoint 0 named", r"out/checkpoints/0")
        yield "compilation of a step", trials.terminated(steps, is_cold=True)


def _pairs(operation: Operation) -> Iterator[tuple[str, Disturb]]:
    """Names and disturbances of two processes."""
    yield "at once", trials.at_once
    if isinstance(operation.half, Sign):
        yield "the first stopped", trials.while_stopped(operation.half)
    if operation.num_batches:
        for reader in READERS:
            sign = appears("checkpoint 4 begun", r"out/checkpoints/4\.orbax.*")
            yield (
                f"{reader} while a checkpoint is written",
                trials.read_meanwhile(reader, sign),
            )
    if operation.title == "sweep":
        yield "two parts", trials.in_parts


def _disks(operation: Operation) -> Iterator[tuple[str, Disturb]]:
    """Names and disturbances of disks that cannot be written."""
    yield "from the start", trials.read_only(None)
    if isinstance(operation.half, Sign):
        yield "half done", trials.read_only("half")
    yield "done", trials.read_only("complete")
    if operation.needs_source:
        yield "what it reads", trials.read_only_source
    yield "a file in the way", trials.in_the_way


def _damages(operation: Operation) -> Iterator[tuple[str, Disturb]]:
    """Names and disturbances of files that are not what was written."""
    changes = {"a bit flipped": flip, "cut in half": halve}
    states = {state for _, state, pattern in operation.kinds if "source" not in pattern}
    for kind, state, pattern in operation.kinds:
        named = f"{kind} ({state})" if len(states) > 1 else kind
        for how, change in changes.items():
            yield f"{named}, {how}", trials.damaged(state, pattern, change)
    if operation.name == "export":
        for how, change in changes.items():
            yield f"exported, {how}", trials.damaged_export(change)


def _cells_of(operation: Operation) -> Iterator[Cell]:
    """All cells of an operation."""
    found: dict[str, list[tuple[str, Disturb]]] = {
        "kill -9": [(sign.name, trials.killed(sign)) for sign in operation.phases],
        "damaged file": list(_damages(operation)),
    }
    if operation.title in MAIN:
        full_disks = {"a page": 0.0, "half of the room": 0.5, "most of the room": 0.9}
        found |= {
            "SIGTERM at start-up": list(_terminations(operation)),
            "two processes": list(_pairs(operation)),
            "full disk": [
                *((name, trials.full(share)) for name, share in full_disks.items()),
                ("a limit on files", trials.limited),
            ],
            "read-only": list(_disks(operation)),
            "failing stdout": [(stdout, trials.into(stdout)) for stdout in STREAMS],
        }
    if operation.title in (*MAIN, "limits optimum"):
        found["ASCII stdout"] = [
            ("ascii", trials.speaking(PYTHONIOENCODING="ascii")),
            (
                "LC_ALL=C",
                trials.speaking(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0"),
            ),
        ]
    for fault in FAULTS:
        for detail, disturb in found.get(fault, ()):
            yield Cell(operation, fault, detail, disturb)


CELLS = tuple(cell for operation in OPERATIONS for cell in _cells_of(operation))
"""The whole matrix."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Which cells."""

    names: tuple[str, ...] | None = None
    """Of the cells; None for all."""


PRESETS = {
    "smoke": Config(
        names=(
            "train, kill -9, checkpoint 4 under way",
            "train, failing stdout, full",
            "train, damaged file, arrays (half), a bit flipped",
        )
    ),
    # Those that are tests, too: of every kind of fault those that tell most.
    "ci": Config(names=(*EVERYDAY, *SLOW)),
    "cpu": Config(),
}


def _tried(
    cells: Sequence[Cell], workspace: Workspace
) -> Iterator[tuple[Cell, Outcome]]:
    """Each cell and its outcome; those of an interrupted benchmark are kept."""
    with tempfile.TemporaryDirectory(
        prefix="jaxrobust-faults-", ignore_cleanup_errors=True
    ) as directory:
        bench = Bench(Path(directory))
        for number, cell in enumerate(cells, start=1):
            key = [cell.name, workspace.revision]
            found = workspace.cached(
                "cell", key, lambda cell=cell: run_cell(cell, bench)._asdict()
            )
            outcome = Outcome(**found)
            verdict = "not tried"
            if outcome.is_tried:
                verdict = "; ".join(outcome.complaints) or "held"
            workspace.say(f"{number}/{len(cells)}  {cell.name}: {verdict}")
            yield cell, outcome


def run(config: Config, workspace: Workspace) -> Mapping[str, Any]:
    """Try each cell and count."""
    cells = [
        cell for cell in CELLS if config.names is None or cell.name in config.names
    ]
    rows: dict[str, dict[str, Any]] = {}
    for cell, outcome in _tried(cells, workspace):
        row = rows.setdefault(
            cell.operation.name, {"operation": cell.operation.name, "faults": {}}
        )
        counts = row["faults"].setdefault(
            cell.fault, {"tried": 0, "held": 0, "not_tried": [], "broken": {}}
        )
        name = f"{cell.operation.title}, {cell.detail}"
        if not outcome.is_tried:
            counts["not_tried"].append(name)
            continue
        counts["tried"] += 1
        if outcome.complaints:
            counts["broken"][name] = outcome.complaints
        else:
            counts["held"] += 1
    found = list(rows.values())
    every = [counts for row in found for counts in row["faults"].values()]
    tried, held = (sum(each[name] for each in every) for name in ("tried", "held"))
    missed = sum(len(each["not_tried"]) for each in every)
    notes = [f"{held} of {tried} held."]
    if missed:
        notes[0] += (
            f" {missed} were not tried: their moment was too short to be there in "
            "time, or file systems could not be mounted."
        )
    return {
        "title": "Every operation under every fault",
        "rows": found,
        "notes": notes,
        "tables": {"Held, of those tried": results_table({"rows": found})},
    }


def results_table(result: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the table, also from a committed results file."""

    def counted(row: Mapping[str, Any], fault: str) -> str:
        counts = row["faults"].get(fault)
        return f"{counts['held']} of {counts['tried']}" if counts else ""

    lines = [
        [row["operation"], *(counted(row, fault) for fault in FAULTS)]
        for row in result["rows"]
    ]
    return [["operation", *FAULTS], *lines]
