"""Figure 6: what changes the loss, and what an attack does.

    python -m experiments large_perturbations/figure6 --preset cpu

For the models of .3, .3 -> .4 and .3 -> .5: the gradient of the loss at an image that
is perturbed within .3, and the perturbation that PGD without restarts finds within .45.
Gradients of a robust model lie on the digit and its surroundings. Figure 13 is the same
for more images.

Presets:
    smoke: binarized digits, a few epochs; shows that the program runs, nothing else.
    cpu: the models of `table1 --preset cpu`, and the one extended to .5 (about 6
        minutes of training on 2 cores, if figure5 has not done it); the pictures take
        seconds.
    paper: the paper's network; wants an accelerator.

Differs from the paper: the attack is not given there; here PGD with 200 steps of .01
and one random start. Signed pictures have 0 in the middle of their scale, which is
that of an image for gradients and of a row for perturbations.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.large_perturbations import table1
from experiments.large_perturbations.figure5 import ROLES, names_of
from experiments.workspace import Workspace
from jaxrobust import plots
from jaxrobust.attacks import PGD
from jaxrobust.data import apply_variant, as_float, load_arrays
from jaxrobust.evaluation.input_space import Saliency, saliency, scale_for_display
from jaxrobust.report import percent
from jaxrobust.threat import LinfBall
from jaxrobust.training import bind


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(table1.Config):
    """The models of Table 1, and the pictures."""

    attack: PGD = PGD(step_size=0.01, num_steps=200)
    gradient_epsilon: float = 0.3
    """Radius in which the images are perturbed before the gradient is taken."""
    perturbation_epsilon: float = 0.45
    """Radius of the perturbations that are shown."""
    examples: tuple[int, ...] = tuple(range(10))
    """Which test images, by number."""
    item: str = "figure6"


PRESETS = {
    "smoke": Config(
        **vars(table1.PRESETS["smoke"]),
        attack=PGD(step_size=0.05),
        examples=(0, 1, 2, 3),
    ),
    "cpu": Config(**vars(table1.PRESETS["cpu"])),
    "paper": Config(**vars(table1.PRESETS["paper"])),
}

PER_SHEET = 10
"""Images side by side in a figure."""


def run(config: Config, workspace: Workspace) -> Mapping[str, Any]:
    """Make the pictures; train the models if nobody has."""
    data = load_arrays(config.dataset, "test", data_dir=workspace.data_dir)
    chosen = np.asarray(config.examples)
    data = dataclasses.replace(
        data, images=data.images[chosen], labels=data.labels[chosen]
    )
    data = apply_variant(data, config.variant)
    images, labels = as_float(data.images), jnp.asarray(data.labels)
    runs = table1.trained(config, workspace, *ROLES)
    names = names_of(runs)
    network = runs[table1.BASE].network

    @jax.jit
    def perturbed(weights, threat, attack, key) -> tuple[Saliency, jax.Array]:
        logits_fn = bind(network, weights)
        found = saliency(
            logits_fn, images, labels, attack=attack, threat=threat, key=key
        )
        return found, logits_fn(found.images).argmax(axis=-1)

    def found_at(weights, epsilon: float, key) -> tuple[Saliency, jax.Array]:
        # Numbers of both are arguments, so one program serves all radii.
        return perturbed(weights, LinfBall(epsilon), config.attack.at(epsilon), key)

    def compute() -> dict[str, dict[str, Any]]:
        key = jax.random.key(workspace.seed)
        found = {}
        for role, each in runs.items():
            weights = each.weights
            near, _ = found_at(weights, config.gradient_epsilon, key)
            far, predictions = found_at(weights, config.perturbation_epsilon, key)
            found[role] = {
                "gradients": np.asarray(near.gradients).tolist(),
                "perturbations": np.asarray(far.perturbations).tolist(),
                "perturbed": np.asarray(far.images).tolist(),
                "predictions": np.asarray(predictions).tolist(),
            }
        return found

    directories = [each.directory.name for each in runs.values()]
    settings = [config.attack, config.gradient_epsilon, config.perturbation_epsilon]
    key = [directories, settings, config.examples, workspace.seed]
    found = workspace.cached("saliency", key, compute)
    figures = {}
    for start in range(0, len(images), PER_SHEET):
        part = slice(start, start + PER_SHEET)
        sheet = start // PER_SHEET + 1
        suffix = "" if len(images) <= PER_SHEET else f"-{sheet}"
        figure = plots.image_grid(_rows_of_images(images, labels, found, names, part))
        caption = f"Gradients within {config.gradient_epsilon:g} and perturbations "
        caption += f"within {config.perturbation_epsilon:g}"
        figures[caption + (f", sheet {sheet}" if suffix else "")] = (
            workspace.save_figure(f"{config.item}{suffix}", figure)
        )
    rows = [
        {"model": names[role], **_numbers(np.asarray(images), labels, fields)}
        for role, fields in found.items()
    ]
    return {
        "title": "What changes the loss, and what an attack does",
        "rows": rows,
        "notes": [
            f"Data: {data.title}, {len(images)} test images. Gradients of the loss at "
            f"images perturbed within {config.gradient_epsilon:g}; perturbations "
            f"within {config.perturbation_epsilon:g}; the prediction for the "
            "perturbed image stands above it. On the ink: share of the gradient's "
            "magnitude on pixels of at least 0.5. Alike: correlation of the gradient "
            "with the perturbation."
        ],
        "tables": {"Gradients": results_table({"rows": rows})},
        "figures": figures,
    }


def _rows_of_images(
    images: Any,
    labels: Any,
    found: Mapping[str, Mapping[str, Any]],
    names: Mapping[str, str],
    part: slice,
) -> Sequence[plots.ImageRow]:
    titles = [str(label) for label in labels[part]]
    rows = [plots.ImageRow("test image", np.asarray(images[part]), titles=titles)]
    for role, fields in found.items():
        slopes = scale_for_display(jnp.asarray(fields["gradients"][part]))
        predictions = [str(each) for each in fields["predictions"][part]]
        rows += [
            plots.ImageRow(f"{names[role]}\ngradient", np.asarray(slopes), True),
            plots.ImageRow(
                "perturbation", np.asarray(fields["perturbations"][part]), True
            ),
            plots.ImageRow(
                "perturbed", np.asarray(fields["perturbed"][part]), titles=predictions
            ),
        ]
    return rows


def _numbers(
    images: np.ndarray, labels: Any, fields: Mapping[str, Any]
) -> dict[str, Any]:
    gradients = np.asarray(fields["gradients"])
    perturbations = np.asarray(fields["perturbations"])
    sizes = np.abs(gradients)
    ink = images >= 0.5
    return {
        "mean_gradient": float(sizes.mean()),
        "gradient_on_ink": float(sizes[ink].sum() / max(sizes.sum(), 1e-30)),
        "ink": float(ink.mean()),
        "alike": float(np.corrcoef(gradients.ravel(), perturbations.ravel())[0, 1]),
        "mean_perturbation": float(np.abs(perturbations).mean()),
        "success": float(np.mean(np.asarray(fields["predictions"]) != labels)),
    }


def results_table(result: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the table of gradients, also from a committed results file."""
    header = [
        *("model", "mean gradient, absolute", "on the ink", "ink", "alike"),
        *("mean perturbation, absolute", "attack succeeds"),
    ]
    lines = [
        [
            row["model"],
            f"{row['mean_gradient']:.2e}",
            percent(row["gradient_on_ink"]),
            percent(row["ink"]),
            f"{row['alike']:.2f}",
            f"{row['mean_perturbation']:.3f}",
            percent(row["success"]),
        ]
        for row in result["rows"]
    ]
    return [header, *lines]
