"""Figures of the library; the only module that imports matplotlib."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

__all__ = ["Curve", "accuracy_bars", "accuracy_maps", "curves", "save"]

# Okabe and Ito's colors, told apart by readers with any color vision.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")


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
) -> Figure:
    """Lines over a common axis, each with its own color and marker.

    Args:
        lines: what to draw.
        xlabel: with its unit.
        ylabel: with its unit.
        title: above the axes.
        levels: horizontal reference lines by label, such as ln 10.
        log: logarithmic vertical axis.
    """
    figure, axes = plt.subplots(figsize=(7.0, 4.0), layout="constrained")
    for index, line in enumerate(lines):
        axes.plot(
            line.x,
            line.y,
            label=line.label,
            color=COLORS[index % len(COLORS)],
            linestyle=("-", "--", "-.")[index // len(COLORS) % 3],
            marker="osD^v<>"[index % 7],
            markersize=3,
            linewidth=1.6,
        )
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
    return figure


def accuracy_bars(rows: Sequence[Mapping[str, Any]], *, title: str = "") -> Figure:
    """Grouped bars: clean accuracy and robust accuracy at each radius, per model.

    Args:
        rows: each with `model`, `clean_accuracy` and `robust_accuracy`, shares in
            [0, 1] by radius as printed.
        title: above the axes.
    """
    radii = list(dict.fromkeys(key for row in rows for key in row["robust_accuracy"]))
    groups = ["clean", *(f"epsilon {radius}" for radius in radii)]
    figure, axes = plt.subplots(figsize=(7.0, 3.4), layout="constrained")
    width = 0.8 / max(len(rows), 1)
    for index, row in enumerate(rows):
        shares = [row["clean_accuracy"]]
        shares += [row["robust_accuracy"].get(radius, float("nan")) for radius in radii]
        places = [
            group + (index - (len(rows) - 1) / 2) * width
            for group in range(len(groups))
        ]
        bars = axes.bar(
            places,
            [100 * share for share in shares],
            width,
            label=row["model"],
            color=COLORS[index % len(COLORS)],
        )
        axes.bar_label(bars, fmt="%.0f", fontsize=7)
    axes.set_xticks(range(len(groups)), groups)
    axes.set(ylabel="accuracy (%)", ylim=(0, 105), title=title)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=8)
    return figure


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
            shares, origin="lower", vmin=0, vmax=100, cmap="cividis", aspect="auto"
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


def save(figure: Figure, path: Path) -> Path:
    """Write a figure in the format of the path's suffix (png, svg) and close it."""
    # A fixed date and hash keep committed figures the same when the numbers are.
    with matplotlib.rc_context({"svg.hashsalt": "jaxrobust"}):
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, dpi=130, metadata=metadata)
    plt.close(figure)
    return path
