"""Processes that are really disturbed: by signals, small disks, other hands on files.

Nothing here knows what the processes compute. A process is started, watched until a
sign of what it does appears, and disturbed then; wherever a sign finds it exactly, the
rule that is being tested must hold.
"""

import dataclasses
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, NamedTuple

__all__ = [
    "STREAMS",
    "Ended",
    "Process",
    "Sign",
    "SmallDisk",
    "Stream",
    "after",
    "appears",
    "flip",
    "halve",
    "maps",
    "may_mount",
    "opens",
    "paths_below",
    "stopped",
]

ROOT = Path(__file__).resolve().parent.parent

Stream = Literal["kept", "closed", "full", "no reader", "reader leaves"]
STREAMS: tuple[Stream, ...] = ("closed", "full", "no reader", "reader leaves")
"""What may be wrong with a standard output."""


class Ended(NamedTuple):
    """How a process ended.

    Attributes:
        code: its exit code, negative for a signal; None if it had to be killed, since
            it did not end in time.
        out: standard output, as far as it was kept.
        err: standard error.
    """

    code: int | None
    out: str
    err: str


class Process:
    """A process under way; it never outlives the block that it is a context of.

    Args:
        words: of the command, after the name of the Python interpreter.
        directory: in which it works.
        environment: variables beside those of this process.
        stdout: what its standard output is.
        file_size: bytes that no file it writes may exceed; None for any number.
    """

    def __init__(
        self,
        words: Sequence[str],
        directory: Path,
        *,
        environment: Mapping[str, str] | None = None,
        stdout: Stream = "kept",
        file_size: int | None = None,
    ):
        command = [sys.executable, *words]
        self.directory = directory
        # Files rather than pipes, which a process that is not read from would fill; but
        # pipes where files are limited, since these are files.
        self._files = [tempfile.TemporaryFile() for _ in range(2)]
        out, err = (file.fileno() for file in self._files)
        self._reader = None
        own: list[int] = []
        if stdout == "full":
            own = [os.open("/dev/full", os.O_WRONLY)]
        elif stdout in ("no reader", "reader leaves"):
            self._reader, writer = os.pipe()
            own = [writer]
        elif stdout == "closed":
            command = ["/bin/sh", "-c", 'exec "$@" >&-', "sh", *command]
        if stdout == "no reader":
            self._leave()
        self._popen = subprocess.Popen(
            command,
            cwd=directory,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | dict(environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if file_size is not None else (*own, out)[0],
            stderr=subprocess.PIPE if file_size is not None else err,
        )
        if file_size is not None:
            limits = (file_size, file_size)
            resource.prlimit(self._popen.pid, resource.RLIMIT_FSIZE, limits)
        self._is_piped = file_size is not None
        for descriptor in own:
            os.close(descriptor)

    @property
    def pid(self) -> int:
        """Its number."""
        return self._popen.pid

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        if self._popen.poll() is None:
            self._popen.kill()
            self._popen.wait()
        self._leave()
        for file in self._files:
            file.close()

    def _leave(self) -> None:
        """Go away as the reader of its output."""
        if self._reader is not None:
            os.close(self._reader)
            self._reader = None

    def is_over(self) -> bool:
        """Whether it has ended."""
        return self._popen.poll() is not None

    def send(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if not self.is_over():
            self._popen.send_signal(number)

    def reaches(self, sign: "Sign", seconds: float) -> bool:
        """Wait until a sign appears; False if the process ended without it."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if sign.is_there(self):
                return True
            if self.is_over():
                return sign.is_there(self)
            # Files are written within milliseconds, once the first is there.
            time.sleep(2e-4 if any(paths_below(self.directory / "disk")) else 2e-3)
        return False

    def read_line(self) -> None:
        """Take a line of the standard output, and go away."""
        assert self._reader is not None
        while (byte := os.read(self._reader, 1)) not in (b"", b"\n"):
            del byte
        self._leave()

    def end(self, seconds: float | None) -> Ended:
        """Wait for its end, and kill it if that does not come; None for ever."""
        if self._is_piped:
            try:
                out, err = self._popen.communicate(timeout=seconds)
                code = self._popen.returncode
            except subprocess.TimeoutExpired:
                self._popen.kill()
                out, err = self._popen.communicate()
                code = None
            return Ended(
                code, out.decode(errors="replace"), err.decode(errors="replace")
            )
        try:
            code = self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self._popen.send_signal(signal.SIGCONT)
            self._popen.kill()
            self._popen.wait()
            code = None
        texts = []
        for file in self._files:
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
        return Ended(code, *texts)


class Sign(NamedTuple):
    """Something by which one sees from outside what a process is doing.

    Attributes:
        name: what it is doing then, for people.
        is_there: asked often.
    """

    name: str
    is_there: Callable[[Process], bool]


def paths_below(directory: Path) -> Iterator[str]:
    """Paths relative to a directory, of files and directories that come and go."""
    waiting = [""]
    while waiting:
        place = waiting.pop()
        with suppress(OSError), os.scandir(directory / place) as entries:
            for entry in entries:
                yield place + entry.name
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(f"{place}{entry.name}/")


def appears(
    name: str, pattern: str, *, num_lines: int = 0, below: str = "disk"
) -> Sign:
    """A file or directory whose path matches, and has so many lines at least."""
    wanted = re.compile(pattern)

    def is_there(process: Process) -> bool:
        directory = process.directory / below
        for path in paths_below(directory):
            if wanted.fullmatch(path):
                if not num_lines:
                    return True
                with suppress(OSError):
                    return (directory / path).read_bytes().count(b"\n") >= num_lines
        return False

    return Sign(name, is_there)


def opens(name: str, pattern: str) -> Sign:
    """The process has a file open whose path has a match."""
    wanted = re.compile(pattern)

    def is_there(process: Process) -> bool:
        directory = f"/proc/{process.pid}/fd"
        with suppress(OSError):
            for each in os.listdir(directory):
                with suppress(OSError):
                    if wanted.search(os.readlink(f"{directory}/{each}")):
                        return True
        return False

    return Sign(name, is_there)


def maps(name: str, pattern: str) -> Sign:
    """The process has loaded a library whose path has a match."""
    wanted = re.compile(pattern)

    def is_there(process: Process) -> bool:
        with suppress(OSError):
            text = Path(f"/proc/{process.pid}/maps").read_text()
            return wanted.search(text) is not None
        return False

    return Sign(name, is_there)


def after(name: str, seconds: float) -> Sign:
    """A time since the first question, whatever the process is doing."""
    began: dict[int, float] = {}

    def is_there(process: Process) -> bool:
        first = began.setdefault(process.pid, time.monotonic())
        return time.monotonic() - first >= seconds

    return Sign(name, is_there)


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True, capture_output=True)


@dataclasses.dataclass
class SmallDisk:
    """A file system in memory, as a context manager: mounted, and taken away again.

    Args:
        directory: where it is mounted; made if missing.
        size: bytes of it.
    """

    directory: Path
    size: int = 64 << 20

    def __enter__(self) -> "SmallDisk":
        self.directory.mkdir(parents=True, exist_ok=True)
        # Of whole pages; 0 would be no limit.
        size = max(self.size, 4096)
        _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(self.directory))
        return self

    def __exit__(self, *_: object) -> None:
        # Lazily: whatever still has a file open must not keep the mount.
        subprocess.run(["umount", "-l", str(self.directory)], check=False)

    def _again(self, options: str) -> None:
        _mount("-o", f"remount,{options}", str(self.directory))

    def grow(self) -> None:
        """Give it room."""
        self._again(f"size={64 << 20}")

    def lock(self) -> None:
        """Let nobody write."""
        self._again("ro")

    def unlock(self) -> None:
        """Let everybody write."""
        self._again("rw")


def may_mount() -> bool:
    """Whether this user may mount file systems."""
    if shutil.which("mount") is None:
        return False
    with tempfile.TemporaryDirectory(prefix="jaxrobust-mount-") as directory:
        try:
            with SmallDisk(Path(directory) / "disk"):
                return True
        except (OSError, subprocess.CalledProcessError):
            return False


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def halve(path: Path) -> None:
    """Cut the second half of a file off."""
    os.truncate(path, path.stat().st_size // 2)


@contextmanager
def stopped(process: Process) -> Iterator[None]:
    """Have a process stand still, with all that it holds."""
    process.send(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send(signal.SIGCONT)
