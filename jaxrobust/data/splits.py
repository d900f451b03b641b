"""What both splits of a data set must promise together, whatever they were read from.

Whichever split is asked for, the other one is looked at, too, since both have the same
classes and images of one kind. So whoever trains knows that there will be something to
evaluate on.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np

from jaxrobust.data.arrays import DataError, Dataset, Split, require_visible

__all__ = ["SPLITS", "Header", "Part", "join"]

SPLITS: tuple[Split, ...] = get_args(Split)


class Header(NamedTuple):
    """What is known of an array before its numbers are read."""

    shape: tuple[int, ...]
    dtype: np.dtype


class Part(NamedTuple):
    """One split, whose labels have been read and checked.

    Attributes:
        place: the file of the images, or what else they come from.
        images: their header, as they will be after reading.
        labels: integers of any type, from 0.
        read: reads the images.
    """

    place: Path | str
    images: Header
    labels: np.ndarray
    read: Callable[[], np.ndarray]


def join(
    parts: Mapping[Split, Part],
    split: Split,
    *,
    name: str,
    title: str | None = None,
    num_classes: int | None = None,
    classes: Sequence[int | str] | None = None,
    code_sha256: str | None = None,
) -> Dataset:
    """The split that is asked for, once it goes together with the other one.

    Args:
        parts: that split, and the other one if it is there.
        split: which one to read.
        name: of the data set.
        title: for reports; the name if not given.
        num_classes: if it is known; else each class up to the largest label of both
            splits must occur.
        classes: as in `Dataset`.
        code_sha256: as in `Dataset`.

    Raises:
        DataError: if the splits differ in the shape or type of their images; or
            training has one class only, or none of the examples of a class that is
            tested; or the images are not as they should be.
    """
    mine = parts[split]
    for other in parts.values():
        _require_alike(mine, other)
    # Before reading takes its time.
    largest = max(int(part.labels.max()) for part in parts.values())
    if "train" in parts:
        lowest = largest + 1 if num_classes is None else 0
        _require_training_examples(parts, lowest)
    dataset = Dataset(
        name=name,
        title=name if title is None else title,
        images=mine.read(),
        labels=mine.labels,
        num_classes=largest + 1 if num_classes is None else num_classes,
        classes=classes,
        code_sha256=code_sha256,
    )
    require_visible(dataset)
    return dataset


def _require_alike(mine: Part, other: Part) -> None:
    """Refuse splits of which a model can be shown only one."""
    kinds = [
        f"{part.images.dtype.name} of shape {part.images.shape[1:]!r}"
        for part in (mine, other)
    ]
    if kinds[0] != kinds[1]:
        raise DataError(
            f"`{other.place}` must hold images like those of {mine.place}, {kinds[0]}, "
            f"got {kinds[1]}; make both splits alike, or leave one out."
        )


def _require_training_examples(parts: Mapping[Split, Part], count: int) -> None:
    """Refuse to train without an example of the first `count` classes, or a tested."""
    place = parts["train"].place
    present = np.unique(parts["train"].labels)
    if len(present) == 1:
        raise DataError(
            f"`label` of {place} must be of at least two classes, got only "
            f"{present[0]}; add examples of other classes, since a model that always "
            "gives one answer would be called 100 % robust."
        )
    tested = np.unique(np.concatenate([np.unique(p.labels) for p in parts.values()]))
    largest = int(tested[-1])
    # Of so few numbers some are missing, however large the largest label is.
    wanted = np.arange(min(count, len(present) + 5)) if count else tested
    missing = np.setdiff1d(wanted, present)
    num_missing = count - len(present) if count else len(missing)
    if not num_missing:
        return
    if num_missing == 1 and present[0] == 1:
        remedy = "subtract 1 from the labels of both splits"
    else:
        remedy = (
            "remove what training has no example of, and number the rest without "
            "gaps, by `numpy.searchsorted(numpy.unique(train_labels), labels)` in "
            "both splits"
        )
    rule = (
        f"every class from 0 to {largest}, the largest label of both splits"
        if count
        else "every class that the test split has"
    )
    raise DataError(
        f"`label` of {place} must have examples of {rule}, got none of "
        f"{', '.join(map(str, missing[:5]))}{', ...' * (num_missing > 5)}; {remedy}."
    )
