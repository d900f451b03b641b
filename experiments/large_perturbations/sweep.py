"""Robust accuracy by training and test epsilon: from random weights, and as a chain.

    python -m experiments large_perturbations/sweep --preset smoke

One sweep: members with random weights at every radius, and a chain in which every
radius starts from the weights of the next smaller one (extended adversarial
training). All members are trained by one compiled program, and evaluated at all radii
by another. From random weights nothing is learned above about .35 (Shaeiri et al.,
2020, Section 3); the chain goes on.

Presets:
    smoke: binarized digits, a few epochs; shows that the program runs, nothing else.
    digits: binarized digits to the end; a few minutes on 2 cores.
    cpu: 20,000 MNIST images and a quarter of the paper's width; about half an hour on 2
        cores.
    paper: MNIST, the paper's network, steps of .01; wants an accelerator.

Differs from the paper: it has no such figure. In `cpu` the steps are .05, and the
attack of the evaluation has 100 steps and 2 restarts on 2,000 test images.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from experiments.judging import ByPGD
from experiments.runner import PartDone
from experiments.workspace import Setting, Workspace
from jaxrobust import plots
from jaxrobust.attacks import PGD
from jaxrobust.data import apply_variant, load_arrays, subset
from jaxrobust.evaluation import evaluate_models
from jaxrobust.networks import ModelConfig
from jaxrobust.report import percent
from jaxrobust.training import (
    Member,
    OptimizerConfig,
    Run,
    SweepConfig,
    WarmStart,
    adversarial,
    applied,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Setting):
    """The grid."""

    epsilons: tuple[float, ...]
    """Training radii; the chain goes through them in this order."""
    attack: PGD
    optimizer: OptimizerConfig = OptimizerConfig()
    scratch_epochs: int
    chain_epochs: int
    evaluation: ByPGD
    test_size: int | None = None


_RADII = (0.1, 0.2, 0.3, 0.35, 0.4, 0.45)


def _digits(epsilons: tuple[float, ...], scratch: int, chain: int, **evaluation: Any):
    return Config(
        dataset="digits",
        variant="binary",
        model=ModelConfig(name="lenet-small", widen_factor=0.25),
        batch_size=32,
        epsilons=epsilons,
        attack=PGD(step_size=0.05),
        optimizer=OptimizerConfig(learning_rate=0.003),
        scratch_epochs=scratch,
        chain_epochs=chain,
        checkpoint_every=10,
        evaluation=ByPGD(epsilons=epsilons, **evaluation),
    )


PRESETS = {
    "smoke": _digits(
        (0.1, 0.3), 2, 1, attack=PGD(num_steps=10, step_size=0.05), num_restarts=1
    ),
    "digits": _digits(_RADII, 60, 30, attack=PGD(num_steps=100), num_restarts=2),
    "cpu": Config(
        dataset="mnist",
        train_size=20_000,
        model=ModelConfig(name="lenet", widen_factor=0.25),
        batch_size=64,
        epsilons=_RADII,
        attack=PGD(step_size=0.05),
        scratch_epochs=12,
        chain_epochs=6,
        evaluation=ByPGD(epsilons=_RADII, attack=PGD(num_steps=100), num_restarts=2),
        test_size=2_000,
    ),
    "paper": Config(
        dataset="mnist",
        model=ModelConfig(name="lenet"),
        epsilons=(0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45),
        attack=PGD(step_size=0.01),
        scratch_epochs=30,
        chain_epochs=5,
        evaluation=ByPGD(epsilons=(0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45)),
    ),
}

SCRATCH, CHAIN = "from random weights", "chain"


def members(config: Config, workspace: Workspace) -> dict[str, Member]:
    """The members of both rows; the chain begins with the first radius of the other."""
    phase = adversarial(
        config.epsilons[0],
        config.scratch_epochs,
        attack=config.attack,
        optimizer=config.optimizer,
    )
    base = config.recipe(workspace, phase)
    scratch = SweepConfig(base=base, epsilon=config.epsilons)
    chain = SweepConfig(
        base=base,
        epsilon=config.epsilons,
        warm_start=WarmStart(rule="chain", epochs=config.chain_epochs),
    )
    found = {
        f"scratch-{each.name}": dataclasses.replace(each, name=f"scratch-{each.name}")
        for each in scratch.members()
    }
    root = chain.members()[0].name
    for each in chain.members()[1:]:
        kind = "scratch" if each.start_from == root else "chain"
        name = f"chain-{each.name}"
        source = f"{kind}-{each.start_from}"
        found[name] = dataclasses.replace(each, name=name, start_from=source)
    return found


def _accuracies(
    runs: Mapping[str, Run], config: Config, workspace: Workspace
) -> list[dict[str, Any]]:
    def compute() -> list[dict[str, Any]]:
        test = load_arrays(config.dataset, "test", data_dir=workspace.data_dir)
        if config.test_size is not None:
            test = subset(test, config.test_size)
        test = apply_variant(test, config.variant)
        network = next(iter(runs.values())).network
        found = evaluate_models(
            applied(network),
            [run.weights for run in runs.values()],
            test,
            config.evaluation.attacks,
            config.evaluation.epsilons,
            batch_size=config.evaluation.batch_size,
            seed=workspace.seed,
            report=workspace.say,
        )
        return [dataclasses.asdict(each.row()) for each in found]

    directories = [run.directory.name for run in runs.values()]
    sweep = next(iter(runs.values())).directory.parent.name
    settings = dataclasses.asdict(config.evaluation)
    key = [sweep, directories, settings, config.test_size, workspace.seed]
    return workspace.cached("accuracy", key, compute)


def run(config: Config, workspace: Workspace) -> Mapping[str, Any]:
    """Train and evaluate all members."""
    # Data and settings are checked by loading the test images before any training.
    load_arrays(config.dataset, "test", data_dir=workspace.data_dir)
    table = members(config, workspace)
    found = workspace.sweep(
        "sweep", list(table.values()), checkpoint_every=config.checkpoint_every
    )
    if workspace.part is not None:
        raise PartDone(
            f"part {workspace.part[0]} of {workspace.part[1]} is trained "
            f"({len(found.runs)} members, {len(found.failures)} failed); run the same "
            "command without --part once all parts are"
        )
    runs = {name: found.runs[name] for name in table if name in found.runs}
    rows = []
    for (name, trained), accuracy in zip(
        runs.items(), _accuracies(runs, config, workspace), strict=True
    ):
        rows.append(
            {
                "model": name,
                "start": CHAIN if table[name].start_from else SCRATCH,
                "epsilon": trained.config.phases[-1].epsilon.end,
                **accuracy,
                "epochs": len(trained.records),
                "final_training_loss": trained.records[-1]["loss"],
                "training_seconds": round(
                    sum(record["seconds"] for record in trained.records), 1
                ),
            }
        )
    title = runs[rows[0]["model"]].problem.title
    notes = [
        f"Data: {title}, {config.train_size or 'all'} training and "
        f"{config.test_size or 'all'} test images. Accuracy under PGD with "
        f"{config.evaluation.text}. From random weights: {config.scratch_epochs} "
        f"epochs. Chain: each radius {config.chain_epochs} epochs from the weights of "
        "the radius before; its first radius is that of the other row.",
        *(f"{name}: {reason}" for name, reason in found.failures.items()),
    ]
    figure = plots.accuracy_maps(
        {start: _map(rows, start, config) for start in (SCRATCH, CHAIN)},
        rows=config.epsilons,
        columns=config.evaluation.epsilons,
        ylabel="training epsilon",
        xlabel="test epsilon",
    )
    caption = "Robust accuracy by training and test epsilon"
    if workspace.is_primary:
        plots.save(figure, workspace.directory / "map.svg")
    path = workspace.directory / "map.png"
    return {
        "title": "From random weights, and as a chain",
        "rows": rows,
        "notes": notes,
        "tables": {"Accuracy": results_table({"rows": rows})},
        "figures": {caption: plots.save(figure, path)} if workspace.is_primary else {},
    }


def _map(rows: list[dict[str, Any]], start: str, config: Config) -> list[list[float]]:
    first = config.epsilons[0]
    by_radius = {
        row["epsilon"]: row["robust_accuracy"]
        for row in rows
        if row["start"] == start or (start == CHAIN and row["epsilon"] == first)
    }
    radii = [f"{radius:g}" for radius in config.evaluation.epsilons]
    return [
        [by_radius.get(trained, {}).get(radius, float("nan")) for radius in radii]
        for trained in config.epsilons
    ]


def results_table(result: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the accuracy table, also from a committed results file."""
    radii = list(result["rows"][0]["robust_accuracy"])
    header = ["trained at", "start", "clean", *(f"ε = {radius}" for radius in radii)]
    lines = [
        [
            f"{row['epsilon']:g}",
            row["start"],
            percent(row["clean_accuracy"]),
            *(percent(row["robust_accuracy"][radius]) for radius in radii),
        ]
        for row in result["rows"]
    ]
    return [header, *lines]
