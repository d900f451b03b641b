"""What a data set says of itself before any model is trained: distances and volumes.

    inter_class_distance(test).value
    log2_volume(test, 0.3), log2_volume_limits(test, 0.3)

Ding et al. (2019, "On the Sensitivity of Adversarial Robustness to Input Data
Distributions", arXiv:1902.08336) change images without changing what they show, and
find that robust accuracy changes with how far the classes lie apart, and with how much
of a ball the pixel range leaves to an adversary. Pixels are in units of [0, 1]; bytes
and the floats that they stand for give the same numbers.
"""

from collections.abc import Iterator
from contextlib import closing
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxrobust.arguments import require_count, require_in
from jaxrobust.data.arrays import DataError, Dataset
from jaxrobust.data.distances import Report, Space, block_size_for, finished
from jaxrobust.data.points import unit_values
from jaxrobust.pytrees import outline

__all__ = [
    "InterClassDistance",
    "PixelEnds",
    "PixelHistogram",
    "VolumeLimits",
    "inter_class_distance",
    "log2_volume",
    "log2_volume_limits",
    "pixel_ends",
    "pixel_histogram",
    "pixel_label_correlation",
    "require_classes",
]

BLOCK = 2**20
"""Pixels that are looked at together in double precision."""


class InterClassDistance(NamedTuple):
    """How far the classes of a data set lie apart, in l2, units of [0, 1] pixels.

    Attributes:
        value: of the data set: the mean of its classes.
        per_class: of each class; NaN for one without examples.
        per_example: mean distance of each example to the nearest of other classes.
    """

    value: float
    per_class: Float[np.ndarray, " classes"]
    per_example: Float[np.ndarray, " examples"]

    def __repr__(self) -> str:
        return outline(self)


class PixelHistogram(NamedTuple):
    """How often pixels have a value.

    Attributes:
        counts: pixels in each bin, over all images and channels.
        edges: of the bins; each has its lower one, the last both.
    """

    counts: Int[np.ndarray, " bins"]
    edges: Float[np.ndarray, " edges"]

    def __repr__(self) -> str:
        return outline(self)


class PixelEnds(NamedTuple):
    """Where pixels end.

    Attributes:
        lowest: pixel of the data set, in [0, 1].
        highest: the same.
        share_at_0: of pixels that are 0, which an adversary can only make brighter.
        share_at_1: of pixels that are 1, which it can only make darker.
    """

    lowest: float
    highest: float
    share_at_0: float
    share_at_1: float


class VolumeLimits(NamedTuple):
    """Between which the mean log2 of volumes lies, whatever the images are.

    Attributes:
        lowest: where all pixels are 0 or 1.
        highest: where all pixels are as far inside as the radius.
    """

    lowest: float
    highest: float


def require_classes(dataset: Dataset) -> None:
    """Refuse examples of one class, which have no distance to another.

    Raises:
        DataError: for such a data set.
    """
    present = np.unique(dataset.labels)
    if len(present) < 2:
        raise DataError(
            "`labels` must be of at least two classes to be a distance apart, got "
            f"only {present[0]} for {dataset.title}; add examples of other classes."
        )


def inter_class_distance(
    dataset: Dataset,
    *,
    share: float = 0.1,
    block_size: int | None = None,
    progress: Report | None = None,
) -> InterClassDistance:
    """The distance between classes by which Ding et al. explain robust accuracy.

    Of each example the mean l2 distance to the nearest tenth of the examples of other
    classes; of each class the mean of the smallest tenth of these; of the data set the
    mean over the classes that have examples. A tenth is rounded to a whole number (half
    to even), and is one example at least; Ding et al. do not say how they round.

    All pairs of examples are compared, a block at a time. Memory is that of the images
    in float32 (double precision if they are no bytes) and half a gigabyte at most.

    Args:
        dataset: of at least two classes.
        share: in place of a tenth, in (0, 1].
        block_size: examples compared with all at once; None for as many as fit the
            memory there is. Changes no number but for the rounding of doubles.
        progress: told how many examples are done, and of how many, after each block.

    Returns:
        Exact for bytes (and floats that are all k/255); for other floats right to 1e-6.

    Raises:
        DataError: if all examples are of one class.
        ValueError: for an argument out of range.

    References:
        Ding et al., 2019, arXiv:1902.08336, Appendix D.2.1.
    """
    require_in("share", share, "(0, 1]", "0.1 is that of Ding et al.")
    if block_size is not None:
        require_count("block_size", block_size, "None chooses one")
    require_classes(dataset)
    # Examples of a class side by side, so that all others are two slices.
    order = np.argsort(dataset.labels, kind="stable")
    space = Space(dataset.images[order], "l2", is_double=True)
    sizes = np.bincount(dataset.labels, minlength=dataset.num_classes)
    ends = np.cumsum(sizes)
    size = min(block_size or block_size_for(len(space)), int(sizes.max()))

    def mean_distances(block: slice) -> tuple[slice, np.ndarray]:
        label = int(np.searchsorted(ends, block.start, side="right"))
        first, last = int(ends[label] - sizes[label]), int(ends[label])
        # Filled up, so that one program serves all blocks.
        which = np.minimum(np.arange(block.start, block.start + size), block.stop - 1)
        found = space.block(which)[: block.stop - block.start]
        outside = np.concatenate([found[:, :first], found[:, last:]], axis=1)
        count = _part(share, outside.shape[1])
        outside.partition(count - 1, axis=1)
        return block, space.measured(outside[:, :count]).mean(axis=1)

    blocks = (
        slice(start, min(start + size, last))
        for first, last in zip(ends - sizes, ends, strict=True)
        for start in range(int(first), int(last), size)
    )
    found = np.empty(len(space))
    with closing(finished(mean_distances, blocks)) as done:
        for block, means in done:
            found[block] = means
            if progress is not None:
                progress(int(block.stop), len(space))
    per_class = np.full(dataset.num_classes, np.nan)
    for label in np.flatnonzero(sizes):
        means = np.sort(found[ends[label] - sizes[label] : ends[label]])
        per_class[label] = means[: _part(share, len(means))].mean()
    per_example = np.empty(len(space))
    per_example[order] = found
    return InterClassDistance(float(np.nanmean(per_class)), per_class, per_example)


def log2_volume(dataset: Dataset, epsilon: float, *, is_bounded: bool = True) -> float:
    r"""Mean log2 of the volume in which an l_inf adversary can move an image.

    It is the sum over the pixels of :math:`\log_2(\min(x + \epsilon, 1) - \max(x -
    \epsilon, 0))`, and the mean of these sums over the images: a pixel at 0 or 1 can be
    moved half as far as one inside.

    Args:
        dataset: of images in any number.
        epsilon: l_inf radius, in (0, inf), in units of [0, 1] pixels.
        is_bounded: whether moved pixels stay in [0, 1]; if not, all images have the
            volume of the ball, d log2(2 epsilon).

    Raises:
        ValueError: for a radius out of range; that of 0 leaves no volume.

    References:
        Ding et al., 2019, arXiv:1902.08336, Appendix D.1, Table 6 (truncated there).
    """
    _require_epsilon(epsilon)
    if not is_bounded:
        return _num_pixels(dataset) * float(np.log2(2 * epsilon))
    total = 0.0
    for values, weights in _weighted(dataset):
        # The same width without a difference that rounds.
        width = np.minimum(values, epsilon) + np.minimum(1 - values, epsilon)
        total += float(np.log2(width) @ weights)
    # Sums of logarithms round, and no image lies outside.
    return float(np.clip(total / len(dataset), *log2_volume_limits(dataset, epsilon)))


def log2_volume_limits(dataset: Dataset, epsilon: float) -> VolumeLimits:
    """Between which `log2_volume` lies for images of the shape of these.

    The lowest is that of images of zeros and ones, d log2(epsilon), the highest that of
    images without a pixel nearer to 0 or 1 than the radius, d log2(2 epsilon); from a
    radius of 1/2, and of 1, on the pixel range is all there is.

    Args:
        dataset: its images say how many pixels d there are.
        epsilon: l_inf radius, in (0, inf), in units of [0, 1] pixels.

    Raises:
        ValueError: for a radius out of range.
    """
    _require_epsilon(epsilon)
    widths = min(epsilon, 1.0), min(2 * epsilon, 1.0)
    lowest, highest = (_num_pixels(dataset) * float(np.log2(each)) for each in widths)
    return VolumeLimits(lowest, highest)


def pixel_histogram(dataset: Dataset, num_bins: int = 256) -> PixelHistogram:
    """How many pixels lie in each of equal parts of [0, 1].

    Args:
        dataset: of bytes or floats.
        num_bins: at least 1; 256 give every byte its own.

    Raises:
        ValueError: for a number of bins below 1.
    """
    require_count("num_bins", num_bins, "256 give every byte its own")
    counts = np.zeros(num_bins)
    edges = np.linspace(0, 1, num_bins + 1)
    for values, weights in _weighted(dataset):
        # Weights, also those of ones, are exact in double precision.
        counts += np.histogram(values, edges, weights=weights)[0]
    return PixelHistogram(counts.astype(np.int64), edges)


def pixel_ends(dataset: Dataset) -> PixelEnds:
    """The range of the pixels, and how many of them lie at 0 and at 1."""
    lowest, highest, num_at_0, num_at_1 = 1.0, 0.0, 0, 0
    for values, weights in _weighted(dataset):
        present = values[weights > 0]
        lowest = min(lowest, float(present.min()))
        highest = max(highest, float(present.max()))
        num_at_0 += int(weights[values == 0].sum())
        num_at_1 += int(weights[values == 1].sum())
    size = dataset.images.size
    return PixelEnds(lowest, highest, num_at_0 / size, num_at_1 / size)


def pixel_label_correlation(
    dataset: Dataset,
) -> Float[np.ndarray, "classes height width channels"]:
    """Pearson's correlation of each pixel with being of each class, in [-1, 1].

    Being of a class is 1 for its examples and 0 for all others. Of two classes the
    second has the correlation of the pixel with the label, whatever its two numbers,
    and the first its negative. A pixel that is the same in all images is correlated
    with nothing, 0, and so is a class without examples or with all of them.

    References:
        Tsipras et al., 2018, arXiv:1805.12152, Section 2, look at its absolute value on
        the training examples, for two classes.
    """
    rows = dataset.images.reshape(len(dataset), -1)
    shares = np.bincount(dataset.labels, minlength=dataset.num_classes) / len(rows)
    sums = sum(values.sum(axis=0) for _, values in _blocks(rows))
    mean = sums / len(rows)
    squares = np.zeros(rows.shape[1])
    products = np.zeros((dataset.num_classes, rows.shape[1]))
    for place, values in _blocks(rows):
        values -= mean
        squares += np.einsum("ij,ij->j", values, values)
        of_class = dataset.labels[place] == np.arange(dataset.num_classes)[:, None]
        products += of_class.astype(np.float64) @ values
    # Of pixels that vary: the mean of others may round.
    varies = (rows.min(axis=0) < rows.max(axis=0))[None]
    spread = np.sqrt(shares * (1 - shares) * len(rows))[:, None] * np.sqrt(squares)
    correlation = np.zeros_like(products)
    np.divide(products, spread, out=correlation, where=varies & (spread > 0))
    shape = (dataset.num_classes, *dataset.images.shape[1:])
    return np.clip(correlation, -1, 1).reshape(shape)


def _part(share: float, count: int) -> int:
    """A share of some examples, at least one."""
    return max(1, round(share * count))


def _require_epsilon(epsilon: float) -> None:
    remedy = "a ball without extent has no volume; such as 0.3 or 8/255"
    require_in("epsilon", epsilon, "(0, inf)", remedy)


def _num_pixels(dataset: Dataset) -> int:
    """Of an image, with all its channels."""
    return int(np.prod(dataset.images.shape[1:]))


def _blocks(rows: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Some rows at a time, and where they are, in double precision."""
    size = max(1, BLOCK // rows.shape[1])
    for start in range(0, len(rows), size):
        place = slice(start, start + size)
        yield place, unit_values(rows[place]).astype(np.float64)


def _weighted(dataset: Dataset) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Values in double precision, and how many pixels have each of them."""
    rows = dataset.images.reshape(len(dataset), -1)
    if rows.dtype == np.uint8:
        counts = np.zeros(256)
        for start in range(0, len(rows), size := max(1, BLOCK // rows.shape[1])):
            part = rows[start : start + size].ravel()
            counts += np.bincount(part, minlength=256)
        values = unit_values(np.arange(256, dtype=np.uint8)).astype(np.float64)
        yield values, counts
        return
    for _, values in _blocks(rows):
        yield values.ravel(), np.ones(values.size)
