"""Where labeled images come from: a bundled set, prepared sets, or your own arrays."""

import dataclasses
import difflib
import functools
import os
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from jaxrobust.data import records
from jaxrobust.data.arrays import DataError, Dataset, part_of_range
from jaxrobust.data.prepared import PREPARED, resolve

__all__ = ["DATASETS", "DIGITS_TITLE", "Split", "load_arrays"]

Split = Literal["train", "test"]

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
            float32, (examples, height, width, channels), read from the file as needed.
        split: "train" or "test". "digits" has no official one: 360 of its 1,797
            examples, chosen once and stratified, are the test split.
        data_dir: where prepared data sets lie; if not given, the environment variable
            JAXROBUST_DATA_DIR, then TFDS_DATA_DIR, then ~/tensorflow_datasets.
        share: `(index, count)`, to read one of `count` consecutive parts that differ by
            at most one example; no other record of a prepared data set is touched.

    Raises:
        DataError: if the name or the split is unknown, or the data set is missing,
            damaged, or not of the shape and range it should be.
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
    path = Path(name).expanduser()
    if path.suffix == ".npz":
        return _read_npz(name, path, [path])
    if (path / f"{split}_image.npy").is_file():
        return _read_npy(name, path, split)
    if path.is_dir():
        return _read_npz(
            name, path / f"{split}.npz", [path / "train.npz", path / "test.npz"]
        )
    close = difflib.get_close_matches(name.lower(), DATASETS, n=1)
    raise DataError(
        f"`name` must be one of {', '.join(DATASETS)}, a .npz file, or a directory "
        f"that holds train.npz and test.npz, got {name!r}; "
        + (f"did you mean {close[0]!r}?" if close else "use one of these.")
    )


def _read_npy(name: str, path: Path, split: Split) -> Dataset:
    """Arrays that stay in their files until they are indexed."""

    def array(part: str) -> np.ndarray:
        file = path / part
        try:
            return np.load(file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DataError(
                f"`{file}` must be a whole .npy file without pickled objects, got "
                f"{type(error).__name__}: {error}; write it by `numpy.save`."
            ) from error

    labels = array(f"{split}_label.npy")
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"`{split}_label.npy` in {path} must be integers, got "
            f"{labels.dtype.name!r}; number the classes from 0."
        )
    splits = [path / f"{each}_label.npy" for each in get_args(Split)]
    largest = max(array(file.name).max(initial=0) for file in splits if file.is_file())
    return Dataset(
        name=name,
        title=name,
        images=array(f"{split}_image.npy"),
        labels=np.asarray(labels, np.int32),
        num_classes=int(largest) + 1,
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


def _read_npz(name: str, path: Path, splits: list[Path]) -> Dataset:
    arrays = _load_npz(path, ["image", "label"])
    images, labels = arrays["image"], arrays["label"]
    if images.ndim == 3:
        images = images[..., None]
    if np.issubdtype(images.dtype, np.floating):
        images = images.astype(np.float32)
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"`label` in {path} must be integers, got {labels.dtype.name!r}; "
            "number the classes from 0."
        )
    if labels.max(initial=0) > np.iinfo(np.int32).max:
        raise DataError(
            f"`label` in {path} must fit into int32, got {labels.max()}; "
            "number the classes from 0."
        )
    # A class may be missing from one split, but both must have the same classes.
    largest = max(
        _load_npz(other, ["label"])["label"].max(initial=0)
        for other in splits
        if other.is_file()
    )
    return Dataset(
        name=name,
        title=name,
        images=images,
        labels=labels.astype(np.int32),
        num_classes=int(largest) + 1,
    )


def _load_npz(path: Path, keys: list[str]) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise DataError(
            f"`name` must lead to existing files, got no {path}; "
            "write it by `numpy.savez(path, image=images, label=labels)`."
        )
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            found = sorted(file.files)
            arrays = {key: file[key] for key in keys if key in found}
    except Exception as error:
        raise DataError(
            f"`{path}` must be a whole .npz file without pickled objects, got "
            f"{type(error).__name__}: {error}; write it again."
        ) from error
    if len(arrays) < len(keys):
        raise DataError(
            f"`{path}` must hold the arrays 'image' and 'label', got {found!r}; "
            "write it by `numpy.savez(path, image=images, label=labels)`."
        )
    return arrays
