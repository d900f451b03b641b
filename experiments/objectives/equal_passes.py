"""Adversarial training, TRADES, AWP and N-FGSM at the same number of passes.

    python -m experiments objectives/equal_passes --preset digits

The same network, data, radius and optimizer; every objective is trained until it has
used up the same budget, with three seeds that train as one sweep. The weights at the
end are judged: no epoch is selected.

What is counted: each forward and each backward pass of a batch through the network is
one, whether the backward pass ends at the pixels or at the weights. With k steps of
PGD,

* adversarial training makes k + 1 of each, k to search and one to learn;
* TRADES k + 2, since it learns from clean images too (the clean answer that its search
  moves away from is that which it learns from, and the compiler computes it once);
* AWP of adversarial training k + 2, since it looks for the worse weights first;
* N-FGSM 2: one to search, one to learn.

Epochs are the whole number that comes nearest to the budget. `results.json` has the
passes of a step, and of all steps. On MNIST the radius grows over the first third of
the epochs: from random weights at the whole radius some seeds learn next to nothing.

Presets:
    smoke: digits, two epochs of adversarial training; shows that the program runs.
    digits: digits, 8x8 pixels; some minutes on 2 cores.
    cpu: 8,000 MNIST images, a quarter of the width; under an hour on 2 cores.
    paper: MNIST and the whole network; wants an accelerator.

There is no such table in a paper; the recipes are those of Madry et al. (2018), Zhang
et al. (2019), Wu et al. (2020) and de Jorge et al. (2022).
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any, NamedTuple

from experiments.judging import ByEnsemble, ByPGD
from experiments.runner import PartDone
from experiments.workspace import Setting, Workspace
from jaxrobust.attacks import PGD
from jaxrobust.data import Dataset, apply_variant, load_arrays, subset
from jaxrobust.evaluation import evaluate_models, wilson_interval
from jaxrobust.networks import ModelConfig
from jaxrobust.training import (
    Adversarial,
    EpsilonSchedule,
    Member,
    Objective,
    OptimizerConfig,
    Run,
    SweepConfig,
    adversarial,
    applied,
)
from jaxrobust.training.recipe.objectives import AWP, NFGSM, Trades


class Passes(NamedTuple):
    """Passes of a batch through the network.

    Attributes:
        forward: from pixels to logits.
        backward: from a loss to the pixels or to the weights.
    """

    forward: int
    backward: int

    @property
    def both(self) -> int:
        """Of either kind."""
        return self.forward + self.backward

    def plus(self, count: int) -> "Passes":
        """With `count` more of each."""
        return Passes(self.forward + count, self.backward + count)


def passes_of(objective: Objective, epsilon: float) -> Passes:
    """What a step of training costs, see above.

    Args:
        objective: adversarial training, TRADES, N-FGSM, or AWP of one of these.
        epsilon: radius, which may decide the number of steps of PGD.

    Raises:
        TypeError: for an objective that is not among those.
    """
    if isinstance(objective, AWP):
        again = 2 if isinstance(objective.objective, Trades) else 1
        return passes_of(objective.objective, epsilon).plus(again)
    if isinstance(objective, NFGSM):
        return Passes(2, 2)
    if type(objective) in (Adversarial, Trades):
        steps = objective.attack.num_steps_at(epsilon)
        learning = 2 if isinstance(objective, Trades) else 1
        return Passes(steps, steps).plus(learning)
    raise TypeError(
        "`objective` must be one whose passes are known (Adversarial, Trades, NFGSM, "
        f"or AWP of them), got {objective!r}; count its passes here."
    )


@dataclasses.dataclass(frozen=True)
class Named:
    """An objective and what the table calls it."""

    name: str
    objective: Objective

    @property
    def directory(self) -> str:
        """The name as that of a directory of models."""
        return re.sub(r"\W+", "-", self.name).strip("-")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seeded(Setting):
    """A setting whose models are trained with several seeds, at one radius."""

    objectives: tuple[Named, ...]
    """In the order of the table."""
    epsilon: float
    """Of training and of the attacks that judge, in units of [0, 1] pixels."""
    optimizer: OptimizerConfig
    num_seeds: int = 3
    """Trained with as many seeds, from that of the experiment on."""
    evaluation: ByPGD
    """Its radii are replaced."""
    test_size: int | None = None
    """Test images; None for all."""

    def seeds(self, workspace: Workspace) -> tuple[int, ...]:
        """Of the models."""
        return tuple(range(workspace.seed, workspace.seed + self.num_seeds))

    def test_images(self, workspace: Workspace) -> Dataset:
        """Those that judge the models."""
        test = load_arrays(self.dataset, "test", data_dir=workspace.data_dir)
        test = test if self.test_size is None else subset(test, self.test_size)
        return apply_variant(test, self.variant)

    def pgd(self) -> ByPGD:
        """PGD at the radius, with as many steps as it needs."""
        attack = self.evaluation.attack.at(self.epsilon)
        return dataclasses.replace(
            self.evaluation, attack=attack, epsilons=(self.epsilon,)
        )

    def pgd_text(self) -> str:
        """The attack in words."""
        return f"PGD with {self.pgd().text}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Seeded):
    """The objectives, the budget of each, and how they are judged."""

    budget: int
    """Forward and backward passes for each training image."""
    ramp: float = 0.0
    """Share of the epochs in which the radius grows, step by step, to what it is."""
    ensemble: ByEnsemble

    def epochs(self, objective: Objective) -> int:
        """Of an objective, so that it comes nearest to the budget."""
        cost = passes_of(objective, self.epsilon).both
        return max(1, round(self.budget / cost))

    def members(self, workspace: Workspace, objective: Objective) -> Sequence[Member]:
        """The runs of an objective, one for each seed."""
        epochs = self.epochs(objective)
        radius = EpsilonSchedule(
            kind="linear",
            end=self.epsilon,
            ramp_epochs=1 + round(self.ramp * epochs),
            every="step",
        )
        phase = adversarial(
            self.epsilon, epochs, objective=objective, optimizer=self.optimizer
        )
        phase = dataclasses.replace(phase, epsilon=radius)
        base = self.recipe(workspace, phase)
        return SweepConfig(base=base, seed=self.seeds(workspace)).members()


def _objectives(attack: PGD) -> tuple[Named, ...]:
    return (
        Named("adversarial training", Adversarial(attack=attack)),
        Named("TRADES", Trades(attack=attack)),
        Named("AWP", AWP(objective=Adversarial(attack=attack))),
        Named("N-FGSM", NFGSM()),
    )


def _digits(budget: int, ensemble: ByEnsemble, **settings: Any) -> Config:
    return Config(
        dataset="digits",
        model=ModelConfig(name="lenet-small", widen_factor=0.25),
        batch_size=32,
        checkpoint_every=50,
        objectives=_objectives(PGD(step_size=0.05, num_steps=7)),
        epsilon=0.15,
        optimizer=OptimizerConfig(learning_rate=0.003, schedule="linear"),
        budget=budget,
        ensemble=ensemble,
        **settings,
    )


def _mnist(**settings: Any) -> Config:
    return Config(
        dataset="mnist",
        objectives=_objectives(PGD(step_size=0.06, num_steps=7)),
        epsilon=0.2,
        ramp=1 / 3,
        optimizer=OptimizerConfig(learning_rate=0.002, schedule="linear"),
        **settings,
    )


PRESETS = {
    "smoke": _digits(
        32,
        ByEnsemble(num_steps=5, num_queries=20, stages=("apgd-ce", "square")),
        evaluation=ByPGD(attack=PGD(num_steps=10, step_size=0.05), num_restarts=1),
        num_seeds=2,
        test_size=60,
    ),
    "digits": _digits(
        720,
        ByEnsemble(),
        evaluation=ByPGD(attack=PGD(num_steps=100), num_restarts=2, batch_size=360),
    ),
    "cpu": _mnist(
        model=ModelConfig(name="lenet", widen_factor=0.25),
        train_size=8_000,
        batch_size=64,
        budget=144,
        evaluation=ByPGD(attack=PGD(num_steps=100), num_restarts=1),
        ensemble=ByEnsemble(num_steps=50, num_targets=4, num_queries=1000),
        test_size=300,
    ),
    "paper": _mnist(
        model=ModelConfig(name="lenet"),
        budget=720,
        evaluation=ByPGD(),
        ensemble=ByEnsemble(),
    ),
}


def _judged(
    name: str, runs: Sequence[Run], config: Config, workspace: Workspace
) -> list[dict[str, Any]]:
    """Accuracies of the models of an objective, one for each seed."""
    pgd, ensemble = config.pgd(), config.ensemble
    directory = runs[0].directory.parent.name
    key = [
        *(directory, [run.directory.name for run in runs], config.test_size),
        *(dataclasses.asdict(pgd), dataclasses.asdict(ensemble), workspace.seed),
    ]

    def compute() -> list[dict[str, Any]]:
        workspace.say(f"--- attacking {name}")
        test = config.test_images(workspace)
        apply, weights = applied(runs[0].network), [run.weights for run in runs]
        by_pgd = evaluate_models(
            apply,
            weights,
            test,
            pgd.attacks,
            pgd.epsilons,
            batch_size=pgd.batch_size,
            seed=workspace.seed,
        )
        by_all = evaluate_models(
            apply,
            weights,
            test,
            ensemble.attacks,
            pgd.epsilons,
            seed=workspace.seed,
            journal=workspace.directory / f"{directory}.npz",
            report=workspace.say,
        )
        return [
            {
                "clean_accuracy": one.clean_accuracy,
                "pgd_accuracy": float(one.robust_accuracy[0]),
                "ensemble_accuracy": float(all_.robust_accuracy[0]),
                "num_images": all_.num_examples,
                "num_bad_gradients": sum(
                    (*one.num_bad_gradients, *all_.num_bad_gradients)
                ),
            }
            for one, all_ in zip(by_pgd, by_all, strict=True)
        ]

    return workspace.cached("accuracy", key, compute)


def run(config: Config, workspace: Workspace) -> Mapping[str, Any]:
    """Train every objective with every seed, and judge the models."""
    # Data and settings are checked before any training.
    config.test_images(workspace)
    found = [
        workspace.sweep(
            each.directory,
            config.members(workspace, each.objective),
            checkpoint_every=config.checkpoint_every,
        )
        for each in config.objectives
    ]
    if workspace.part is not None:
        raise PartDone(
            f"part {workspace.part[0]} of {workspace.part[1]} is trained; run the same "
            "command without --part once all parts are"
        )
    rows, failures = [], []
    for each, swept in zip(config.objectives, found, strict=True):
        name, objective = each.name, each.objective
        failures += [f"{name}, {its}: {why}" for its, why in swept.failures.items()]
        runs = list(swept.runs.values())
        if not runs:
            continue
        cost = passes_of(objective, config.epsilon)
        num_steps = int(runs[0].state.step)
        rows.append(
            {
                "model": name,
                "epochs": config.epochs(objective),
                "forward_passes_of_a_step": cost.forward,
                "backward_passes_of_a_step": cost.backward,
                "num_steps": num_steps,
                "num_passes": num_steps * cost.both,
                "passes_for_each_image": config.epochs(objective) * cost.both,
                "seeds": [run.config.seed for run in runs],
                "models": _judged(name, runs, config, workspace),
                "final_training_loss": [run.records[-1]["loss"] for run in runs],
                "training_seconds": [
                    round(sum(each["seconds"] for each in run.records), 1)
                    for run in runs
                ],
            }
        )
    title = next(run for swept in found for run in swept.runs.values()).problem.title
    return {
        "title": "Objectives at the same number of passes",
        "rows": rows,
        "notes": [*_notes(config, rows, title), *failures],
        "tables": {"Accuracy": results_table({"rows": rows})},
    }


def _all(row: Mapping[str, Any], field: str) -> list[float]:
    return [model[field] for model in row["models"]]


def _notes(config: Config, rows: Sequence[Mapping[str, Any]], title: str) -> list[str]:
    count = rows[0]["models"][0]["num_images"]
    width = max(
        (high - low) / 2
        for row in rows
        for share in _all(row, "ensemble_accuracy")
        for low, high in [wilson_interval(round(share * count), count)]
    )
    ensemble = config.ensemble
    size = "all" if config.train_size is None else f"{config.train_size:,}"
    return [
        f"Data: {title}, {size} training images and the same {count:,} test images for "
        f"every model. Mean and standard deviation of {config.num_seeds} seeds, in "
        f"brackets each. Under {config.pgd_text()} and under the ensemble "
        f"({', '.join(ensemble.stages)}; {ensemble.num_steps} steps, "
        f"{ensemble.num_targets} targets, {ensemble.num_queries:,} queries) at epsilon "
        f"{config.epsilon:g}. "
        f"{count:,} images tell the accuracy of one model to about "
        f"{100 * width:.1f} points (half of the widest 95 % Wilson interval).",
        "Passes: forward and backward ones, each counted as one; for each training "
        "image."
        + (
            f" The radius grows over the first {config.ramp:.0%} of the epochs."
            if config.ramp
            else ""
        ),
    ]


def with_deviation(shares: Sequence[float]) -> str:
    """Mean and standard deviation of shares in [0, 1], and each, in percent."""
    each = ", ".join(f"{100 * share:.1f}" for share in shares)
    spread = stdev(shares) if len(shares) > 1 else math.nan
    return f"{100 * fmean(shares):.1f} ± {100 * spread:.1f} ({each})"


def results_table(result: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the accuracies, also from a committed results file."""
    header = ["objective", "epochs", "passes", "clean", "PGD", "ensemble"]
    fields = ("clean_accuracy", "pgd_accuracy", "ensemble_accuracy")
    lines = [
        [
            *(row["model"], str(row["epochs"]), str(row["passes_for_each_image"])),
            *(with_deviation(_all(row, field)) for field in fields),
        ]
        for row in result["rows"]
    ]
    return [header, *lines]
