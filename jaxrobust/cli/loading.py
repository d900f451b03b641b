"""Flags by which a command gets a run: its weights, and a network of the user's own."""

import dataclasses
from pathlib import Path

from jaxrobust.training import Checkpoint, Run, load_run, read_run

__all__ = ["RunLoading"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunLoading:
    """Which weights of a run a command takes, and where its network comes from."""

    checkpoint: Checkpoint = "newest"
    """Weights of runs: newest; average, where one is kept (train --averaging); or best,
    those that were best on what was held out (train --validation)."""
    model: str | None = None
    """Network of runs that were trained with one of your own: path/to/file.py:NAME or
    package.module:NAME."""
    trust_code: bool = False
    """Run the code that a run names as its network. Only for runs whose origin you
    know."""

    def load(self, directory: Path) -> Run:
        """A run with its network."""
        return load_run(
            directory,
            network=self.named(directory),
            trust_code=self.trust_code,
            checkpoint=self.checkpoint,
        )

    def named(self, directory: Path) -> str | None:
        """What was named, for a run that needs it."""
        return None if read_run(directory)[0].model.is_known else self.model
