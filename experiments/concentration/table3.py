"""Table 3: concentration in l2, by a half-space and by balls.

    python -m experiments concentration/table3 --preset cpu

The baseline is the half-space along the first principal component. Beside the
paper's two columns: the best half-space among twenty components, random directions, and
directions towards longer tails, selected on the training split.

Presets:
    smoke: digits; shows that the program runs, nothing else.
    cpu: the MNIST rows.
    cifar10: the CIFAR-10 rows.
    paper: both.
"""

from collections.abc import Mapping
from typing import Any

from experiments.concentration import table1, table5
from experiments.concentration.table1 import Case
from experiments.concentration.table5 import Config, Splits
from experiments.workspace import Workspace
from jaxrobust.concentration import estimate_half_space

PRESETS = {
    "smoke": table5.PRESETS["smoke"],
    "cpu": Config(cases=table5.MNIST),
    "cifar10": Config(cases=table5.CIFAR10),
    "paper": Config(cases=(*table5.MNIST, *table5.CIFAR10)),
}

METHODS = {
    "half-space": "first principal component",
    "best half-space": "best half-space",
    "balls": "balls",
}

PUBLISHED = {
    # Risk and AdvRisk on test, in percent: half-space, balls. Table 3.
    ("mnist", "0.1"): ((1.18, 3.92), (1.07, 2.19)),
    ("mnist", "0.2"): ((1.18, 9.73), (1.02, 4.15)),
    ("mnist", "0.3"): ((1.18, 23.40), (1.07, 10.09)),
    ("cifar10", "2/255"): ((5.27, 5.58), (5.16, 5.53)),
    ("cifar10", "4/255"): ((5.27, 5.93), (5.14, 5.83)),
    ("cifar10", "8/255"): ((5.27, 6.47), (5.12, 6.56)),
}


def half_spaces(
    case: Case, config: Config, splits: Splits, workspace: Workspace, search: Any
) -> dict[str, Any]:
    """The numbers of a half-space, computed once."""

    def compute() -> dict[str, Any]:
        train, test = splits(case.dataset)
        found = estimate_half_space(
            train.images,
            test.images,
            epsilon=table5.radius_of(case, config, splits),
            alpha=case.alpha,
            search=search,
            seed=workspace.seed,
        )
        workspace.say(
            f"{case.dataset}, {search} half-space, l2 {found.epsilon:.4f}: AdvRisk "
            f"{found.mean('test')[1]:.2%}"
        )
        return found.as_row()

    about = [case.dataset, case.epsilon, case.alpha, config.l2_epsilon]
    key = [*about, config.train_size, search, workspace.seed]
    return workspace.cached("half-space", key, compute)


def run(config: Config, workspace: Workspace) -> Mapping[str, Any]:
    """Estimate all rows, by each method."""
    splits = Splits(config, workspace)

    def compute(case: Case) -> dict[str, Any]:
        given = (case, config, splits, workspace)
        return {
            "methods": {
                "half-space": half_spaces(*given, "principal"),
                "best half-space": half_spaces(*given, "best"),
                "balls": table5.estimated(*given),
            }
        }

    def papers(case: Case) -> dict[str, Any] | None:
        found = PUBLISHED.get((case.dataset, case.epsilon))
        if found is None:
            return None
        return {
            name: {"risk": risk / 100, "adversarial_risk": adversarial / 100}
            for name, (risk, adversarial) in zip(
                ("half-space", "balls"), found, strict=True
            )
        }

    rows = table1.rows_of(config, splits, compute, papers)
    balls = [{**row, **row["methods"]["balls"]} for row in rows if "methods" in row]
    return {
        "title": "Concentration in l2: half-spaces and balls",
        "rows": rows,
        "notes": table1.notes(balls),
        "tables": {"On the test split": results_table({"rows": rows})},
    }


def results_table(result: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the table, also from a committed results file."""
    header = ["data", "alpha", "ε in l2"]
    for name in METHODS.values():
        header += [f"{name}: risk", "AdvRisk"]
    lines = []
    for row in result["rows"]:
        line = [row.get("title", row["dataset"]), f"{row['alpha']:g}"]
        methods = row.get("methods")
        line += [f"{methods['balls']['epsilon']:.4f}" if methods else "missing"]
        for method in METHODS:
            paper = (row["published"] or {}).get(method)
            for name in ("risk", "adversarial_risk"):
                ours = "-"
                if methods:
                    ours = f"{100 * methods[method]['test']['mean'][name]:.2f}"
                line.append(ours + (f" ({100 * paper[name]:.2f})" if paper else ""))
        lines.append(line)
    return [header, *lines]
