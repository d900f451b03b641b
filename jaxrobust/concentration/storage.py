"""Arrays in the making, kept on disk, so that a search that was killed can go on."""

import errno
import math
import os
import shutil
import time
import zlib
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np

from jaxrobust.data.distances import free_memory
from jaxrobust.keeping import (
    DamagedFileError,
    claimed,
    difference,
    mark,
    read_json,
    write_json,
)

__all__ = ["FORMAT", "Shapes", "Store", "in_gigabytes", "rows_in"]

FORMAT = 2
"""Of what a cache holds, and part of its name; 2 has checksums."""

HEADER, DONE = "header.json", "done.json"

BLOCK = 2**24
"""Bytes of an array whose checksum is taken at once."""

LESS = (
    "ask for fewer neighbors (a smaller `alpha` or `k`) or those of fewer points "
    "(`max_centers` or `queries`)"
)

Shapes = Mapping[str, tuple[tuple[int, ...], type]]
"""Shape and type of arrays by name; the first axis is what is filled."""


def in_gigabytes(size: int) -> str:
    """A number of bytes, for people."""
    return f"{size / 1e9:.3g} GB"


def rows_in(cache: Path) -> int:
    """Number of rows that are done in all stores of a cache, damaged ones not counted.

    Args:
        cache: directory of stores, whether or not there is one.
    """
    total = 0
    for path in cache.glob(f"*/{DONE}"):
        try:
            total += int(read_json(path, must_be_sealed=True)["rows"])
        except (DamagedFileError, KeyError, TypeError):
            continue
    return total


def _checksum(rows: np.ndarray, before: int = 0) -> int:
    """The checksum of rows that follow others, whose own is `before`."""
    step = max(1, BLOCK // max(rows[:1].nbytes, 1))
    for start in range(0, len(rows), step):
        before = zlib.crc32(
            np.ascontiguousarray(rows[start : start + step]).data, before
        )
    return before


class Store:
    """Arrays, and how many of their rows are done; on disk if asked.

    On disk they are a directory: one file for each array, `header.json`, which says
    what they are, and `done.json`, the number of rows and a checksum of those of each
    array, which is replaced as a whole and only after the rows themselves were written.
    As long as rows are missing, a claim on the directory keeps others away; once all
    are there, any number may read.

    Args:
        cache: directory of the directory; None to keep everything in memory.
        name: what its name begins with; a hash of the settings follows.
        settings: JSON-like, all that decides the arrays.
        arrays: what to fill.

    Attributes:
        arrays: memory-mapped if on disk; they stay when this is closed.
        done: number of rows.

    Raises:
        ValueError: if the directory is damaged or that of something else; if the
            arrays do not fit into the memory.
        OSError: if they do not fit on the disk.
        InUseError: if another store is filling it.
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
        self._directory = None
        self._claim = ExitStack()
        self._checksums = dict.fromkeys(arrays, 0)
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
        self._directory = Path(cache) / f"{name}-{mark(header)}"
        length = min(shape[0] for shape, _ in arrays.values())
        if not self._is_finished(length):
            self._claim.enter_context(claimed(self._directory, what="cache"))
        try:
            if not (self._directory / HEADER).is_file():
                self._require_room(self._size)
                self._create(arrays, header)
            self._check(header)
            # The files are sparse: what is not done takes no room as yet.
            self._require_room(self._size * max(length - self.done, 0) // length)
            self._kept = self.done
            self.arrays = self._opened(arrays)
        except BaseException:
            self.close()
            raise
        if self.done == length:
            self.close()
        else:
            # Of processes that were killed; nobody else is writing now.
            for part in self._directory.glob("*.part"):
                part.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let others at the directory; no more rows can be put."""
        self._claim.close()

    def put(self, start: int, values: Mapping[str, np.ndarray]) -> None:
        """Take the rows from `start`, the first that is not done."""
        assert start == self.done
        stop = start
        for name, value in values.items():
            stop = start + len(value)
            rows = self.arrays[name][start:stop]
            rows[...] = value
            if self._directory is not None:
                self._checksums[name] = _checksum(rows, self._checksums[name])
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
        self._write_done()
        self._kept = self.done
        self._written = time.monotonic()

    def _write_done(self) -> None:
        assert self._directory is not None
        record = {"rows": self.done, "checksums": self._checksums}
        write_json(self._directory / DONE, record)

    def _is_finished(self, length: int) -> bool:
        """Whether all rows are there, so that nobody will write."""
        assert self._directory is not None
        try:
            done = read_json(self._directory / DONE, must_be_sealed=True)["rows"]
        except (OSError, DamagedFileError, KeyError):
            return False
        return done == length and (self._directory / HEADER).is_file()

    def _require_room(self, size: int) -> None:
        assert self._directory is not None
        free = shutil.disk_usage(self._directory.parent).free
        if size > free:
            what = (
                f"{os.strerror(errno.ENOSPC)} for {in_gigabytes(size)} of neighbors, "
                f"with {in_gigabytes(free)} free, so {LESS}"
            )
            raise OSError(errno.ENOSPC, what, str(self._directory.parent))

    def _create(self, arrays: Shapes, header: Mapping[str, Any]) -> None:
        assert self._directory is not None
        self._directory.mkdir(exist_ok=True)
        for name, (shape, kind) in arrays.items():
            path = self._directory / f"{name}.npy"
            np.lib.format.open_memmap(path, "w+", kind, shape).flush()
        self._write_done()
        # Last, since it says that all the rest is there.
        write_json(self._directory / HEADER, header)

    def _check(self, header: Mapping[str, Any]) -> None:
        """Refuse what belongs to something else, and take up what is done."""
        assert self._directory is not None
        try:
            found = read_json(self._directory / HEADER, must_be_sealed=True)
            done = read_json(self._directory / DONE, must_be_sealed=True)
            self.done, self._checksums = int(done["rows"]), dict(done["checksums"])
        except (OSError, DamagedFileError, KeyError) as error:
            raise self._refusal(f"cannot be read ({error})") from error
        if lines := difference(found, header):
            raise self._refusal(f"differs in {'; '.join(lines)}")

    def _opened(self, arrays: Shapes) -> dict[str, np.ndarray]:
        assert self._directory is not None
        opened = {}
        for name, (shape, kind) in arrays.items():
            path = self._directory / f"{name}.npy"
            is_done = self.done >= shape[0]
            try:
                array = np.load(path, mmap_mode="r" if is_done else "r+")
            except (OSError, ValueError, EOFError) as error:
                raise self._refusal(
                    f"is damaged: {path.name} cannot be read ({error})"
                ) from error
            if array.shape != shape or array.dtype != kind or self.done > shape[0]:
                raise self._refusal(
                    f"holds {name} of {array.dtype} {array.shape}, {self.done} done"
                )
            if _checksum(array[: self.done]) != self._checksums.get(name):
                raise self._refusal(
                    f"is damaged: the checksum of {path.name} does not fit"
                )
            opened[name] = array
        return opened

    def _refusal(self, what: str) -> ValueError:
        return ValueError(
            "`cache` must hold what this call wrote before, got "
            f"{str(self._directory)!r}, which {what}; remove that directory to begin "
            "anew, or give another."
        )
