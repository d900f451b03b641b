"""Figure 1: what the variants look like, and where their pixels lie.

    python -m experiments input_distribution/figure1 --preset cpu

Images of each variant, and how many pixels have which value.

Presets:
    smoke: digits, binarized and as they are.
    cpu, paper: MNIST and CIFAR-10; a minute.

Differs from the paper: CIFAR-10 is at hand as JPEG of quality 75.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.input_distribution.variants import BINARY, ORIGINAL, titled
from experiments.workspace import Workspace
from jaxrobust import plots
from jaxrobust.data import Dataset, apply_variant, as_float, load_arrays, subset
from jaxrobust.data.statistics import pixel_ends, pixel_histogram
from jaxrobust.report import percent

NUM_BINS = 64
NUM_PICTURES = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Data sets with their variants."""

    cases: tuple[tuple[str, tuple[str, ...]], ...]


PRESETS = {
    "smoke": Config(cases=(("digits", (BINARY, ORIGINAL)),)),
    "cpu": Config(
        cases=(
            ("mnist", (BINARY, ORIGINAL, "smooth(3)", "smooth(5)", "smooth(8)")),
            (
                "cifar10",
                tuple(f"saturate({level:g})" for level in (1, 2, 8, 64, float("inf"))),
            ),
        )
    ),
}
PRESETS["paper"] = PRESETS["cpu"]


def _pixels(test: Dataset, variant: str) -> dict[str, Any]:
    """How many pixels of a variant have which value, and where they end."""
    changed = apply_variant(test, variant)
    found = pixel_histogram(changed, NUM_BINS)
    return {**found._asdict(), "ends": pixel_ends(changed)._asdict()}


def run(config: Config, workspace: Workspace) -> Mapping[str, Any]:
    """Count pixels and draw images."""
    rows, figures = [], {}
    for name, variants in config.cases:
        test = load_arrays(name, "test", data_dir=workspace.data_dir)
        few = subset(test, NUM_PICTURES)
        steps, pictures = {}, []
        for variant in variants:
            found = workspace.cached(
                "pixels",
                [name, variant, NUM_BINS],
                lambda variant=variant, test=test: _pixels(test, variant),
            )
            steps[titled(variant)] = (found["counts"], found["edges"])
            shown = np.asarray(as_float(apply_variant(few, variant).images))
            pictures.append(plots.ImageRow(titled(variant), shown))
            rows.append({"dataset": name, "variant": variant, **found["ends"]})
        drawn = plots.histograms(steps, xlabel="pixel, in [0, 1]")
        figures[f"Pixels of {name}"] = workspace.save_figure(f"figure1-{name}", drawn)
        grid = plots.image_grid(pictures)
        figures[f"Images of {name}"] = workspace.save_figure(
            f"figure1-{name}-images", grid
        )
    note = "Shares of the pixels of all test images."
    if any(name == "cifar10" for name, _ in config.cases):
        note += " CIFAR-10 is CIFAR-10 (JPEG 75)."
    return {
        "title": "Variants and their pixels",
        "rows": rows,
        "notes": [note],
        "tables": {"Pixels": results_table({"rows": rows})},
        "figures": figures,
    }


def results_table(result: Mapping[str, Any]) -> list[list[str]]:
    """Cells of where pixels end, also from a committed results file."""
    lines = [
        [
            *(row["dataset"], titled(row["variant"])),
            *(f"{row['lowest']:.3f}", f"{row['highest']:.3f}"),
            *(percent(row["share_at_0"]), percent(row["share_at_1"])),
        ]
        for row in result["rows"]
    ]
    return [["data", "variant", "lowest", "highest", "at 0", "at 1"], *lines]
