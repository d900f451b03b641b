"""Arrays in the making, kept on disk, so that a search that was killed can go on."""

import fcntl
import hashlib
import json
import math
import os
import shutil
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

__all__ = ["FORMAT", "Shapes", "Store", "digest", "free_memory", "in_gigabytes"]

FORMAT = 1
"""Of what a cache holds; another one is refused."""

LESS = (
    "ask for fewer neighbors (a smaller `alpha` or `k`) or those of fewer points "
    "(`max_centers` or `queries`)"
)

Shapes = Mapping[str, tuple[tuple[int, ...], type]]
"""Shape and type of arrays by name; the first axis is what is filled."""


def digest(array: np.ndarray) -> str:
    """A hash of the values, shape and type of an array."""
    found = hashlib.sha256(f"{array.dtype} {array.shape};".encode())
    found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()[:16]


def free_memory() -> int | None:
    """Bytes that can be had without swapping; None where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def in_gigabytes(size: int) -> str:
    """A number of bytes, for people."""
    return f"{size / 1e9:.3g} GB"


class Store:
    """Arrays, and how many of their rows are done; on disk if asked.

    On disk they are a directory: one file for each array, `header.json`, which says
    what they are, and `done.json`, the number of rows, which is replaced by renaming
    and only after the rows themselves were written. As long as rows are missing, a lock
    on a file beside it keeps others away; once all are there, any number may read.

    Args:
        cache: directory of the directory; None to keep everything in memory.
        name: what its name begins with; a hash of the settings follows.
        settings: JSON-like, all that decides the arrays.
        arrays: what to fill.

    Attributes:
        arrays: memory-mapped if on disk; they stay when this is closed.
        done: number of rows.

    Raises:
        ValueError: if the directory is damaged or that of something else, or if
            another store is filling it; if there is less room than the arrays take.
    """

    def __init__(
        self,
        cache: Path | str | None,
        name: str,
        settings: Mapping[str, Any],
        arrays: Shapes,
    ):
        self.done = self._kept = 0
        self._written = time.monotonic()
        self._directory = self._lock = None
        self._size = sum(
            math.prod(shape) * np.dtype(kind).itemsize
            for shape, kind in arrays.values()
        )
        if cache is None:
            free = free_memory()
            if free is not None and self._size > free:
                raise ValueError(
                    "`cache` must be a directory where neighbors take more memory than "
                    f"there is, got None, and they take {in_gigabytes(self._size)}, "
                    f"with {in_gigabytes(free)} free; give one, or {LESS}."
                )
            self.arrays = {
                name: np.empty(shape, kind) for name, (shape, kind) in arrays.items()
            }
            return
        header = {"format": FORMAT, **settings}
        text = json.dumps(header, sort_keys=True)
        own = hashlib.sha256(text.encode()).hexdigest()[:10]
        self._directory = Path(cache) / f"{name}-{own}"
        if not self._is_finished(arrays):
            self._directory.parent.mkdir(parents=True, exist_ok=True)
            self._lock = self._locked()
        try:
            if not (self._directory / "header.json").is_file():
                self._require_room(self._size)
                self._create(arrays, text)
            self._check(header)
            # The files are sparse: what is not done takes no room as yet.
            length = min(shape[0] for shape, _ in arrays.values())
            self._require_room(self._size * max(length - self.done, 0) // length)
            self._kept = self.done
            self.arrays = self._opened(arrays)
        except BaseException:
            self.close()
            raise
        if self._is_finished(arrays):
            self.close()
        elif self._lock is not None:
            # Of processes that were killed; nobody else is writing now.
            for part in self._directory.glob("*.part"):
                part.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let others at the directory; no more rows can be put."""
        if self._lock is None:
            return
        descriptor, path = self._lock
        self._lock = None
        # Before it is let go: whoever waits to take this file sees that it is gone.
        path.unlink(missing_ok=True)
        # A child process may have the same descriptor, so closing is not enough.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)

    def put(self, start: int, values: Mapping[str, np.ndarray]) -> None:
        """Take the rows from `start`, the first that is not done."""
        assert start == self.done
        stop = start
        for name, value in values.items():
            stop = start + len(value)
            self.arrays[name][start:stop] = value
        self.done = stop
        if time.monotonic() - self._written > 2:
            self.keep()

    def keep(self) -> None:
        """Write down what is done."""
        if self._directory is None or self.done == self._kept:
            return
        for array in self.arrays.values():
            if isinstance(array, np.memmap):
                array.flush()
        _replace(self._directory / "done.json", json.dumps(self.done))
        self._kept = self.done
        self._written = time.monotonic()

    def _is_finished(self, arrays: Mapping[str, Any]) -> bool:
        """Whether all rows are there, so that nobody will write."""
        assert self._directory is not None
        try:
            done = json.loads((self._directory / "done.json").read_text())
        except (OSError, ValueError):
            return False
        is_begun = (self._directory / "header.json").is_file()
        return is_begun and all(done == shape[0] for shape, _ in arrays.values())

    def _require_room(self, size: int) -> None:
        assert self._directory is not None
        free = shutil.disk_usage(self._directory.parent).free
        if size > free:
            raise ValueError(
                f"`cache` must have room for {in_gigabytes(size)} of neighbors, got "
                f"{str(self._directory.parent)!r}, with {in_gigabytes(free)} free; "
                f"give one on another disk, or {LESS}."
            )

    def _locked(self) -> tuple[int, Path]:
        """Take the lock, which the system lets go if this process ends."""
        assert self._directory is not None
        path = self._directory.with_name(self._directory.name + ".lock")
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Whoever had it before may have removed it since it was opened.
                if _is_at(descriptor, path):
                    return descriptor, path
            except BlockingIOError as error:
                os.close(descriptor)
                raise ValueError(
                    "`cache` must not be in use by another search for the same, got "
                    f"{str(self._directory)!r}, which one is filling now; wait for it "
                    "to end, or give another directory."
                ) from error
            except OSError as error:
                os.close(descriptor)
                raise ValueError(
                    "`cache` must be a directory whose files can be locked, got "
                    f"{str(self._directory.parent)!r} ({error}); give one on another "
                    "file system."
                ) from error
            os.close(descriptor)

    def _create(self, arrays: Mapping[str, Any], header: str) -> None:
        assert self._directory is not None
        self._directory.mkdir(exist_ok=True)
        for name, (shape, kind) in arrays.items():
            path = self._directory / f"{name}.npy"
            np.lib.format.open_memmap(path, "w+", kind, shape).flush()
        _replace(self._directory / "done.json", "0")
        # Last, since it says that all the rest is there.
        _replace(self._directory / "header.json", header)

    def _check(self, header: Mapping[str, Any]) -> None:
        """Refuse what belongs to something else, and take up what is done."""
        assert self._directory is not None
        try:
            found = json.loads((self._directory / "header.json").read_text())
            self.done = int(json.loads((self._directory / "done.json").read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise self._refusal(f"cannot be read ({error})") from error
        different = [
            f"{name}: {found.get(name)!r}, now {header.get(name)!r}"
            for name in dict.fromkeys([*found, *header])
            if found.get(name) != header.get(name)
        ]
        if different:
            raise self._refusal(f"differs in {'; '.join(different)}")

    def _opened(self, arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
        assert self._directory is not None
        opened = {}
        for name, (shape, kind) in arrays.items():
            path = self._directory / f"{name}.npy"
            is_done = self.done >= shape[0]
            try:
                array = np.load(path, mmap_mode="r" if is_done else "r+")
            except (OSError, ValueError, EOFError) as error:
                raise self._refusal(f"cannot be read ({error})") from error
            if array.shape != shape or array.dtype != kind or self.done > shape[0]:
                raise self._refusal(
                    f"holds {name} of {array.dtype} {array.shape}, {self.done} done"
                )
            opened[name] = array
        return opened

    def _refusal(self, what: str) -> ValueError:
        return ValueError(
            "`cache` must hold what this call wrote before, got "
            f"{str(self._directory)!r}, which {what}; remove that directory to begin "
            "anew, or give another."
        )


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is still what its path leads to."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _replace(path: Path, text: str) -> None:
    """Write a file so that it is never seen half done."""
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    try:
        with part.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
