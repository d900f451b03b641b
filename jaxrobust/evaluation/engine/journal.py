"""Progress of an evaluation on disk, so that one that was killed can go on.

A journal is one file of arrays, sealed together with a header that says which
evaluation they belong to. It is replaced as a whole, so whoever reads it finds a whole
one, whenever the writer was killed; and while an evaluation goes on, no other process
may use its journal.
"""

import importlib.metadata
import json
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np

import jaxrobust
from jaxrobust import hosts
from jaxrobust.keeping import (
    DamagedFileError,
    claimed,
    difference,
    read_arrays,
    write_arrays,
)

__all__ = ["Journal", "JournalError"]


class JournalError(ValueError):
    """A journal that is damaged, or that of another evaluation."""


class Journal:
    """The file of one evaluation, which is this process's within a `with` block.

    In a job of several processes only one claims and writes it.

    Args:
        path: the file; its directory is made if missing.
        header: JSON-like, what decides the result; versions of what computes it are
            added.
        every: seconds between two writes of `offer`, at least.

    Raises:
        InUseError: on entering the block, if another process uses the file.
    """

    def __init__(
        self, path: Path | str, header: Mapping[str, Any], *, every: float = 2.0
    ) -> None:
        self.path = Path(path)
        versions = {
            "jaxrobust": jaxrobust.__version__,
            "jax": importlib.metadata.version("jax"),
        }
        # To JSON and back, or a tuple would differ from the list it became.
        self.header = json.loads(json.dumps({**header, "versions": versions}))
        self.every = every
        self._written = -np.inf
        # The second, where the program joined the job by other means than `hosts`.
        self._is_writer = hosts.is_primary() and jax.process_index() == 0
        self._claim: AbstractContextManager[None] = nullcontext()

    def __enter__(self) -> Self:
        if self._is_writer:
            self._claim = claimed(self.path, what="journal")
        self._claim.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._claim.__exit__(*error)

    def read(self) -> dict[str, np.ndarray] | None:
        """The arrays last written, or None if there is no such file.

        Raises:
            JournalError: if the file is damaged, or belongs to another evaluation;
                says in what that one differs.
        """
        try:
            arrays, header = read_arrays(
                self.path, remedy="remove it to begin anew, or give another name"
            )
        except FileNotFoundError:
            return None
        except DamagedFileError as error:
            raise JournalError(f"`journal`: {error}") from error
        lines = difference(header, self.header)
        if lines:
            shown = "; ".join(lines[:5])
            raise JournalError(
                f"`journal` must be that of the same evaluation, got "
                f"{str(self.path)!r}, which differs in {shown}; remove it to begin "
                "anew, or give another name."
            )
        return arrays

    def offer(self, arrays: Callable[[], Mapping[str, np.ndarray]]) -> None:
        """Write, unless that was done a moment ago."""
        if time.monotonic() - self._written >= self.every:
            self.write(arrays())

    def write(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Replace the file, at once and as a whole."""
        if self._is_writer:
            write_arrays(self.path, arrays, self.header)
            self._written = time.monotonic()
