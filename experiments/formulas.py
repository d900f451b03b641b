"""Rows that set a formula beside a sample, and their table."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxrobust.evaluation import wilson_interval

__all__ = ["CONFIDENCE", "Z", "compared", "formula_table"]

CONFIDENCE, Z = 0.999, 3.2905
"""Of the intervals of samples: by chance one in a thousand rows is outside."""


def compared(
    quantity: str,
    source: str,
    formula: Any,
    sample: np.ndarray | None = None,
    *,
    relation: str = "=",
    paper: str = "",
) -> dict[str, Any]:
    """One row: a formula, and what a sample says about the same quantity.

    Args:
        quantity: what it is, with its arguments.
        source: number of the formula, such as "Theorem 4".
        formula: its value.
        sample: flags, whose share counts, or values, whose mean does; None for none.
        relation: "=" if they are the same quantity, "<=" if the formula is a lower
            bound of it and ">=" if an upper one.
        paper: what the paper prints.

    Returns:
        With `agrees`, whether the interval of the sample allows the relation.
    """
    row = {
        "quantity": quantity,
        "source": source,
        "formula": float(formula),
        "relation": relation,
        "sample": None,
        "interval": None,
        "agrees": None,
        "paper": paper,
    }
    if sample is None:
        return row
    mean, count = float(np.mean(sample)), len(sample)
    if sample.dtype == bool:
        low, high = wilson_interval(int(sample.sum()), count, confidence=CONFIDENCE)
    else:
        half = Z * float(np.std(sample)) / np.sqrt(count)
        low, high = mean - half, mean + half
    agrees = {
        "=": low <= row["formula"] <= high,
        "<=": row["formula"] <= high,
        ">=": row["formula"] >= low,
    }[relation]
    found = {"sample": mean, "interval": [low, high], "agrees": bool(agrees)}
    return row | found


def formula_table(result: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the table of formulas, also from a committed results file."""
    cells = [
        ["quantity", "source", "formula", "", "sample", "interval", "agrees", "paper"]
    ]
    for row in result["rows"]:
        has_sample = row["sample"] is not None
        low, high = row["interval"] if has_sample else (0.0, 0.0)
        cells.append(
            [
                row["quantity"],
                row["source"],
                f"{row['formula']:.6g}",
                row["relation"] if has_sample else "",
                f"{row['sample']:.5g}" if has_sample else "-",
                f"[{low:.5g}, {high:.5g}]" if has_sample else "-",
                {None: "-", True: "yes", False: "no"}[row["agrees"]],
                row["paper"] or "-",
            ]
        )
    return cells
