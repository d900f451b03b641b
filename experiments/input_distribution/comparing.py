"""Variants of a data set beside each other: the form of Tables 2 and 3 and Figure 3."""

import dataclasses
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from experiments.input_distribution.cases import Case, Family
from experiments.input_distribution.variants import titled
from experiments.workspace import Workspace
from jaxrobust import plots
from jaxrobust.plots import Figure
from jaxrobust.report import percent

__all__ = ["Variants", "by_variant", "compared", "shown", "variants_table"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variants(Family):
    """The variants and seeds."""

    variants: tuple[str, ...]
    width: float
    train_size: int | None = None
    seeds: tuple[int, ...] = (0,)

    @property
    def cases(self) -> list[Case]:
        """One for each seed and variant; the ensemble judges the first seed's."""
        return [
            Case(
                variant=variant,
                width=self.width,
                train_size=self.train_size,
                seed=seed,
                has_ensemble=seed == self.seeds[0],
            )
            for seed in self.seeds
            for variant in self.variants
        ]


def compared(
    config: Variants,
    workspace: Workspace,
    *,
    title: str,
    figure: str,
    published: Mapping[str, Sequence[Any]],
) -> dict[str, Any]:
    """Train and judge every variant with every seed.

    Args:
        config: what to do.
        workspace: where.
        title: of the report.
        figure: its name, such as "figure2a".
        published: the paper's numbers, see `variants_table`.
    """
    rows = by_variant(config.rows(config.cases, workspace))
    drawn = workspace.save_figure(figure, _draw(rows))
    return {
        "title": title,
        "rows": rows,
        "notes": [_note(config, rows)],
        "tables": {"Accuracy": variants_table(rows, published)},
        "figures": {figure: drawn},
    }


def by_variant(models: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the table: a variant, and its models by seed."""
    variants = dict.fromkeys(each["variant"] for each in models)
    return [
        {
            "variant": variant,
            "models": [each for each in models if each["variant"] == variant],
        }
        for variant in variants
    ]


def _note(config: Variants, rows: Sequence[Mapping[str, Any]]) -> str:
    first = rows[0]["models"][0]
    counts = sorted({len(row["models"]) for row in rows})
    several = f", mean ± standard deviation over {' to '.join(map(str, counts))} seeds"
    return (
        f"Shares of {first['num_test']:,} test images"
        f"{'' if counts == [1] else several}; PGD with {config.evaluation.text} at "
        f"epsilon {config.epsilon:.3g}. The ensemble attacks {config.ensemble_size:,} "
        "of the test images, for the first seed; behind it PGD on the same images. In "
        "brackets after each share the paper's, where it has one."
        f"{_missing(config, rows)}"
    )


def _missing(config: Variants, rows: Sequence[Mapping[str, Any]]) -> str:
    """What of the preset is not known yet."""
    known = sum(len(row["models"]) for row in rows)
    if known == len(config.cases):
        return ""
    return (
        f" {known} of the {len(config.cases)} models of this preset are trained so "
        "far, in the order of variants and seeds."
    )


def shown(models: Sequence[Mapping[str, Any]], field: str) -> str:
    """Mean of a share over models, in percent, and its standard deviation."""
    shares = [model[field] for model in models]
    if len(shares) < 2:
        return percent(shares[0])
    return f"{100 * fmean(shares):.1f} ± {100 * stdev(shares):.1f} %"


def variants_table(
    rows: Sequence[Mapping[str, Any]], published: Mapping[str, Sequence[Any]]
) -> list[list[str]]:
    """Cells of the accuracies.

    Args:
        rows: as `by_variant` makes them.
        published: by variant what the paper prints in the first four columns.
    """
    fields = ("standard_accuracy", "clean_accuracy", "robust_accuracy")
    lines = []
    for row in rows:
        models = row["models"]
        cells = [shown(models, each) for each in (*fields, "robust_predictions")]
        paper = published.get(row["variant"])
        if paper is not None:
            cells = [f"{cell} ({its})" for cell, its in zip(cells, paper, strict=True)]
        lines.append([titled(row["variant"]), *cells, _by_ensemble(models)])
    header = [
        *("variant", "standard training", "PGD training: clean", "robust"),
        *("predictions that stay", "ensemble (PGD)"),
    ]
    return [header, *lines]


def _by_ensemble(models: Sequence[Mapping[str, Any]]) -> str:
    """Accuracy under the ensemble, and under PGD on the same images."""
    judged = [each for each in models if each["has_ensemble"]]
    if not judged:
        return ""
    strong, weak = (
        percent(judged[0][field]) for field in ("ensemble_accuracy", "pgd_on_the_same")
    )
    return f"{strong} ({weak})"


def _draw(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Accuracies by variant."""
    places = list(range(len(rows)))
    fields = {
        "standard training": "standard_accuracy",
        "PGD training, clean": "clean_accuracy",
        "PGD training, robust": "robust_accuracy",
    }
    lines = [
        plots.Curve(
            label,
            places,
            [100 * fmean(each[field] for each in row["models"]) for row in rows],
        )
        for label, field in fields.items()
    ]
    drawn = plots.curves(lines, xlabel="", ylabel="accuracy (%)")
    names = [titled(row["variant"]) for row in rows]
    drawn.axes[0].set_xticks(places, names, rotation=45, ha="right")
    return drawn
