"""Where labeled images come from: a bundled set, prepared sets, or your own arrays."""

import dataclasses
import difflib
import functools
import os
from typing import Any, get_args

import numpy as np

from jaxrobust.data import files, records
from jaxrobust.data.arrays import DataError, Dataset, Split, part_of_range
from jaxrobust.data.prepared import PREPARED, resolve

__all__ = ["DATASETS", "DIGITS_TITLE", "load_arrays"]

DIGITS_TITLE = "digits (8x8)"

DATASETS: tuple[str, ...] = ("digits", *PREPARED)
"""The names `load_arrays` knows."""


def load_arrays(
    name: str,
    split: Split,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    share: tuple[int, int] = (0, 1),
) -> Dataset:
    """Reads a split, or a share of it, into memory; never downloads anything.

    Args:
        name: one of `DATASETS`; or the path of a directory that holds `train.npz` and
            `test.npz`; or the path of one `.npz` file, whose examples then are both
            splits. Such a file holds the arrays `image`, (examples, height, width) or
            with channels behind, uint8 or float in [0, 1], and `label`, integers from
            0. Images too many for the memory lie in a directory as
            `train_image.npy`, `train_label.npy` and the same for `test`: uint8 or
            float32, of the same shapes, read from the file as needed. Both splits hold
            images of one shape and type, and every class has a training example.
        split: "train" or "test". "digits" has no official one: 360 of its 1,797
            examples, chosen once and stratified, are the test split.
        data_dir: where prepared data sets lie; if not given, the environment variable
            JAXROBUST_DATA_DIR, then TFDS_DATA_DIR, then ~/tensorflow_datasets.
        share: `(index, count)`, to read one of `count` consecutive parts that differ by
            at most one example; no other record of a prepared data set is touched.

    Raises:
        DataError: if the name or the split is unknown, or the data set is missing,
            damaged, or not of the shape and range it should be; or its splits do not
            go together; or the share has no examples.
    """
    if split not in get_args(Split):
        raise DataError(
            f"`split` must be 'train' or 'test', got {split!r}; use one of them."
        )
    index, count = share
    if not 0 <= index < count:
        raise DataError(
            f"`share` must be (index, count) with 0 <= index < count, got {share!r}; "
            "(0, 1) is everything."
        )
    if name in PREPARED:
        return records.read(name, split, resolve(data_dir), share)
    whole = _read_whole(name, split)
    if count == 1:
        return whole
    rows = part_of_range(len(whole), share)
    return dataclasses.replace(
        whole, images=whole.images[rows], labels=whole.labels[rows]
    )


def _read_whole(name: str, split: Split) -> Dataset:
    if name == "digits":
        return _read_digits(split)
    found = files.read(name, split)
    if found is not None:
        return found
    close = difflib.get_close_matches(name.lower(), DATASETS, n=1)
    raise DataError(
        f"`name` must be one of {', '.join(DATASETS)}, a .npz file, or a directory "
        f"that holds train.npz and test.npz, got {name!r}; "
        + (f"did you mean {close[0]!r}?" if close else "use one of these.")
    )


@functools.cache
def _bundled_digits() -> tuple[Any, dict[str, Any]]:
    """All digits, which scikit-learn reads from text, and which are in each split."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bundled: Any = load_digits()
    train, test = train_test_split(
        np.arange(len(bundled.target)),
        test_size=360,
        random_state=0,
        stratify=bundled.target,
    )
    return bundled, {"train": train, "test": test}


def _read_digits(split: Split) -> Dataset:
    bundled, splits = _bundled_digits()
    chosen = splits[split]
    # Copies, so that whoever changes them changes nobody else's.
    return Dataset(
        name="digits",
        title=DIGITS_TITLE,
        images=(bundled.images[chosen, :, :, None] / 16).astype(np.float32),
        labels=bundled.target[chosen].astype(np.int32),
        num_classes=10,
    )
