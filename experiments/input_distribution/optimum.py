"""Whether the distribution allows it: the least robust error by variant.

    python -m experiments input_distribution/optimum --preset cpu

Where training on a variant fails, either no function withstands the adversary on its
images, or training did not find one. The least robust error of any function on 2,000
images of each variant tells the two apart; where no two images of different classes are
within twice the radius, it says nothing.

Presets:
    smoke: digits, two variants.
    cpu: the variants of Table 2, 2,000 MNIST images of each; some minutes.
    paper: the same, with ten minutes for each radius.

The paper has no such table; the method is that of Bhagoji, Cullina and Mittal, 2019.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from experiments.input_distribution.variants import BINARY, MNIST, ORIGINAL, titled
from experiments.workspace import Workspace
from jaxrobust.data import apply_variant, load_arrays, subset
from jaxrobust.limits import best_possible
from jaxrobust.report import percent

Norm = Literal["linf", "l2"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Data, variants and radii."""

    dataset: str
    variants: tuple[str, ...]
    radii: tuple[tuple[Norm, float], ...]
    """Norms and radii; the first is that of the tables."""
    num_images: int = 2000
    time_limit: float = 60.0
    """Seconds for the integer program at each radius."""


PRESETS = {
    "smoke": Config(
        dataset="digits",
        variants=(BINARY, ORIGINAL),
        radii=(("linf", 0.3), ("l2", 1.5)),
        num_images=200,
        time_limit=5,
    ),
    "cpu": Config(
        dataset="mnist",
        variants=MNIST,
        radii=(("linf", 0.3), ("l2", 2.0), ("l2", 2.5), ("l2", 3.0)),
    ),
}
PRESETS["paper"] = dataclasses.replace(PRESETS["cpu"], time_limit=600.0)


def _solved(
    variant: str, norm: Norm, epsilon: float, config: Config, workspace: Workspace
) -> dict[str, Any]:
    """The optimum of a variant at a radius, computed once."""

    def compute() -> dict[str, Any]:
        train = load_arrays(config.dataset, "train", data_dir=workspace.data_dir)
        few = apply_variant(subset(train, config.num_images), variant)
        found = best_possible(
            few,
            epsilon=epsilon,
            norm=norm,
            num_examples=len(few),
            time_limit=config.time_limit,
        )
        workspace.say(
            f"{titled(variant)}, {norm} {epsilon:g}: {found.robust_error:.2%}"
        )
        return {
            "num_conflicts": found.num_conflicts,
            "robust_error": found.robust_error,
            "lower_bound": found.lower_bound,
            "is_optimal": found.is_optimal,
        }

    key = [config.dataset, variant, norm, epsilon, config.num_images]
    return workspace.cached("optimum", [*key, config.time_limit], compute)


def run(config: Config, workspace: Workspace) -> Mapping[str, Any]:
    """Solve for every variant at every radius."""
    rows = [
        {
            "variant": variant,
            "norm": norm,
            "epsilon": epsilon,
            **_solved(variant, norm, epsilon, config, workspace),
        }
        for variant in config.variants
        for norm, epsilon in config.radii
    ]
    note = (
        f"{config.num_images:,} training images, the first of each class. No function "
        "of the image errs on less of them under attack. Vacuous: no two images of "
        "different classes are within twice the radius."
    )
    return {
        "title": "The least robust error by variant",
        "rows": rows,
        "notes": [note],
        "tables": {"Least robust error": results_table({"rows": rows})},
    }


def results_table(result: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the table, also from a committed results file."""
    lines = []
    for row in result["rows"]:
        error = percent(row["robust_error"], 2)
        if not row["num_conflicts"]:
            error = "0, vacuous"
        elif not row["is_optimal"]:
            error = f"{percent(row['lower_bound'], 2)} to {error}"
        lines.append(
            [
                *(titled(row["variant"]), row["norm"], f"{row['epsilon']:g}"),
                *(error, f"{row['num_conflicts']:,}"),
            ]
        )
    header = ["variant", "norm", "ε", "least robust error", "pairs in conflict"]
    return [header, *lines]
