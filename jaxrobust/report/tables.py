"""Tables of accuracies, as cells and in Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["Cells", "accuracy_table", "markdown_table", "percent"]

Cells = Sequence[Sequence[str]]
"""Rows of texts; the first is the header."""


def percent(share: float | None, digits: int = 1) -> str:
    """A share in [0, 1] as printed in tables; a dash for None."""
    return "-" if share is None else f"{100 * share:.{digits}f} %"


def accuracy_table(
    rows: Sequence[Mapping[str, Any]],
    published: Mapping[str, Sequence[float | None]] | None = None,
) -> list[list[str]]:
    """Cells of an accuracy table, with a header row.

    Args:
        rows: each with `model`, `clean_accuracy`, `robust_accuracy` (shares in [0, 1]
            by radius as printed).
        published: for models by name, the paper's shares in the order of the columns;
            printed in brackets behind ours.
    """
    radii = list(dict.fromkeys(key for row in rows for key in row["robust_accuracy"]))
    cells = [["model", "clean", *(f"ε = {radius}" for radius in radii)]]
    for row in rows:
        shares = [row["clean_accuracy"]]
        shares += [row["robust_accuracy"].get(radius) for radius in radii]
        papers = list((published or {}).get(row["model"], []))
        papers += [None] * (len(shares) - len(papers))
        line = [
            percent(ours) + ("" if paper is None else f" ({100 * paper:.0f})")
            for ours, paper in zip(shares, papers, strict=True)
        ]
        cells.append([row["model"], *line])
    return cells


def markdown_table(cells: Cells) -> str:
    """A Markdown table whose first row is the header; first column left."""
    header, *body = cells
    rule = ["---", *["---:"] * (len(header) - 1)]
    lines = [header, rule, *body]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
