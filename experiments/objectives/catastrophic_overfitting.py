"""Catastrophic overfitting: FGSM against N-FGSM and GradAlign, epoch by epoch.

    python -m experiments objectives/catastrophic_overfitting --preset cpu

Training on single steps can end in weights that withstand such steps and nothing else.
A network of one convolution shows it, as Andriushchenko & Flammarion (2020) found. It
is trained from random weights by objectives with the same data and optimizer: FGSM,
one step from the image itself; N-FGSM, the same step after noise of two radii; and FGSM
with the penalty of GradAlign. A part of the training images is held out and attacked by
PGD after every epoch: where their accuracy falls to nothing while that of the training
images under their own step rises, training has overfitted to the single step. Test
images are attacked once, at the end.

Presets:
    smoke: two epochs; shows that the program runs, nothing else.
    cpu: 10,000 images of CIFAR-10; under an hour on 2 cores.
    paper: all images; wants an accelerator.

There is no such figure for this setting in a paper; the effect is that of Wong et al.
(2020), the ways out those of Andriushchenko & Flammarion (2020) and de Jorge et al.
(2022). The weight of GradAlign, the learning rate, its schedule and the weight decay
are those that Andriushchenko & Flammarion have at this radius or for this network.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from experiments.judging import ByPGD
from experiments.objectives.equal_passes import Named, Seeded, with_deviation
from experiments.runner import PartDone
from experiments.workspace import Workspace
from jaxrobust import plots
from jaxrobust.attacks import PGD, fgsm
from jaxrobust.evaluation import evaluate_models
from jaxrobust.networks import ModelConfig
from jaxrobust.training import (
    Member,
    Objective,
    OptimizerConfig,
    Run,
    SweepConfig,
    Validation,
    adversarial,
    applied,
)
from jaxrobust.training.recipe.objectives import NFGSM, GradAlign

FGSM = NFGSM(noise=0.0)
"""One step as long as the radius, from the image itself."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Seeded):
    """The objectives, and how long they are trained."""

    epochs: int
    validation: Validation
    """What is held out, and attacked after every epoch."""

    def members(self, workspace: Workspace, objective: Objective) -> Sequence[Member]:
        """The runs of an objective, one for each seed."""
        phase = adversarial(
            self.epsilon,
            self.epochs,
            objective=objective,
            optimizer=self.optimizer,
        )
        recipe = self.recipe(workspace, phase)
        base = dataclasses.replace(recipe, validation=self.validation)
        return SweepConfig(base=base, seed=self.seeds(workspace)).members()


def _attacked(
    name: str, runs: Sequence[Run], config: Config, workspace: Workspace
) -> list[dict[str, Any]]:
    """Accuracies of models of an objective on the test images."""
    pgd = config.pgd()
    key = [
        *(runs[0].directory.parent.name, [run.directory.name for run in runs]),
        *(config.test_size, dataclasses.asdict(pgd), workspace.seed),
    ]

    def compute() -> list[dict[str, Any]]:
        workspace.say(f"--- attacking {name}")
        test = config.test_images(workspace)
        apply, weights = applied(runs[0].network), [run.weights for run in runs]
        by_pgd, by_step = (
            evaluate_models(
                apply,
                weights,
                test,
                attacks,
                pgd.epsilons,
                batch_size=pgd.batch_size,
                seed=workspace.seed,
            )
            for attacks in (pgd.attacks, fgsm)
        )
        return [
            {
                "clean_accuracy": many.clean_accuracy,
                "fgsm_accuracy": float(one.robust_accuracy[0]),
                "pgd_accuracy": float(many.robust_accuracy[0]),
                "num_images": many.num_examples,
                "num_bad_gradients": sum(
                    (*one.num_bad_gradients, *many.num_bad_gradients)
                ),
            }
            for one, many in zip(by_step, by_pgd, strict=True)
        ]

    return workspace.cached("accuracy", key, compute)


def _config(**settings: Any) -> Config:
    network = ModelConfig(name="experiments.objectives.single_layer:SingleLayer")
    shared: dict[str, Any] = {
        "dataset": "cifar10",
        "model": network,
        "objectives": (
            Named("FGSM", FGSM),
            Named("N-FGSM", NFGSM()),
            Named("FGSM + GradAlign", GradAlign(objective=FGSM, weight=2.0)),
        ),
        "epsilon": 16 / 255,
        "optimizer": OptimizerConfig(
            learning_rate=0.003, schedule="cyclic", weight_decay=5e-4
        ),
        "epochs": 30,
        "validation": Validation(num_steps=20),
        "evaluation": ByPGD(
            attack=PGD(num_steps=50, step_size=2 / 255), num_restarts=1
        ),
    }
    return Config(**shared | settings)


PRESETS = {
    "smoke": _config(
        dataset="digits",
        train_size=300,
        test_size=60,
        epochs=2,
        num_seeds=2,
        evaluation=ByPGD(attack=PGD(num_steps=5), num_restarts=1),
    ),
    "cpu": _config(train_size=10_000, test_size=1_000),
    "paper": _config(
        evaluation=ByPGD(attack=PGD(num_steps=50, step_size=2 / 255), num_restarts=10),
    ),
}


def run(config: Config, workspace: Workspace) -> Mapping[str, Any]:
    """Train by every objective, and attack the weights of the end."""
    # Data and settings are checked before any training.
    config.test_images(workspace)
    found = {
        each.name: workspace.sweep(
            each.directory, config.members(workspace, each.objective)
        )
        for each in config.objectives
    }
    if workspace.part is not None:
        raise PartDone(
            f"part {workspace.part[0]} of {workspace.part[1]} is trained; run the same "
            "command without --part once all parts are"
        )
    rows, curves, failures = [], [], []
    title = ""
    for name, swept in found.items():
        failures += [f"{name}, {its}: {why}" for its, why in swept.failures.items()]
        runs = list(swept.runs.values())
        if not runs:
            continue
        title = runs[0].problem.title
        accuracies = _attacked(name, runs, config, workspace)
        curves += [_curve(name, run) for run in runs]
        rows.append(
            {
                "model": name,
                "seeds": [run.config.seed for run in runs],
                "training_accuracy": [
                    run.records[-1]["adversarial_accuracy"] for run in runs
                ],
                **{
                    field: [accuracy[field] for accuracy in accuracies]
                    for field in ("clean_accuracy", "fgsm_accuracy", "pgd_accuracy")
                },
                "num_images": accuracies[0]["num_images"],
                "num_bad_gradients": sum(
                    accuracy["num_bad_gradients"] for accuracy in accuracies
                ),
                "training_seconds": round(
                    sum(record["seconds"] for run in runs for record in run.records), 1
                ),
            }
        )
    return {
        "title": "Catastrophic overfitting",
        "rows": rows,
        "curves": curves,
        "notes": [*_notes(config, rows, title), *failures],
        "tables": {"Accuracy at the end": results_table({"rows": rows})},
        "figures": {"Accuracy by epoch": _draw(curves, config, workspace)},
    }


def _curve(name: str, run: Run) -> dict[str, Any]:
    """What became of one seed, epoch by epoch."""
    return {
        "model": name,
        "seed": run.config.seed,
        "loss": [record["loss"] for record in run.records],
        "training_accuracy": [record["adversarial_accuracy"] for record in run.records],
        "held_out_clean_accuracy": [
            record["validation_accuracy"] for record in run.records
        ],
        "held_out_pgd_accuracy": [
            record["validation_robust_accuracy"] for record in run.records
        ],
    }


def _notes(config: Config, rows: Sequence[Mapping[str, Any]], title: str) -> list[str]:
    size = "all" if config.train_size is None else f"{config.train_size:,}"
    fallen = [
        f"{row['model']} {_num_fallen(row)} of {len(row['seeds'])}" for row in rows
    ]
    held = config.validation
    return [
        f"Data: {title}, {size} training images, of which {held.share:.0%} are held "
        f"out, and {rows[0]['num_images']:,} test images. {config.epochs} epochs from "
        f"random weights at epsilon {255 * config.epsilon:g}/255: training images "
        "under the step that they were trained with in the last epoch; test images "
        f"clean, under FGSM, and under {config.pgd_text()}. Mean and standard "
        f"deviation of {config.num_seeds} seeds, in brackets each.",
        "Seeds that lose more than half of their accuracy under FGSM to PGD: "
        f"{', '.join(fallen)}.",
    ]


def _num_fallen(row: Mapping[str, Any]) -> int:
    ends = zip(row["fgsm_accuracy"], row["pgd_accuracy"], strict=True)
    return sum(pgd < fgsm / 2 for fgsm, pgd in ends)


def _draw(
    curves: Sequence[Mapping[str, Any]], config: Config, workspace: Workspace
) -> Any:
    """Mean over the seeds, between the lowest and the highest of them."""
    lines, bands = [], {}
    fields = {
        "held_out_pgd_accuracy": "held-out images under PGD",
        "training_accuracy": "training images under their own step",
    }
    for name in dict.fromkeys(curve["model"] for curve in curves):
        of_model = [curve for curve in curves if curve["model"] == name]
        for field, meaning in fields.items():
            if field == "training_accuracy" and name != config.objectives[0].name:
                continue
            by_epoch = list(zip(*(curve[field] for curve in of_model), strict=True))
            label = f"{name}, {meaning}"
            epochs = range(1, len(by_epoch) + 1)
            lines.append(plots.Curve(label, epochs, [fmean(each) for each in by_epoch]))
            bands[label] = ([*map(min, by_epoch)], [*map(max, by_epoch)])
    figure = plots.curves(
        lines,
        xlabel="epoch",
        ylabel="accuracy",
        title=f"Training on single steps at epsilon {255 * config.epsilon:g}/255",
        bands=bands,
    )
    return workspace.save_figure("epochs", figure)


def results_table(result: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the accuracies at the end, also from a committed results file."""
    header = ["objective", "training, own step", "clean", "FGSM", "PGD"]
    fields = ("training_accuracy", "clean_accuracy", "fgsm_accuracy", "pgd_accuracy")
    lines = [
        [row["model"], *(with_deviation(row[field]) for field in fields)]
        for row in result["rows"]
    ]
    return [header, *lines]
