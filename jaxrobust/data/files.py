"""Data sets in files: a .npz, or a directory of .npz or .npy files or of images.

Of the split that is not asked for all labels are read, and the header of the images.
"""

import math
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from jaxrobust.data import folders
from jaxrobust.data.arrays import DataError, Dataset, Split, as_images
from jaxrobust.data.splits import SPLITS, Header, Part, join

__all__ = ["read"]


def read(name: str, split: Split) -> Dataset | None:
    """Reads a split of a data set in files; None if `name` leads to none.

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
    if isinstance(parts, folders.Folder):
        return join(
            parts.parts,
            split,
            name=name,
            num_classes=len(parts.classes),
            classes=parts.classes,
        )
    return join(parts, split, name=name)


def _parts(path: Path, split: Split) -> dict[Split, Part] | folders.Folder | None:
    """The split that is asked for, and the other one if it is there."""
    if path.suffix == ".npz":
        return dict.fromkeys(SPLITS, _npz_part(path))
    if not path.is_dir():
        return None
    forms = {
        "{}.npz": [each for each in SPLITS if (path / f"{each}.npz").exists()],
        "{}_image.npy": [
            each for each in SPLITS if (path / f"{each}_image.npy").exists()
        ],
        "{}/": [each for each in SPLITS if folders.is_folder(path / each)],
    }
    found = {form: splits for form, splits in forms.items() if splits}
    if len(found) > 1:
        names = [form.format(splits[0]) for form, splits in found.items()]
        raise DataError(
            f"`{path}` must hold its splits as .npz files, as .npy files or as folders "
            f"of images, got {' and '.join(names)}; remove those that are not meant."
        )
    if not found:
        return None
    ((form, splits),) = found.items()
    wanted: list[Split] = [each for each in SPLITS if each == split or each in splits]
    if form == "{}/":
        return folders.listed(path, split, wanted)
    if form == "{}.npz":
        return {each: _npz_part(path / f"{each}.npz") for each in wanted}
    return {each: _npy_part(path, each) for each in wanted}


def _npz_part(path: Path) -> Part:
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
        return as_images(found)

    # Floats become float32, in whatever precision they were saved.
    if np.issubdtype(images.dtype, np.floating):
        images = images._replace(dtype=np.dtype(np.float32))
    return _part(path, images, path, labels, read_images)


def _npy_part(path: Path, split: Split) -> Part:
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
            found = np.lib.format.open_memmap(image, mode="r")
        return found[..., None] if found.ndim == 3 else found

    return _part(image, images, label, labels, map_images)


def _part(
    file: Path,
    images: Header,
    label_file: Path,
    labels: np.ndarray,
    read: Callable[[], np.ndarray],
) -> Part:
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
    return Part(file, images, labels, read)


def _header(stream: IO[bytes], size: int) -> Header:
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
    return Header(shape, dtype)


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
