"""Where labeled images come from: a bundled set, prepared sets, files or functions."""

import difflib
import functools
import os
from typing import Any, get_args

import numpy as np

from jaxrobust.data import files, functions, records
from jaxrobust.data.arrays import DataError, Dataset, Split
from jaxrobust.data.parts import part_of
from jaxrobust.data.prepared import PREPARED, is_prepared, resolve
from jaxrobust.references import is_reference

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
        name: one of `DATASETS`; or a path; or a reference to a function; or what else
            lies in `data_dir`, in this order.

            A path leads to a directory that holds `train.npz` and `test.npz`; or to one
            `.npz` file, whose examples then are both splits. Such a file holds the
            arrays `image`, (examples, height, width) or with channels behind, uint8 or
            float in [0, 1], and `label`, integers from 0. Images too many for the
            memory lie in a directory as `train_image.npy`, `train_label.npy` and the
            same for `test`: uint8 or float32, of the same shapes, read from the file as
            needed. Or it holds image files of one size, `train/CLASS/NAME.png` and the
            same for `test` (or .jpg, .bmp, ...), whose classes are numbered in the
            sorted order of their names.

            A reference, `path/to/file.py:NAME` or `package.module:NAME`, leads to a
            function `(split) -> Dataset` or `(split) -> (images, labels)`, whose labels
            are any integers (`Dataset.of`); None says that there is no such split.
            Its code runs.

            Else any data set that TensorFlow Datasets has prepared in `data_dir` as
            array_record, `NAME`, `NAME/CONFIG` or either with `:VERSION` behind, if it
            holds bytes of one shape and integer labels.

            Both splits hold images of one shape and type, and every class that is
            tested has a training example.
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
        ValueError: if a reference leads to nothing.
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
    if whole is None:
        directory = resolve(data_dir)
        if not is_prepared(name, directory):
            raise _unknown(name)
        return records.read(name, split, directory, share)
    return part_of(whole, share)


def _read_whole(name: str, split: Split) -> Dataset | None:
    if name == "digits":
        return _read_digits(split)
    found = files.read(name, split)
    if found is None and is_reference(name):
        return functions.read(name, split)
    return found


def _unknown(name: str) -> DataError:
    close = difflib.get_close_matches(name.lower(), DATASETS, n=1)
    path = os.path.expanduser(name)
    if os.path.isdir(path):
        return DataError(
            "`name` must lead to a directory that holds train.npz, train_image.npy or "
            f"images as train/CLASS/NAME.png, got {path!r} with none of them; put the "
            "data there, and those to be tested likewise."
        )
    return DataError(
        f"`name` must be one of {', '.join(DATASETS)}, a .npz file, a directory that "
        "holds train.npz and test.npz or images as train/CLASS/NAME.png, a function "
        "(path/to/file.py:NAME), or what else TensorFlow Datasets has prepared, got "
        f"{name!r}; "
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
