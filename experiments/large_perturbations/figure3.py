"""Figure 3: the loss on the line from initial to trained weights.

    python -m experiments large_perturbations/figure3 --preset cpu

theta = (1 - a) theta0 + a theta1, where theta0 are the initial weights that all models
share (one seed) and theta1 those after training: standard, at .2, .3 and .4. Each model
is shown under the attack it was trained with, and on clean images. At .4 training from
random weights fails, and the line shows where it stays.

Presets:
    smoke: binarized digits, a few epochs; shows that the program runs, nothing else.
    cpu: the models of `table1 --preset cpu`, and two more; about 10 minutes on 2 cores
        if table1 has been run, half of them training (estimated).
    paper: the paper's network and 200 points; wants an accelerator.

Differs from the paper: all models in one figure. In `cpu` the models at .2 and .3 are
reached by chains of radii, as in table1. Which batch of 512 training images the paper
takes is not said: here the first of every class, in proportion.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from experiments.large_perturbations import table1
from experiments.workspace import Workspace
from jaxrobust import plots
from jaxrobust.attacks import PGD
from jaxrobust.data import apply_variant, as_float, load_arrays, subset
from jaxrobust.evaluation.weight_space import (
    Path,
    barrier_height,
    line,
    loss_along_path,
)
from jaxrobust.networks import Variables
from jaxrobust.report import percent
from jaxrobust.training import (
    OptimizerConfig,
    Phase,
    Run,
    adversarial,
    applied,
    chain,
    standard,
)
from jaxrobust.training.course.position import fresh_state


@dataclasses.dataclass(frozen=True, kw_only=True)
class LineConfig(table1.Config):
    """The models of Table 1, and how losses between them are measured."""

    attack: PGD
    num_points: int = 200
    num_images: int = 512


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(LineConfig):
    """Two more models."""

    standard: Phase
    smaller: tuple[Phase, ...]


_WEAK = PGD(step_size=0.05)
_DIGITS: dict[str, Any] = {"optimizer": OptimizerConfig(learning_rate=0.003)}

PRESETS = {
    "smoke": Config(
        **vars(table1.PRESETS["smoke"]),
        attack=_WEAK,
        num_points=5,
        num_images=32,
        standard=standard(1, **_DIGITS),
        smaller=(adversarial(0.2, 1, attack=_WEAK, **_DIGITS),),
    ),
    "cpu": Config(
        **vars(table1.PRESETS["cpu"]),
        attack=_WEAK,
        standard=standard(5),
        smaller=chain((0.1, 0.2), (2, 10), attack=_WEAK),
    ),
    "paper": Config(
        **vars(table1.PRESETS["paper"]),
        attack=_WEAK,
        standard=standard(5),
        smaller=(adversarial(0.2, 30, attack=PGD(step_size=0.01)),),
    ),
}


def initial_weights(run: Run) -> Variables:
    """The random weights from which a run began."""
    return fresh_state(run.config, run.problem, lambda _: None).weights.variables


def losses_on_lines(
    lines: Mapping[str, tuple[Path, Sequence[float]]],
    run: Run,
    config: LineConfig,
    workspace: Workspace,
) -> dict[str, dict[str, Any]]:
    """Losses and accuracies on lines between weights, by one program.

    Args:
        lines: by name a line and the radii of the attack; as many radii for each.
        run: any run with the network in question.
        config: attack, points and images.
        workspace: where data lie.

    Returns:
        The fields of each `PathLoss`, as lists.
    """
    data = load_arrays(config.dataset, "train", data_dir=workspace.data_dir)
    data = apply_variant(subset(data, config.num_images), config.variant)
    images, labels = as_float(data.images), jnp.asarray(data.labels)
    apply = applied(run.network)
    found = {}
    for name, (path, epsilons) in lines.items():
        workspace.say(f"--- the line {name}")
        losses = loss_along_path(
            apply,
            path,
            images,
            labels,
            alphas=config.num_points,
            epsilons=epsilons,
            attack=config.attack,
        )
        fields = losses._asdict()
        batch_norm = fields.pop("batch_norm")
        found[name] = {key: value.tolist() for key, value in fields.items()}
        found[name]["batch_norm"] = batch_norm if run.weights.state else "none"
    return found


def rows_of(found: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The numbers of the table: one row for each line and radius."""
    rows = []
    for name, fields in found.items():
        heights = barrier_height(fields["alphas"], fields["losses"])
        radii = [float(f"{epsilon:g}") for epsilon in fields["epsilons"]]
        for index, epsilon in enumerate(radii):
            if epsilon in radii[:index]:
                continue
            losses, accuracies = fields["losses"][index], fields["accuracies"][index]
            rows.append(
                {
                    "model": name,
                    "epsilon": epsilon,
                    "first_loss": losses[0],
                    "last_loss": losses[-1],
                    "highest_loss": max(losses),
                    "barrier_height": float(heights[index]),
                    "last_accuracy": accuracies[-1],
                }
            )
    return rows


def curves_of(
    found: Mapping[str, Mapping[str, Any]], pick: Callable[[int], bool]
) -> list[plots.Curve]:
    """Losses of the radii that are picked by their number."""
    return [
        plots.Curve(
            f"{name}, " + (f"ε = {epsilon:g}" if epsilon else "clean images"),
            fields["alphas"],
            fields["losses"][index],
        )
        for name, fields in found.items()
        for index, epsilon in enumerate(fields["epsilons"])
        if pick(index)
    ]


def batch_note(config: LineConfig, found: Mapping[str, Mapping[str, Any]]) -> str:
    """What the losses are of."""
    attack = config.attack
    steps = attack.num_steps or f"floor(2.5 ε / {attack.step_size:g})"
    (batch_norm,) = {fields["batch_norm"] for fields in found.values()}
    norm = (
        "The network has no batch normalization."
        if batch_norm == "none"
        else f"Batch-norm statistics: {batch_norm}."
    )
    return (
        f"Mean loss over {config.num_images} training images at {config.num_points} "
        f"points, under PGD with {steps} steps of {attack.step_size:g}, one random "
        f"start, the same for every point. {norm}"
    )


def run(config: Config, workspace: Workspace) -> Mapping[str, Any]:
    """Train the models and measure the losses."""
    load_arrays(config.dataset, "train", data_dir=workspace.data_dir)
    shared = table1.trained(config, workspace, table1.BASE, table1.CONTROL)
    runs = {
        "standard": config.train(workspace, "standard", config.standard),
        **{
            f"trained at {each.config.phases[-1].epsilon.end:g}": each
            for each in (
                config.train(workspace, "smaller", *config.smaller),
                *shared.values(),
            )
        },
    }

    def compute() -> dict[str, dict[str, Any]]:
        lines = {
            name: (
                line(initial_weights(each), each.weights),
                (0.0, each.config.phases[-1].epsilon.end),
            )
            for name, each in runs.items()
        }
        return losses_on_lines(lines, shared[table1.BASE], config, workspace)

    directories = [each.directory.name for each in runs.values()]
    settings = [config.attack, config.num_points, config.num_images]
    found = workspace.cached("lines", [directories, settings], compute)
    captions = {
        "figure3": "Figure 3: loss under the attack of training",
        "figure3-clean": "The same on clean images",
    }
    figures = {}
    for (name, caption), index in zip(captions.items(), (1, 0), strict=True):
        figure = plots.curves(
            curves_of(found, lambda each, index=index: each == index),
            xlabel="a: from initial (0) to trained weights (1)",
            ylabel="loss (nats)",
        )
        figures[caption] = workspace.save_figure(name, figure)
    rows = rows_of(found)
    return {
        "title": "The loss between initial and trained weights",
        "rows": rows,
        "curves": [{"model": name, **fields} for name, fields in found.items()],
        "notes": [
            f"Data: {shared[table1.BASE].problem.title}. {batch_note(config, found)}"
        ],
        "tables": {"Losses on the line": results_table({"rows": rows})},
        "figures": figures,
    }


def results_table(result: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the table of lines, also from a committed results file."""
    header = [
        *("line to", "test ε", "loss at 0", "loss at 1", "highest", "barrier"),
        "accuracy at 1",
    ]
    numbers = ("first_loss", "last_loss", "highest_loss", "barrier_height")
    lines = [
        [
            row["model"],
            f"{row['epsilon']:g}",
            *(f"{row[name]:.3f}" for name in numbers),
            percent(row["last_accuracy"]),
        ]
        for row in result["rows"]
    ]
    return [header, *lines]
