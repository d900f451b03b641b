"""Figure 5: distance between classes, and what it says of robust accuracy.

    python -m experiments input_distribution/figure5 --preset cpu

The distance of each variant, and beside it the robust accuracy of the models of Table
2. Beyond the paper: the rank correlation of the two, with its interval.

Presets:
    smoke, cpu, paper: the variants and models of these presets of `table2`; of CIFAR-10
        distances alone, in `cpu` and `paper`.

Differs from the paper: CIFAR-10 is at hand as JPEG of quality 75.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from experiments.input_distribution import table2
from experiments.input_distribution.apart import distance
from experiments.input_distribution.comparing import Variants, by_variant
from experiments.input_distribution.variants import CIFAR, titled
from experiments.workspace import Workspace
from jaxrobust import plots
from jaxrobust.report import percent

RESAMPLES = 2000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Variants):
    """The variants whose distance alone is measured."""

    others: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Of other data sets: name and variants."""


def _config(preset: str, **fields: Any) -> Config:
    return Config(**(vars(table2.PRESETS[preset]) | fields))


PRESETS = {
    "smoke": _config("smoke"),
    "cpu": _config("cpu", others=(("cifar10", CIFAR),)),
    "paper": _config("paper", others=(("cifar10", CIFAR),)),
}


def run(config: Config, workspace: Workspace) -> Mapping[str, Any]:
    """Measure distances, and set them beside the models."""
    rows = [
        {
            "dataset": config.dataset,
            "variant": row["variant"],
            "distance": distance(config.dataset, row["variant"], workspace),
            "robust_accuracy": fmean(each["robust_accuracy"] for each in row["models"]),
        }
        for row in by_variant(config.rows(config.cases, workspace))
    ]
    note = correlation_note(rows)
    rows += [
        {
            "dataset": dataset,
            "variant": variant,
            "distance": distance(dataset, variant, workspace),
            "robust_accuracy": None,
        }
        for dataset, variants in config.others
        for variant in variants
    ]
    judged = [row for row in rows if row["robust_accuracy"] is not None]
    drawn = plots.curves(
        [
            plots.Curve(
                titled(row["variant"]),
                [row["distance"]],
                [100 * row["robust_accuracy"]],
            )
            for row in judged
        ],
        xlabel="distance between classes (l2, units of [0, 1] pixels)",
        ylabel="robust accuracy (%)",
    )
    found = {"rows": rows}
    notes = [note]
    if config.others:
        notes.append("CIFAR-10 is CIFAR-10 (JPEG 75).")
    return {
        "title": "Distance between classes and robust accuracy",
        "rows": rows,
        "notes": notes,
        "tables": {"Distances": results_table(found)},
        "figures": {"Figure 5": workspace.save_figure("figure5", drawn)},
    }


class Correlation(NamedTuple):
    """Spearman's rank correlation, and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def correlation(rows: Sequence[Mapping[str, Any]]) -> Correlation | None:
    """Of distance and robust accuracy; None for fewer than four variants."""
    if len(rows) < 4:
        return None
    distances = np.array([row["distance"] for row in rows])
    shares = np.array([row["robust_accuracy"] for row in rows])
    rng = np.random.default_rng(0)
    drawn = [rng.integers(len(rows), size=len(rows)) for _ in range(RESAMPLES)]
    found = [
        _rank_correlation(distances[each], shares[each])
        for each in drawn
        if len(np.unique(distances[each])) > 1 and len(np.unique(shares[each])) > 1
    ]
    low, high = np.quantile(found, [0.025, 0.975])
    return Correlation(_rank_correlation(distances, shares), float(low), float(high))


def correlation_note(rows: Sequence[Mapping[str, Any]]) -> str:
    """What the variants say of distance as a predictor."""
    found = correlation(rows)
    if found is None:
        return f"{len(rows)} variants are too few for a rank correlation."
    return (
        f"Spearman's rank correlation of distance and robust accuracy over the "
        f"{len(rows)} variants: {found.value:.2f}, 95 % bootstrap interval "
        f"{found.low:.2f} to {found.high:.2f}. Variants of one data set are no "
        "independent sample, so the interval is about these variants alone."
    )


def _rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's; types of SciPy say less of it than it is."""
    found: Any = stats.spearmanr(first, second)
    return float(found.statistic)


def results_table(result: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the distances, also from a committed results file."""
    lines = []
    for row in result["rows"]:
        share = row["robust_accuracy"]
        lines.append(
            [
                *(row["dataset"], titled(row["variant"]), f"{row['distance']:.3f}"),
                "" if share is None else percent(share),
            ]
        )
    return [["data", "variant", "distance", "robust accuracy"], *lines]
