"""Data sets in files of the caller: one .npz, or a directory of .npz or .npy files.

Whichever split is asked for, the other one is looked at, too: all its labels, since
both splits have the same classes, and the header of its images. So whoever trains knows
that there will be something to evaluate on.
"""

import math
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple, get_args

import numpy as np

from jaxrobust.data.arrays import DataError, Dataset, Split, require_visible

__all__ = ["read"]

_SPLITS: tuple[Split, ...] = get_args(Split)


class _Header(NamedTuple):
    """What is known of an array before its numbers are read."""

    shape: tuple[int, ...]
    dtype: np.dtype


class _Part(NamedTuple):
    """One split, whose labels have been read and checked.

    Attributes:
        file: of the images.
        images: their header, as they will be after reading.
        labels: integers of any type, from 0.
        read: reads the images.
    """

    file: Path
    images: _Header
    labels: np.ndarray
    read: Callable[[], np.ndarray]


def read(name: str, split: Split) -> Dataset | None:
    """Reads a split of a data set in files; None if `name` leads to no such file.

    Args:
        name: path of a .npz file, or of a directory.
        split: "train" or "test".

    Raises:
        DataError: if a file is missing, damaged or not what it should be; or the splits
            differ in the shape or type of their images; or a class has no training
            example.
    """
    path = Path(os.path.expanduser(name))
    try:
        parts = _parts(path, split)
    except OSError as error:
        raise DataError(
            f"`name` must lead to files that can be read, got {str(path)!r} and "
            f"{type(error).__name__}: {error.strerror}; check the path and its rights."
        ) from error
    if parts is None:
        return None
    mine = parts[split]
    for other in parts.values():
        _require_alike(mine, other)
    num_classes = _num_classes(parts)  # before reading takes its time
    dataset = Dataset(
        name=name,
        title=name,
        images=mine.read(),
        labels=mine.labels,
        num_classes=num_classes,
    )
    require_visible(dataset)
    return dataset


def _parts(path: Path, split: Split) -> dict[Split, _Part] | None:
    """The split that is asked for, and the other one if it is there."""
    if path.suffix == ".npz":
        return dict.fromkeys(_SPLITS, _npz_part(path))
    if not path.is_dir():
        return None
    mapped = [each for each in _SPLITS if (path / f"{each}_image.npy").exists()]
    zipped = [each for each in _SPLITS if (path / f"{each}.npz").exists()]
    if mapped and zipped:
        raise DataError(
            f"`{path}` must hold its splits as .npz files or as .npy files, got "
            f"{zipped[0]}.npz and {mapped[0]}_image.npy; remove those that are not "
            "meant."
        )
    if mapped:
        return {
            each: _npy_part(path, each)
            for each in _SPLITS
            if each == split or each in mapped
        }
    return {
        each: _npz_part(path / f"{each}.npz")
        for each in _SPLITS
        if each == split or each in zipped
    }


def _npz_part(path: Path) -> _Part:
    if not path.is_file():
        raise DataError(
            f"`name` must lead to existing files, got no {path}; "
            "write it by `numpy.savez(path, image=images, label=labels)`."
        )
    with _members(path) as (archive, members):
        with archive.open(members["image"]) as stream:
            images = _header(stream, members["image"].file_size)
        with archive.open(members["label"]) as stream:
            labels = np.lib.format.read_array(stream, allow_pickle=False)

    def read_images() -> np.ndarray:
        with (
            _members(path) as (archive, members),
            archive.open(members["image"]) as stream,
        ):
            found = np.lib.format.read_array(stream, allow_pickle=False)
        if np.issubdtype(found.dtype, np.floating):
            # What float32 cannot hold is out of range, and refused as such.
            with np.errstate(over="ignore"):
                found = found.astype(np.float32, copy=False)
        return _with_channels(found)

    # Floats become float32, in whatever precision they were saved.
    if np.issubdtype(images.dtype, np.floating):
        images = images._replace(dtype=np.dtype(np.float32))
    return _part(path, images, path, labels, read_images)


def _npy_part(path: Path, split: Split) -> _Part:
    """Images that stay in their file until they are indexed."""
    image, label = path / f"{split}_image.npy", path / f"{split}_label.npy"
    with _whole(label, "numpy.save(path, labels)"), label.open("rb") as stream:
        _header(stream, label.stat().st_size)
        stream.seek(0)
        labels = np.lib.format.read_array(stream, allow_pickle=False)
    with _whole(image, "numpy.save(path, images)"), image.open("rb") as stream:
        images = _header(stream, image.stat().st_size)
    if not images.dtype.isnative:
        # Turned around they would have to lie in memory.
        raise DataError(
            f"`{image}` must be in the byte order of this machine, since images are "
            f"taken from the file as they are needed, got {images.dtype.str!r}; write "
            "it again by `numpy.save(path, images.astype('float32'))`."
        )

    def map_images() -> np.ndarray:
        with _whole(image, "numpy.save(path, images)"):
            return _with_channels(np.lib.format.open_memmap(image, mode="r"))

    return _part(image, images, label, labels, map_images)


def _part(
    file: Path,
    images: _Header,
    label_file: Path,
    labels: np.ndarray,
    read: Callable[[], np.ndarray],
) -> _Part:
    """A split whose labels are known to be classes, one for each image."""
    if 0 in images.shape or not images.shape:
        raise DataError(
            f"`{file}` must hold at least one image, got shape {images.shape!r}; "
            "write one or more examples into it."
        )
    wanted = images.shape[:1]
    if labels.shape != wanted or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"`label` in {label_file} must be integers of shape {wanted!r}, one for "
            f"each image, got {labels.dtype.name} of shape {labels.shape!r}; number "
            "the classes from 0."
        )
    if labels.min() < 0:
        raise DataError(
            f"`label` in {label_file} must be at least 0, got {labels.min()}; "
            "number the classes from 0."
        )
    if len(images.shape) == 3:
        images = images._replace(shape=(*images.shape, 1))
    return _Part(file, images, labels, read)


def _with_channels(images: np.ndarray) -> np.ndarray:
    return images[..., None] if images.ndim == 3 else images


def _require_alike(mine: _Part, other: _Part) -> None:
    """Refuse splits of which a model can be shown only one."""
    kinds = [
        f"{part.images.dtype.name} of shape {part.images.shape[1:]!r}"
        for part in (mine, other)
    ]
    if kinds[0] != kinds[1]:
        raise DataError(
            f"`{other.file}` must hold images like those of {mine.file}, {kinds[0]}, "
            f"got {kinds[1]}; write both splits alike, or move one out of the "
            "directory."
        )


def _num_classes(parts: dict[Split, _Part]) -> int:
    """Number of classes, each of which has a training example if those are there."""
    largest = max(int(part.labels.max()) for part in parts.values())
    if "train" not in parts:
        return largest + 1
    file = parts["train"].file
    present = np.unique(parts["train"].labels)
    if len(present) == 1:
        raise DataError(
            f"`label` of {file} must be of at least two classes, got only "
            f"{present[0]}; add examples of other classes, since a model that always "
            "gives one answer would be called 100 % robust."
        )
    num_missing = largest + 1 - len(present)
    if num_missing:
        # Of so few numbers some are missing, however large the largest label is.
        start = np.arange(min(largest + 1, len(present) + 5))
        missing = ", ".join(map(str, np.setdiff1d(start, present)[:5]))
        if num_missing == 1 and present[0] == 1:
            remedy = "subtract 1 from the labels of both splits"
        else:
            remedy = (
                "remove what training has no example of, and number the rest without "
                "gaps, by `numpy.searchsorted(numpy.unique(train_labels), labels)` in "
                "both splits"
            )
        raise DataError(
            f"`label` of {file} must have examples of every class from 0 to "
            f"{largest}, the largest label of both splits, got none of {missing}"
            f"{', ...' * (num_missing > 5)}; {remedy}."
        )
    return largest + 1


def _header(stream: IO[bytes], size: int) -> _Header:
    """The header of an array in npy format, which must promise `size` bytes in all."""
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    version = np.lib.format.read_magic(stream)
    if version not in readers:
        raise ValueError(f"an array of version {version} of the format")
    shape, _, dtype = readers[version](stream)
    if dtype.hasobject:
        raise ValueError("an array of objects")
    promised = stream.tell() + math.prod(shape) * dtype.itemsize
    if size != promised:
        raise ValueError(f"{size} bytes instead of {promised}")
    return _Header(shape, dtype)


@contextmanager
def _whole(path: Path, writer: str) -> Iterator[None]:
    """Names the file if it cannot be read."""
    try:
        yield
    except DataError:
        raise
    except MemoryError as error:
        raise DataError(
            f"`{path}` must fit into memory, got {error}; give a directory of .npy "
            "files, whose images are read as they are needed."
        ) from error
    # zipfile and numpy have errors of many kinds for damage.
    except Exception as error:
        raise DataError(
            f"`{path}` must be a whole {path.suffix} file without pickled objects, got "
            f"{type(error).__name__}: {error}; write it again by `{writer}`."
        ) from error


@contextmanager
def _members(
    path: Path,
) -> Iterator[tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]]:
    """A .npz file, and its members by the names of their arrays."""
    writer = "numpy.savez(path, image=images, label=labels)"
    with _whole(path, writer), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        keys = [each.filename.removesuffix(".npy") for each in members]
        for key in ("image", "label"):
            # Of two members with one name a reader would silently take the last.
            if keys.count(key) != 1:
                raise DataError(
                    f"`{path}` must hold one array 'image' and one array 'label', got "
                    f"{sorted(keys)!r}; write it again by `{writer}`."
                )
        yield archive, dict(zip(keys, members, strict=True))
