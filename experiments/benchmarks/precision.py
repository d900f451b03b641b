"""float32 and bfloat16: what they cost, and what they do to accuracy.

    python -m experiments benchmarks/precision --preset cpu

The same adversarial training in both precisions (`TrainConfig.precision`), for several
seeds in one sweep each, then the same attack on both in float32. Only the forward pass
and the gradients through it are rounded; parameters, optimizer and projection are
float32 on both sides.

Presets:
    smoke: digits, one epoch.
    cpu: 10,000 MNIST images, a quarter of the width, 3 seeds; about 10 minutes on 2
        cores.
"""

import dataclasses
import statistics
from collections.abc import Mapping
from typing import Any, get_args

from experiments.judging import ByPGD
from experiments.workspace import Setting, Workspace
from jaxrobust.attacks import PGD
from jaxrobust.data import load_arrays, subset
from jaxrobust.evaluation import evaluate_models
from jaxrobust.networks import ModelConfig
from jaxrobust.report import percent
from jaxrobust.training import (
    OptimizerConfig,
    Precision,
    SweepConfig,
    adversarial,
    applied,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Setting):
    """The training, and the attack."""

    epsilon: float
    epochs: int
    seeds: tuple[int, ...]
    learning_rate: float = 0.001
    evaluation: ByPGD
    test_size: int | None = None


PRESETS = {
    "smoke": Config(
        dataset="digits",
        train_size=256,
        test_size=100,
        model=ModelConfig(name="lenet-small", widen_factor=0.25),
        batch_size=32,
        epsilon=0.1,
        epochs=1,
        seeds=(0,),
        learning_rate=0.003,
        evaluation=ByPGD(epsilons=(0.1,), attack=PGD(num_steps=5), num_restarts=1),
        checkpoint_every=100,
    ),
    "cpu": Config(
        dataset="mnist",
        train_size=10_000,
        model=ModelConfig(name="lenet", widen_factor=0.25),
        batch_size=64,
        epsilon=0.2,
        epochs=6,
        seeds=(0, 1, 2),
        evaluation=ByPGD(epsilons=(0.1, 0.2), attack=PGD(num_steps=50), num_restarts=1),
        test_size=1_000,
        checkpoint_every=100,
    ),
}


def run(config: Config, workspace: Workspace) -> Mapping[str, Any]:
    """Train in both precisions, attack both in float32."""
    phase = adversarial(
        config.epsilon,
        config.epochs,
        attack=PGD(step_size=0.05),
        optimizer=OptimizerConfig(learning_rate=config.learning_rate),
    )
    rows = []
    for precision in get_args(Precision):
        base = dataclasses.replace(config.recipe(workspace, phase), precision=precision)
        table = SweepConfig(base=base, seed=config.seeds).members()
        found = workspace.sweep(
            precision, table, checkpoint_every=config.checkpoint_every
        )
        runs = list(found.runs.values())

        def compute(runs: Any = runs) -> list[dict[str, Any]]:
            test = load_arrays(config.dataset, "test", data_dir=workspace.data_dir)
            test = test if config.test_size is None else subset(test, config.test_size)
            results = evaluate_models(
                applied(runs[0].network),
                [each.weights for each in runs],
                test,
                config.evaluation.attacks,
                config.evaluation.epsilons,
                batch_size=config.evaluation.batch_size,
                report=workspace.say,
            )
            return [dataclasses.asdict(each.row()) for each in results]

        key = [precision, dataclasses.asdict(config)]
        accuracies = workspace.cached("accuracy", key, compute)
        seconds = [sum(record["seconds"] for record in each.records) for each in runs]
        rows.append(
            {
                "precision": precision,
                "seconds": sum(seconds),
                "final_loss": [each.records[-1]["loss"] for each in runs],
                "clean_accuracy": [each["clean_accuracy"] for each in accuracies],
                "robust_accuracy": {
                    radius: [each["robust_accuracy"][radius] for each in accuracies]
                    for radius in accuracies[0]["robust_accuracy"]
                },
            }
        )
    return {
        "title": "float32 and bfloat16",
        "rows": rows,
        "notes": [
            f"{config.dataset}, epsilon {config.epsilon:g}, {config.epochs} epochs, "
            f"{len(config.seeds)} seeds; means, in brackets the smallest and the "
            "largest. Both are attacked in float32."
        ],
        "tables": {"Precision": results_table({"rows": rows})},
    }


def results_table(result: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the table, also from a committed results file."""
    radii = list(result["rows"][0]["robust_accuracy"])
    header = ["precision", "training (s)", "final loss", "clean"]
    header += [f"ε = {radius}" for radius in radii]

    def spread(shares: list[float]) -> str:
        mean, least, most = statistics.mean(shares), min(shares), max(shares)
        return f"{percent(mean)} ({100 * least:.1f} to {100 * most:.1f})"

    lines = [
        [
            row["precision"],
            f"{row['seconds']:.0f}",
            f"{statistics.mean(row['final_loss']):.3f}",
            spread(row["clean_accuracy"]),
            *(spread(row["robust_accuracy"][radius]) for radius in radii),
        ]
        for row in result["rows"]
    ]
    return [header, *lines]
