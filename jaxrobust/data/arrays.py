"""Labeled images held in memory, and what every source of them must promise."""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

__all__ = [
    "DataError",
    "Dataset",
    "Pixels",
    "as_float",
    "of_classes",
    "part_of_range",
    "subset",
]

Pixels = UInt8[Array | np.ndarray, "*shape"] | Float[Array | np.ndarray, "*shape"]
"""Images of any shape: bytes in 0..255, or floats in [0, 1]."""


class DataError(ValueError):
    """A data set that is unknown, missing, damaged or not what it says it is."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """One split of a data set, checked when it is made.

    Attributes:
        name: what `load_arrays` was asked for: a known name or a path.
        title: the name for reports, which says what the pixels really are, such as
            "CIFAR-10 (JPEG 75)".
        images: (examples, height, width, channels), bytes in 0..255, or float32 in
            [0, 1] with both ends included.
        labels: int32, class of each image, in [0, num_classes).
        num_classes: number of classes, whether or not all of them occur.

    Raises:
        DataError: if images and labels differ in number, are none at all, or have
            another shape, type or range than stated here.
    """

    name: str
    title: str
    images: np.ndarray
    labels: np.ndarray
    num_classes: int

    def __post_init__(self):
        of = f" for {self.title}"
        images, labels = self.images, self.labels
        if images.ndim != 4 or 0 in images.shape:
            raise DataError(
                "`images` must be a non-empty array (examples, height, width, "
                f"channels), got shape {images.shape!r}{of}; reshape the images."
            )
        if images.dtype not in (np.uint8, np.float32):
            raise DataError(
                f"`images` must be uint8 or float32, got {images.dtype.name!r}{of}; "
                "give bytes in 0..255, or floats in [0, 1]."
            )
        # `not (a and b)` because a NaN fails every comparison.
        if images.dtype == np.float32 and not (images.min() >= 0 and images.max() <= 1):
            raise DataError(
                "`images` must be in [0, 1] when they are floats, got "
                f"[{images.min()}, {images.max()}]{of}; divide by 255, or give uint8."
            )
        if labels.shape != images.shape[:1] or labels.dtype != np.int32:
            raise DataError(
                f"`labels` must be int32 of shape {images.shape[:1]!r}, got "
                f"{labels.dtype.name} of shape {labels.shape!r}{of}; "
                "give one class per image."
            )
        if labels.min() < 0 or labels.max() >= self.num_classes:
            raise DataError(
                f"`labels` must be in [0, {self.num_classes}), got "
                f"[{labels.min()}, {labels.max()}]{of}; number the classes from 0."
            )

    def __len__(self) -> int:
        return len(self.labels)


def part_of_range(size: int, share: tuple[int, int]) -> slice:
    """One of several consecutive parts, which cover `size` things and hardly differ."""
    index, count = share
    return slice(size * index // count, size * (index + 1) // count)


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
    if not 1 <= size <= len(dataset):
        raise ValueError(
            f"`size` must be in [1, {len(dataset)}], got {size!r} for "
            f"{dataset.title}; ask for no more examples than there are."
        )
    # How far down its own class each example stands, in (0, 1).
    depth = np.empty(len(dataset))
    for label in np.unique(dataset.labels):
        members = np.flatnonzero(dataset.labels == label)
        depth[members] = (np.arange(len(members)) + 0.5) / len(members)
    chosen = np.sort(np.argsort(depth, kind="stable")[:size])
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
    if not classes or not set(classes) <= set(known.tolist()):
        raise ValueError(
            f"`classes` must be among {', '.join(map(str, known))} for "
            f"{dataset.title}, got {tuple(classes)!r}; name one or more of these."
        )
    chosen = np.isin(dataset.labels, classes)
    return dataclasses.replace(
        dataset, images=dataset.images[chosen], labels=dataset.labels[chosen]
    )


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
