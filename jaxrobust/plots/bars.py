"""Bars: accuracies of several models, or risks, side by side."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxrobust.plots.style import COLORS, axes_of, figure_of, legend_of, new_figure

__all__ = ["accuracy_bars", "risk_bars"]


def accuracy_bars(
    rows: Sequence[Mapping[str, Any]], *, title: str = "", ax: Axes | None = None
) -> Figure:
    """Grouped bars: clean accuracy and robust accuracy at each radius, per model.

    Args:
        rows: each with `model`, `clean_accuracy` and `robust_accuracy`, shares in
            [0, 1] by radius as printed.
        title: above the axes.
        ax: axes to draw into, such as those of pyplot; by default a new figure's.

    Returns:
        The figure that was drawn into.
    """
    radii = list(dict.fromkeys(key for row in rows for key in row["robust_accuracy"]))
    groups = ["clean", *(f"epsilon {radius}" for radius in radii)]
    own = new_figure(7.0, 3.4) if ax is None else None
    (axes,) = axes_of(ax if own is None else own.subplots(), 1)
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
    legend_of(axes, own)
    return figure_of(axes)


def risk_bars(
    rows: Sequence[Mapping[str, Any]], *, title: str = "", ax: Axes | None = None
) -> Figure:
    """Pairs of bars: the risk and the adversarial risk, of a model and of limits.

    Args:
        rows: each with `name`, and `risk` and `adversarial_risk`, shares in [0, 1].
        title: above the axes.
        ax: axes to draw into, such as those of pyplot; by default a new figure's.

    Returns:
        The figure that was drawn into.
    """
    own = new_figure(7.0, 3.4) if ax is None else None
    (axes,) = axes_of(ax if own is None else own.subplots(), 1)
    for index, (key, label) in enumerate(
        (("risk", "risk"), ("adversarial_risk", "adversarial risk"))
    ):
        bars = axes.bar(
            [place + (index - 0.5) * 0.38 for place in range(len(rows))],
            [100 * row[key] for row in rows],
            0.38,
            label=label,
            color=COLORS[index],
        )
        axes.bar_label(bars, fmt="%.2f", fontsize=7)
    axes.set_xticks(range(len(rows)), [row["name"] for row in rows])
    axes.set(ylabel="share of examples (%)", title=title)
    axes.spines[["top", "right"]].set_visible(False)
    legend_of(axes, own)
    return figure_of(axes)
