"""`jaxrobust export`."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from jaxrobust.cli.command import Command
from jaxrobust.cli.loading import RunLoading
from jaxrobust.interop import export_model

__all__ = ["Export"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Export(Command):
    """Write a trained model to a file that needs only jax to load.

    `jaxrobust.interop.load_exported` reads it; so does its module copied by itself.
    """

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="run")]
    """Directory of the run."""
    output: Path
    """New file."""
    platforms: tuple[str, ...] = ("cpu", "cuda", "tpu")
    """Where it shall run: cpu, cuda, rocm, tpu."""
    loading: Annotated[RunLoading, tyro.conf.arg(name="")] = RunLoading()

    def run(self) -> int:
        """Export."""
        run = self.loading.load(self.source)
        if not run.is_complete:
            self.say(f"note: {self.source} is not finished; this is its state by now")
        header = export_model(
            run,
            self.output,
            platforms=self.platforms,
            notes={
                "run": self.source.name,
                "dataset": run.problem.title,
                "variant": run.config.variant,
            },
        )
        shape = " x ".join(map(str, header["image_shape"]))
        print(f"written: {self.output}, {shape} to {header['num_classes']} classes")
        return 0
