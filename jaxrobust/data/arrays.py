"""Labeled images held in memory, and what every source of them must promise."""

import dataclasses
import functools
import operator
import warnings
from collections.abc import Sequence
from typing import Literal, Self, SupportsIndex

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from jaxrobust.keeping import fingerprint

__all__ = [
    "MOST_CLASSES",
    "DataError",
    "Dataset",
    "Pixels",
    "Split",
    "as_float",
    "as_images",
    "numbered",
    "require_learnable",
    "require_visible",
]

Split = Literal["train", "test"]


Pixels = UInt8[Array | np.ndarray, "*shape"] | Float[Array | np.ndarray, "*shape"]
"""Images of any shape: bytes in 0..255, or floats in [0, 1]."""


MOST_CLASSES = 2**20
"""Far more than any set of labeled images has (ImageNet-21k: 21,841), so that a number
that is no class, such as an identifier, does not ask for a network of 275 GB."""


_MOST_CHANNELS = 4
"""Of an image in gray or color, with or without transparency."""


class DataError(ValueError):
    """A data set that is unknown, missing, damaged or not what it says it is."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, init=False)
class Dataset:
    """One split of a data set, checked when it is made.

    A class may be without examples, as in a subset; `require_learnable` says what
    training needs beyond that.

    Attributes:
        name: what `load_arrays` was asked for: a known name or a path.
        title: the name for reports, which says what the pixels really are, such as
            "CIFAR-10 (JPEG 75)".
        images: (examples, height, width, channels), bytes in 0..255, or float32 in
            [0, 1] with both ends included; NumPy or JAX arrays are taken, in any byte
            order, and kept as a NumPy array in that of the machine.
        labels: class of each image, in [0, num_classes); integers of any type are
            taken, NumPy or JAX, and kept as int32.
        num_classes: number of classes, whether or not all of them occur; in
            [2, `MOST_CLASSES`].
        classes: what each class is called where it comes from: the integer that stood
            for it, or a name; None if 0, 1, ... says it all. See `Dataset.of`.
        code_sha256: of the file of the caller's own function that made the data set,
            64 hexadecimal digits; None if no such function did.

    Raises:
        DataError: if images and labels differ in number, are none at all, or have
            another shape, type or range than stated here; or the classes are not all
            called something, and each something else.
    """

    name: str
    title: str
    images: np.ndarray
    labels: np.ndarray
    num_classes: int
    classes: tuple[int | str, ...] | None = None
    code_sha256: str | None = None

    # Written out, since more types are taken than are kept.
    def __init__(
        self,
        *,
        name: str,
        title: str,
        images: Array | np.ndarray,
        labels: Array | np.ndarray,
        num_classes: SupportsIndex,
        classes: Sequence[int | str] | None = None,
        code_sha256: str | None = None,
    ):
        of = f" for {title}"
        count = operator.index(num_classes)
        if not 2 <= count <= MOST_CLASSES:
            raise DataError(
                f"`num_classes` must be in [2, {MOST_CLASSES}], got {count}{of}; "
                "number the classes from 0 without gaps; a model of one class is never "
                "wrong, however it is attacked."
            )
        images = _checked_images(images, of)
        vars(self).update(
            name=name,
            title=title,
            images=images,
            labels=_checked_labels(labels, len(images), count, of),
            num_classes=count,
            classes=_checked_classes(classes, count, of),
            code_sha256=code_sha256,
        )

    @classmethod
    def of(
        cls,
        images: Array | np.ndarray,
        labels: Array | np.ndarray,
        *,
        name: str = "own",
        title: str | None = None,
        num_classes: SupportsIndex | None = None,
        classes: Sequence[int | str] | None = None,
    ) -> Self:
        """A data set of arrays in memory, whose labels are any integers.

        If neither `num_classes` nor `classes` is given, the labels that occur are the
        classes, in sorted order. If these are not 0, 1, ... already, they are numbered
        so, with a warning. `classes` says which label became which class, and numbers
        another split likewise, whichever labels occur there:

            train = Dataset.of(images, labels)
            test = Dataset.of(test_images, test_labels, classes=train.classes)

        Args:
            images: NumPy or JAX; (examples, height, width, channels), or without
                channels if they are gray; bytes in 0..255, or floats of any precision
                in [0, 1], which become float32.
            labels: NumPy or JAX; integers of any type and size, one for each image.
            name: of the data set in records.
            title: for reports; the name if not given.
            num_classes: number of classes, if labels are in [0, num_classes) as they
                are, whether or not all of them occur.
            classes: integers: all labels there are, in the order of the classes that
                they become. Words: names of the classes 0, 1, ...

        Raises:
            DataError: as `Dataset` does; or if a label is not among the classes.
        """
        title = name if title is None else title
        images, labels = as_images(images), np.asarray(labels)
        _require_integers(labels, images.shape[:1], f" for {title}")
        if not images.size:
            _checked_images(images, f" for {title}")
        if classes is None and num_classes is None:
            present = np.unique(labels).tolist()
            classes = present
            if present != list(range(len(present))):
                warnings.warn(
                    f"the labels of {title} are not 0, 1, ... and were numbered so: "
                    f"{_listed(present)}; another split needs `classes` of this one, "
                    "and so does this one to be numbered without a warning "
                    "(`numpy.unique(labels)`).",
                    stacklevel=2,
                )
        classes = None if classes is None else tuple(classes)
        if classes and not isinstance(classes[0], str):
            labels = numbered(labels, classes, f" for {title}")
        return cls(
            name=name,
            title=title,
            images=images,
            labels=labels,
            num_classes=len(classes or ()) if num_classes is None else num_classes,
            classes=classes,
        )

    def __repr__(self) -> str:
        height, width, channels = self.images.shape[1:]
        is_plain = self.classes in (None, tuple(range(self.num_classes)))
        called = "" if is_plain else f" ({_listed(self.classes or ())})"
        title = "" if self.title == self.name else f", {self.title!r}"
        return (
            f"Dataset({self.name!r}{title}: {len(self):,} images "
            f"{height}x{width}x{channels} {self.images.dtype.name}, "
            f"{self.num_classes} classes{called})"
        )

    def __len__(self) -> int:
        return len(self.labels)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of images, labels and the number of classes, 16 hexadecimal digits.

        Equal for equal contents, whatever the name and title, and whether the arrays
        lie in memory or in a file, in which byte order or layout they came. Computed
        when first asked for: whoever changes an array in place must do so before.
        """
        return fingerprint(
            {
                "images": self.images,
                "labels": self.labels,
                "num_classes": np.int32(self.num_classes),
            }
        )


def _checked_images(images: Array | np.ndarray, of: str) -> np.ndarray:
    """The images in the byte order of the machine; the context `of` ends messages."""
    if not isinstance(images, np.ndarray):
        images = np.asarray(images)
    shape = images.shape
    if images.ndim != 4 or 0 in shape:
        raise DataError(
            "`images` must be a non-empty array (examples, height, width, channels), "
            f"got shape {shape!r}{of}; "
            + ("reshape the images." if images.size else "give at least one image.")
        )
    if shape[1] <= _MOST_CHANNELS < min(shape[2:]):
        raise DataError(
            "`images` must have the channels last, (examples, height, width, "
            f"channels), got shape {shape!r}{of}, which looks like {shape[1]} channels "
            f"of {shape[2]} x {shape[3]} pixels; give "
            "`images.transpose(0, 2, 3, 1)`, or, if they really are so low, turn them "
            "upright by `images.swapaxes(1, 2)`."
        )
    dtype = images.dtype.newbyteorder("=")
    if dtype not in (np.uint8, np.float32):
        raise DataError(
            f"`images` must be uint8 or float32, got {dtype.name!r}{of}; "
            "give bytes in 0..255, or floats in [0, 1]."
        )
    # `not (a and b)` because a NaN fails every comparison.
    if dtype == np.float32 and not (images.min() >= 0 and images.max() <= 1):
        raise DataError(
            "`images` must be in [0, 1] when they are floats, got "
            f"[{images.min()}, {images.max()}]{of}; divide by 255, or give uint8."
        )
    return images if images.dtype.isnative else images.astype(dtype)


def as_images(images: Array | np.ndarray) -> np.ndarray:
    """Images as data sets hold them: floats in float32, with channels."""
    images = np.asanyarray(images)
    if np.issubdtype(images.dtype, np.floating) and images.dtype != np.float32:
        # What float32 cannot hold is out of range, and refused as such.
        with np.errstate(over="ignore"):
            images = images.astype(np.float32)
    return images[..., None] if images.ndim == 3 else images


def _require_integers(labels: np.ndarray, shape: tuple[int, ...], of: str) -> None:
    if labels.shape != shape or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"`labels` must be integers of shape {shape!r}, got "
            f"{labels.dtype.name} of shape {labels.shape!r}{of}; "
            "give one class per image."
        )


def _checked_labels(
    labels: Array | np.ndarray, num_images: int, num_classes: int, of: str
) -> np.ndarray:
    """The labels as int32, whose range is known before they are cast."""
    labels = np.asarray(labels)
    _require_integers(labels, (num_images,), of)
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest >= num_classes:
        raise DataError(
            f"`labels` must be in [0, {num_classes}), got [{lowest}, {highest}]{of}; "
            "number the classes from 0."
        )
    return np.asarray(labels, np.int32)


def _checked_classes(
    classes: Sequence[int | str] | None, num_classes: int, of: str
) -> tuple[int | str, ...] | None:
    if classes is None:
        return None
    found = tuple(
        each if isinstance(each, str) else operator.index(each) for each in classes
    )
    is_mixed = len({isinstance(each, str) for each in found}) > 1
    if len(found) != num_classes or len(set(found)) != num_classes or is_mixed:
        raise DataError(
            f"`classes` must call each of the {num_classes} classes something else, "
            f"either all by integers or all by words, got {len(found)}: "
            f"{_listed(found)}{of}; give one integer or word for each class."
        )
    return found


def numbered(labels: np.ndarray, classes: Sequence[int | str], of: str) -> np.ndarray:
    """The place of each label among the classes, which are integers of any size."""
    places = {operator.index(each): place for place, each in enumerate(classes)}  # pyright: ignore
    present, inverse = np.unique(labels, return_inverse=True)
    unknown = [each for each in present.tolist() if each not in places]
    if unknown:
        raise DataError(
            f"`labels` must be among {_listed(classes)}, got {_listed(unknown)}{of}; "
            "remove these examples, or name all classes there are."
        )
    return np.asarray([places[each] for each in present.tolist()], np.int32)[inverse]


def _listed(classes: Sequence[int | str]) -> str:
    """The first of the classes; all, if they are few."""
    return ", ".join(map(str, classes[:5])) + ", ..." * (len(classes) > 5)


def require_visible(dataset: Dataset) -> None:
    """Refuse images whose brightest pixel is the lowest byte above black.

    So look bytes that hold 0 and 1 instead of 0 and 255, and floats that were divided
    by 255 twice; radii in units of [0, 1] pixels mean nothing for them. Of a subset it
    may be true by chance, so only whole splits are asked.

    Raises:
        DataError: for such images. Those that are black altogether pass: nothing says
            that they were meant to be brighter.
    """
    images = dataset.images
    lowest = 1 if images.dtype == np.uint8 else np.float32(1 / 255)
    # A few tell of nearly every data set, so that one in a file is not read for this.
    if images[:: max(1, len(images) // 64)].max() > lowest:
        return
    brightest = images.max()
    if 0 < brightest <= lowest:
        raise DataError(
            "`images` must have pixels brighter than 1/255 of white, got at most "
            f"{brightest:g} as {images.dtype.name} for {dataset.title}; white is 255 "
            "in uint8 and 1 in float32: multiply bytes of 0 and 1 by 255, or divide "
            "by 255 only once."
        )


def require_learnable(dataset: Dataset) -> None:
    """Refuse training examples from which no evaluation would mean anything.

    Raises:
        DataError: if all are of one class, so that a model that always gives the same
            answer is never wrong; or as `require_visible` does.
    """
    present = np.unique(dataset.labels)
    if len(present) < 2:
        raise DataError(
            "`labels` must be of at least two classes to train on, got only "
            f"{present[0]} for {dataset.title}; add examples of other classes, since a "
            "model that always gives one answer would be called 100 % robust."
        )
    require_visible(dataset)


def as_float(images: Pixels) -> Float[Array, "*shape"]:
    """Pixels in [0, 1]: bytes are divided by 255 (float32), floats pass unchanged."""
    images = jnp.asarray(images)
    if images.dtype != jnp.uint8:
        return images
    # XLA divides by a scalar through its reciprocal, which rounds 126 of the 256 values
    # differently from NumPy and PyTorch. 1/255 = 257/65536 + 1/(255 * 65536), where the
    # first product is exact and the second small, rounds every value correctly.
    values = images.astype(jnp.float32)
    return values * (257 / 65536) + values * (1 / (255 * 65536))
