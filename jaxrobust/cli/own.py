"""Flags by which a command gets the network of a run, if it is the user's own."""

import dataclasses
from pathlib import Path

from jaxrobust.training import Run, load_run, read_run

__all__ = ["OwnNetwork"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnNetwork:
    """How a command gets the network of a run that is not of the catalogue."""

    model: str | None = None
    """Network of runs that were trained with one of your own: path/to/file.py:NAME or
    package.module:NAME."""
    trust_code: bool = False
    """Run the code that a run names as its network. Only for runs whose origin you
    know."""

    def load(self, directory: Path) -> Run:
        """A run with its network."""
        return load_run(
            directory, network=self.named(directory), trust_code=self.trust_code
        )

    def named(self, directory: Path) -> str | None:
        """What was named, for a run that needs it."""
        return None if read_run(directory)[0].model.is_known else self.model
