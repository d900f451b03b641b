"""Images in files, each in a folder named after its class: `root/train/CLASS/a.png`."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxrobust.data.arrays import DataError, Split
from jaxrobust.data.splits import Header, Part

__all__ = ["SUFFIXES", "Folder", "is_folder", "listed"]

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".bmp", ".webp"),
    *(".tif", ".tiff", ".ppm", ".pgm"),
)
"""Of the image files that are read, in small or large letters."""

_MODES = {"1": "L", "L": "L", "LA": "LA", "RGB": "RGB", "RGBA": "RGBA"}
"""How pixels of each mode of Pillow are read, without loss."""


class Folder(NamedTuple):
    """Splits in folders, and the names of their classes."""

    parts: dict[Split, Part]
    classes: tuple[str, ...]


def is_folder(path: Path) -> bool:
    """Whether there are folders in a folder, as of a split by class."""
    return path.is_dir() and any(_visible(path, is_dir=True))


def listed(root: Path, split: Split, splits: Sequence[Split]) -> Folder:
    """Lists the images of each split; classes are numbered in sorted order.

    The classes are those of the training split, if it is there.

    Raises:
        DataError: for a folder that is missing or empty, a file that is no image, or a
            class that training does not have.
    """
    files = {each: _by_class(root / each) for each in splits}
    classes = tuple(sorted(files["train" if "train" in files else split]))
    parts = {}
    for each, by_class in files.items():
        unknown = sorted(set(by_class) - set(classes))
        if unknown:
            raise DataError(
                f"`{root / each}` must hold folders of the classes of "
                f"{root / 'train'}, got {', '.join(unknown[:5])}, too; remove them, or "
                "add training examples of these classes."
            )
        paths = [file for name in classes for file in by_class.get(name, [])]
        labels = [
            place for place, name in enumerate(classes) for _ in by_class.get(name, [])
        ]
        parts[each] = _part(root / each, paths, np.asarray(labels))
    return Folder(parts, classes)


def _visible(path: Path, *, is_dir: bool) -> list[str]:
    """Names of what is in a folder, in sorted order, but for hidden entries."""
    with os.scandir(path) as entries:
        return sorted(
            each.name
            for each in entries
            if each.is_dir() is is_dir and not each.name.startswith(".")
        )


def _by_class(folder: Path) -> dict[str, list[Path]]:
    names = _visible(folder, is_dir=True) if folder.is_dir() else []
    if not names:
        raise DataError(
            f"`{folder}` must hold a folder of images for each class, got none; put "
            f"them there as {folder / 'CLASS' / 'NAME.png'}."
        )
    return {name: _images_in(folder / name) for name in names}


def _images_in(folder: Path) -> list[Path]:
    names = _visible(folder, is_dir=False)
    others = [each for each in names if not each.lower().endswith(SUFFIXES)]
    others += [f"{each}/" for each in _visible(folder, is_dir=True)]
    if others or not names:
        raise DataError(
            f"`{folder}` must hold images only ({', '.join(SUFFIXES)}), at least one, "
            f"got {', '.join(others[:3]) or 'none'}; move other files out of the "
            "folder, and remove folders of classes without images."
        )
    return [folder / name for name in names]


def _part(folder: Path, paths: Sequence[Path], labels: np.ndarray) -> Part:
    with _opened(paths[0]) as first:
        shape = (len(paths), *_form(first, paths[0])[0])

    def read() -> np.ndarray:
        try:
            images = np.empty(shape, np.uint8)
        except MemoryError as error:
            raise DataError(
                f"`{folder}` must hold images that fit into memory, got {error}; write "
                "them into train_image.npy and test_image.npy, which are read as they "
                "are needed."
            ) from error
        for place, path in enumerate(paths):
            images[place] = _pixels(path, shape[1:], paths[0])
        return images

    return Part(folder, Header(shape, np.dtype(np.uint8)), labels, read)


def _form(image: Any, path: Path) -> tuple[tuple[int, int, int], str]:
    """(height, width, channels) of an image as it will be read, and in which mode."""
    mode = _MODES.get(image.mode)
    if image.mode == "P":  # colors by their places in a table
        mode = "RGBA" if "transparency" in image.info else "RGB"
    if mode is None or getattr(image, "n_frames", 1) > 1:
        what = f"mode {image.mode}" if mode is None else f"{image.n_frames} pictures"
        raise DataError(
            f"`{path}` must be one image of 8 bits in gray or RGB, got {what}; convert "
            "it, as by Pillow's `Image.convert('RGB')`."
        )
    width, height = image.size
    return (height, width, len(mode)), mode


def _pixels(path: Path, shape: tuple[int, ...], first: Path) -> np.ndarray:
    with _opened(path) as image:
        found, mode = _form(image, path)
        if found != shape:
            raise DataError(
                f"`{path}` must be like {first}, (height, width, channels) = {shape}, "
                f"got {found}; bring all images to one size and kind before, as by "
                "Pillow's `ImageOps.fit(image.convert('RGB'), (width, height))`."
            )
        return np.asarray(image.convert(mode)).reshape(shape)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An image, whose file is named if it cannot be read."""
    from PIL import Image  # only here: other sources do not need it

    try:
        with Image.open(path) as image:
            yield image
    except DataError:
        raise
    # The decoders of Pillow have errors of many kinds.
    except Exception as error:
        raise DataError(
            f"`{path}` must be a whole image file, got {type(error).__name__}: "
            f"{error}; write it again, or remove it."
        ) from error
