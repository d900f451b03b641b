"""Histograms: how often values occur, of several data sets over each other."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxrobust.plots.style import COLORS, axes_of, figure_of, new_figure

__all__ = ["histograms"]


def histograms(
    steps: Mapping[str, tuple[Sequence[int], Sequence[float]]],
    *,
    xlabel: str,
    title: str = "",
    ax: Axes | None = None,
) -> Figure:
    """Shares of values in bins, as steps over a logarithmic axis.

    Logarithmic, since most pixels of many images have the same value.

    Args:
        steps: by name in the legend, counts in the bins and the edges of these, one
            more; such as a `PixelHistogram` of `jaxrobust.data`.
        xlabel: with its unit.
        title: above the axes.
        ax: axes to draw into, such as those of pyplot; by default a new figure's.

    Returns:
        The figure that was drawn into.
    """
    (axes,) = axes_of(new_figure(7.0, 3.4).subplots() if ax is None else ax, 1)
    for index, (label, (counts, edges)) in enumerate(steps.items()):
        shares = 100 * np.asarray(counts, float) / max(np.sum(counts), 1)
        axes.stairs(
            shares,
            edges,
            # To the bottom of a logarithmic axis, where nothing is.
            baseline=None,
            label=label,
            color=COLORS[index % len(COLORS)],
            linestyle=("-", "--", "-.")[index // len(COLORS) % 3],
            linewidth=1.2,
        )
    axes.set_yscale("log", nonpositive="clip")
    axes.set(xlabel=xlabel, ylabel="share (%)", title=title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8)
    return figure_of(axes)
