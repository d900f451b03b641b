"""The models of Table 1 beside the limits, as Table 2 has published defenses.

    python -m experiments concentration/comparison --preset cpu

For each model: its clean error and its error under PGD; an error region of the same
risk that grows as little as possible, which is all that concentration of measure
forces; and the least error that any function has on a part of the training images.

Presets:
    smoke: binarized digits, a few epochs; shows that the program runs, nothing else.
    cpu: the models of `table1 --preset cpu`, attacked on 2,000 MNIST test images; about
        10 minutes on 2 cores if table1 has been run (estimated).
    paper: the models of `table1 --preset paper`; wants an accelerator.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.concentration import table1 as concentration
from experiments.large_perturbations import table1
from experiments.workspace import Workspace
from jaxrobust import plots
from jaxrobust.data import Dataset, Split, apply_variant, load_arrays, subset
from jaxrobust.evaluation import evaluate
from jaxrobust.limits import compare
from jaxrobust.training import Run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(table1.Config):
    """The models of Table 1, the radius of each, and the search for limits."""

    radii: Mapping[str, float]
    """By role of the model."""
    num_regions: int = 10
    """Rectangles."""
    num_restarts: int = 10
    num_optimum: int = 2000
    """Training images whose optimum is solved for."""
    search_size: int | None = None
    """Training images of the search; None for all."""
    test_size: int | None = None
    """Test images; None for all."""


def _config(preset: str, **settings: Any) -> Config:
    return Config(**vars(table1.PRESETS[preset]), **settings)


PRESETS = {
    "smoke": _config(
        "smoke",
        radii={table1.EXTENDED: 0.1},
        num_regions=3,
        num_restarts=2,
        num_optimum=100,
        search_size=300,
    ),
    "cpu": _config("cpu", radii=table1.RADII, test_size=2000),
    "paper": _config("paper", radii=table1.RADII),
}


def _compared(
    run: Run, epsilon: float, config: Config, workspace: Workspace
) -> dict[str, Any]:
    """A model's errors and the limits, computed once."""
    pgd = config.evaluation

    def split(name: Split) -> Dataset:
        found = load_arrays(config.dataset, name, data_dir=workspace.data_dir)
        return apply_variant(found, config.variant)

    def compute() -> dict[str, Any]:
        train, test = split("train"), split("test")
        if config.search_size is not None:
            train = subset(train, config.search_size)
        if config.test_size is not None:
            test = subset(test, config.test_size)
        found = compare(
            evaluate(
                run.logits_fn,
                test,
                pgd.attacks,
                [epsilon],
                batch_size=pgd.batch_size,
                seed=workspace.seed,
            ),
            train,
            test,
            epsilon=epsilon,
            num_regions=config.num_regions,
            num_restarts=config.num_restarts,
            num_optimum=config.num_optimum,
            seed=workspace.seed,
            **concentration.neighbor_options(config.dataset, workspace),
        )
        return {"limits": found.as_rows(), "estimate": found.estimate.as_row()}

    search = [config.num_regions, config.num_restarts, config.num_optimum]
    key = [run.directory.name, dataclasses.asdict(pgd), *search]
    key += [epsilon, workspace.seed, config.search_size, config.test_size]
    return workspace.cached("comparison", key, compute)


def run(config: Config, workspace: Workspace) -> Mapping[str, Any]:
    """Compare every model at its radius; train what is missing."""
    load_arrays(config.dataset, "test", data_dir=workspace.data_dir)
    runs = table1.trained(config, workspace, *config.radii)
    rows, figures = [], {}
    for role, epsilon in config.radii.items():
        workspace.say(f"--- comparing {role} at epsilon {epsilon:g}")
        found = _compared(runs[role], epsilon, config, workspace)
        rows.append({"model": role, "epsilon": epsilon, **found})
        title = f"{role}, linf, epsilon {epsilon:g}"
        figure = plots.risk_bars(found["limits"], title=title)
        name = f"comparison-{role.lower()}"
        figures[title] = workspace.save_figure(name, figure)
    notes = [
        f"Data: {next(iter(runs.values())).problem.title}, {_num_images(config)} test "
        f"images, in percent of them. Model: under PGD with {config.evaluation.text}, "
        "which bounds its error from below. Region: of at least the model's risk on "
        f"the training images; mean and deviation over {_restarts(rows)} restarts. "
        f"Any function: on {config.num_optimum:,} training images.",
        *_remarks(rows),
    ]
    return {
        "title": "Trained models beside the limits",
        "rows": rows,
        "notes": notes,
        "tables": {"Risk and adversarial risk": results_table({"rows": rows})},
        "figures": figures,
    }


def _num_images(config: Config) -> str:
    return "all" if config.test_size is None else f"{config.test_size:,}"


def _restarts(rows: Sequence[Mapping[str, Any]]) -> str:
    counts = {len(row["estimate"]["test"]["restarts"]) for row in rows}
    return " or ".join(map(str, sorted(counts)))


def _remarks(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    above = [
        row["model"]
        for row in rows
        if row["limits"][0]["adversarial_risk"] > row["limits"][1]["adversarial_risk"]
    ]
    if not above:
        return []
    return [
        f"More than concentration forces is lost by: {', '.join(above)}. What these "
        "models lose beyond the region's growth is not explained by it."
    ]


def results_table(result: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the table, also from a committed results file."""
    header = ["model", "ε", "model: risk", "AdvRisk", "region: risk", "AdvRisk"]
    lines = []
    for row in result["rows"]:
        model, region, optimum = row["limits"]
        pairs = [
            f"{100 * model['risk']:.2f}",
            f"{100 * model['adversarial_risk']:.2f}",
            concentration.with_deviation(row["estimate"]["test"], "risk"),
            concentration.with_deviation(row["estimate"]["test"], "adversarial_risk"),
            f"{100 * optimum['adversarial_risk']:.2f}",
        ]
        assert region["name"] == "concentration"
        lines.append([row["model"], f"{row['epsilon']:g}", *pairs])
    return [[*header, "any function: AdvRisk at least"], *lines]
