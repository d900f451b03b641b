"""Figure 6: two concentric spheres, told apart by networks with one hidden layer.

    python -m experiments input_distribution/figure6 --preset cpu

Points of two spheres with a ring between them. A network that tells them apart on every
point seen can still be far from the best, the sphere in the middle of the ring, whose
accuracy is that of clean points as long as the radius is below half of the ring. The
adversary moves the spheres together: at a radius epsilon the problem is that of a ring
narrower by 2 epsilon.

Presets:
    smoke: two dimensions, one network; shows that the program runs.
    cpu, paper: 2, 50 and 100 dimensions, three rings and four widths; some minutes on 2
        cores. `paper` has more points.

Differs from the paper: it gives no dimension, radii, network or number. Radii here are
1 and 1 + gap, networks have one hidden layer of rectified linear units, trained by Adam
on clean points. Distances are in units of the inner radius.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import jaxrobust
from experiments.workspace import Workspace
from jaxrobust import plots
from jaxrobust.attacks import PGD, with_restarts
from jaxrobust.data import Dataset
from jaxrobust.evaluation import evaluate
from jaxrobust.plots import Figure
from jaxrobust.plots.style import new_figure
from jaxrobust.pytrees import static
from jaxrobust.report import percent
from jaxrobust.threat import L2Ball
from jaxrobust.training import NullReporter, OptimizerConfig, Run

SHARES = (0.0, 0.1, 0.25, 0.4)
"""Radii of the attack, as shares of the ring; at a half no function withstands it."""


@dataclasses.dataclass(frozen=True)
class FreeL2(L2Ball):
    """The l_2 ball without a pixel range: spheres are no pixels."""

    bounds: tuple[float, float] | None = static(default=None)


class Hidden(nn.Module):
    """One hidden layer."""

    width: int

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits of the two spheres."""
        # Back from the pixel range to coordinates round the origin.
        points = 2 * images.reshape(images.shape[0], -1) - 1
        return nn.Dense(2)(nn.relu(nn.Dense(self.width)(points)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Spheres and networks."""

    dimensions: tuple[int, ...] = (2, 50, 100)
    gaps: tuple[float, ...] = (0.1, 0.3, 1.0)
    """Widths of the ring."""
    widths: tuple[int, ...] = (10, 30, 100, 1000)
    """Of the hidden layer."""
    num_train: int = 10_000
    num_test: int = 2000
    epochs: int = 60


PRESETS = {
    "smoke": Config(
        dimensions=(2,),
        gaps=(1.0,),
        widths=(10,),
        num_train=512,
        num_test=64,
        epochs=5,
    ),
    "cpu": Config(),
    "paper": Config(num_train=100_000, num_test=10_000),
}


def scale_of(gap: float) -> float:
    """Pixels of one unit of distance: the outer sphere fills the pixel range."""
    return 0.5 / (1 + gap)


def spheres(dimension: int, gap: float, count: int, seed: int) -> Dataset:
    """As many points of each sphere, as images of one row."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(count, dimension))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    labels = np.arange(count) % 2
    points *= (1 + gap * labels)[:, None]
    images = np.clip(0.5 + scale_of(gap) * points, 0, 1)
    return Dataset.of(
        images.reshape(count, 1, dimension, 1).astype(np.float32),
        labels,
        name="spheres",
    )


def _trained(
    config: Config, workspace: Workspace, dimension: int, gap: float, width: int
) -> Run:
    name = f"spheres-{dimension}-{gap:g}-{width}-{config.num_train}-{config.epochs}"
    return jaxrobust.train(
        Hidden(width),
        spheres(dimension, gap, config.num_train, workspace.seed),
        workspace.models / f"{name}-seed{workspace.seed}",
        epsilon=0.0,
        epochs=config.epochs,
        optimizer=OptimizerConfig(learning_rate=0.003, schedule="cosine"),
        seed=workspace.seed,
        resume=True,
        reporter=NullReporter(),
    )


def _judged(
    config: Config, workspace: Workspace, dimension: int, gap: float, width: int
) -> dict[str, Any]:
    run = _trained(config, workspace, dimension, gap, width)
    test = spheres(dimension, gap, config.num_test, workspace.seed + 1)
    seen = spheres(dimension, gap, config.num_train, workspace.seed)
    scale = scale_of(gap)
    radii = [share * gap * scale for share in SHARES[1:]]
    attack = PGD(num_steps=40, step_size=2.5 * radii[-1] / 40)
    found = evaluate(
        run.logits_fn,
        test,
        {"pgd": with_restarts(attack, 2)},
        radii,
        norm=FreeL2,
        seed=workspace.seed,
    )
    logits = jax.jit(run.logits_fn)(jnp.asarray(seen.images))
    return {
        "dimension": dimension,
        "gap": gap,
        "width": width,
        "train_accuracy": float(np.mean(np.argmax(logits, axis=1) == seen.labels)),
        "clean_accuracy": found.clean_accuracy,
        "robust_accuracy": [float(each) for each in found.robust_accuracy],
    }


def run(config: Config, workspace: Workspace) -> Mapping[str, Any]:
    """Train every network on every pair of spheres."""
    rows = []
    for dimension in config.dimensions:
        for gap in config.gaps:
            for width in config.widths:
                case = (dimension, gap, width)
                key = [case, config.num_train, config.num_test, config.epochs]
                key += [workspace.seed, SHARES]
                workspace.say(f"--- {dimension} dimensions, gap {gap:g}, width {width}")
                rows.append(
                    workspace.cached(
                        "spheres",
                        key,
                        lambda case=case: _judged(config, workspace, *case),
                    )
                )
    figures = {
        "Robust accuracy by the width of the ring": workspace.save_figure(
            "figure6", _draw(rows)
        )
    }
    if 2 in config.dimensions:
        gap, width = config.gaps[-1], config.widths[-1]
        model = _trained(config, workspace, 2, gap, width)
        picture = workspace.save_figure("figure6-boundary", _boundary(model, gap))
        figures["Decision boundary in the plane"] = picture
    note = (
        f"Accuracy on {config.num_test:,} points that were not trained on, clean and "
        "under PGD in l_2 with 40 steps and 2 random starts, at radii in shares of the "
        f"ring; {config.num_train:,} training points. A ring in the middle would keep "
        "100 % at all of these radii."
    )
    return {
        "title": "Two concentric spheres",
        "rows": rows,
        "notes": [note],
        "tables": {"Accuracy": results_table({"rows": rows})},
        "figures": figures,
    }


def results_table(result: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the accuracies, also from a committed results file."""
    lines = [
        [
            *(f"{row['dimension']}", f"{row['gap']:g}", f"{row['width']}"),
            *(percent(row[name]) for name in ("train_accuracy", "clean_accuracy")),
            *(percent(share) for share in row["robust_accuracy"]),
        ]
        for row in result["rows"]
    ]
    radii = (f"ε = {share:g} of it" for share in SHARES[1:])
    return [["dimension", "ring", "hidden", "training", "test", *radii], *lines]


def _draw(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Robust accuracy at a quarter of the ring, by dimension and ring."""
    lines = []
    for dimension in dict.fromkeys(row["dimension"] for row in rows):
        for gap in dict.fromkeys(row["gap"] for row in rows):
            mine = [
                row
                for row in rows
                if (row["dimension"], row["gap"]) == (dimension, gap)
            ]
            lines.append(
                plots.Curve(
                    f"d = {dimension}, ring {gap:g}",
                    [row["width"] for row in mine],
                    [100 * row["robust_accuracy"][1] for row in mine],
                )
            )
    drawn = plots.curves(
        lines, xlabel="hidden units", ylabel="accuracy at a quarter of the ring (%)"
    )
    drawn.axes[0].set_xscale("log")
    return drawn


def _boundary(run: Run, gap: float) -> Figure:
    """Where a network in the plane changes its answer, and both circles."""
    side = np.linspace(-1.15 * (1 + gap), 1.15 * (1 + gap), 201)
    plane = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 1, 2, 1)
    images = jnp.asarray(0.5 + scale_of(gap) * plane, jnp.float32)
    logits = np.asarray(jax.jit(run.logits_fn)(images))
    lead = (logits[:, 1] - logits[:, 0]).reshape(len(side), len(side))
    drawn = new_figure(4.2, 4.0)
    axes = drawn.subplots()
    axes.contourf(side, side, lead > 0, levels=[-0.5, 0.5, 1.5], alpha=0.25)
    angles = np.linspace(0, 2 * np.pi, 200)
    for radius in (1, 1 + gap):
        axes.plot(radius * np.cos(angles), radius * np.sin(angles), lw=1.2)
    axes.set_aspect("equal")
    return drawn
