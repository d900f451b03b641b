"""Colors of all figures, where they are drawn, and how they become files.

Figures are made without pyplot, whose backend, windows and open figures belong to the
user: nothing here chooses a backend, needs a display, or waits to be closed.
"""

import io
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxrobust.arguments import require
from jaxrobust.keeping import open_whole

__all__ = [
    "COLORS",
    "DIVERGING",
    "SEQUENTIAL",
    "Figure",
    "axes_of",
    "figure_of",
    "legend_of",
    "new_figure",
    "save",
]

# Okabe and Ito's colors, told apart by readers with any color vision.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")

# Both read alike by any color vision; the first also in print without color.
SEQUENTIAL, DIVERGING = "cividis", "PuOr"


class _Shown(Figure):
    """A figure that a notebook shows as the value of a cell, without pyplot."""

    def _repr_png_(self) -> bytes:
        picture = io.BytesIO()
        self.savefig(picture, format="png", bbox_inches="tight")
        return picture.getvalue()


def new_figure(width: float, height: float) -> Figure:
    """An empty figure; the sizes are in inches."""
    return _Shown(figsize=(width, height), layout="constrained")


def axes_of(ax: Any, count: int) -> list[Axes]:
    """The axes that a caller handed over, as many as are drawn into.

    Args:
        ax: one, or a sequence or array of them.
        count: how many are needed.

    Raises:
        ValueError: for another number of them.
    """
    given = [ax] if isinstance(ax, Axes) else [*getattr(ax, "flat", ax)]
    rule = f"{count} axes, one for each part of the figure"
    require(len(given) == count, "ax", rule, len(given), "make as many with subplots")
    return given


def figure_of(axes: Axes) -> Figure:
    """The whole figure that axes are in."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    return figure


def legend_of(axes: Axes, figure: Figure | None) -> None:
    """The legend of bars: above the axes of a figure of ours, or within those given."""
    if figure is None:
        axes.legend(ncols=2, frameon=False, fontsize=8)
    else:
        figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=8)


def save(figure: Figure, path: Path) -> Path:
    """Write a figure in the format of the path's suffix (png, svg)."""
    # A fixed date and hash keep committed figures the same when the numbers are.
    with matplotlib.rc_context({"svg.hashsalt": "jaxrobust"}):
        metadata = {"Date": None} if path.suffix == ".svg" else None
        with open_whole(path) as file:
            figure.savefig(file, format=path.suffix[1:], dpi=130, metadata=metadata)
    return path
