"""`jaxrobust launch`."""

import dataclasses
from typing import Annotated, Literal

import tyro

from jaxrobust.cli.command import Command
from jaxrobust.cli.streams import require_printed

__all__ = ["Launch"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Launch(Command):
    """Render the job script of a definition for a cluster, and submit it."""

    target: Annotated[
        Literal["local", "slurm", "kubernetes", "tpu"], tyro.conf.Positional
    ]
    """Where to run."""
    definition: Annotated[str, tyro.conf.Positional]
    """path/to/file.py:NAME, or a NAME in launch/definitions.py."""
    dry_run: bool = False
    """Print what would be submitted, and do nothing."""

    def run(self) -> int:
        """Render and submit."""
        # Imported here, or help would wait for jax.
        from jaxrobust import launching

        code = launching.launch(self.target, self.definition, dry_run=self.dry_run)
        if self.dry_run:
            require_printed()
        return code
