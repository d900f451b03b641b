"""Table 6: how much of the ball the pixel range leaves to an adversary.

    python -m experiments input_distribution/table6 --preset cpu

Mean log2 of the volume in which an l_inf adversary can move an image: binarized images
leave the least, and yet it is they that can be learned robustly.

Presets:
    smoke: digits.
    cpu, paper: all test images of MNIST and CIFAR-10; a minute.

Differs from the paper: the smoothing is that of its text. Its own numbers belong to a
weaker filter; border modes, disks, filters of the binarized image, Gaussians and means
without a maximum do not give them either. CIFAR-10 is at hand as JPEG of quality 75,
which moves its pixels. The paper cuts its numbers off where here they are rounded.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from experiments.input_distribution.variants import BINARY, ORIGINAL, titled
from experiments.workspace import Workspace
from jaxrobust.data import apply_variant, load_arrays
from jaxrobust.data.statistics import log2_volume, log2_volume_limits

PUBLISHED = {
    ("mnist", BINARY): -1361,
    ("mnist", ORIGINAL): -1297,
    ("mnist", "smooth(3)"): -1265,
    ("mnist", "smooth(5)"): -1234,
    ("cifar10", "saturate(2)"): -12354,
    ("cifar10", "saturate(4)"): -12394,
    ("cifar10", "saturate(8)"): -12477,
    ("cifar10", "saturate(16)"): -12657,
    ("cifar10", "saturate(64)"): -13620,
    ("cifar10", "saturate(256)"): -14747,
    ("cifar10", "saturate(512)"): -15028,
    ("cifar10", "saturate(inf)"): -15342,
}
"""Table 6."""

LEVELS = (2, 4, 8, 16, 64, 256, 512, float("inf"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Data sets, each with its radius and variants."""

    cases: tuple[tuple[str, float, tuple[str, ...]], ...]


PRESETS = {
    "smoke": Config(cases=(("digits", 0.3, (BINARY, ORIGINAL)),)),
    "cpu": Config(
        cases=(
            (
                "mnist",
                0.3,
                (BINARY, ORIGINAL, *(f"smooth({size})" for size in range(2, 9))),
            ),
            ("cifar10", 8 / 255, tuple(f"saturate({level:g})" for level in LEVELS)),
        )
    ),
}
PRESETS["paper"] = PRESETS["cpu"]


def _volumes(
    dataset: str, epsilon: float, variants: tuple[str, ...], workspace: Workspace
) -> list[dict[str, Any]]:
    test = load_arrays(dataset, "test", data_dir=workspace.data_dir)
    limits = log2_volume_limits(test, epsilon)
    return [
        {
            "dataset": dataset,
            "variant": variant,
            "epsilon": epsilon,
            "volume": log2_volume(apply_variant(test, variant), epsilon),
            "limits": list(limits),
        }
        for variant in variants
    ]


def run(config: Config, workspace: Workspace) -> Mapping[str, Any]:
    """Measure all of them."""
    rows = [
        row
        for case in config.cases
        for row in workspace.cached(
            "volumes", list(case), lambda case=case: _volumes(*case, workspace)
        )
    ]
    note = (
        "Mean over the test images of the log2 of the volume that the pixel range "
        "leaves of an l_inf ball; the limits are those of images of zeros and ones, "
        "and of images without a pixel near them. In brackets the paper's."
    )
    if any(row["dataset"] == "cifar10" for row in rows):
        note += " CIFAR-10 is CIFAR-10 (JPEG 75)."
    return {
        "title": "Perturbable volume",
        "rows": rows,
        "notes": [note],
        "tables": {"log2 volume": results_table({"rows": rows})},
    }


def results_table(result: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the volumes, also from a committed results file."""
    lines = []
    for row in result["rows"]:
        paper = PUBLISHED.get((row["dataset"], row["variant"]))
        bracket = "" if paper is None else f" ({paper:,})"
        low, high = row["limits"]
        lines.append(
            [
                *(row["dataset"], titled(row["variant"]), f"{row['epsilon']:.3g}"),
                f"{row['volume']:,.2f}{bracket}",
                f"{low:,.0f} to {high:,.0f}",
            ]
        )
    return [["data", "variant", "ε", "log2 volume", "limits"], *lines]
