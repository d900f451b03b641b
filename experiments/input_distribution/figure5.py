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
from typing import Any

import numpy as np
from scipy import stats

from experiments.input_distribution import table2
from experiments.input_distribution.comparing import Variants, by_variant
from experiments.input_distribution.variants import CIFAR, titled
from experiments.workspace import Workspace
from jaxrobust import plots
from jaxrobust.data import apply_variant, load_arrays
from jaxrobust.data.statistics import inter_class_distance
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


def _distance(dataset: str, variant: str, workspace: Workspace) -> float:
    def compute() -> float:
        workspace.say(f"--- distance of {dataset}, {titled(variant)}")
        test = load_arrays(dataset, "test", data_dir=workspace.data_dir)
        return inter_class_distance(apply_variant(test, variant)).value

    return workspace.cached("distance", [dataset, variant], compute)


def run(config: Config, workspace: Workspace) -> Mapping[str, Any]:
    """Measure distances, and set them beside the models."""
    rows = [
        {
            "dataset": config.dataset,
            "variant": row["variant"],
            "distance": _distance(config.dataset, row["variant"], workspace),
            "robust_accuracy": fmean(each["robust_accuracy"] for each in row["models"]),
        }
        for row in by_variant(config.rows(config.cases, workspace))
    ]
    note = correlation_note(rows)
    rows += [
        {
            "dataset": dataset,
            "variant": variant,
            "distance": _distance(dataset, variant, workspace),
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


def correlation_note(rows: Sequence[Mapping[str, Any]]) -> str:
    """Spearman's rank correlation, and its interval over resampled variants."""
    distances = np.array([row["distance"] for row in rows])
    shares = np.array([row["robust_accuracy"] for row in rows])
    if len(rows) < 4:
        return f"{len(rows)} variants are too few for a rank correlation."
    rng = np.random.default_rng(0)
    drawn = [rng.integers(len(rows), size=len(rows)) for _ in range(RESAMPLES)]
    found = [
        _rank_correlation(distances[each], shares[each])
        for each in drawn
        if len(np.unique(distances[each])) > 1 and len(np.unique(shares[each])) > 1
    ]
    value = _rank_correlation(distances, shares)
    low, high = np.quantile(found, [0.025, 0.975])
    return (
        f"Spearman's rank correlation of distance and robust accuracy over the "
        f"{len(rows)} variants: {value:.2f}, 95 % bootstrap interval {low:.2f} to "
        f"{high:.2f}. Variants of one data set are no independent sample, so the "
        "interval is about these variants alone."
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
