"""Lines over a common axis: training curves, accuracy against the radius."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxrobust.plots.style import COLORS, axes_of, figure_of, new_figure

__all__ = ["Curve", "curves"]


class Curve(NamedTuple):
    """One line of a figure.

    Attributes:
        label: name in the legend.
        x: horizontal values.
        y: vertical values, as many.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]


def curves(
    lines: Sequence[Curve],
    *,
    xlabel: str,
    ylabel: str,
    title: str = "",
    levels: Mapping[str, float] | None = None,
    log: bool = False,
    bands: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Lines over a common axis, each with its own color and marker.

    Args:
        lines: what to draw.
        xlabel: with its unit.
        ylabel: with its unit.
        title: above the axes.
        levels: horizontal reference lines by label, such as ln 10.
        log: logarithmic vertical axis.
        bands: by label of a line the lower and upper ends of its interval, such as
            Wilson's, shaded behind it.
        ax: axes to draw into, such as those of pyplot; by default a new figure's.

    Returns:
        The figure that was drawn into.
    """
    (axes,) = axes_of(new_figure(7.0, 4.0).subplots() if ax is None else ax, 1)
    for index, line in enumerate(lines):
        axes.plot(
            line.x,
            line.y,
            label=line.label,
            color=COLORS[index % len(COLORS)],
            linestyle=("-", "--", "-.")[index // len(COLORS) % 3],
            marker="osD^v<>"[index % 7],
            markersize=3,
            # A line of hundreds of points has a marker on some of them.
            markevery=max(1, len(line.x) // 50),
            linewidth=1.6,
        )
        if line.label in (bands or {}):
            lower, upper = (bands or {})[line.label]
            color = COLORS[index % len(COLORS)]
            axes.fill_between(line.x, lower, upper, color=color, alpha=0.2, lw=0)
    for label, level in (levels or {}).items():
        axes.axhline(level, color="0.5", linewidth=0.8, linestyle=":")
        axes.annotate(
            label,
            (1.0, level),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            fontsize=8,
            color="0.35",
        )
    if log:
        axes.set_yscale("log")
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8)
    return figure_of(axes)
