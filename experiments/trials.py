"""One operation under one fault: what is done to it, and what must hold then.

Each fault is a function of a `Trial`, or makes one. What must hold is the same in all:
no process hangs or shows a traceback, exit codes and messages say what happened, and
after the fault is taken away the same command ends with the undisturbed result.
"""

import re
import shutil
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from experiments.bench import INTERRUPTED, LIMIT, Bench, Operation
from experiments.disturbances import (
    Ended,
    Process,
    Sign,
    SmallDisk,
    Stream,
    paths_below,
    stopped,
)
from experiments.operations import READERS
from jaxrobust.keeping import difference

__all__ = ["Disturb", "Missed", "Trial"]


class Missed(Exception):
    """The process was over before it could be disturbed, or cannot be here."""


class Trial:
    """One operation under one fault: what is done to it, and what did not hold.

    Args:
        bench: where.
        operation: which.
        place: directory in which it works.

    Attributes:
        complaints: what did not hold, in words.
        notes: what was found on the way.
    """

    def __init__(self, bench: Bench, operation: Operation, place: Path):
        self.bench, self.operation, self.place = bench, operation, place
        self.disk = place / "disk"
        self.complaints: list[str] = []
        self.notes: list[str] = []

    def fail(self, text: str) -> None:
        """Write down what did not hold."""
        self.complaints.append(text)

    def start(
        self, *, again: bool = False, cache: Path | None = None, **options: Any
    ) -> Process:
        """The operation's process."""
        words = self.operation.words + (self.operation.again if again else ())
        environment = self.bench.environment(cache) | options.pop("environment", {})
        return Process(words, self.place, environment=environment, **options)

    def take(self, state: str) -> None:
        """Have what a complete or a half complete operation leaves."""
        if state == "half":
            place = self.bench.half(self.operation)
        else:
            place = self.bench.reference(self.operation).place
        shutil.copytree(place / "disk", self.disk, dirs_exist_ok=True)

    def until(self, process: Process, sign: Sign) -> None:
        """Wait for the moment of the fault.

        Raises:
            Missed: if the process ended without it.
        """
        if not process.reaches(sign, LIMIT):
            ended = process.end(1.0)
            raise Missed(f"no sign of {sign.name!r}, exit code {ended.code}")

    def found(self) -> list[str]:
        """What the operation has left so far."""
        return sorted(paths_below(self.disk))

    def check(
        self, ended: Ended, codes: Sequence[int], *, names: Sequence[str] = ()
    ) -> None:
        """See that a process ended well, and that it said what must be said."""
        last = (ended.err.strip().splitlines() or ["nothing"])[-1][:300]
        if ended.code is None:
            self.fail(f"did not end within {LIMIT:g} s: {last}")
        elif ended.code not in codes:
            wanted = " or ".join(map(str, codes))
            self.fail(f"exit code {ended.code} rather than {wanted}: {last}")
        for text in ("Traceback (most", "Exception ignored", "Fatal Python error"):
            if text in ended.err:
                self.fail(f"{text!r} in stderr: {ended.err[-6000:]}")
        if ended.code in (1, 2) and ended.code != self.operation.code:
            lines = ended.err.strip().splitlines()
            if len(lines) > 4:
                self.fail(f"{len(lines)} lines in stderr: {last}")
            self.require_named(ended, names)

    def require_named(self, ended: Ended, names: Sequence[str]) -> None:
        """See that messages have these words."""
        missing = [name for name in names if name not in ended.err]
        if missing:
            text = ended.err.strip()[-300:]
            self.fail(f"stderr does not name {', '.join(missing)}: {text!r}")

    def differences(self) -> list[str]:
        """In what the result is not that of an undisturbed process."""
        expected = self.bench.reference(self.operation).result
        try:
            result = self.operation.result(self.place / self.operation.output)
        except Exception as error:  # damage has many faces
            return [f"unreadable ({type(error).__name__}: {str(error)[:200]})"]
        return difference(expected, result)

    def compare(self) -> None:
        """See that the result is that of an undisturbed process."""
        if lines := self.differences():
            self.fail(f"another result: {'; '.join(lines)[:400]}")

    def recover(self) -> Ended:
        """Give the same command again, now that nothing is wrong."""
        operation = self.operation
        is_done = (
            operation.final is not None and (self.place / operation.final).exists()
        )
        with self.start(again=True) as process:
            ended = process.end(LIMIT)
        self.check(ended, (operation.code, 2) if is_done else (operation.code,))
        self.compare()
        return ended


Disturb = Callable[[Trial], None]


def _committed(paths: Sequence[str]) -> list[int]:
    pattern = re.compile(r"out/checkpoints/(\d+)/commit_success\.txt")
    return [int(match[1]) for path in paths if (match := pattern.fullmatch(path))]


def killed(sign: Sign) -> Disturb:
    """Kill it when a sign appears."""

    def disturb(trial: Trial) -> None:
        with trial.start() as process:
            trial.until(process, sign)
            process.send(signal.SIGKILL)
            ended = process.end(LIMIT)
        if ended.code != -signal.SIGKILL:
            raise Missed(f"over before it was killed, exit code {ended.code}")
        left = trial.found()
        top = [path for path in left if path.count("/") <= 2]
        trial.notes.append(f"found {', '.join(top)}")
        again = trial.recover()
        if trial.operation.num_batches:
            total = len(trial.bench.reference(trial.operation).result["records"])
            done = max(_committed(left), default=0) // trial.operation.num_batches
            count = len(re.findall(r"^epoch ", again.out, re.MULTILINE))
            if count > total - done:
                trial.fail(
                    f"{count} epochs trained, though {done} of {total} were kept"
                )

    return disturb


def terminated(sign: Sign, *, is_cold: bool = False, is_heard: bool = True) -> Disturb:
    """Ask it to stop when a sign appears.

    Args:
        sign: when.
        is_cold: give it an empty compilation cache.
        is_heard: whether this library is there by then to hear of it.
    """

    def disturb(trial: Trial) -> None:
        operation = trial.operation
        cache = trial.place / "cold" if is_cold else None
        with trial.start(cache=cache) as process:
            trial.until(process, sign)
            process.send(signal.SIGTERM)
            ended = process.end(LIMIT)
        trial.notes.append(f"exit code {ended.code}")
        codes = [operation.code, INTERRUPTED]
        if not is_heard and not trial.found():
            codes.append(-signal.SIGTERM)
        trial.check(ended, codes)
        trial.recover()

    return disturb


def at_once(trial: Trial) -> None:
    """Start two of the same at once: the second is refused, or both do well."""
    with trial.start() as one, trial.start() as other:
        ends = [one.end(LIMIT), other.end(LIMIT)]
    ends.sort(key=lambda ended: ended.code != trial.operation.code)
    trial.notes.append(f"exit codes {', '.join(str(ended.code) for ended in ends)}")
    trial.check(ends[0], (trial.operation.code,))
    trial.check(ends[1], (trial.operation.code, 1, 2), names=["disk"])
    trial.compare()


def while_stopped(sign: Sign) -> Disturb:
    """Start a second one while the first stands still and holds all it has."""

    def disturb(trial: Trial) -> None:
        operation = trial.operation
        with trial.start() as first:
            trial.until(first, sign)
            with stopped(first):
                if first.is_over():
                    raise Missed("over before it was stopped")
                with trial.start(again=True) as second:
                    refused = second.end(LIMIT)
            ended = first.end(LIMIT)
        trial.notes.append(f"exit codes {ended.code} and {refused.code}")
        who = [str(first.pid), socket.gethostname(), "since"]
        trial.check(refused, (operation.code, 1, 2), names=who)
        # One that let the other work may find that all is done.
        is_shared = refused.code == operation.code
        trial.check(ended, (operation.code, 1, 2) if is_shared else (operation.code,))
        trial.compare()

    return disturb


def read_meanwhile(reader: str, sign: Sign) -> Disturb:
    """Read a run while its writer stands still in the middle of something."""

    def disturb(trial: Trial) -> None:
        with trial.start() as writer:
            trial.until(writer, sign)
            with stopped(writer):
                if writer.is_over():
                    raise Missed("over before it was stopped")
                environment = trial.bench.environment()
                with Process(
                    READERS[reader], trial.place, environment=environment
                ) as other:
                    read = other.end(LIMIT)
            ended = writer.end(LIMIT)
        trial.notes.append(f"exit codes {ended.code} and {read.code}")
        # Before the first checkpoint there is nothing to be read.
        trial.check(read, (0, 1, 2), names=["disk/out"])
        trial.check(ended, (0,))
        trial.compare()

    return disturb


def in_parts(trial: Trial) -> None:
    """Train two parts of a sweep at once, and then all of it."""
    words = trial.operation.words
    environment = trial.bench.environment()
    with ExitStack() as stack:
        parts = [
            stack.enter_context(
                Process((*words, "--part", part), trial.place, environment=environment)
            )
            for part in ("0/2", "1/2")
        ]
        for part in parts:
            trial.check(part.end(LIMIT), (0,))
    trial.compare()
    trial.recover()


@contextmanager
def _mounted(
    directory: Path, trial: Trial, size: int = 64 << 20
) -> Iterator[SmallDisk]:
    if not trial.bench.may_mount:
        raise Missed("this user may not mount a file system")
    with SmallDisk(directory, size) as disk:
        yield disk


def _size_of(directory: Path) -> int:
    """Bytes that a file system of pages needs for all files."""
    sizes = [path.stat().st_size for path in directory.rglob("*") if path.is_file()]
    return sum(-(-size // 4096) * 4096 for size in sizes)


def full(share: float) -> Disturb:
    """Work on a disk with room for a share of the result."""

    def disturb(trial: Trial) -> None:
        room = _size_of(trial.bench.reference(trial.operation).place / "disk")
        with _mounted(trial.disk, trial, int(share * room)) as disk:
            with trial.start() as process:
                ended = process.end(LIMIT)
            if ended.code == trial.operation.code and not trial.differences():
                raise Missed("the disk had room for all of it")
            trial.notes.append(f"exit code {ended.code}")
            trial.check(ended, (1,), names=["disk"])
            disk.grow()
            trial.recover()

    return disturb


def limited(trial: Trial) -> None:
    """Let no file grow beyond half the size of the largest."""
    place = trial.bench.reference(trial.operation).place
    sizes = [
        each.stat().st_size for each in (place / "disk").rglob("*") if each.is_file()
    ]
    with trial.start(file_size=max(sizes) // 2) as process:
        ended = process.end(LIMIT)
    trial.notes.append(f"exit code {ended.code}")
    trial.check(ended, (1,), names=["disk"])
    trial.recover()


def read_only(state: str | None) -> Disturb:
    """Have the output on a disk that cannot be written."""

    def disturb(trial: Trial) -> None:
        with _mounted(trial.disk, trial) as disk:
            if state is not None:
                trial.take(state)
            disk.lock()
            with trial.start(again=state is not None) as process:
                ended = process.end(LIMIT)
            trial.notes.append(f"exit code {ended.code}")
            codes = (1, 2, trial.operation.code) if state == "complete" else (1,)
            trial.check(ended, codes, names=["disk"])
            disk.unlock()
            trial.recover()

    return disturb


def read_only_source(trial: Trial) -> None:
    """Have what is read on a disk that cannot be written."""
    source = trial.place / "source"
    shutil.rmtree(source)
    with _mounted(source, trial) as disk:
        shutil.copytree(trial.bench.source, source, dirs_exist_ok=True)
        disk.lock()
        with trial.start() as process:
            trial.check(process.end(LIMIT), (0,))
        trial.compare()


def in_the_way(trial: Trial) -> None:
    """Have a file where a directory of the output's path should be."""
    trial.disk.rmdir()
    trial.disk.write_text("in the way\n")
    with trial.start() as process:
        ended = process.end(LIMIT)
    trial.notes.append(f"exit code {ended.code}")
    trial.check(ended, (1, 2), names=["disk"])
    if not trial.disk.is_file():
        trial.fail("the file in the way is gone")
    trial.disk.unlink(missing_ok=True)
    trial.disk.mkdir(exist_ok=True)
    trial.recover()


def into(stdout: Stream) -> Disturb:
    """Have a standard output that takes nothing, which must not cost the result."""

    def disturb(trial: Trial) -> None:
        with trial.start(stdout=stdout) as process:
            if stdout == "reader leaves":
                process.read_line()
            ended = process.end(LIMIT)
        trial.notes.append(f"exit code {ended.code}")
        code = trial.operation.code
        # Whoever closes it wants nothing said; a full one has lost what was said.
        trial.check(ended, (code,) if stdout == "closed" else (code, 1))
        trial.compare()

    return disturb


def speaking(**environment: str) -> Disturb:
    """Have a standard output that cannot take every character."""

    def disturb(trial: Trial) -> None:
        with trial.start(environment=environment) as process:
            ended = process.end(LIMIT)
        trial.check(ended, (trial.operation.code,))
        if not ended.out.strip():
            trial.fail("nothing was said")
        trial.compare()

    return disturb


def damaged(state: str, pattern: str, change: Callable[[Path], object]) -> Disturb:
    """Damage a file that the operation reads, and give the command (again)."""

    def disturb(trial: Trial) -> None:
        is_source = pattern.startswith("source")
        if not is_source:
            trial.take(state)
        path = _newest(trial.place, pattern)
        before = path.read_bytes()
        change(path)
        with trial.start(again=not is_source) as process:
            ended = process.end(LIMIT)
        trial.notes.append(f"{path.relative_to(trial.place)}: exit code {ended.code}")
        code = trial.operation.code
        trial.check(ended, (code, 1, 2))
        step = re.search(r"checkpoints/\d+", str(path))
        names = [path.name, *([step[0]] if step else [])]
        is_named = any(name in ended.err for name in names)
        lines = trial.differences()
        if not lines:
            return
        if not is_named:
            how = "taken for good" if ended.code == code else "refused without its name"
            last = ended.err.strip()[-200:]
            trial.fail(f"{path.name} {how}: {'; '.join(lines)[:200]}; {last!r}")
        if ended.code == code:
            trial.notes.append("another result, of which it warns")
        elif path.exists():
            path.write_bytes(before)
            trial.recover()

    return disturb


def _newest(place: Path, pattern: str) -> Path:
    """The file to damage: of those that match, the largest of the last step."""
    wanted = re.compile(pattern)
    paths = [path for path in paths_below(place) if wanted.fullmatch(path)]
    files = [place / path for path in paths if (place / path).is_file()]
    if not files:
        raise Missed(f"there is no {pattern}")

    def rank(path: Path) -> Any:
        step = re.search(r"checkpoints/(\d+)", str(path))
        return int(step[1]) if step else 0, path.stat().st_size, str(path)

    return max(files, key=rank)


def damaged_export(change: Callable[[Path], object]) -> Disturb:
    """Damage the exported file, and load it."""

    def disturb(trial: Trial) -> None:
        trial.take("complete")
        path = trial.place / trial.operation.output
        change(path)
        program = (
            "import sys, numpy\n"
            "from jaxrobust.interop import ExportError, load_exported\n"
            "try:\n"
            "    load_exported(sys.argv[1])(numpy.zeros((1, 8, 8, 1), 'float32'))\n"
            "except ExportError as error:\n"
            "    sys.exit(str(error))\n"
        )
        words = ("-c", program, trial.operation.output)
        environment = trial.bench.environment()
        with Process(words, trial.place, environment=environment) as process:
            trial.check(process.end(LIMIT), (1,), names=[path.name])

    return disturb
