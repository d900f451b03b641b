"""Figure 1: risk against the share that is covered, AdvRisk against rectangles.

    python -m experiments concentration/figure1 --preset cpu

Left (F1a): risk and AdvRisk for quantiles q at a fixed number T of rectangles. Right
(F1b): AdvRisk at the best q for each T. Figures 2 and 3 are the same for other radii.

Presets:
    smoke: digits, a few points; shows that the program runs, nothing else.
    cpu: MNIST .3.
    cifar10: CIFAR-10 8/255.
    paper: F1a for CIFAR-10 8/255, F1b for both.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.concentration import table1
from experiments.concentration.table1 import Case, cases
from experiments.workspace import Workspace
from jaxrobust import plots
from jaxrobust.concentration import cover, search_quantile, visit
from jaxrobust.plots import Curve


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(table1.Config):
    """Data sets and radii; `cases` are those of F1b, with all numbers T."""

    by_quantile: tuple[Case, ...]
    """Those of F1a, with one number T each."""
    quantiles: tuple[float, ...] = tuple(
        round(0.4 + 0.04 * index, 2) for index in range(15)
    )


NUMBERS = (1, 2, 5, 10, 15, 20, 30, 40)

CIFAR10 = Config(
    cases=cases("cifar10", 0.05, {"8/255": NUMBERS}),
    by_quantile=cases("cifar10", 0.05, {"8/255": 30}),
)

PRESETS = {
    "smoke": Config(
        cases=cases("digits", 0.05, {"0.1": (1, 3)}),
        by_quantile=cases("digits", 0.05, {"0.1": 3}),
        quantiles=(0.5, 0.9),
        train_size=300,
        num_neighbors=10,
    ),
    "cpu": Config(
        cases=cases("mnist", 0.01, {"0.3": NUMBERS[:6]}),
        by_quantile=cases("mnist", 0.01, {"0.3": 10}),
    ),
    "cifar10": CIFAR10,
    "paper": Config(
        cases=(*cases("mnist", 0.01, {"0.3": NUMBERS}), *CIFAR10.cases),
        by_quantile=CIFAR10.by_quantile,
    ),
}


def _measured(
    case: Case, config: Config, splits: table1.Splits, workspace: Workspace, kind: str
) -> list[dict[str, Any]]:
    """The points of a panel, computed once."""

    def by_quantile() -> list[dict[str, Any]]:
        points = splits.sorted(case.dataset)
        (number,) = case.num_regions
        found = []
        for quantile in config.quantiles:
            (region,) = cover(points, quantile, number, seed=workspace.seed)
            about = {"quantile": quantile, "num_rectangles": number}
            found.append(visit(points, region, case.radius, case.alpha, **about))
        return list(map(dataclasses.asdict, found))

    def by_number() -> list[dict[str, Any]]:
        points = splits.sorted(case.dataset)
        found = []
        for number in case.num_regions:
            visits = search_quantile(
                points,
                number,
                epsilon=case.radius,
                alpha=case.alpha,
                seed=workspace.seed,
            )
            feasible = [each for each in visits if each.is_feasible]
            found += sorted(feasible, key=lambda each: each.train.adversarial_risk)[:1]
        return list(map(dataclasses.asdict, found))

    shared = [config.train_size, config.num_neighbors, workspace.seed]
    key = [dataclasses.asdict(case), config.quantiles, kind, *shared]
    compute = by_quantile if kind == "quantile" else by_number
    # Risks are pairs, in JSON lists.
    return workspace.cached(f"by-{kind}", key, compute)


def _drawn(rows: Sequence[Mapping[str, Any]], kind: str) -> Any:
    x = [row["quantile"] if kind == "quantile" else row["num_regions"] for row in rows]
    names = (
        ("risk", "adversarial_risk") if kind == "quantile" else ("adversarial_risk",)
    )
    lines = [
        Curve(f"{table1.NAMES[name]}, {split}", x, [row[split][name] for row in rows])
        for name in names
        for split in ("train", "test")
    ]
    return plots.curves(
        lines,
        xlabel="share covered, q" if kind == "quantile" else "rectangles, T",
        ylabel="share of the points",
        levels={"alpha": rows[0]["alpha"]},
    )


def run(
    config: Config, workspace: Workspace, name: str = "figure1"
) -> Mapping[str, Any]:
    """Measure and draw all panels."""
    splits = table1.Splits(config, workspace)
    rows, figures, titles = [], {}, []
    panels = [("quantile", case) for case in config.by_quantile]
    panels += [("number", case) for case in config.cases]
    for kind, case in panels:
        title = splits(case.dataset)[1].title
        titles.append(title)
        found = [
            {
                "panel": kind,
                "dataset": title,
                "epsilon": case.epsilon,
                "alpha": case.alpha,
                "num_regions": each["num_regions"],
                "quantile": each["quantile"],
                "train": _risks(each["train"]),
                "test": _risks(each["test"]),
            }
            for each in _measured(case, config, splits, workspace, kind)
        ]
        if not found:
            continue
        rows += found
        radius = case.epsilon.replace("/", "-")
        file = f"{name}-{case.dataset}-{radius}-{kind}"
        caption = f"{title}, ε = {case.epsilon}, by {kind}"
        figures[caption] = workspace.save_figure(file, _drawn(found, kind))
    return {
        "title": "Concentration against quantiles and numbers of rectangles",
        "rows": rows,
        "notes": [f"Data: {', '.join(dict.fromkeys(titles))}. One start of k-means."],
        "tables": {"Points of the figures": results_table({"rows": rows})},
        "figures": figures,
    }


def _risks(pair: Sequence[float]) -> dict[str, float]:
    return dict(zip(("risk", "adversarial_risk"), pair, strict=True))


def results_table(result: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the points, also from a committed results file."""
    header = ["data", "ε", "T", "q"]
    header += [f"{table1.NAMES[name]}, {split}" for split, name in table1.COLUMNS]
    lines = [
        [
            row["dataset"],
            row["epsilon"],
            str(row["num_regions"]),
            f"{row['quantile']:.3f}",
            *(f"{100 * row[split][name]:.2f}" for split, name in table1.COLUMNS),
        ]
        for row in result["rows"]
    ]
    return [header, *lines]
