"""Progress of an evaluation on disk, so that one that was killed can go on.

A journal is one npz file: the arrays, and a header in JSON that says which evaluation
they belong to. It is replaced by renaming, so whoever reads it finds a whole one,
whenever the writer was killed.
"""

import importlib.metadata
import io
import json
import os
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxrobust
from jaxrobust import hosts
from jaxrobust.keeping import difference

__all__ = ["Journal", "JournalError"]

_HEADER = "header"


class JournalError(ValueError):
    """A journal that is damaged, or that of another evaluation."""


class Journal:
    """The file of one evaluation; in a job of several processes only one writes it.

    Args:
        path: the file; its directory is made if missing.
        header: JSON-like, what decides the result; versions of what computes it are
            added.
        every: seconds between two writes of `offer`, at least.
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

    def read(self) -> dict[str, np.ndarray] | None:
        """The arrays last written, or None if there is no such file.

        Raises:
            JournalError: if the file is damaged, or belongs to another evaluation;
                says in what that one differs.
        """
        try:
            # From memory, since `np.load` leaves a damaged file open.
            content = io.BytesIO(self.path.read_bytes())
            with np.load(content, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            header = json.loads(bytes(arrays.pop(_HEADER)).decode())
        except FileNotFoundError:
            return None
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise JournalError(
                f"`journal` must be a file that an evaluation wrote, got "
                f"{str(self.path)!r}, which cannot be read ({error}); remove it, or "
                "give another name."
            ) from error
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
        # The second, where the program joined the job by other means than `hosts`.
        if not (hosts.is_primary() and jax.process_index() == 0):
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(self.path.name + ".part")
        header = np.frombuffer(json.dumps(self.header).encode(), np.uint8)
        with part.open("wb") as file:
            np.savez(file, allow_pickle=False, **{_HEADER: header}, **arrays)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.path)
        self._written = time.monotonic()
