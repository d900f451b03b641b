"""Theory: sets that grow in the cube and the ball.

    python -m experiments input_distribution/theory --preset cpu

Robust errors of half-spaces and the bounds that hold for every classifier, each beside
a sample: of half-spaces for the cube, of half-balls for the ball.

Presets:
    smoke: up to 100 coordinates, a small sample.
    cpu, paper: up to 3072 coordinates; under a minute on 2 cores. `paper` has a larger
        sample.

Differs from the paper: see `jaxrobust.theory.bounds` for its misprints.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.formulas import compared, formula_table
from experiments.workspace import Workspace
from jaxrobust import plots
from jaxrobust.theory import bounds

results_table = formula_table

RADII = (0.1, 0.3, 0.6)
SUMS = ((100, 0.1), (784, 0.1), (1000, 0.05), (3072, 8 / 255))
CUBE = ((0.5, 0.3), (0.5, 0.5), (0.5, 1.0), (0.9, 0.5), (0.1, 0.5))
BALLS = ((784, 0.09), (3072, 0.05), (3072, 0.09))
CLASSES = (2, 10, 100)
FACETS = ((100, 5), (784, 10), (3072, 20))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """How much is drawn."""

    num_examples: int = 20_000
    largest_dimension: int = 3072


PRESETS = {
    "smoke": Config(num_examples=1000, largest_dimension=100),
    "cpu": Config(),
    "paper": Config(num_examples=1_000_000),
}


def _sums(rng: np.random.Generator, count: int, dimension: int) -> np.ndarray:
    """Distance of the sum of uniform coordinates from its mean."""
    found = [
        rng.uniform(size=(min(500, count - start), dimension)).sum(axis=1)
        for start in range(0, count, 500)
    ]
    return np.abs(np.concatenate(found) - dimension / 2)


def _first(rng: np.random.Generator, count: int, dimension: int) -> np.ndarray:
    """First coordinate of points of the unit ball."""
    # The square of the first over the squared length has this law, and lengths that of
    # the largest of `dimension` uniform numbers.
    share = rng.beta(0.5, (dimension - 1) / 2, size=count)
    length = rng.uniform(size=count) ** (1 / dimension)
    return length * np.sqrt(share) * rng.choice([-1, 1], size=count)


def _rows(config: Config, seed: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    count = config.num_examples
    first = rng.uniform(size=count)
    rows = [
        compared(
            f"half-space across an axis, ε = {radius:g}: robust error",
            "Example 1",
            bounds.coordinate_robust_error(radius),
            np.abs(first - 0.5) <= radius,
        )
        for radius in RADII
    ]
    for dimension, radius in SUMS:
        if dimension > config.largest_dimension:
            continue
        near = _sums(rng, count, dimension) <= dimension * radius
        name = f"half-space of the sum, d = {dimension}, ε = {radius:.3g}"
        found = {
            "as printed": bounds.sum_vulnerable_fraction(
                dimension, radius, variance=0.25
            ),
            "sharp": bounds.sum_vulnerable_fraction(dimension, radius),
        }
        for kind, value in found.items():
            rows.append(
                compared(
                    f"{name}, {kind}", "Proposition 2.1", value, near, relation="<="
                )
            )
        exact = bounds.sum_vulnerable_fraction_exact(dimension, radius)
        rows.append(compared(f"{name}, exact", "Proposition 2.1", exact, near))
    for measure, radius in CUBE:
        name = f"cube, volume {measure:g} grown by {radius:g}"
        grown = first <= measure + radius
        value = bounds.cube_expansion(measure, radius)
        rows.append(compared(name, "Theorem 2.1", value, grown, relation="<="))
        if measure == 0.5:
            value = bounds.cube_expansion_exponential(radius)
            row = compared(
                f"{name}, simple", "Theorem 2.1", value, grown, relation="<="
            )
            rows.append(row)
    for dimension, radius in BALLS:
        name = f"half-ball, d = {dimension}, grown by {radius:g}"
        grown = _first(rng, count, dimension) <= radius
        found = {
            "": bounds.ball_expansion(0.5, radius, dimension),
            ", the paper's constant": bounds.ball_expansion_exponential(
                0.5, radius, dimension
            ),
            ", the best constant": bounds.ball_expansion_exponential(
                0.5, radius, dimension, constant=bounds.BEST_BALL_CONSTANT
            ),
        }
        for kind, value in found.items():
            rows.append(
                compared(name + kind, "Theorem 2.1", value, grown, relation="<=")
            )
    for classes in CLASSES:
        # Slabs of equal volume: the distance to the nearest border between two.
        borders = np.arange(1, classes) / classes
        near = np.min(np.abs(first[:, None] - borders), axis=1) <= 0.5
        value = bounds.cube_vulnerable_fraction(classes, 0.5)
        paper = "94 %" if classes == 10 else ""
        name = f"{classes} classes in the cube, ε = 0.5: vulnerable"
        row = compared(name, "Theorem 2.1", value, near, relation="<=", paper=paper)
        rows.append(row)
    value = bounds.ball_vulnerable_fraction(10, 0.09, 3072)
    name = "10 classes in the ball, d = 3072, ε = 0.09: vulnerable"
    rows.append(compared(name, "Theorem 2.1", value, paper="97 %"))
    for dimension, distance in FACETS:
        name = f"facets at a distance of {distance}, n = {dimension}"
        value = bounds.facets_bound(dimension, distance)
        rows.append(compared(name, "Theorem D.1", value))
    return rows


def run(config: Config, workspace: Workspace) -> Mapping[str, Any]:
    """Compute the bounds, and draw the samples."""
    key = [dataclasses.asdict(config), workspace.seed]
    rows = workspace.cached("formulas", key, lambda: _rows(config, workspace.seed))
    radii = np.linspace(0, 1, 101)
    lines = {
        f"{classes} classes": bounds.cube_vulnerable_fraction(classes, radii)
        for classes in CLASSES
    }
    figure = plots.curves(
        [
            plots.Curve(name, radii.tolist(), np.asarray(values).tolist())
            for name, values in lines.items()
        ],
        xlabel="ε (l2, in units of the edge of the cube)",
        ylabel="vulnerable share of the cube, at least",
    )
    return {
        "title": "Sets that grow in the cube and the ball",
        "rows": rows,
        "notes": [
            f"{config.num_examples:,} points, intervals of 99.9 %; ≤ where the formula "
            "is a lower bound for any set, and the sample is of one set."
        ],
        "tables": {"Formulas": formula_table({"rows": rows})},
        "figures": {
            "Theorem 2.1: vulnerable in any dimension": workspace.save_figure(
                "theory-cube", figure
            )
        },
    }
