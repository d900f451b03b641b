"""Table 5: concentration in l2, by balls.

    python -m experiments concentration/table5 --preset cpu

For each radius a union of T balls of training risk alpha (1 + slack) that grows little
(Algorithm 2). The l2 radius is sqrt(n / pi) times the linf radius of Table 1.

Presets:
    smoke: digits; shows that the program runs, nothing else.
    cpu: the MNIST rows.
    cifar10: the CIFAR-10 rows; the lists of neighbors take 2 GB on disk.
    paper: all rows, those whose data are not prepared as missing.

The slack is not in the paper: it is that of the authors' code for MNIST and CIFAR-10,
and what the published training risks tell for the others.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from experiments.concentration import table1
from experiments.concentration.table1 import COLUMNS, NAMES, Case, cases
from experiments.workspace import Workspace
from jaxrobust.concentration import (
    Candidates,
    candidate_balls,
    equal_volume_epsilon,
    estimate_l2,
)

SLACK = {"mnist": 0.25, "fashion_mnist": 0.05}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(table1.Config):
    """Rows, and what they share."""

    max_centers: int | None = None
    """Centers that balls may have, drawn at random; None for all training points."""
    l2_epsilon: float | None = None
    """The radius itself; None for the rule."""


MNIST = cases("mnist", 0.01, dict.fromkeys(("0.1", "0.2", "0.3"), 20))
CIFAR10 = cases("cifar10", 0.05, dict.fromkeys(("2/255", "4/255", "8/255"), 5))
FASHION = cases("fashion_mnist", 0.05, dict.fromkeys(("0.1", "0.2", "0.3"), 10))
SVHN = cases("svhn_cropped", 0.05, dict.fromkeys(("0.01", "0.02", "0.03"), 10))

PRESETS = {
    "smoke": Config(cases=cases("digits", 0.05, {"0.1": 3, "0.3": 10})),
    "cpu": Config(cases=MNIST),
    "cifar10": Config(cases=CIFAR10),
    "paper": Config(cases=(*MNIST, *CIFAR10, *FASHION, *SVHN)),
}

PUBLISHED = {
    # Risk on train and test, AdvRisk on train and test, in percent. Table 5.
    ("mnist", "0.1"): (1.25, 1.07, 2.23, 2.19),
    ("mnist", "0.2"): (1.25, 1.02, 4.35, 4.15),
    ("mnist", "0.3"): (1.25, 1.07, 10.71, 10.09),
    ("cifar10", "2/255"): (5.00, 5.16, 5.22, 5.53),
    ("cifar10", "4/255"): (5.00, 5.14, 5.61, 5.83),
    ("cifar10", "8/255"): (5.00, 5.12, 6.38, 6.56),
    ("fashion_mnist", "0.1"): (5.25, 5.07, 7.84, 7.77),
    ("fashion_mnist", "0.2"): (5.25, 4.99, 15.95, 16.23),
    ("fashion_mnist", "0.3"): (5.25, 5.21, 19.76, 20.10),
    ("svhn_cropped", "0.01"): (5.00, 6.92, 5.24, 7.34),
    ("svhn_cropped", "0.02"): (5.00, 7.30, 5.59, 8.16),
    ("svhn_cropped", "0.03"): (5.00, 7.56, 5.96, 8.94),
}


class Splits(table1.Splits):
    """The splits of data sets, and the balls that they may be covered by."""

    def __init__(self, config: Config, workspace: Workspace):
        super().__init__(config, workspace)
        self._max_centers, self._seed = config.max_centers, workspace.seed
        self._candidates: dict[tuple[str, float], Candidates] = {}

    def candidates(self, name: str, alpha: float) -> Candidates:
        """Centers of balls and their neighbors."""
        if (name, alpha) not in self._candidates:
            self._candidates.clear()
            self._candidates[name, alpha] = candidate_balls(
                self(name)[0].images,
                alpha,
                max_centers=self._max_centers,
                seed=self._seed,
                **table1.neighbor_options(name, self._workspace),
            )
        return self._candidates[name, alpha]


def radius_of(case: Case, config: Config, splits: table1.Splits) -> float:
    """The l2 radius of a row."""
    if config.l2_epsilon is not None:
        return config.l2_epsilon
    return equal_volume_epsilon(case.radius, splits(case.dataset)[0].images[0].size)


def estimated(
    case: Case, config: Config, splits: Splits, workspace: Workspace
) -> dict[str, Any]:
    """The numbers of a row, computed once."""

    def compute() -> dict[str, Any]:
        _, test = splits(case.dataset)
        found = estimate_l2(
            splits.candidates(case.dataset, case.alpha),
            test.images,
            epsilon=radius_of(case, config, splits),
            alpha=case.alpha,
            num_balls=case.num_regions,
            slack=SLACK.get(case.dataset, 0.0),
            seed=workspace.seed,
        )
        adversarial = found.mean("test").adversarial_risk
        workspace.say(f"{case.dataset}, {found.epsilon:.4f}: AdvRisk {adversarial:.2%}")
        return found.as_row()

    shared = dataclasses.asdict(config) | {"cases": None}
    key = [dataclasses.asdict(case), shared, SLACK, workspace.seed]
    return workspace.cached("balls", key, compute)


def published(case: Case) -> dict[str, Any] | None:
    """The paper's numbers for a row, as shares."""
    found = PUBLISHED.get((case.dataset, case.epsilon))
    return None if found is None else table1.shares([(each, None) for each in found])


def run(config: Config, workspace: Workspace) -> Mapping[str, Any]:
    """Estimate all rows."""
    splits = Splits(config, workspace)
    rows = table1.rows_of(
        config,
        splits,
        lambda case: estimated(case, config, splits, workspace),
        published,
    )
    return {
        "title": "Concentration in l2",
        "rows": rows,
        "notes": [*table1.notes(rows), "Nothing is random; selected on training data."],
        "tables": {"Unions of balls": results_table({"rows": rows})},
    }


def results_table(result: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the table, also from a committed results file."""
    header = ["data", "alpha", "ε in l2", "T"]
    header += [f"{NAMES[name]}, {split}" for split, name in COLUMNS]
    lines = []
    for row in result["rows"]:
        is_missing = bool(row.get("missing"))
        lines.append(
            [
                row["dataset"] + " (missing)" if is_missing else row["title"],
                f"{row['alpha']:g}",
                f"rule of {row['linf_epsilon']}"
                if is_missing
                else f"{row['epsilon']:.4f}",
                "-" if is_missing else str(row["num_regions"]),
                *table1.cells_of(row),
            ]
        )
    return [header, *lines]
