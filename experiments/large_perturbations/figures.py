"""Figures 1, 2, 7, 8 and 10: how training goes, epoch by epoch.

    python -m experiments large_perturbations/figures --preset smoke

F1: training loss from random weights at several radii; above about .35 it stays at
ln 10. F2: the same radii from a warm start. F7: iterative adversarial training (IAT).
F8: F1 with the extended runs. F10: change of the loss, and distance the weights move,
from epoch to epoch.

Presets:
    smoke: binarized digits, a few epochs; shows that the program runs, nothing else.
    cpu: 10,000 MNIST images and a quarter of the paper's width; about 15 minutes on 2
        cores.
    paper: MNIST, steps of .01 and .005, 2.5 radii long in all (the authors' code takes
        40 for the base); wants an accelerator.
    paper-step05: the paper's text on MNIST (steps of .05); wants an accelerator.

Differs from the paper: MNIST only (Figures 2 and 9 show CIFAR-10 too). In `cpu` the
bases of the warm starts are reached by chains of radii: .35 cannot be learned from
random weights. IAT is not stopped at a jump, to show it, and goes on to .6.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from experiments.workspace import Setting, Workspace
from jaxrobust import plots
from jaxrobust.attacks import PGD
from jaxrobust.data import load_arrays
from jaxrobust.networks import ModelConfig
from jaxrobust.report import percent
from jaxrobust.training import (
    JumpRule,
    OptimizerConfig,
    Phase,
    Run,
    adversarial,
    chain,
    extended,
    iterative,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Warm:
    """A warm-started run: how its base is reached, and its extension."""

    base: tuple[Phase, ...]
    extended: Phase


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Setting):
    """The runs."""

    scratch: tuple[Phase, ...]
    warm: tuple[Warm, ...]
    iterative: Phase


def _settings(step: float, rate: float = 0.001) -> dict[str, Any]:
    return {
        "attack": PGD(step_size=step),
        "optimizer": OptimizerConfig(learning_rate=rate),
    }


def _iterative(end: float, settings: dict[str, Any], increment: float = 0.01) -> Phase:
    return iterative(end, increment=increment, stop_at_jump=None, **settings)


def _paper(step: float, extended_step: float, iterative_step: float) -> Config:
    first = _settings(step)
    later = _settings(extended_step)
    pairs = ((0.3, 0.4), (0.35, 0.45))
    return Config(
        dataset="mnist",
        model=ModelConfig(name="lenet"),
        scratch=tuple(
            adversarial(radius, 30, **first) for radius in (0.1, 0.2, 0.3, 0.35, 0.4)
        ),
        warm=tuple(
            Warm(
                base=(adversarial(start, 30, **first),),
                extended=extended(end, 5, **later),
            )
            for start, end in pairs
        ),
        iterative=_iterative(0.6, _settings(iterative_step)),
    )


_DIGITS = _settings(0.05, 0.003)
_CPU = _settings(0.05)

PRESETS = {
    "smoke": Config(
        dataset="digits",
        variant="binary",
        model=ModelConfig(name="lenet-small", widen_factor=0.25),
        batch_size=32,
        scratch=(adversarial(0.1, 2, **_DIGITS), adversarial(0.45, 2, **_DIGITS)),
        warm=(
            Warm(
                base=(adversarial(0.1, 2, **_DIGITS),),
                extended=extended(0.3, 2, **_DIGITS),
            ),
        ),
        iterative=_iterative(0.45, _DIGITS, increment=0.15),
        checkpoint_every=100,
    ),
    "cpu": Config(
        dataset="mnist",
        train_size=10_000,
        model=ModelConfig(name="lenet", widen_factor=0.25),
        batch_size=64,
        scratch=tuple(
            adversarial(radius, 15, **_CPU) for radius in (0.1, 0.2, 0.3, 0.35, 0.4)
        ),
        warm=(
            Warm(
                base=chain((0.1, 0.2, 0.3), (5, 5, 10), **_CPU),
                extended=extended(0.4, 10, **_CPU),
            ),
            Warm(
                base=chain((0.1, 0.2, 0.3, 0.35), (5, 5, 10, 5), **_CPU),
                extended=extended(0.45, 10, **_CPU),
            ),
        ),
        iterative=_iterative(0.6, _CPU),
    ),
    "paper": _paper(0.01, 0.005, 0.01),
    "paper-step05": _paper(0.05, 0.05, 0.05),
}


def _series(run: Run, field: str) -> tuple[list[int], list[float]]:
    known = [record for record in run.records if record[field] is not None]
    return [record["epoch"] for record in known], [record[field] for record in known]


def _figure(
    name: str,
    lines: Sequence[plots.Curve],
    directory: Path,
    *,
    xlabel: str = "epoch",
    ylabel: str = "training adversarial loss (nats)",
    log: bool = False,
) -> Path:
    levels = None if log else {"ln 10: chance": math.log(10)}
    for suffix in ("svg", "png"):
        drawn = plots.curves(
            lines, xlabel=xlabel, ylabel=ylabel, levels=levels, log=log
        )
        path = plots.save(drawn, directory / f"{name}.{suffix}")
    return path


def run(config: Config, workspace: Workspace) -> Mapping[str, Any]:
    """Train the runs and draw the five figures."""
    load_arrays(config.dataset, "train", data_dir=workspace.data_dir)
    train = partial(config.train, workspace)
    scratch = {
        f"ε = {phase.epsilon.end:g}": train(f"scratch-{phase.epsilon.end:g}", phase)
        for phase in config.scratch
    }
    warm = {}
    for pair in config.warm:
        start, end = pair.base[-1].epsilon.end, pair.extended.epsilon.end
        base = train(f"base-{start:g}", *pair.base)
        phase = dataclasses.replace(pair.extended, start_from=str(base.directory))
        warm[f"ε = {start:g} → {end:g}"] = train(f"extended-{start:g}-{end:g}", phase)
    grown = train("iterative", config.iterative)

    def lines(runs: Mapping[str, Run], field: str = "loss") -> list[plots.Curve]:
        return [
            plots.Curve(label, *_series(each, field)) for label, each in runs.items()
        ]

    everything = scratch | warm
    directory = workspace.directory
    radii = [record["epsilon"] for record in grown.records]
    losses = [record["loss"] for record in grown.records]
    figures = {
        "Figure 1: from random weights": _figure("figure1", lines(scratch), directory),
        "Figure 2: extended, from a warm start": _figure(
            "figure2", lines(warm), directory
        ),
        "Figure 7: iterative adversarial training": _figure(
            "figure7",
            [plots.Curve("IAT", radii, losses)],
            directory,
            xlabel="epsilon of the epoch",
        ),
        "Figure 8: from random weights and extended": _figure(
            "figure8", lines(everything), directory
        ),
        "Figure 10: change of the loss from epoch to epoch": _figure(
            "figure10-loss",
            [
                plots.Curve(line.label, line.x, [abs(value) for value in line.y])
                for line in lines(everything, "loss_change")
            ],
            directory,
            ylabel="|change of the loss| (nats)",
            log=True,
        ),
        "Figure 10: distance the weights move in an epoch": _figure(
            "figure10-weights",
            lines(everything, "weight_distance"),
            directory,
            ylabel="Euclidean distance",
            log=True,
        ),
    }
    jumps = [
        grown.records[index]["epsilon"]
        for index in range(len(losses))
        if JumpRule().is_jump(losses[: index + 1])
    ]
    rows = [
        {
            "model": label,
            "epochs": len(each.records),
            "first_loss": each.records[0]["loss"],
            "final_loss": each.records[-1]["loss"],
            "final_adversarial_accuracy": each.records[-1]["adversarial_accuracy"],
            "final_weight_distance": each.records[-1]["weight_distance"],
        }
        for label, each in {**everything, "IAT": grown}.items()
    ]
    where = f"at epsilon {jumps[0]:g}" if jumps else "nowhere"
    notes = [
        f"Data: {grown.problem.title}, {config.train_size or 'all'} training images.",
        f"The rule that stops IAT at a jump of its loss finds the first one {where}.",
    ]
    if any(
        radius > 0.5 and loss < math.log(10)
        for radius, loss in zip(radii, losses, strict=True)
    ):
        notes.append(
            "Above epsilon 0.5 any image can be turned into the same gray one, so no "
            "network is robust there: a loss below ln 10 shows that the training "
            "attack is too weak, as section 3.3 of the paper admits of its own."
        )
    curves = [
        {
            "model": label,
            **{
                field: _series(each, field)[1]
                for field in ("loss", "epsilon", "loss_change", "weight_distance")
            },
        }
        for label, each in {**everything, "IAT": grown}.items()
    ]
    return {
        "title": "How training at large perturbations goes",
        "rows": rows,
        "curves": curves,
        "notes": notes,
        "tables": {"Runs": results_table({"rows": rows})},
        "figures": figures,
    }


def results_table(result: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the table of runs, also from a committed results file."""
    header = ["model", "epochs", "first loss", "final loss", "training adv. accuracy"]
    lines = [
        [
            row["model"],
            str(row["epochs"]),
            f"{row['first_loss']:.3f}",
            f"{row['final_loss']:.3f}",
            percent(row["final_adversarial_accuracy"]),
        ]
        for row in result["rows"]
    ]
    return [header, *lines]
