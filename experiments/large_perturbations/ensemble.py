"""The models of Table 1 under the standard ensemble, and PGD on the same images.

    python -m experiments large_perturbations/ensemble --preset cpu

The paper attacks its models with PGD. Here they face Auto-PGD on two losses, targeted
FAB and Square as well, each on what the others left (AutoAttack's order): the
ensemble's accuracy can only be lower, and how much lower says how far PGD's can be
believed.
Started again after a kill, it goes on where it was, within an attack too.

Presets:
    smoke: binarized digits, few steps and images; shows that the program runs.
    cpu: the models of `table1 --preset cpu` and 1,000 MNIST test images; about an hour
        on 2 cores.
    paper: the models of `table1 --preset paper`, every test image; wants an
        accelerator.

Differs from the paper: it has no such attacks.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.judging import ByEnsemble
from experiments.large_perturbations import table1
from experiments.workspace import Workspace
from jaxrobust.data import apply_variant, load_arrays, subset
from jaxrobust.evaluation import evaluate, wilson_interval
from jaxrobust.report import percent
from jaxrobust.training import Run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(table1.Config):
    """The models of Table 1, the radius of each, and the attacks."""

    radii: Mapping[str, float]
    """By role of the model."""
    ensemble: ByEnsemble = ByEnsemble()
    test_size: int | None = None
    """Test images; None for all."""


def _config(preset: str, **settings: Any) -> Config:
    return Config(**vars(table1.PRESETS[preset]), **settings)


PRESETS = {
    "smoke": _config(
        "smoke",
        radii={table1.EXTENDED: 0.1},
        ensemble=ByEnsemble(num_steps=5, num_targets=2, num_queries=20),
        test_size=60,
    ),
    "cpu": _config("cpu", radii=table1.RADII, test_size=1000),
    "paper": _config("paper", radii=table1.RADII),
}


def _attacked(
    run: Run, epsilon: float, config: Config, workspace: Workspace
) -> dict[str, Any]:
    pgd = config.evaluation
    key = [
        *(run.directory.name, config.test_size, epsilon, workspace.seed),
        *(dataclasses.asdict(config.ensemble), dataclasses.asdict(pgd)),
    ]

    def compute() -> dict[str, Any]:
        test = load_arrays(config.dataset, "test", data_dir=workspace.data_dir)
        test = test if config.test_size is None else subset(test, config.test_size)
        test = apply_variant(test, config.variant)
        by_pgd = evaluate(
            run.logits_fn,
            test,
            pgd.attacks,
            [epsilon],
            batch_size=pgd.batch_size,
            seed=workspace.seed,
        )
        found = evaluate(
            run.logits_fn,
            test,
            config.ensemble.attacks,
            [epsilon],
            seed=workspace.seed,
            journal=workspace.directory / f"{run.directory.name}.npz",
            report=workspace.say,
        )
        stands, stood = found.at(epsilon), by_pgd.at(epsilon)
        row = found.row()
        return {
            "clean_accuracy": row.clean_accuracy,
            "robust_accuracy": row.robust_accuracy,
            "stages": [
                {
                    "stage": attack.name,
                    "robust_accuracy": attack.robust_accuracy,
                    "num_attacks": attack.num_attacks,
                    "num_passes": attack.num_passes,
                }
                for attack in row.attacks
            ],
            "epsilon": epsilon,
            "num_images": found.num_examples,
            "interval": wilson_interval(int(stands.sum()), found.num_examples),
            "pgd_accuracy": float(stood.mean()),
            "broken_by_pgd_alone": int(np.sum(stands & ~stood)),
            "broken_by_ensemble_alone": int(np.sum(stood & ~stands)),
            "num_bad_gradients": row.num_bad_gradients,
        }

    return workspace.cached("ensemble", key, compute)


def run(config: Config, workspace: Workspace) -> Mapping[str, Any]:
    """Attack every model at its radius; train what is missing."""
    load_arrays(config.dataset, "test", data_dir=workspace.data_dir)
    runs = table1.trained(config, workspace, *config.radii)
    rows = []
    for role, epsilon in config.radii.items():
        workspace.say(f"--- attacking {role} at epsilon {epsilon:g}")
        found = _attacked(runs[role], epsilon, config, workspace)
        rows.append({"model": role, "role": role, **found})
    notes = [
        f"Data: {next(iter(runs.values())).problem.title}, {rows[0]['num_images']:,} "
        f"test images. PGD: {config.evaluation.text}. The ensemble: "
        f"{config.ensemble.text}; in brackets the 95 % Wilson interval. Columns from "
        "the left: what each attack left of what those before it left.",
        *_remarks(rows),
    ]
    return {
        "title": "Large perturbations under the standard ensemble",
        "rows": rows,
        "notes": notes,
        "tables": {"Robust accuracy": results_table({"rows": rows})},
    }


def _remarks(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    count = sum(row["broken_by_pgd_alone"] for row in rows)
    if not count:
        return ["No image falls to PGD and withstands the ensemble."]
    return [f"{count} images fall to PGD and withstand the ensemble, in all models."]


def results_table(result: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the accuracies, also from a committed results file."""
    rows = result["rows"]
    names = [stage["stage"] for stage in rows[0]["stages"]]
    lines = []
    for row in rows:
        radius = f"{row['epsilon']:g}"
        low, high = (percent(end) for end in row["interval"])
        lines.append(
            [
                *(row["model"], radius, percent(row["clean_accuracy"])),
                percent(row["pgd_accuracy"]),
                *(
                    percent(each["robust_accuracy"][radius])
                    for each in row["stages"][:-1]
                ),
                f"{percent(row['robust_accuracy'][radius])} [{low}, {high}]",
            ]
        )
    header = ["model", "ε", "clean", "PGD", *names[:-1], f"{names[-1]} (all)"]
    return [header, *lines]
