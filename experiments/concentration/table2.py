"""Table 2: what the best defenses lose, and what concentration accounts for.

    python -m experiments concentration/table2 --preset cpu

A published defense has a risk and a risk under attack. An error region of that risk
that grows less shows that concentration does not explain the difference.

Presets:
    smoke: digits; shows that the program runs, nothing else.
    cpu: the MNIST rows.
    cifar10: the CIFAR-10 row.
    paper: all rows.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from experiments.concentration import table1, table5
from experiments.concentration.table1 import Case, cases
from experiments.workspace import Workspace


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """The rows in linf, and those in l2."""

    linf: table1.Config
    l2: table5.Config | None


# The radius is printed as it is; there is no linf radius behind it.
SCHOTT = cases("mnist", 0.01, {"1.5": 20})

CIFAR10 = cases("cifar10", 0.127, {"8/255": 40})

PRESETS = {
    "smoke": Config(
        linf=table1.PRESETS["smoke"],
        l2=dataclasses.replace(table5.PRESETS["smoke"], l2_epsilon=0.5),
    ),
    "cpu": Config(
        linf=table1.Config(cases=cases("mnist", 0.012, {"0.3": 10})),
        l2=table5.Config(cases=SCHOTT, l2_epsilon=1.5),
    ),
    "cifar10": Config(linf=table1.Config(cases=CIFAR10), l2=None),
    "paper": Config(
        linf=table1.Config(cases=(*cases("mnist", 0.012, {"0.3": 10}), *CIFAR10)),
        l2=table5.Config(cases=SCHOTT, l2_epsilon=1.5),
    ),
}

PUBLISHED = {
    # A defense with its risk and AdvRisk, and the paper's region, in percent. Table 2.
    ("mnist", "0.3"): ("Madry et al.", 1.20, 10.70, (1.35, 0.08), (8.28, 0.22)),
    ("mnist", "1.5"): ("Schott et al.", 1.00, 20.00, (1.08, None), (2.12, None)),
    ("cifar10", "8/255"): (
        *("Madry et al.", 12.70, 52.96),
        *((14.22, 0.46), (29.21, 0.35)),
    ),
}


def _published(case: Case) -> dict[str, Any] | None:
    found = PUBLISHED.get((case.dataset, case.epsilon))
    if found is None:
        return None
    defense, risk, adversarial, *region = found
    names = ("risk", "adversarial_risk")
    return {
        "defense": defense,
        "risk": risk / 100,
        "adversarial_risk": adversarial / 100,
        "mean": {name: each[0] / 100 for name, each in zip(names, region, strict=True)},
        "sd": {
            name: each[1] and each[1] / 100
            for name, each in zip(names, region, strict=True)
        },
    }


def run(config: Config, workspace: Workspace) -> Mapping[str, Any]:
    """Estimate all rows."""
    linf, l2 = config.linf, config.l2
    splits = table1.Splits(linf, workspace)
    rows = table1.rows_of(
        linf,
        splits,
        lambda case: table1.estimated(case, linf, splits, workspace),
        _published,
    )
    if l2 is not None:
        balls = table5.Splits(l2, workspace)
        rows += table1.rows_of(
            l2,
            balls,
            lambda case: table5.estimated(case, l2, balls, workspace),
            _published,
        )
    return {
        "title": "Concentration and published defenses",
        "rows": rows,
        "notes": table1.notes(rows),
        "tables": {"On the test split": results_table({"rows": rows})},
    }


def results_table(result: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the table, also from a committed results file."""
    header = ["data", "norm", "ε", "T", "defense: risk", "AdvRisk"]
    header += ["region: risk", "AdvRisk"]
    lines = []
    for row in result["rows"]:
        paper = row["published"]
        is_missing = bool(row.get("missing"))
        line = [row["dataset"] if is_missing else row["title"]]
        line += ["-" if is_missing else row["norm"]]
        line += [row["linf_epsilon"] if is_missing else f"{row['epsilon']:.4g}"]
        line += ["-" if is_missing else str(row["num_regions"])]
        line += (
            [
                f"{paper['defense']}: {100 * paper['risk']:.2f}",
                f"{100 * paper['adversarial_risk']:.2f}",
            ]
            if paper
            else ["-", "-"]
        )
        for name in ("risk", "adversarial_risk"):
            ours = "-" if is_missing else table1.with_deviation(row["test"], name)
            theirs = f" ({table1.with_deviation(paper, name)})" if paper else ""
            line.append(ours + theirs)
        lines.append(line)
    return [header, *lines]
