"""Tables of numbers as colors: accuracies by two radii, losses over a plane."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxrobust.plots.style import SEQUENTIAL, Figure, plt

__all__ = ["Panel", "accuracy_maps", "surfaces"]


def accuracy_maps(
    panels: Mapping[str, Sequence[Sequence[float]]],
    *,
    rows: Sequence[float],
    columns: Sequence[float],
    ylabel: str,
    xlabel: str,
) -> Figure:
    """Heat maps side by side with one color scale, from 0 to 100 %.

    Args:
        panels: by title a table of shares in [0, 1], `rows` x `columns`; NaN stays
            empty.
        rows: values of the vertical axis, from the bottom.
        columns: values of the horizontal axis.
        ylabel: of the rows.
        xlabel: of the columns.
    """
    figure, all_axes = plt.subplots(
        1,
        len(panels),
        figsize=(1.2 + 3.6 * len(panels), 3.6),
        layout="constrained",
        squeeze=False,
    )
    image = None
    for axes, (title, table) in zip(all_axes[0], panels.items(), strict=True):
        shares = [[100 * share for share in row] for row in table]
        image = axes.imshow(
            shares, origin="lower", vmin=0, vmax=100, cmap=SEQUENTIAL, aspect="auto"
        )
        for row, line in enumerate(shares):
            for column, share in enumerate(line):
                if share == share:  # not NaN
                    color = "white" if share < 55 else "black"
                    text = f"{share:.0f}"
                    axes.text(
                        column, row, text, color=color, ha="center", va="center", size=8
                    )
        axes.set_xticks(range(len(columns)), [f"{value:g}" for value in columns])
        axes.set_yticks(range(len(rows)), [f"{value:g}" for value in rows])
        axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    if image is not None:
        figure.colorbar(image, ax=all_axes[0], label="robust accuracy (%)")
    return figure


class Panel(NamedTuple):
    """One table of a figure of surfaces.

    Attributes:
        title: above it.
        values: `(rows, columns)`; `[i, j]` belongs to `y[i]` and `x[j]`.
        is_marked: of the same shape, such as whether the model is wrong there; the
            border of what is marked is drawn as a line. None for no border.
    """

    title: str
    values: Any
    is_marked: Any = None


def surfaces(
    panels: Sequence[Panel],
    *,
    x: Sequence[float],
    y: Sequence[float],
    xlabel: str,
    ylabel: str,
    label: str,
    columns: int = 3,
) -> Figure:
    """Losses over a plane as filled contours, side by side with one color scale.

    Contours rather than surfaces in perspective: nothing is hidden behind a hill,
    values can be read off, and panels compare at any size.

    Args:
        panels: at least one.
        x: values of the horizontal axis, increasing.
        y: values of the vertical axis, increasing.
        xlabel: with its unit.
        ylabel: with its unit.
        label: of the color scale, with its unit.
        columns: panels in a row.
    """
    width = min(columns, len(panels))
    height = -(-len(panels) // width)
    figure, all_axes = plt.subplots(
        height,
        width,
        figsize=(1.1 + 2.9 * width, 0.3 + 2.9 * height),
        layout="constrained",
        squeeze=False,
        sharex=True,
        sharey=True,
    )
    tables = [np.asarray(panel.values, float) for panel in panels]
    low = min(float(table.min()) for table in tables)
    high = max(float(table.max()) for table in tables)
    levels = np.linspace(low, high if high > low else low + 1, 17)
    filled = None
    for axes, panel, table in zip(all_axes.flat, panels, tables, strict=False):
        filled = axes.contourf(x, y, table, levels=levels, cmap=SEQUENTIAL)
        axes.contour(x, y, table, levels=levels[1:-1], colors="0.2", linewidths=0.3)
        marked = None if panel.is_marked is None else np.asarray(panel.is_marked, float)
        # A table that is marked everywhere or nowhere has no border to draw.
        if marked is not None and marked.min() < marked.max():
            axes.contour(x, y, marked, levels=[0.5], colors="white", linewidths=1.8)
        axes.plot(0, 0, marker="+", color="white", markersize=7)
        axes.set(title=panel.title, aspect="equal")
        axes.label_outer()
    for axes in all_axes.flat[len(panels) :]:
        axes.set_visible(False)
    figure.supxlabel(xlabel, fontsize=10)
    figure.supylabel(ylabel, fontsize=10)
    if filled is not None:
        figure.colorbar(filled, ax=all_axes, label=label, shrink=0.9, format="%.3g")
    return figure
