"""Accuracy on the training and the test set against some number: Tables 4 and 5."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.input_distribution.cases import Case, Family
from experiments.input_distribution.variants import titled
from experiments.workspace import Workspace
from jaxrobust import plots
from jaxrobust.plots import Figure
from jaxrobust.report import percent

__all__ = [
    "KINDS",
    "Published",
    "Widths",
    "by_width",
    "capacity_table",
    "draw_capacity",
    "published_at",
    "widths_table",
]

KINDS = {
    "standard": ("standard_train_accuracy", "standard_accuracy"),
    "clean": ("clean_train_accuracy", "clean_accuracy"),
    "robust": ("robust_train_accuracy", "robust_accuracy"),
}
"""Of training and test set: standard training, PGD training, and the same attacked."""

Published = Callable[[str, str, float], tuple[float, float] | None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Widths(Family):
    """The variants and widths."""

    variants: tuple[str, ...]
    widths: tuple[float, ...]
    train_size: int | None = None

    def cases(self, seed: int) -> list[Case]:
        """One for each variant and width; narrow ones first, which are trained soon."""
        return [
            Case(
                variant=variant,
                width=width,
                train_size=self.train_size,
                seed=seed,
                has_ensemble=True,
            )
            for width in sorted(self.widths)
            for variant in self.variants
        ]


def by_width(
    config: Widths, workspace: Workspace, published: Published
) -> dict[str, Any]:
    """Train and judge every variant at every width.

    Args:
        config: what to do.
        workspace: where.
        published: the paper's numbers, see `published_at`.
    """
    rows = config.rows(config.cases(workspace.seed), workspace)
    rows.sort(key=lambda row: config.variants.index(row["variant"]))
    drawn = draw_capacity(rows, xlabel="width", field="width", full=1)
    note = (
        f"Shares of {rows[0]['num_train_judged']:,} training and "
        f"{rows[0]['num_test']:,} test images; PGD with {config.evaluation.text} at "
        f"epsilon {config.epsilon:.3g}. The ensemble attacks "
        f"{rows[0]['num_ensemble']:,} test images. In brackets the paper's."
    )
    return {
        "title": "Robust accuracy by width",
        "rows": rows,
        "notes": [note],
        "tables": {"Accuracy": widths_table(rows, published)},
        "figures": {"by width": workspace.save_figure("width", drawn)},
    }


def widths_table(
    rows: Sequence[Mapping[str, Any]], published: Published
) -> list[list[str]]:
    """Cells of the accuracies, see `capacity_table`."""
    return capacity_table(rows, published, column="width", field="width")


def published_at(
    table: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]],
    widths: Sequence[float],
) -> Published:
    """The paper's numbers on the training and on the test set.

    Args:
        table: by kind and variant, a number for each width.
        widths: of the columns.

    Returns:
        `(kind, variant, width) -> (train, test)`, None where the paper has none.
    """

    def at(kind: str, variant: str, width: float) -> tuple[float, float] | None:
        found = table.get(kind, {}).get(variant)
        if found is None or width not in widths:
            return None
        train, test = found
        place = list(widths).index(width)
        return train[place], test[place]

    return at


def capacity_table(
    rows: Sequence[Mapping[str, Any]],
    published: Published,
    *,
    column: str,
    field: str,
) -> list[list[str]]:
    """Cells of accuracies on training and test set, in brackets the paper's.

    Args:
        rows: models.
        published: the paper's numbers, see `published_at`.
        column: heading of what differs between models of a variant.
        field: its name in the rows.
    """
    lines = []
    for row in rows:
        number = row[field]
        named = "all" if number is None else f"{number:,}"
        cells = [titled(row["variant"]), named]
        for kind, names in KINDS.items():
            paper = published(kind, row["variant"], row[field]) or (None, None)
            for name, its in zip(names, paper, strict=True):
                cell = percent(row[name])
                cells.append(cell if its is None else f"{cell} ({its:g})")
        strong = percent(row["ensemble_accuracy"]) if row["has_ensemble"] else ""
        lines.append([*cells, strong])
    header = [
        *("variant", column, "standard: train", "test", "PGD training: train", "test"),
        *("robust: train", "test", "ensemble: test"),
    ]
    return [header, *lines]


def draw_capacity(
    rows: Sequence[Mapping[str, Any]], *, xlabel: str, field: str, full: float
) -> Figure:
    """Robust accuracy of each variant, on the training and on the test set.

    Args:
        rows: models.
        xlabel: what differs between models of a variant.
        field: its name in the rows.
        full: in place of None.
    """
    lines = []
    for variant in dict.fromkeys(row["variant"] for row in rows):
        mine = [row for row in rows if row["variant"] == variant]
        mine.sort(key=lambda row: row[field] or full)
        places = [row[field] or full for row in mine]
        for split, name in zip(("train", "test"), KINDS["robust"], strict=True):
            values = [100 * row[name] for row in mine]
            lines.append(plots.Curve(f"{titled(variant)}, {split}", places, values))
    drawn = plots.curves(lines, xlabel=xlabel, ylabel="robust accuracy (%)")
    drawn.axes[0].set_xscale("log")
    return drawn
