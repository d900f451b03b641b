"""What Ding et al. say of their figures, held against these results.

    python -m experiments input_distribution/claims --preset cpu

Each claim is a rule on numbers that the tables and figures of the same preset computed:
held, not held, or not decided where the numbers are missing or nearer to each other
than models of other seeds are.

Presets:
    smoke: the models of `table2 --preset smoke`, of which one claim is decided.
    cpu, paper: the models of these presets of `table2`, which are trained once.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean, stdev
from typing import Any

from experiments.input_distribution import table2
from experiments.input_distribution.comparing import Variants, by_variant
from experiments.input_distribution.published import TABLE2, TABLE4, WIDTHS4
from experiments.input_distribution.variants import titled
from experiments.workspace import Workspace

PRESETS = table2.PRESETS


@dataclasses.dataclass(frozen=True)
class Number:
    """A share over seeds, in percent."""

    shares: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return 100 * fmean(self.shares)

    @property
    def deviation(self) -> float:
        """Standard deviation over the seeds; NaN for a single one."""
        return 100 * stdev(self.shares) if len(self.shares) > 1 else float("nan")

    def __str__(self) -> str:
        return f"{self.mean:.1f}"


def is_above(first: Number, second: Number) -> str:
    """Whether the first is the larger one, if it is by more than the seeds differ."""
    gap = first.mean - second.mean
    spread = max(first.deviation, second.deviation)
    if spread == spread and abs(gap) <= spread:
        return "not decided"
    return "held" if gap > 0 else "not held"


def pairs(rows: Sequence[Mapping[str, Any]], field: str) -> list[dict[str, Any]]:
    """Neighbors of Table 2: is the former the more robust one, here as in the paper?"""
    found = []
    numbers = {
        row["variant"]: Number(tuple(each[field] for each in row["models"]))
        for row in rows
    }
    for first, second in pairwise(numbers):
        width = rows[0]["models"][0]["width"]
        paper = _paper(first, width), _paper(second, width)
        if None in paper:
            continue
        # The claim is the order that the paper's own numbers have.
        order = (first, second) if paper[0] >= paper[1] else (second, first)
        found.append(
            {
                "claim": f"{titled(order[0])} more robust than {titled(order[1])}",
                "here": f"{numbers[order[0]]}, {numbers[order[1]]}",
                "paper": f"{max(paper):g}, {min(paper):g}",
                "verdict": is_above(numbers[order[0]], numbers[order[1]]),
            }
        )
    return found


def _paper(variant: str, width: float) -> Any:
    """Robust accuracy of the paper at the width, or at the full one."""
    if width in WIDTHS4 and variant in TABLE4["robust"]:
        return TABLE4["robust"][variant][1][WIDTHS4.index(width)]
    return TABLE2[variant][2] if variant in TABLE2 else None


def flat(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Standard training is as accurate on all variants, PGD training is not robust."""
    clean, robust = (
        [fmean(each[field] for each in row["models"]) for row in rows]
        for field in ("standard_accuracy", "robust_accuracy")
    )
    ranges = [100 * (max(values) - min(values)) for values in (clean, robust)]
    return {
        "claim": "clean accuracy hardly depends on the variant, robust accuracy does",
        "here": f"ranges of {ranges[0]:.1f} and {ranges[1]:.1f} points",
        "paper": "0.8 and 15.0 points",
        "verdict": "held" if 5 * ranges[0] < ranges[1] else "not held",
    }


def run(config: Variants, workspace: Workspace) -> Mapping[str, Any]:
    """Hold the claims against the models of Table 2."""
    rows = by_variant(config.rows(config.cases, workspace))
    found = [flat(rows), *pairs(rows, "robust_accuracy")]
    counts = sorted({len(row["models"]) for row in rows})
    note = (
        f"Robust accuracy in percent of {config.width:g} of the width, mean over "
        f"{', '.join(map(str, counts))} seeds; the paper's of the same width. Not "
        "decided: the two are nearer than the standard deviation over seeds."
    )
    return {
        "title": "Claims about input distributions",
        "rows": found,
        "notes": [note],
        "tables": {"Claims": results_table({"rows": found})},
    }


def results_table(result: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the claims, also from a committed results file."""
    lines = [
        [row[field] for field in ("claim", "here", "paper", "verdict")]
        for row in result["rows"]
    ]
    return [["claim", "here", "paper", "verdict"], *lines]
