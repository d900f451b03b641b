"""Rows of small images: examples, perturbations, gradients."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxrobust.arguments import require
from jaxrobust.plots.style import DIVERGING, axes_of, figure_of, new_figure

__all__ = ["ImageRow", "image_grid"]


class ImageRow(NamedTuple):
    """One row of a grid.

    Attributes:
        caption: left of it.
        images: (images, height, width, channels) with 1 or 3 channels, or without the
            last axis for gray; shown as squares.
        is_signed: values round 0, of any size, shown with one symmetric diverging scale
            for the row; otherwise pixels in [0, 1].
        titles: above each image; none if empty.
    """

    caption: str
    images: Any
    is_signed: bool = False
    titles: Sequence[str] = ()


def image_grid(
    rows: Sequence[ImageRow],
    *,
    title: str = "",
    size: float = 0.8,
    ax: Axes | Sequence[Axes] | None = None,
) -> Figure:
    """Images in rows with captions; gray, in color, or signed.

    Signed color images are shown as their mean over the channels.

    Args:
        rows: of the same or of different lengths, at least one.
        title: above all of them.
        size: of an image of a new figure, in inches.
        ax: axes to draw into, one for each row; by default those of a new figure.

    Returns:
        The figure that was drawn into.

    Raises:
        ValueError: for images of another shape, or another number of axes than of rows.
    """
    tables = [_gray_or_color(row) for row in rows]
    width = max(len(table) for table in tables)
    # In units of an image; the titles of a row stand above it.
    heights = [1.25 if row.titles else 0.98 for row in rows]
    places: Any = ax
    if places is None:
        height = 1.08 * size * sum(heights) + 0.4 * bool(title)
        figure = new_figure(1.3 + size * width, height)
        places = figure.subplots(len(rows), squeeze=False, height_ratios=heights)
    all_axes = axes_of(places, len(rows))
    # One pair of axes for each row: a hundred of them take seconds to lay out.
    for axes, row, table, height in zip(all_axes, rows, tables, heights, strict=True):
        low, high, cmap = 0.0, 1.0, "gray"
        if row.is_signed:
            high = float(np.abs(table).max()) or 1.0
            low, cmap = -high, DIVERGING
        for index, image in enumerate(table):
            place = (index, index + 0.94, 0, 0.94)
            axes.imshow(image, cmap=cmap, vmin=low, vmax=high, extent=place)
        for index, text in enumerate(row.titles):
            axes.text(index + 0.47, 1.0, text, fontsize=8, ha="center", va="bottom")
        axes.set(xlim=(0, width), ylim=(0, height))
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        axes.set_ylabel(
            row.caption, rotation=0, ha="right", va="center", fontsize=8, labelpad=4
        )
    figure = figure_of(all_axes[0])
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def _gray_or_color(row: ImageRow) -> np.ndarray:
    images = np.asarray(row.images, float)
    if images.ndim == 4 and images.shape[-1] == 1:
        images = images[..., 0]
    if images.ndim == 4 and row.is_signed:
        images = images.mean(axis=-1)
    require(
        images.ndim == 3 or images.shape[3:] == (3,),
        "images",
        "of shape (images, height, width), or with 1 or 3 channels behind",
        images.shape,
        f"reshape those for {row.caption!r}",
    )
    return images if row.is_signed else np.clip(images, 0, 1)
