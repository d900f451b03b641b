"""Bars: accuracies of several models, or risks, side by side."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxrobust.plots.style import COLORS, Figure, plt

__all__ = ["accuracy_bars", "risk_bars"]


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


def risk_bars(rows: Sequence[Mapping[str, Any]], *, title: str = "") -> Figure:
    """Pairs of bars: the risk and the adversarial risk, of a model and of limits.

    Args:
        rows: each with `name`, and `risk` and `adversarial_risk`, shares in [0, 1].
        title: above the axes.
    """
    figure, axes = plt.subplots(figsize=(7.0, 3.4), layout="constrained")
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
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=8)
    return figure
