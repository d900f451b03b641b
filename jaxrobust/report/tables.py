"""Tables of accuracies, as cells and in Markdown."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from jaxrobust.precision import PrecisionWarning, precision_note

__all__ = [
    "Cells",
    "accuracy_table",
    "attack_table",
    "certified_table",
    "interval_table",
    "markdown_table",
    "method_table",
    "percent",
    "share_with_interval",
]

Cells = Sequence[Sequence[str]]
"""Rows of texts; the first is the header."""


def percent(share: float | None, digits: int = 1) -> str:
    """A share in [0, 1] as printed in tables; a dash for None."""
    return "-" if share is None else f"{100 * share:.{digits}f} %"


def share_with_interval(share: float | None, ends: Sequence[float] | None) -> str:
    """A share and the ends of its interval as printed; a dash for None."""
    if share is None or ends is None:
        return percent(None)
    lower, upper = ends
    return f"{percent(share)} [{100 * lower:.1f}, {100 * upper:.1f}]"


def _warn_of_precisions(rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows side by side are compared, and should be computed alike."""
    precisions = [(row["model"], row.get("matmul_precision")) for row in rows]
    if (note := precision_note("attacks ran", precisions)) is not None:
        warnings.warn(f"{note}.", PrecisionWarning, stacklevel=3)


def accuracy_table(
    rows: Sequence[Mapping[str, Any]],
    published: Mapping[str, Sequence[float | None]] | None = None,
) -> list[list[str]]:
    """Cells of an accuracy table, with a header row.

    Args:
        rows: each with `model`, `clean_accuracy`, `robust_accuracy` (shares in [0, 1]
            by radius as printed), and perhaps `matmul_precision`.
        published: for models by name, the paper's shares in the order of the columns;
            printed in brackets behind ours.

    Warns:
        PrecisionWarning: if attacks ran at different precisions of matrix products.
    """
    _warn_of_precisions(rows)
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


def interval_table(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The accuracy table, each share with its 95 % Wilson interval.

    A row with `certified`, the fields of a `CertifiedRow`, has two lines: what attacks
    left, and what is proven.

    Warns:
        PrecisionWarning: if attacks ran at different precisions of matrix products.
    """
    _warn_of_precisions(rows)
    radii = list(dict.fromkeys(key for row in rows for key in row["robust_accuracy"]))
    cells = [["model", "clean", *(f"ε = {radius}" for radius in radii)]]
    for row in rows:
        for name, shares, intervals in _lines(row):
            found = [(row["clean_accuracy"], row["clean_interval"])]
            found += [(shares.get(radius), intervals.get(radius)) for radius in radii]
            cells.append([name, *(share_with_interval(*each) for each in found)])
    return cells


def _lines(row: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Name, shares and intervals of a row: attacked, and what is certified."""
    name, proven = row["model"], row.get("certified")
    attacked = row["robust_accuracy"], row["robust_interval"]
    if proven is None:
        return [(name, *attacked)]
    below = proven["certified_accuracy"], proven["certified_interval"]
    return [(f"{name}, attacked", *attacked), (f"{name}, certified", *below)]


def certified_table(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """The table of certified accuracies, each with its 95 % Wilson interval.

    Args:
        rows: each with `model` and the fields of a `CertifiedRow`.
    """
    attacked = {
        "robust_accuracy": "certified_accuracy",
        "robust_interval": "certified_interval",
    }
    return interval_table(
        [row | {name: row[ours] for name, ours in attacked.items()} for row in rows]
    )


def method_table(row: Mapping[str, Any], *, has_seconds: bool = True) -> Cells:
    """How many images each method of a certified row was the first to prove.

    Args:
        row: with the fields of a `CertifiedRow`.
        has_seconds: whether to say what it took.
    """
    radii = list(row["certified_accuracy"])
    header = ["first proven by", *(f"ε = {radius}" for radius in radii), "bounds"]
    cells = [header + (["seconds"] if has_seconds else [])]
    for method in row["methods"]:
        counts = [str(method["num_certified"][radius]) for radius in radii]
        line = [method["name"], *counts, str(method["num_bounds"])]
        cells.append(line + ([f"{method['seconds']:.1f}"] if has_seconds else []))
    return cells


def attack_table(row: Mapping[str, Any]) -> list[list[str]]:
    """Robust accuracy after each attack of a row, and how often it was run."""
    radii = list(row["robust_accuracy"])
    header = ["after", *(f"ε = {radius}" for radius in radii), "attacks"]
    clean = ["clean images", *(percent(row["clean_accuracy"]) for _ in radii), ""]
    lines = [
        [
            attack["name"],
            *(percent(attack["robust_accuracy"][radius]) for radius in radii),
            str(attack["num_attacks"]),
        ]
        for attack in row["attacks"]
    ]
    return [header, clean, *lines]


def markdown_table(cells: Cells) -> str:
    """A Markdown table whose first row is the header; first column left."""
    header, *body = cells
    rule = ["---", *["---:"] * (len(header) - 1)]
    lines = [header, rule, *body]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
