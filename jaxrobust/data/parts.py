"""Parts of a data set: shares, subsets, what is held out, some of the classes."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxrobust.arguments import require, require_count
from jaxrobust.data.arrays import DataError, Dataset

__all__ = [
    "hold_out",
    "of_classes",
    "part_of",
    "part_of_range",
    "subset",
    "subset_rows",
]


def part_of_range(size: int, share: tuple[int, int]) -> slice:
    """One of several consecutive parts, which cover `size` examples and hardly differ.

    Raises:
        DataError: if some part would have no examples.
    """
    index, count = share
    if size < count:
        raise DataError(
            f"`share` must be one of at most {size} parts, the number of examples, got "
            f"one of {count}; use fewer processes."
        )
    return slice(size * index // count, size * (index + 1) // count)


def part_of(dataset: Dataset, share: tuple[int, int]) -> Dataset:
    """One of several consecutive parts of a data set; see `part_of_range`."""
    if share[1] == 1:
        return dataset
    rows = part_of_range(len(dataset), share)
    return dataclasses.replace(
        dataset, images=dataset.images[rows], labels=dataset.labels[rows]
    )


def subset(dataset: Dataset, size: int) -> Dataset:
    """The first examples of every class, in proportion to how often it occurs.

    Deterministic and nested: a smaller subset lies inside a larger one, and the subset
    of full size is the data set itself. Proportions are kept, rather than made equal,
    so that an accuracy on the subset estimates the accuracy on the whole.

    Args:
        dataset: the data set to take from; its order is kept.
        size: number of examples, in [1, len(dataset)].

    Raises:
        ValueError: if there are not so many examples.
    """
    return _taken(dataset, subset_rows(dataset, size))


def subset_rows(dataset: Dataset, size: int) -> np.ndarray:
    """Which examples `subset` takes: their numbers, ascending."""
    remedy = f"ask for no more examples than {dataset.title} has"
    require_count("size", size, remedy, most=len(dataset))
    return np.sort(_by_depth(dataset)[:size])


def hold_out(dataset: Dataset, share: float) -> tuple[Dataset, Dataset]:
    """The data set without the last examples of every class, and these.

    Deterministic; classes keep their proportions in both parts, see `subset`.

    Args:
        dataset: the data set to divide; its order is kept.
        share: of its examples that are held out, in (0, 1).

    Raises:
        ValueError: if one of the parts would be empty.
    """
    num_kept = len(dataset) - round(share * len(dataset))
    require(
        0 < share < 1 and 0 < num_kept < len(dataset),
        "share",
        f"in (0, 1), such that neither part of {len(dataset)} examples is empty",
        share,
        "try 0.1",
    )
    order = _by_depth(dataset)
    parts = (np.sort(order[:num_kept]), np.sort(order[num_kept:]))
    kept, held = (_taken(dataset, chosen) for chosen in parts)
    return kept, held


def _by_depth(dataset: Dataset) -> np.ndarray:
    """Indices by how far down its own class each example stands."""
    depth = np.empty(len(dataset))
    for label in np.unique(dataset.labels):
        members = np.flatnonzero(dataset.labels == label)
        depth[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.argsort(depth, kind="stable")


def _taken(dataset: Dataset, chosen: np.ndarray) -> Dataset:
    return dataclasses.replace(
        dataset, images=dataset.images[chosen], labels=dataset.labels[chosen]
    )


def of_classes(dataset: Dataset, classes: Sequence[int]) -> Dataset:
    """The examples of some classes, which keep their order and their labels.

    Args:
        dataset: the data set to take from.
        classes: at least one, each in [0, num_classes) and with examples.

    Raises:
        ValueError: for a class without examples, or none at all.
    """
    known = np.unique(dataset.labels)
    require(
        bool(classes) and set(classes) <= set(known.tolist()),
        "classes",
        f"among {', '.join(map(str, known))} for {dataset.title}",
        tuple(classes),
        "name one or more of these",
    )
    chosen = np.isin(dataset.labels, classes)
    return dataclasses.replace(
        dataset, images=dataset.images[chosen], labels=dataset.labels[chosen]
    )
