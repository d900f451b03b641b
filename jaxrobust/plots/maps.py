"""Tables of numbers as colors: accuracies by two radii, losses over a plane."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxrobust.plots.style import SEQUENTIAL, axes_of, figure_of, new_figure

__all__ = ["Panel", "accuracy_maps", "surfaces"]


def accuracy_maps(
    panels: Mapping[str, Sequence[Sequence[float]]],
    *,
    rows: Sequence[float],
    columns: Sequence[float],
    ylabel: str,
    xlabel: str,
    ax: Axes | Sequence[Axes] | None = None,
) -> Figure:
    """Heat maps side by side with one color scale, from 0 to 100 %.

    Args:
        panels: by title a table of shares in [0, 1], `rows` x `columns`; NaN stays
            empty.
        rows: values of the vertical axis, from the bottom.
        columns: values of the horizontal axis.
        ylabel: of the rows.
        xlabel: of the columns.
        ax: axes to draw into, one for each panel; by default those of a new figure.

    Returns:
        The figure that was drawn into.

    Raises:
        ValueError: for another number of axes than of panels.
    """
    places: Any = ax
    if places is None:
        figure = new_figure(1.2 + 3.6 * len(panels), 3.6)
        places = figure.subplots(1, len(panels), squeeze=False)
    all_axes = axes_of(places, len(panels))
    image = None
    for axes, (title, table) in zip(all_axes, panels.items(), strict=True):
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
        label = "robust accuracy (%)"
        figure_of(all_axes[0]).colorbar(image, ax=all_axes, label=label)
    return figure_of(all_axes[0])


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
    ax: Axes | Sequence[Axes] | None = None,
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
        columns: panels in a row of a new figure.
        ax: axes to draw into, one for each panel; by default those of a new figure.

    Returns:
        The figure that was drawn into.

    Raises:
        ValueError: for another number of axes than of panels.
    """
    own, spare, places = None, [], ax
    if places is None:
        width = min(columns, len(panels))
        height = -(-len(panels) // width)
        own = new_figure(1.1 + 2.9 * width, 0.3 + 2.9 * height)
        grid = own.subplots(height, width, squeeze=False, sharex=True, sharey=True)
        places, spare = [*grid.flat][: len(panels)], [*grid.flat][len(panels) :]
    all_axes = axes_of(places, len(panels))
    tables = [np.asarray(panel.values, float) for panel in panels]
    low = min(float(table.min()) for table in tables)
    high = max(float(table.max()) for table in tables)
    levels = np.linspace(low, high if high > low else low + 1, 17)
    filled = None
    for axes, panel, table in zip(all_axes, panels, tables, strict=True):
        filled = axes.contourf(x, y, table, levels=levels, cmap=SEQUENTIAL)
        axes.contour(x, y, table, levels=levels[1:-1], colors="0.2", linewidths=0.3)
        marked = None if panel.is_marked is None else np.asarray(panel.is_marked, float)
        # A table that is marked everywhere or nowhere has no border to draw.
        if marked is not None and marked.min() < marked.max():
            axes.contour(x, y, marked, levels=[0.5], colors="white", linewidths=1.8)
        axes.plot(0, 0, marker="+", color="white", markersize=7)
        axes.set(title=panel.title, aspect="equal")
        if own is None:
            axes.set(xlabel=xlabel, ylabel=ylabel)
        else:
            axes.label_outer()
    for axes in spare:
        axes.set_visible(False)
    if own is not None:
        own.supxlabel(xlabel, fontsize=10)
        own.supylabel(ylabel, fontsize=10)
    figure = figure_of(all_axes[0])
    if filled is not None:
        beside = [*all_axes, *spare]
        figure.colorbar(filled, ax=beside, label=label, shrink=0.9, format="%.3g")
    return figure
