"""Figure 4: the loss on the line from the base to the extended model.

    python -m experiments large_perturbations/figure4 --preset cpu

theta0 are the weights trained at .3, theta1 those of its extension to .4. Left: the
loss at the target radius; right: at the radius of the base. Both under the attack of
training; Figure 11 is the same under a stronger one. As an option (`bezier_steps`) a
quadratic Bezier curve between the two is trained at the target radius, to see whether
what the line crosses can be gone round.

Presets:
    smoke: binarized digits, a few epochs; shows that the program runs, nothing else.
    cpu: the models of `table1 --preset cpu`; about 8 minutes on 2 cores if table1 has
        been run (estimated).
    paper: the paper's network; wants an accelerator.

Differs from the paper: clean losses are shown too, and the curve (Garipov et al., 2018,
arXiv:1802.10026) is not in it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from experiments.large_perturbations import figure3, table1
from experiments.large_perturbations.figure3 import results_table
from experiments.workspace import Workspace
from jaxrobust import plots
from jaxrobust.attacks import PGD
from jaxrobust.data import apply_variant, as_float, load_arrays, subset
from jaxrobust.evaluation.weight_space import Path, connect, line
from jaxrobust.networks import Variables
from jaxrobust.threat import LinfBall
from jaxrobust.training import Run, applied

__all__ = ["PRESETS", "Config", "results_table", "run"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(figure3.LineConfig):
    """The line, and the curve."""

    bezier_steps: int = 0
    """Steps of Adam for the control point of a curve; 0 for no curve."""
    item: str = "figure4"


_WEAK = PGD(step_size=0.05)

PRESETS = {
    "smoke": Config(
        **vars(table1.PRESETS["smoke"]),
        attack=_WEAK,
        num_points=5,
        num_images=32,
        bezier_steps=3,
    ),
    "cpu": Config(**vars(table1.PRESETS["cpu"]), attack=_WEAK, bezier_steps=300),
    "paper": Config(**vars(table1.PRESETS["paper"]), attack=_WEAK, bezier_steps=1000),
}


def _curve(straight: Path, run: Run, config: Config, workspace: Workspace) -> Path:
    """A curve with a low loss at the target radius, between the ends of a line."""
    data = load_arrays(config.dataset, "train", data_dir=workspace.data_dir)
    size = min(len(data), 100 * config.batch_size)
    data = apply_variant(subset(data, size), config.variant)
    workspace.say("--- training a curve")
    found = connect(
        applied(run.network),
        straight.points[0],
        straight.points[-1],
        as_float(data.images),
        jnp.asarray(data.labels),
        num_steps=config.bezier_steps,
        learning_rate=0.001,
        batch_size=config.batch_size,
        attack=config.attack,
        threat=LinfBall(config.extended.epsilon.end),
        trained=Variables(params=True, state=False),
    )
    return found.path


def run(config: Config, workspace: Workspace) -> Mapping[str, Any]:
    """Measure the losses; train the models if nobody has."""
    load_arrays(config.dataset, "train", data_dir=workspace.data_dir)
    runs = table1.trained(config, workspace, table1.BASE, table1.EXTENDED)
    base, further = runs[table1.BASE], runs[table1.EXTENDED]
    radii = [each.config.phases[-1].epsilon.end for each in (base, further)]

    def compute() -> dict[str, dict[str, Any]]:
        straight = line(base.weights, further.weights)
        paths = {"line": straight}
        if config.bezier_steps:
            paths["Bezier curve"] = _curve(straight, base, config, workspace)
        lines = {name: (path, (0.0, *radii)) for name, path in paths.items()}
        return figure3.losses_on_lines(lines, base, config, workspace)

    settings = [config.attack, config.num_points, config.num_images]
    key = [base.directory.name, further.directory.name, settings, config.bezier_steps]
    found = workspace.cached("lines", key, compute)
    captions = {
        "target": f"Left: loss at the target radius, {radii[1]:g}",
        "initial": f"Right: loss at the radius of the base, {radii[0]:g}",
        "clean": "Loss on clean images",
    }
    figures = {}
    for (name, caption), index in zip(captions.items(), (2, 1, 0), strict=True):
        figure = plots.curves(
            figure3.curves_of(found, lambda each, index=index: each == index),
            xlabel=f"a: from ε = {radii[0]:g} (0) to {radii[0]:g} → {radii[1]:g} (1)",
            ylabel="loss (nats)",
        )
        path = workspace.save_figure(f"{config.item}-{name}", figure)
        figures[caption] = path
    rows = figure3.rows_of(found)
    notes = [f"Data: {base.problem.title}. {figure3.batch_note(config, found)}"]
    if config.bezier_steps:
        notes.append(
            f"Curve: {config.bezier_steps} steps of Adam at 0.001 on batches of "
            f"{config.batch_size} under the same attack at the target radius."
        )
    return {
        "title": "The loss between the base and the extended model",
        "rows": rows,
        "curves": [{"model": name, **fields} for name, fields in found.items()],
        "notes": notes,
        "tables": {"Losses on the way": results_table({"rows": rows})},
        "figures": figures,
    }
