"""Data sets that a function of the caller's own makes, `own.py:load`."""

import inspect
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxrobust.data.arrays import DataError, Dataset, Split
from jaxrobust.data.splits import SPLITS, Header, Part, join
from jaxrobust.references import resolve

__all__ = ["read"]


def read(name: str, split: Split) -> Dataset:
    """Reads a split of what a function makes, after looking at both.

    Args:
        name: reference to a function `(split) -> Dataset`, or
            `(split) -> (images, labels)` with any integer labels: those of the training
            split are numbered in sorted order, and those of the test split likewise. It
            returns None for a split that there is not.
        split: "train" or "test".

    Raises:
        DataError: if the function fails or returns something else, or its splits do not
            go together.
        ValueError: if there is no such file, module or name.
    """
    reference = resolve(name, what="dataset")
    function = reference.value
    _require_function_of_split(function, name)
    made: dict[Split, Any] = {each: _made(function, each, name) for each in SPLITS}
    if made[split] is None:
        raise DataError(
            f"`{name}` must make the split {split!r}, got None; return a Dataset, or "
            "(images, labels)."
        )
    made = {each: value for each, value in made.items() if value is not None}
    if len({isinstance(value, Dataset) for value in made.values()}) > 1:
        raise DataError(
            f"`{name}` must return the same for both splits, got a Dataset for one and "
            "(images, labels) for the other; return Datasets, or arrays."
        )
    classes = None
    datasets: dict[Split, Dataset] = {}
    for each, value in made.items():  # training comes first
        if isinstance(value, Dataset):
            datasets[each] = value
            continue
        images, labels = value
        labels = np.asarray(labels)
        if classes is None and np.issubdtype(labels.dtype, np.integer):
            classes = np.unique(labels).tolist()
        datasets[each] = Dataset.of(
            images, labels, name=name, title=f"{name} ({each})", classes=classes
        )
    _require_same_classes(datasets, name)
    mine = datasets[split]
    return join(
        {each: _part(value, each, name) for each, value in datasets.items()},
        split,
        name=name,
        title=mine.title if isinstance(made[split], Dataset) else name,
        num_classes=mine.num_classes,
        classes=mine.classes,
        code_sha256=reference.sha256,
    )


def _require_function_of_split(function: Any, name: str) -> None:
    remedy = "define it as `def load(split)`, which is given 'train' and 'test'."
    if not callable(function) or isinstance(function, type):
        raise DataError(
            f"`{name}` must be a function of the split, got {type(function).__name__}; "
            + remedy
        )
    try:
        inspect.signature(function).bind("train")
    except TypeError as error:
        raise DataError(
            f"`{name}` must be a function of the split, got one of "
            f"{inspect.signature(function)}: {error}; {remedy}"
        ) from error


def _made(function: Callable[[Split], Any], split: Split, name: str) -> Any:
    """What the function returns: a Dataset, a pair of arrays, or None."""
    try:
        value = function(split)
    except DataError:
        raise
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise DataError(
            f"`{name}` must make the split {split!r}, got {type(error).__name__}: "
            f"{error} ({last.filename}, line {last.lineno}); correct it, or return "
            "None for a split that there is not."
        ) from error
    is_pair = isinstance(value, tuple | list) and len(value) == 2
    if not (value is None or is_pair or isinstance(value, Dataset)):
        raise DataError(
            f"`{name}` must return a Dataset or (images, labels), got "
            f"{type(value).__name__} for {split!r}; return one of these, or None for a "
            "split that there is not."
        )
    return value


def _require_same_classes(datasets: dict[Split, Dataset], name: str) -> None:
    kinds = [(value.num_classes, value.classes) for value in datasets.values()]
    if any(kind != kinds[0] for kind in kinds):
        counts = " and ".join(
            f"{value.num_classes} ({split})" for split, value in datasets.items()
        )
        raise DataError(
            f"`{name}` must have the same classes in both splits, got {counts}, in "
            "number or in their order; give `classes` of the training split to both "
            "(`Dataset.of(images, labels, classes=...)`)."
        )


def _part(dataset: Dataset, split: Split, name: str) -> Part:
    images = dataset.images
    return Part(
        f"{name} ({split})",
        Header(images.shape, images.dtype),
        dataset.labels,
        lambda: images,
    )
