"""Table 1: as far apart, but not as robust.

    python -m experiments input_distribution/table1 --preset cpu

Images are scaled towards gray until their classes are as far apart as those of smoothed
images: if the distance between classes decided robustness, the three would be equally
robust.

Presets:
    smoke: digits, one smoothing; shows that the program runs.
    cpu: MNIST and a quarter of the paper's width; an hour on 2 cores.
    paper: MNIST and the paper's settings; wants an accelerator.

Differs from the paper: factors follow from the distances that are measured here, of the
test images; those of smoothed images are smaller than the paper's, since its filter was
weaker than its text (Table 6).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from experiments.input_distribution.apart import distance
from experiments.input_distribution.cases import Case, Family, asking, require_known
from experiments.input_distribution.families import digits, mnist, mnist_paper
from experiments.input_distribution.variants import BINARY, ORIGINAL
from experiments.workspace import Workspace
from jaxrobust.report import percent

PUBLISHED = {
    3: (7.12, 91.3, 0.970, 94.6, 0.821, 98.6),
    4: (7.01, 90.3, 0.955, 95.5, 0.809, 98.6),
    5: (6.85, 89.6, 0.932, 94.9, 0.790, 98.5),
}
"""By size of the smoothing: the distance, its robust accuracy; factor and robust
accuracy of the scaled original, and of the scaled binarized images."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Family):
    """The sizes of smoothing."""

    sizes: tuple[int, ...]
    width: float


PRESETS = {
    "smoke": asking(Config, digits(), sizes=(2,), width=0.25),
    "cpu": asking(Config, mnist(ensemble_size=500), sizes=(3, 5), width=0.25),
    "paper": asking(Config, mnist_paper(), sizes=(3, 4, 5), width=1.0),
}


def _variants(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """Of a row: smoothed, the original scaled, the binarized scaled."""
    factors = row["factors"]
    return (
        f"smooth({row['size']})",
        f"scale({factors[ORIGINAL]:g})",
        f"binary+scale({factors[BINARY]:g})",
    )


def scaled(config: Config, workspace: Workspace) -> list[dict[str, Any]]:
    """Distance, factors, and the models that are known: all three of a size, or none.

    Args:
        config: what to do.
        workspace: where.
    """
    whole = {
        variant: distance(config.dataset, variant, workspace)
        for variant in (ORIGINAL, BINARY)
    }
    rows = []
    for size in config.sizes:
        smoothed = distance(config.dataset, f"smooth({size})", workspace)
        # Three digits, as in the paper, so that the variant can be written down.
        factors = {name: round(smoothed / its, 3) for name, its in whole.items()}
        row = {"size": size, "distance": smoothed, "factors": factors}
        rows.append({**row, "unscaled": whole})
    cases = [
        Case(
            variant=variant,
            width=config.width,
            seed=workspace.seed,
            # As in Table 2, which has the smoothed ones, too.
            has_ensemble=True,
        )
        for row in rows
        for variant in _variants(row)
    ]
    found = {model["variant"]: model for model in config.known(cases, workspace)}
    return [
        {**row, "models": [found[variant] for variant in _variants(row)]}
        for row in rows
        if set(_variants(row)) <= set(found)
    ]


def run(config: Config, workspace: Workspace) -> Mapping[str, Any]:
    """Measure the distances, scale, train and judge."""
    rows = require_known(scaled(config, workspace), workspace)
    apart = rows[0]["unscaled"]
    note = (
        f"Distances between classes of the test images: {apart[ORIGINAL]:.3f} for the "
        f"original, {apart[BINARY]:.3f} for the binarized ones. Robust accuracy under "
        f"PGD with {config.evaluation.text} at epsilon {config.epsilon:.3g}. In "
        "brackets the paper's, at its full width."
    )
    return {
        "title": "Equal distance, different robustness",
        "rows": rows,
        "notes": [note],
        "tables": {
            "Robust accuracy": results_table({"rows": rows, "config": vars(config)})
        },
    }


def results_table(result: Mapping[str, Any]) -> list[list[str]]:
    """Cells of distances, factors and accuracies, also from a committed file."""
    has_paper = result["config"]["dataset"] == "mnist"
    lines = []
    for row in result["rows"]:
        shares = [percent(model["robust_accuracy"]) for model in row["models"]]
        factors = [f"{row['factors'][each]:.3f}" for each in (ORIGINAL, BINARY)]
        cells = [
            *(f"{row['distance']:.2f}", shares[0], factors[0], shares[1]),
            *(factors[1], shares[2]),
        ]
        paper = PUBLISHED.get(row["size"]) if has_paper else None
        if paper is not None:
            cells = [
                f"{cell} ({its:g})" for cell, its in zip(cells, paper, strict=True)
            ]
        lines.append([str(row["size"]), *cells])
    header = [
        *("smoothed", "distance", "robust", "factor of the original", "robust"),
        *("factor of the binarized", "robust"),
    ]
    return [header, *lines]
