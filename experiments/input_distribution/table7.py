"""Table 7: robust accuracy with and without the pixel range as a bound.

    python -m experiments input_distribution/table7 --preset cpu

The models of Table 2 attacked by PGD that may leave [0, 1]; training keeps to it.

Presets:
    smoke, cpu, paper: the models of these presets of `table2`, which are trained once.

Differs from the paper: CIFAR-10's levels, the other half, are in the results of
`table3`.
"""

from collections.abc import Mapping
from typing import Any

from experiments.input_distribution import table2
from experiments.input_distribution.comparing import Variants, by_variant, shown
from experiments.input_distribution.published import TABLE7
from experiments.input_distribution.variants import titled
from experiments.workspace import Workspace

PRESETS = table2.PRESETS


def run(config: Variants, workspace: Workspace) -> Mapping[str, Any]:
    """Judge the models of Table 2, which are trained if need be."""
    rows = by_variant(config.rows(config.cases, workspace))
    note = (
        f"PGD with {config.evaluation.text} at epsilon {config.epsilon:.3g}, which "
        "keeps to [0, 1] or not; the models are those of Table 2. In brackets the "
        "paper's, at its full width."
    )
    found = {"rows": rows, "config": vars(config)}
    return {
        "title": "The pixel range as a bound",
        "rows": rows,
        "notes": [note],
        "tables": {"Robust accuracy": results_table(found)},
    }


def results_table(result: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the accuracies, also from a committed results file."""
    has_paper = result["config"]["dataset"] == "mnist"
    lines = []
    for row in result["rows"]:
        cells = [
            shown(row["models"], field)
            for field in ("robust_accuracy", "robust_without_box")
        ]
        if has_paper and row["variant"] in TABLE7:
            paper = TABLE7[row["variant"]]
            cells = [
                f"{cell} ({its:g})" for cell, its in zip(cells, paper, strict=True)
            ]
        lines.append([titled(row["variant"]), *cells])
    return [["variant", "within [0, 1]", "without the bound"], *lines]
