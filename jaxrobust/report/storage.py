"""What a report has computed so far, on disk, so that the same command goes on.

The directory belongs to one report: its settings are written before the first result.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxrobust.arguments import require
from jaxrobust.keeping import (
    DamagedFileError,
    Kept,
    difference,
    plain,
    read_json,
    write_json,
)
from jaxrobust.keeping.claims import LOCK

__all__ = ["Storage"]

PARTS, SETTINGS = "parts", "settings.json"


class Storage(Kept):
    """The results in the directory of a report, which its writer has a claim on.

    Args:
        output: directory of the report.
        settings: JSON-like, what decides the report.

    Raises:
        ValueError: if the directory holds something else, or another report; says in
            what that one differs.
    """

    def __init__(self, output: Path, settings: Mapping[str, Any]) -> None:
        super().__init__(output / PARTS)
        self.output = output
        self.settings = plain(settings)
        path = self.directory / SETTINGS
        if not path.exists():
            require(
                not output.exists() or self._is_free(),
                "output",
                "a new or empty directory, or that of the same report",
                str(output),
                f"it holds no {PARTS}/{SETTINGS}, so choose another directory",
            )
            return
        try:
            before = read_json(path, remedy="choose another directory")
        except DamagedFileError as error:
            raise ValueError(
                "`output` must be a new directory or that of the same report, got "
                f"{str(output)!r}: {error}"
            ) from error
        lines = difference(before, self.settings)
        require(
            not lines,
            "output",
            "the directory of the same report",
            str(output),
            f"that one differs in {'; '.join(lines[:5])}; choose another directory, or "
            "give the same command",
        )

    def _is_free(self) -> bool:
        """Whether nothing is there, or what a claim or a killed begin leaves."""
        left = {self.directory, self.output / LOCK}
        left |= {*self.directory.glob(f"{SETTINGS}.*.part")}
        return self.output.is_dir() and set(self.output.rglob("*")) <= left

    def begin(self) -> None:
        """Make the directory this report's."""
        path = self.directory / SETTINGS
        if not path.exists():
            write_json(path, self.settings)
