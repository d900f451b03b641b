"""`jaxrobust data`."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from jaxrobust import data
from jaxrobust.cli.streams import require_printed

__all__ = ["DataList", "DataPrepare"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataList:
    """Say which data sets are ready, and where."""

    data_dir: Path | None = None
    """Where prepared data sets lie."""

    def run(self) -> int:
        """Print a line for each data set."""
        for each in data.status(self.data_dir):
            mark = "ready  " if each.is_ready else "missing"
            print(f"{mark}  {each.name:<14} {each.where}  {each.detail}")
        require_printed()
        return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataPrepare:
    """Download a data set and prepare it (extra: prepare)."""

    name: Annotated[str, tyro.conf.Positional]
    """mnist, fashion_mnist, kmnist, cifar10, cifar100 or svhn_cropped."""
    data_dir: Path | None = None
    """Where to put it."""

    def run(self) -> int:
        """Prepare."""
        done = data.prepare(self.name, self.data_dir)
        print(f"ready: {done.name} in {done.where}  {done.detail}")
        return 0
