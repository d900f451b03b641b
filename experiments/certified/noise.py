"""Warm starts for noise: training at a large deviation, begun at a smaller one.

    python -m experiments certified/noise --preset cpu

Randomized smoothing certifies the vote of a model under Gaussian noise, so that the
model is trained under such noise. Shaeiri et al. (2020) found that adversarial training
at a large radius succeeds from the weights of a smaller one, and suggest the same for
noise; nobody seems to have tried. Here models pass through the same phases, with the
same numbers of steps and learning rates; they differ only in the deviation of each
phase: that of the end in all of them (from scratch), or smaller ones first (a chain).
All are certified at the deviation of the end, in which noise is what Cohen et al.
(2019) certify by, on the same images with the same noise for all seeds.

The optimizer goes on from phase to phase with its moments. The learning rate is
constant, and falls to 0 in the last phase.

Presets:
    smoke: digits, an epoch of each phase; shows that the program runs, nothing else.
    cpu: MNIST, half the width of CNN-4; for 2 cores.
    paper: CNN-7, with the number of draws of Cohen et al.; wants an accelerator.

There is no such table in a paper.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from statistics import fmean, stdev
from typing import Any

import numpy as np
from jax.tree_util import Partial

from experiments.workspace import Setting, Workspace
from jaxrobust import plots
from jaxrobust.bounds import smoothing
from jaxrobust.data import Dataset, apply_variant, load_arrays, subset
from jaxrobust.evaluation import wilson_interval
from jaxrobust.networks import ModelConfig, Network
from jaxrobust.training import (
    OptimizerConfig,
    Phase,
    Run,
    TrainConfig,
    applied,
    standard,
)
from jaxrobust.training.recipe.config_json import config_to_json
from jaxrobust.training.recipe.objectives import Gaussian
from jaxrobust.types import Images, Logits

RADII = tuple(0.25 * step for step in range(11))
"""Of the table, in l_2, in units of [0, 1] pixels."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Certifying:
    """How models are certified; fields are arguments of `smoothing`."""

    num_selection: int = 100
    num_samples: int = 10_000
    alpha: float = 0.001
    batch_size: int = 250


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Setting):
    """The deviations of each model, how long it is trained, and how it is certified."""

    epochs: tuple[int, ...]
    """Of each phase, the same for all models."""
    sigmas: tuple[tuple[float, ...], ...]
    """Of each model the deviations of its phases, in units of [0, 1] pixels."""
    learning_rate: float = 0.001
    """Of Adam; it falls to 0 in the last phase."""
    num_seeds: int = 3
    """Trained with as many seeds, from that of the experiment on."""
    certifying: Certifying = Certifying()
    test_size: int
    """Test images, the same for all models."""

    def seeds(self, workspace: Workspace) -> range:
        """Of the models."""
        return range(workspace.seed, workspace.seed + self.num_seeds)

    def test_images(self, workspace: Workspace) -> Dataset:
        """Those that are certified."""
        test = load_arrays(self.dataset, "test", data_dir=workspace.data_dir)
        return apply_variant(subset(test, self.test_size), self.variant)

    def phases(self, sigmas: Sequence[float]) -> list[Phase]:
        """How a model with these deviations is trained."""
        last = len(self.epochs) - 1
        return [
            standard(
                epochs,
                objective=Gaussian(sigma=sigma),
                carry="optimizer" if index else "weights",
                optimizer=OptimizerConfig(
                    learning_rate=self.learning_rate,
                    schedule="linear" if index == last else "constant",
                ),
            )
            for index, (epochs, sigma) in enumerate(
                zip(self.epochs, sigmas, strict=True)
            )
        ]

    def recipe_of(
        self, sigmas: Sequence[float], seed: int, workspace: Workspace
    ) -> TrainConfig:
        """What to do for a model."""
        recipe = self.recipe(workspace, *self.phases(sigmas))
        return dataclasses.replace(recipe, seed=seed)


def _title(sigmas: Sequence[float]) -> str:
    """A model in words."""
    if len(set(sigmas)) == 1:
        return f"{sigmas[0]:g} from scratch"
    return " → ".join(f"{sigma:g}" for sigma in sigmas)


@lru_cache(maxsize=4)
def _answering(network: Network) -> Callable[[Any, Images], Logits]:
    """A function that is the same for all models of a network: they share a program."""
    apply = applied(network)
    return lambda weights, images: apply(weights)(images)


def _certified(
    run: Run, sigma: float, config: Config, workspace: Workspace
) -> dict[str, Any]:
    """What is certified of the test images at a deviation."""
    test = config.test_images(workspace)
    found = smoothing(
        Partial(_answering(run.network), run.weights),
        test.images,
        test.labels,
        sigma,
        seed=workspace.seed,
        **dataclasses.asdict(config.certifying),
    )
    accuracy = found.certified_accuracy(RADII).tolist()
    radii = np.where(found.is_correct, found.radius, 0.0)
    return {
        "certified_accuracy": {
            f"{radius:g}": share for radius, share in zip(RADII, accuracy, strict=True)
        },
        "average_certified_radius": found.average_radius,
        "certified_wrong": float(np.mean((found.radius > 0) & ~found.is_correct)),
        "num_images": len(test),
        "radii": [round(float(radius), 4) for radius in radii],
    }


def _row(
    sigmas: Sequence[float], seed: int, config: Config, workspace: Workspace
) -> dict[str, Any] | None:
    """What is known of a model; None if it is not, and nothing is to be computed."""
    recipe = config.recipe_of(sigmas, seed, workspace)
    key = [
        config_to_json(recipe, has_defaults=False),
        *(config_to_json(config.certifying), config.test_size, RADII, workspace.seed),
    ]

    def compute() -> dict[str, Any]:
        run = workspace.model("noise", recipe, checkpoint_every=config.checkpoint_every)
        workspace.say(f"--- certifying {_title(sigmas)}, seed {seed}")
        last = run.records[-1]
        return {
            "seed": seed,
            "num_steps": int(run.state.step),
            "training_loss": last["loss"],
            "training_accuracy": last["adversarial_accuracy"],
            "training_seconds": round(sum(each["seconds"] for each in run.records), 1),
            **_certified(run, sigmas[-1], config, workspace),
        }

    return workspace.row("noise", key, compute)


def _mnist(**settings: Any) -> Config:
    return Config(
        dataset="mnist",
        sigmas=(
            *((0.5, 0.5, 0.5), (0.25, 0.25, 0.5)),
            *((1.0, 1.0, 1.0), (0.25, 0.5, 1.0)),
            *((2.0, 2.0, 2.0), (0.5, 1.0, 2.0)),
        ),
        **settings,
    )


PRESETS = {
    "smoke": Config(
        dataset="digits",
        model=ModelConfig(name="cnn4", widen_factor=0.25),
        train_size=300,
        batch_size=50,
        sigmas=((0.5, 0.5, 0.5), (0.1, 0.25, 0.5)),
        epochs=(1, 1, 1),
        num_seeds=2,
        certifying=Certifying(num_selection=10, num_samples=100, batch_size=110),
        test_size=20,
    ),
    "cpu": _mnist(
        model=ModelConfig(name="cnn4", widen_factor=0.5),
        epochs=(2, 3, 5),
        test_size=200,
    ),
    "paper": _mnist(
        model=ModelConfig(name="cnn7"),
        epochs=(10, 15, 25),
        certifying=Certifying(num_samples=100_000, batch_size=2000),
        test_size=500,
    ),
}


def run(config: Config, workspace: Workspace) -> Mapping[str, Any]:
    """Train every model with every seed, and certify it."""
    # Data and settings are checked before any training.
    config.test_images(workspace)
    for sigmas in config.sigmas:
        config.phases(sigmas)
    rows = []
    for sigmas in config.sigmas:
        found = [
            _row(sigmas, seed, config, workspace) for seed in config.seeds(workspace)
        ]
        models = [each for each in found if each is not None]
        if models:
            row = {"model": _title(sigmas), "sigmas": list(sigmas), "models": models}
            rows.append(row)
    if not rows:
        raise ValueError(
            "`--shown-only` must be left out until a model is known, got it with none "
            f"in {str(workspace.models)!r}; compute one first."
        )
    return {
        "title": "Warm starts for noise",
        "rows": rows,
        "notes": _notes(config, rows),
        "tables": {"Certified accuracy": results_table({"rows": rows})},
        "figures": {"Certified accuracy by radius": _draw(rows, workspace)},
    }


def _notes(config: Config, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    models = [model for row in rows for model in row["models"]]
    count = models[0]["num_images"]
    width = max(
        (high - low) / 2
        for model in models
        for share in model["certified_accuracy"].values()
        for low, high in [wilson_interval(round(share * count), count)]
    )
    size = "all" if config.train_size is None else f"{config.train_size:,}"
    steps = ", ".join(f"{each:,}" for each in {model["num_steps"] for model in models})
    judged = config.certifying
    return [
        f"Share of {count:,} test images of {config.dataset} with the right class "
        "certified in a ball of each l_2 radius, in percent, and average certified "
        "radius (ACR), in units of [0, 1] pixels; images that are not right, or not "
        f"certified, count as 0. Mean and standard deviation of {config.num_seeds} "
        f"seeds. {judged.num_samples:,} draws and {judged.num_selection} to select the "
        f"class; a certificate is wrong with probability {judged.alpha:g} for each "
        "image. Certified at the deviation of the last phase.",
        f"Trained on {size} images, {steps} steps each: phases of "
        f"{', '.join(map(str, config.epochs))} epochs, each at the deviation named. "
        f"{count:,} images tell a share of one model to about {100 * width:.1f} points "
        "(half of the widest 95 % Wilson interval).",
    ]


def _draw(rows: Sequence[Mapping[str, Any]], workspace: Workspace) -> Any:
    """Mean over the seeds, between the lowest and the highest of them."""
    found = [np.asarray([each["radii"] for each in row["models"]]) for row in rows]
    radii = np.linspace(0.0, max(each.max() for each in found), 80)
    lines, bands = [], {}
    for row, certified in zip(rows, found, strict=True):
        shares = (certified > radii[:, None, None]).mean(axis=2)
        lines.append(
            plots.Curve(row["model"], radii.tolist(), shares.mean(axis=1).tolist())
        )
        bands[row["model"]] = (shares.min(axis=1).tolist(), shares.max(axis=1).tolist())
    figure = plots.curves(
        lines,
        xlabel="l_2 radius",
        ylabel="certified accuracy",
        title="Training under noise, from scratch and as a chain",
        bands=bands,
    )
    return workspace.save_figure("radii", figure)


def _with_deviation(values: Sequence[float], factor: float, digits: int) -> str:
    spread = stdev(values) if len(values) > 1 else math.nan
    return f"{factor * fmean(values):.{digits}f} ± {factor * spread:.{digits}f}"


def results_table(result: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the certified accuracies, also from a committed results file."""
    rows = result["rows"]
    radii = list(rows[0]["models"][0]["certified_accuracy"])
    header = ["deviation", "ACR", *(f"r = {radius}" for radius in radii)]
    lines = []
    for row in rows:
        models = row["models"]
        average = [model["average_certified_radius"] for model in models]
        lines.append([row["model"], _with_deviation(average, 1, 3)])
        for radius in radii:
            shares = [model["certified_accuracy"][radius] for model in models]
            lines[-1].append(_with_deviation(shares, 100, 1))
    return [header, *lines]
