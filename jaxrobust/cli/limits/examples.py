"""The data that limits are asked about, and a line that says how far a search is."""

import dataclasses
import sys
from pathlib import Path

from jaxrobust.arguments import require_count
from jaxrobust.cli.command import Command
from jaxrobust.data import Dataset, Split, load_arrays, subset
from jaxrobust.report import percent

__all__ = ["NeighborLine", "OnData", "cut"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnData(Command):
    """Flags of what is asked about a data set."""

    dataset: str = "digits"
    """digits, mnist, fashion_mnist, kmnist, cifar10, cifar100, svhn_cropped, or a
    directory with train.npz and test.npz."""
    data_dir: Path | None = None
    """Where prepared data sets lie."""
    output: Path = Path("limits")
    """Directory for results.json, the figure and what is kept on the way; it must hold
    no other results."""

    def load(self, split: Split) -> Dataset:
        """A whole split."""
        return load_arrays(self.dataset, split, data_dir=self.data_dir)


def cut(dataset: Dataset, size: int | None, flag: str) -> Dataset:
    """The first of each class, in proportion; None for all."""
    if size is None:
        return dataset
    remedy = f"leave it out for all of {dataset.title}"
    require_count(flag, size, remedy, most=len(dataset))
    return subset(dataset, size)


class NeighborLine:
    """A line on a terminal that says how many neighbors are found."""

    def __init__(self, *, is_wanted: bool = True) -> None:
        self.is_shown = is_wanted and sys.stderr.isatty()

    def __call__(self, num_done: int, num_all: int) -> None:
        """Write over the line, and take it away at the end."""
        if not self.is_shown:
            return
        share = percent(num_done / max(num_all, 1))
        text = f"nearest neighbors: {num_done:,} of {num_all:,} ({share})"
        text = "" if num_done >= num_all else text
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
