"""Flags by which a command gets a run: its weights, and a network of the user's own."""

import dataclasses
from pathlib import Path

from jaxrobust.training import Checkpoint, Run, load_run, read_run

__all__ = ["NetworkChoice", "RunLoading"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkChoice:
    """Where the networks of runs come from."""

    model: str | None = None
    """Network of runs that were trained with one of your own: path/to/file.py:NAME or
    package.module:NAME."""
    trust_code: bool = False
    """Run the code that files name: a run its network, a --config an attack. Only for
    files whose origin you know."""

    def load_at(self, directory: Path, checkpoint: Checkpoint) -> Run:
        """A run with its network, and the weights of a checkpoint."""
        return load_run(
            directory,
            network=self.named(directory),
            trust_code=self.trust_code,
            checkpoint=checkpoint,
        )

    def named(self, directory: Path) -> str | None:
        """What was named, for a run that needs it."""
        return None if read_run(directory)[0].model.is_known else self.model


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunLoading(NetworkChoice):
    """Which weights of a run a command takes, and where its network comes from."""

    checkpoint: Checkpoint = "newest"
    """Weights of runs: newest; average, where one is kept (train --averaging); or best,
    those that were best on what was held out (train --validation)."""

    def load(self, directory: Path) -> Run:
        """A run with its network and its weights."""
        return self.load_at(directory, self.checkpoint)
