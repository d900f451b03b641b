"""Catastrophic overfitting: FGSM against N-FGSM and GradAlign, epoch by epoch.

    python -m experiments.objectives.catastrophic_overfitting --preset cpu

Training on single steps can end in weights that withstand such steps and nothing else.
The models of `equal_passes` that were trained adversarially go on at a larger radius,
by objectives with the same data and optimizer: FGSM, one step from the image itself;
N-FGSM, the same step after noise of one radius; and FGSM with the penalty of GradAlign.
Test images are attacked after every epoch, by FGSM and by PGD; where the two part,
training has overfitted to the single step.

Each epoch is a member of a sweep that starts from the weights and the optimizer state
of the one before, with a seed of its own.

Presets:
    smoke: digits, two epochs; shows that the program runs, nothing else.
    cpu: the models of `equal_passes --preset cpu`; under half an hour on 2 cores once
        they are trained.
    paper: those of `equal_passes --preset paper`; wants an accelerator.

There is no such figure for this network in a paper; the effect is that of Wong et al.
(2020), the ways out those of Andriushchenko & Flammarion (2020) and de Jorge et al.
(2022), whose noise is of two radii on CIFAR-10.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from experiments.objectives import equal_passes
from experiments.objectives.equal_passes import Named, Seeded, with_deviation
from experiments.runner import Workspace, main
from jaxrobust import plots
from jaxrobust.attacks import Attack, fgsm
from jaxrobust.evaluation import EvaluationConfig, evaluate_models
from jaxrobust.threat import LinfBall
from jaxrobust.training import (
    Member,
    Objective,
    OptimizerConfig,
    Run,
    SweepResult,
    TrainConfig,
    adversarial,
    applied,
)
from jaxrobust.training.recipe.objectives import NFGSM, GradAlign
from jaxrobust.types import Scalar

FGSM = NFGSM(noise=0.0)
"""One step as long as the radius, from the image itself."""

SEEDS_APART = 1000
"""Between the seeds of an epoch and of the next."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Seeded):
    """The objectives, how long they are trained, and from which models."""

    before: equal_passes.Config
    """The first of its objectives trains the models that all start from."""
    epochs: int

    def starts(self, workspace: Workspace) -> SweepResult:
        """The models that all start from, one for each seed."""
        first = self.before.objectives[0]
        return workspace.sweep(
            first.directory,
            self.before.members(workspace, first.objective),
            checkpoint_every=self.before.checkpoint_every,
        )

    def members(
        self, workspace: Workspace, objective: Objective, starts: Mapping[int, str]
    ) -> list[Member]:
        """The runs of an objective: for each seed one after another, by epoch.

        Args:
            workspace: of the experiment.
            objective: of all.
            starts: by seed, directories of the models to start from.
        """

        def config(seed: int, epoch: int) -> TrainConfig:
            phase = adversarial(
                self.epsilon,
                1,
                objective=objective,
                optimizer=self.optimizer,
                carry="optimizer",
                start_from=starts[seed] if epoch == 1 else None,
            )
            recipe = self.recipe(workspace, phase)
            return dataclasses.replace(recipe, seed=seed + SEEDS_APART * epoch)

        return [
            Member(
                name=_member(seed, epoch),
                config=config(seed, epoch),
                start_from=_member(seed, epoch - 1) if epoch > 1 else None,
            )
            for seed in starts
            for epoch in range(1, self.epochs + 1)
        ]


def _member(seed: int, epoch: int) -> str:
    return f"seed{seed}-epoch{epoch}"


def _attacked(
    name: str, runs: Sequence[Run], config: Config, workspace: Workspace
) -> list[dict[str, Any]]:
    """Accuracies of models of an objective on the test images."""
    pgd = config.pgd(workspace)
    key = [
        *(runs[0].directory.parent.name, [run.directory.name for run in runs]),
        *(config.test_size, dataclasses.asdict(pgd)),
    ]

    def single_step(epsilon: Scalar, num_steps: Scalar) -> Attack:
        del num_steps
        return fgsm(LinfBall(epsilon))

    def compute() -> list[dict[str, Any]]:
        workspace.say(f"--- attacking {name}")
        test = config.test_images(workspace)
        apply, weights = applied(runs[0].network), [run.weights for run in runs]
        by_pgd = evaluate_models(apply, weights, test, pgd)
        by_step = evaluate_models(apply, weights, test, pgd, attack_for=single_step)
        return [
            {
                "clean_accuracy": many.clean_accuracy,
                "fgsm_accuracy": one.robust_accuracy[config.epsilon],
                "pgd_accuracy": many.robust_accuracy[config.epsilon],
                "num_images": many.num_examples,
                "num_bad_gradients": one.num_bad_gradients + many.num_bad_gradients,
            }
            for one, many in zip(by_step, by_pgd, strict=True)
        ]

    return workspace.cached("accuracy", key, compute)


def _config(preset: str, **settings: Any) -> Config:
    before = equal_passes.PRESETS[preset]
    shared = ("dataset", "variant", "train_size", "model", "batch_size", "num_seeds")
    fields = {name: getattr(before, name) for name in (*shared, "test_size")}
    return Config(
        before=before,
        objectives=(
            Named("FGSM", FGSM),
            Named("N-FGSM", NFGSM(noise=1.0)),
            Named("FGSM + GradAlign", GradAlign(objective=FGSM, weight=1.0)),
        ),
        **fields | settings,
    )


PRESETS = {
    "smoke": _config(
        "smoke",
        epsilon=0.2,
        optimizer=OptimizerConfig(learning_rate=0.003),
        epochs=2,
        evaluation=EvaluationConfig(num_steps=10, num_restarts=1, step_size=0.05),
    ),
    "cpu": _config(
        "cpu",
        epsilon=0.3,
        optimizer=OptimizerConfig(),
        epochs=10,
        evaluation=EvaluationConfig(num_steps=40, num_restarts=1, step_size=0.03),
    ),
    "paper": _config(
        "paper",
        epsilon=0.3,
        optimizer=OptimizerConfig(),
        epochs=30,
        evaluation=EvaluationConfig(num_restarts=10),
    ),
}


def run(config: Config, workspace: Workspace) -> Mapping[str, Any]:
    """Train by every objective, and attack the weights after every epoch."""
    if workspace.part is not None:
        index, count = workspace.part
        raise ValueError(
            f"`--part` must be left out here, got {index}/{count}; train the models "
            "that this starts from in parts, by `equal_passes`."
        )
    # Data and settings are checked before any training.
    config.test_images(workspace)
    begun = list(config.starts(workspace).runs.values())
    starts = {run.config.seed: str(run.directory) for run in begun}
    found = {
        each.name: workspace.sweep(
            each.directory, config.members(workspace, each.objective, starts)
        )
        for each in config.objectives
    }
    at_start = _attacked("the start", begun, config, workspace)
    rows, curves, failures = [], [], []
    for name, swept in found.items():
        failures += [f"{name}, {its}: {why}" for its, why in swept.failures.items()]
        runs = swept.runs
        if not runs:
            continue
        members = list(runs)
        accuracies = _attacked(name, list(runs.values()), config, workspace)
        by_member = dict(zip(members, accuracies, strict=True))
        its = [
            _curve(name, seed, runs, {**by_member, _member(seed, 0): first}, config)
            for seed, first in zip(starts, at_start, strict=True)
            if _member(seed, 1) in runs
        ]
        curves += its
        rows.append(
            {
                "model": name,
                "seeds": [curve["seed"] for curve in its],
                "training_accuracy": [curve["training_accuracy"][-1] for curve in its],
                "clean_accuracy": [curve["clean_accuracy"][-1] for curve in its],
                "fgsm_accuracy": [curve["fgsm_accuracy"][-1] for curve in its],
                "pgd_accuracy": [curve["pgd_accuracy"][-1] for curve in its],
                "pgd_accuracy_before": [curve["pgd_accuracy"][0] for curve in its],
                "num_images": accuracies[0]["num_images"],
                "num_bad_gradients": sum(
                    each["num_bad_gradients"] for each in accuracies
                ),
                "training_seconds": round(sum(curve["seconds"] for curve in its), 1),
            }
        )
    title = begun[0].problem.title
    return {
        "title": "Catastrophic overfitting",
        "rows": rows,
        "curves": curves,
        "notes": [*_notes(config, rows, title), *failures],
        "tables": {"Accuracy at the end": results_table({"rows": rows})},
        "figures": {
            "Accuracy of test images by epoch": _draw(curves, config, workspace)
        },
    }


def _curve(
    name: str,
    seed: int,
    runs: Mapping[str, Run],
    accuracies: Mapping[str, Mapping[str, Any]],
    config: Config,
) -> dict[str, Any]:
    """What became of one seed: accuracies before the first epoch and after each.

    Shorter if its loss was not finite.
    """
    members = [_member(seed, epoch) for epoch in range(1, config.epochs + 1)]
    members = [member for member in members if member in runs]
    points = [_member(seed, 0), *members]
    records = [runs[member].records[-1] for member in members]
    fields = ("clean_accuracy", "fgsm_accuracy", "pgd_accuracy")
    return {
        "model": name,
        "seed": seed,
        "training_accuracy": [record["adversarial_accuracy"] for record in records],
        "loss": [record["loss"] for record in records],
        "seconds": sum(record["seconds"] for record in records),
        **{field: [accuracies[point][field] for point in points] for field in fields},
    }


def _notes(config: Config, rows: Sequence[Mapping[str, Any]], title: str) -> list[str]:
    size = "all" if config.train_size is None else f"{config.train_size:,}"
    fallen = [
        f"{row['model']} {_num_fallen(row)} of {len(row['seeds'])}" for row in rows
    ]
    return [
        f"Data: {title}, {size} training and {rows[0]['num_images']:,} test images. "
        f"Adversarial training at epsilon {config.before.epsilon:g}, and then "
        f"{config.epochs} epochs at {config.epsilon:g}: training images under the step "
        "that they were trained with in the last epoch; test images clean, under FGSM, "
        f"and under {config.pgd_text()}, the last also before the first epoch. Mean "
        f"and standard deviation of {config.num_seeds} seeds, in brackets each.",
        "Seeds that lose more than half of their accuracy under FGSM to PGD in the "
        f"end: {', '.join(fallen)}.",
    ]


def _num_fallen(row: Mapping[str, Any]) -> int:
    ends = zip(row["fgsm_accuracy"], row["pgd_accuracy"], strict=True)
    return sum(pgd < fgsm / 2 for fgsm, pgd in ends)


def _draw(
    curves: Sequence[Mapping[str, Any]], config: Config, workspace: Workspace
) -> Any:
    """Mean over the seeds, between the lowest and the highest of them."""
    lines, bands = [], {}
    for name in dict.fromkeys(curve["model"] for curve in curves):
        its = [curve for curve in curves if curve["model"] == name]
        for field, attack in (("pgd_accuracy", "PGD"), ("fgsm_accuracy", "FGSM")):
            if attack == "FGSM" and name != config.objectives[0].name:
                continue
            by_epoch = list(zip(*(curve[field] for curve in its), strict=False))
            label = f"{name}, under {attack}"
            epochs = range(len(by_epoch))
            lines.append(plots.Curve(label, epochs, [fmean(each) for each in by_epoch]))
            bands[label] = ([*map(min, by_epoch)], [*map(max, by_epoch)])
    figure = plots.curves(
        lines,
        xlabel="epoch",
        ylabel="accuracy on test images",
        title=f"Training on single steps at epsilon {config.epsilon:g}",
        bands=bands,
    )
    return workspace.save_figure("epochs", figure)


def results_table(result: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the accuracies at the end, also from a committed results file."""
    header = ["objective", "training, own step", "clean", "FGSM", "PGD", "PGD before"]
    fields = (
        *("training_accuracy", "clean_accuracy", "fgsm_accuracy", "pgd_accuracy"),
        "pgd_accuracy_before",
    )
    lines = [
        [row["model"], *(with_deviation(row[field]) for field in fields)]
        for row in result["rows"]
    ]
    return [header, *lines]


if __name__ == "__main__":
    raise SystemExit(
        main(
            "objectives/catastrophic_overfitting",
            PRESETS,
            run,
            description=__doc__ or "",
        )
    )
