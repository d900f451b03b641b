"""What a report has computed so far, on disk, so that the same command goes on.

Every result is a file of its own, named by a hash of what decides it and renamed into
place, so it is there as a whole or not at all, whenever the writer was killed. The
directory belongs to one report: its settings are written before the first result.
"""

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxrobust.keeping import difference, plain, write_whole

__all__ = ["Storage"]

PARTS, SETTINGS = "parts", "settings.json"


class Storage:
    """The results in the directory of a report.

    Args:
        output: directory of the report.
        settings: JSON-like, what decides the report.

    Raises:
        ValueError: if the directory holds something else, or another report; says in
            what that one differs.
    """

    def __init__(self, output: Path, settings: Mapping[str, Any]) -> None:
        self.output, self.directory = output, output / PARTS
        self.settings = plain(settings)
        path = self.directory / SETTINGS
        if not path.exists():
            if output.exists() and not self._is_free():
                raise ValueError(
                    f"`output` must be a new or empty directory, or that of the same "
                    f"report, got {str(output)!r}, which holds no {PARTS}/{SETTINGS}; "
                    "choose another directory."
                )
            return
        try:
            before = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(
                f"`output` must be the directory of a report, got {str(output)!r}, "
                f"whose {PARTS}/{SETTINGS} cannot be read ({error}); choose another "
                "directory."
            ) from error
        if lines := difference(before, self.settings):
            raise ValueError(
                f"`output` must be the directory of the same report, got "
                f"{str(output)!r}, which differs in {'; '.join(lines[:5])}; choose "
                "another directory, or give the same command."
            )

    def _is_free(self) -> bool:
        """Whether nothing is there, or what a begin leaves that was killed."""
        left = {self.directory, self.directory / f"{SETTINGS}.part"}
        return self.output.is_dir() and set(self.output.rglob("*")) <= left

    def begin(self) -> None:
        """Make the directory this report's."""
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / SETTINGS
        if not path.exists():
            write_whole(path, json.dumps(self.settings, indent=1) + "\n")

    def path(self, name: str, key: Any, suffix: str) -> Path:
        """Where the result of a name lies; the key is JSON-like, what decides it."""
        text = json.dumps(plain(key), sort_keys=True)
        mark = hashlib.sha256(text.encode()).hexdigest()[:12]
        return self.directory / f"{name}-{mark}{suffix}"

    def numbers(self, name: str, key: Any, compute: Callable[[], Any]) -> Any:
        """A JSON-like result, computed if it is not there."""
        path = self.path(name, key, ".json")
        if not path.exists():
            text = json.dumps(plain(compute()), allow_nan=False)
            write_whole(path, text + "\n")
        # From the file also where it was just written: the same on going on.
        return json.loads(path.read_text())

    def arrays(
        self, name: str, key: Any, compute: Callable[[], Mapping[str, Any]]
    ) -> dict[str, np.ndarray]:
        """Arrays by name, computed if they are not there."""
        path = self.path(name, key, ".npz")
        if not path.exists():
            content = io.BytesIO()
            found = {name: np.asarray(value) for name, value in compute().items()}
            np.savez(content, allow_pickle=False, **found)
            write_whole(path, content.getvalue())
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
