"""A bench on which commands are disturbed, and what undisturbed ones leave there."""

import dataclasses
import functools
import re
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.disturbances import Process, Sign, may_mount

__all__ = [
    "INTERRUPTED",
    "LIMIT",
    "TRAINING",
    "Bench",
    "Operation",
    "Reference",
    "command",
]

LIMIT = 300.0
"""Seconds after which a process counts as hanging; it takes ten."""

INTERRUPTED = 75

TRAINING = (
    *("--dataset", "digits", "--train-size", "256", "--batch-size", "64"),
    *("--model", "linear", "--attack.step-size", "0.05", "--attack.num-steps", "2"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Operation:
    """A command, what it leaves, and the signs of what it is doing."""

    name: str
    """Row of the table; several operations may share one."""
    variant: str = ""
    """What tells them apart."""
    words: tuple[str, ...]
    """Of the command, after that of the interpreter."""
    again: tuple[str, ...] = ()
    """Further words when it is given again."""
    result: Callable[[Path], Any]
    """What is compared, of the path of the output."""
    output: str = "disk/out"
    """File or directory of the output."""
    final: str | None = None
    """File whose existence makes the same command refuse."""
    code: int = 0
    """Exit code when nothing is wrong."""
    phases: tuple[Sign, ...]
    """When it is killed."""
    half: Sign | tuple[str, ...]
    """When to kill it for something to go on with, or what to take away from what a
    complete one leaves."""
    kinds: tuple[tuple[str, str, str], ...] = ()
    """Files to damage: what they are, in which state ("complete", "half"), a pattern of
    their paths."""
    num_batches: int | None = None
    """In an epoch, where epochs are counted."""

    @property
    def title(self) -> str:
        """Name and variant."""
        return f"{self.name} {self.variant}".strip()

    @property
    def needs_source(self) -> bool:
        """Whether it reads the run in `source`."""
        return "source" in self.words


def command(*words: str) -> tuple[str, ...]:
    """The words of a command of this library, after those of the interpreter."""
    return ("-m", "jaxrobust", *words)


class Reference(NamedTuple):
    """What an undisturbed process leaves.

    Attributes:
        result: to compare with.
        place: the directory in which it worked.
    """

    result: Any
    place: Path


class Bench:
    """Where processes are disturbed, and what undisturbed ones gave.

    Args:
        directory: for all that is written; removing it is the caller's.
    """

    def __init__(self, directory: Path):
        self.directory = Path(directory)
        self._references: dict[str, Reference] = {}
        self._halves: dict[str, Path] = {}

    def environment(self, cache: Path | None = None) -> dict[str, str]:
        """Of all processes, who share their compiled programs."""
        return {
            "JAX_COMPILATION_CACHE_DIR": str(cache or self.directory / "cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            # A process by itself, whatever job this one is part of.
            "JAXROBUST_CLUSTER": "none",
        }

    @functools.cached_property
    def may_mount(self) -> bool:
        """Whether there can be small disks."""
        return may_mount()

    @functools.cached_property
    def source(self) -> Path:
        """A trained run, for what needs one."""
        words = command(
            *("train", *TRAINING, "--epsilon", "0.1", "--epochs", "3"),
            *("--run-dir", "source"),
        )
        self.directory.mkdir(parents=True, exist_ok=True)
        self.run(words, self.directory)
        return self.directory / "source"

    def run(self, words: Sequence[str], place: Path, code: int = 0) -> None:
        """A process that must come to its end undisturbed."""
        with Process(words, place, environment=self.environment()) as process:
            ended = process.end(LIMIT)
        if ended.code != code:
            raise RuntimeError(f"{' '.join(words)}: {ended.code}, {ended.err[-2000:]}")

    def place(self, name: str, operation: Operation) -> Path:
        """A new directory to work in, with what the operation reads."""
        place = self.directory / re.sub(r"[^a-z0-9.]+", "-", name.lower())
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        (place / "disk").mkdir()
        if operation.needs_source:
            shutil.copytree(self.source, place / "source")
        return place

    def reference(self, operation: Operation) -> Reference:
        """What an operation gives when nothing disturbs it."""
        if operation.title not in self._references:
            place = self.place(f"reference {operation.title}", operation)
            self.run(operation.words, place, operation.code)
            result = operation.result(place / operation.output)
            self._references[operation.title] = Reference(result, place)
        return self._references[operation.title]

    def half(self, operation: Operation) -> Path:
        """The directory of an operation that was cut short."""
        if operation.title in self._halves:
            return self._halves[operation.title]
        if not isinstance(operation.half, Sign):
            place = self.directory / f"half-{len(self._halves)}"
            shutil.copytree(self.reference(operation).place, place)
            for name in operation.half:
                (place / name).unlink()
            self._halves[operation.title] = place
            return place
        self.reference(operation)
        for _ in range(5):
            place = self.place(f"half {operation.title}", operation)
            with Process(
                operation.words, place, environment=self.environment()
            ) as process:
                process.reaches(operation.half, LIMIT)
                process.send(signal.SIGKILL)
                if process.end(LIMIT).code == -signal.SIGKILL:
                    self._halves[operation.title] = place
                    return place
        raise RuntimeError(f"{operation.title} was never killed in time")
