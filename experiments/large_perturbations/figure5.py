"""Figure 5: the loss round test images, in an adversarial and a random direction.

    python -m experiments large_perturbations/figure5 --preset cpu

100x100 points round a test image, up to half of the model's own radius along
the sign of the input gradient and along random signs, for the models of .3, .3 -> .4
and .3 -> .5. A model whose gradient is masked has cliffs in the random direction; an
honest one is flat there. The border of what is misclassified is drawn in white.

Presets:
    smoke: binarized digits, a few epochs; shows that the program runs, nothing else.
    cpu: the models of `table1 --preset cpu`, and the one extended to .5 (about 6
        minutes of training on 2 cores); the surfaces take seconds.
    paper: the paper's network; wants an accelerator.

Differs from the paper: it does not say which directions it takes, which image, or
whether pixels are clipped (they are, here). Contours instead of surfaces in
perspective. MNIST only.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from experiments.large_perturbations import table1
from experiments.workspace import Workspace
from jaxrobust import plots
from jaxrobust.data import apply_variant, as_float, load_arrays
from jaxrobust.evaluation.input_space import (
    Surface,
    loss_surface,
    random_directions,
    steepest_directions,
)
from jaxrobust.report import percent
from jaxrobust.training import Run, bind


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(table1.Config):
    """The models of Table 1, and the surfaces."""

    num_points: int = 100
    share: float = 0.5
    """Largest offset over the radius of the model."""
    examples: tuple[int, ...] = (0, 1, 2)
    """Which test images, by number."""


PRESETS = {
    "smoke": Config(**vars(table1.PRESETS["smoke"]), num_points=6, examples=(0,)),
    "cpu": Config(**vars(table1.PRESETS["cpu"])),
    "paper": Config(**vars(table1.PRESETS["paper"])),
}

ROLES = (table1.BASE, table1.EXTENDED, table1.FURTHER)


def names_of(runs: Mapping[str, Run]) -> dict[str, str]:
    """Models by role, as they are called in figures and tables."""
    ends = {role: each.config.phases[-1].epsilon.end for role, each in runs.items()}
    start = f"{ends[table1.BASE]:g}"
    return {
        role: f"ε = {start}" if role == table1.BASE else f"ε = {start} → {end:g}"
        for role, end in ends.items()
    }


def run(config: Config, workspace: Workspace) -> Mapping[str, Any]:
    """Measure the surfaces; train the models if nobody has."""
    data = load_arrays(config.dataset, "test", data_dir=workspace.data_dir)
    data = apply_variant(data, config.variant)
    images, labels = as_float(data.images), data.labels
    runs = table1.trained(config, workspace, *ROLES)
    names = names_of(runs)
    network = runs[table1.BASE].network

    @jax.jit
    def surface(weights, image, label, key, radius) -> Surface:
        logits_fn = bind(network, weights)
        pair = image[None], label[None]
        return loss_surface(
            logits_fn,
            image,
            label,
            steepest_directions(logits_fn, *pair)[0],
            random_directions(key, pair[0])[0],
            radius=radius,
            num_points=config.num_points,
        )

    def compute() -> list[dict[str, Any]]:
        found = []
        for example in config.examples:
            # The same random direction for every model.
            key = jax.random.fold_in(jax.random.key(workspace.seed), example)
            for role, each in runs.items():
                radius = config.share * each.config.phases[-1].epsilon.end
                pair = images[example], labels[example]
                at = surface(each.weights, *pair, key, radius)
                wrong = np.asarray(at.predictions) != labels[example]
                found.append(
                    {
                        "role": role,
                        "example": example,
                        "label": int(labels[example]),
                        "radius": radius,
                        "losses": np.asarray(at.losses).round(5).tolist(),
                        "is_wrong": wrong.astype(int).tolist(),
                    }
                )
        return found

    directories = [each.directory.name for each in runs.values()]
    key = [directories, config.num_points, config.share, config.examples]
    found = workspace.cached("surfaces", [*key, workspace.seed], compute)
    offsets = np.linspace(-config.share, config.share, config.num_points)
    figures = {}
    for example in config.examples:
        chosen = [each for each in found if each["example"] == example]
        figure = plots.surfaces(
            [
                # Rows of a table go up in the figure: the random direction.
                plots.Panel(
                    names[each["role"]],
                    np.transpose(each["losses"]),
                    np.transpose(each["is_wrong"]),
                )
                for each in chosen
            ],
            x=offsets.tolist(),
            y=offsets.tolist(),
            xlabel="adversarial direction (multiples of the model's ε)",
            ylabel="random direction",
            label="loss (nats)",
        )
        caption = f"Figure 5: test image {example}, a {chosen[0]['label']}"
        name = f"figure5-example{example}"
        figures[caption] = workspace.save_figure(name, figure)
    rows = [_row(each, names[each["role"]]) for each in found]
    return {
        "title": "The loss round test images",
        "rows": rows,
        "notes": [
            f"Data: {data.title}. {config.num_points} x {config.num_points} points, up "
            f"to {config.share:g} ε each way; adversarial direction: sign of the input "
            "gradient, random direction: signs, the same for all models; pixels are "
            "clipped to [0, 1]. Variation: the largest difference of losses on the "
            "line through the image in that direction."
        ],
        "tables": {"Surfaces": results_table({"rows": rows})},
        "figures": figures,
    }


def _row(surface: Mapping[str, Any], name: str) -> dict[str, Any]:
    losses = np.asarray(surface["losses"])
    middle = len(losses) // 2
    return {
        "model": name,
        "example": surface["example"],
        "radius": surface["radius"],
        "middle_loss": float(losses[middle, middle]),
        "highest_loss": float(losses.max()),
        "adversarial_variation": float(np.ptp(losses[:, middle])),
        "random_variation": float(np.ptp(losses[middle])),
        "wrong_share": float(np.mean(surface["is_wrong"])),
    }


def results_table(result: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the table of surfaces, also from a committed results file."""
    header = [
        *("model", "test image", "offsets to", "loss in the middle", "highest"),
        *("variation, adversarial", "variation, random", "misclassified"),
    ]
    numbers = ("middle_loss", "highest_loss")
    variations = ("adversarial_variation", "random_variation")
    lines = [
        [
            row["model"],
            str(row["example"]),
            f"{row['radius']:g}",
            *(f"{row[name]:.4f}" for name in (*numbers, *variations)),
            percent(row["wrong_share"]),
        ]
        for row in result["rows"]
    ]
    return [header, *lines]
