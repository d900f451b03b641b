"""`jaxrobust data`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jaxrobust.cli.command import Command
from jaxrobust.cli.streams import require_printed

__all__ = ["DataDescribe", "DataList", "DataPrepare"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataList(Command):
    """Say which data sets are ready, and where."""

    data_dir: Path | None = None
    """Where prepared data sets lie."""

    def run(self) -> int:
        """Print a line for each data set."""
        # Imported here, or help would wait for jax.
        from jaxrobust import data

        for source in data.status(self.data_dir):
            mark = "ready  " if source.is_ready else "missing"
            print(f"{mark}  {source.name:<14} {source.where}  {source.detail}")
        require_printed()
        return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataPrepare(Command):
    """Download a data set and prepare it (extra: prepare)."""

    name: Annotated[str, tyro.conf.Positional]
    """mnist, fashion_mnist, kmnist, cifar10, cifar100 or svhn_cropped."""
    data_dir: Path | None = None
    """Where to put it."""

    def run(self) -> int:
        """Prepare."""
        from jaxrobust import data

        done = data.prepare(self.name, self.data_dir)
        print(f"ready: {done.name} in {done.where}  {done.detail}")
        return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataDescribe(Command):
    """Say how far apart classes lie, and how much room an adversary has (Ding et al.).

    Variants stand beside each other. Without --output nothing is written.
    """

    name: Annotated[str, tyro.conf.Positional]
    """digits, mnist, fashion_mnist, kmnist, cifar10, cifar100, svhn_cropped, any
    other name that TensorFlow Datasets has prepared, a directory with train.npz and
    test.npz or with images as train/CLASS/NAME.png, or own.py:load, a function of the
    split."""
    variants: Annotated[tuple[str, ...], tyro.conf.arg(name="variant")] = ("original",)
    """Transforms of the images, one or several: original, binary, "saturate(4)",
    "smooth(3)", "gamma(2)", "scale(0.5)", or your own."""
    split: Literal["test", "train"] = "test"
    """Split of the data set. All pairs of images are compared: 10,000 take seconds,
    60,000 minutes."""
    epsilons: Annotated[tuple[float, ...], tyro.conf.arg(name="epsilon")] = (0.3,)
    """l_inf radii, in units of [0, 1] pixels, such as 0.3 or 8/255."""
    data_dir: Path | None = None
    """Where prepared data sets lie."""
    output: Path | None = None
    """Directory for results.json and figures (histogram of the pixels, images of each
    class); it must hold no other results."""

    def run(self) -> int:
        """Look, print and write."""
        from jaxrobust.cli.describe import describe

        describe(self)
        require_printed()
        return 0
