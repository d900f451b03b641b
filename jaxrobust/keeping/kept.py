"""Results on disk, each computed once for all that decides it."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxrobust.keeping.hashes import mark
from jaxrobust.keeping.sealed import (
    DamagedFileError,
    plain,
    read_arrays,
    read_json,
    seal,
    write_arrays,
    write_json,
)

__all__ = ["Kept"]


class Kept:
    """A directory of results, so that work that was cut short goes on.

    Every result is a sealed file of its own, whose name has a hash of what decides it.
    One that is damaged is computed again, with a warning that names it.

    Args:
        directory: of the files; made when the first one is written.
        is_writer: whether to write what is computed. Of the processes of a job, which
            compute the same, one does.
    """

    def __init__(self, directory: Path | str, *, is_writer: bool = True):
        self.directory = Path(directory)
        self.is_writer = is_writer

    def path(self, name: str, key: Any, suffix: str) -> Path:
        """Where the result of a name lies; the key is JSON-like, what decides it."""
        return self.directory / f"{name}-{mark(plain(key))}{suffix}"

    def numbers(self, name: str, key: Any, compute: Callable[[], Any]) -> Any:
        """A JSON-like result, computed if it is not there."""
        path = self.path(name, key, ".json")
        found = _readable(lambda: read_json(path, must_be_sealed=True))
        if found is None:
            # As a file gives it back, also where it was just computed.
            found = seal({"value": plain(compute())})
            if self.is_writer:
                write_json(path, found, indent=None)
        return found["value"]

    def arrays(
        self, name: str, key: Any, compute: Callable[[], Mapping[str, Any]]
    ) -> dict[str, np.ndarray]:
        """Arrays by name, computed if they are not there."""
        path = self.path(name, key, ".npz")
        found = _readable(lambda: read_arrays(path))
        if found is None:
            values = {each: np.asarray(value) for each, value in compute().items()}
            if self.is_writer:
                write_arrays(path, values)
            return values
        return found[0]


def _readable(read: Callable[[], Any]) -> Any:
    """What a file holds, or None if it is missing or damaged."""
    try:
        return read()
    except FileNotFoundError:
        return None
    except DamagedFileError as error:
        warnings.warn(f"{error} It is computed again.", stacklevel=4)
        return None
