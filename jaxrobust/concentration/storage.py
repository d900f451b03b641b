"""Arrays in the making, kept on disk, so that a search that was killed can go on."""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["FORMAT", "Shapes", "Store", "digest"]

FORMAT = 1
"""Of what a cache holds; another one is refused."""

Shapes = Mapping[str, tuple[tuple[int, ...], type]]
"""Shape and type of arrays by name; the first axis is what is filled."""


def digest(array: np.ndarray) -> str:
    """A hash of the values, shape and type of an array."""
    found = hashlib.sha256(f"{array.dtype} {array.shape};".encode())
    found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()[:16]


class Store:
    """Arrays, and how many of their rows are done; on disk if asked.

    On disk they are a directory: one file for each array, `header.json`, which says
    what they are, and `done.json`, the number of rows, which is replaced by renaming
    and only after the rows themselves were written.

    Args:
        cache: directory of the directory; None to keep everything in memory.
        name: what its name begins with; a hash of the settings follows.
        settings: JSON-like, all that decides the arrays.
        arrays: what to fill.

    Attributes:
        arrays: memory-mapped if on disk.
        done: number of rows.

    Raises:
        ValueError: if the directory is damaged or that of something else.
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
        if cache is None:
            self.arrays = {
                name: np.empty(shape, kind) for name, (shape, kind) in arrays.items()
            }
            return
        header = {"format": FORMAT, **settings}
        text = json.dumps(header, sort_keys=True)
        own = hashlib.sha256(text.encode()).hexdigest()[:10]
        self._directory = Path(cache) / f"{name}-{own}"
        if not (self._directory / "header.json").is_file():
            self._create(arrays, text)
        self._check(header)
        self._kept = self.done
        self.arrays = self._opened(arrays)

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

    def _create(self, arrays: Mapping[str, Any], header: str) -> None:
        assert self._directory is not None
        self._directory.mkdir(parents=True, exist_ok=True)
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


def _replace(path: Path, text: str) -> None:
    """Write a file so that it is never seen half done."""
    part = path.with_name(path.name + ".part")
    with part.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
