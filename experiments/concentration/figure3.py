"""Figure 3: Figure 1 (right) for smaller radii.

    python -m experiments concentration/figure3 --preset cpu

Presets:
    smoke: digits; shows that the program runs, nothing else.
    cpu: MNIST .1 and .2.
    cifar10: CIFAR-10 2/255 and 4/255.
    paper: both.
"""

from collections.abc import Mapping
from typing import Any

from experiments.concentration import figure1
from experiments.concentration.figure1 import NUMBERS, Config, results_table
from experiments.concentration.table1 import cases
from experiments.workspace import Workspace

__all__ = ["PRESETS", "results_table", "run"]

CIFAR10 = cases("cifar10", 0.05, dict.fromkeys(("2/255", "4/255"), NUMBERS))

PRESETS = {
    "smoke": Config(
        cases=cases("digits", 0.05, {"0.2": (2, 4)}),
        by_quantile=(),
        train_size=300,
        num_neighbors=10,
    ),
    "cpu": Config(
        cases=cases("mnist", 0.01, dict.fromkeys(("0.1", "0.2"), NUMBERS[:6])),
        by_quantile=(),
    ),
    "cifar10": Config(cases=CIFAR10, by_quantile=()),
    "paper": Config(
        cases=(
            *cases("mnist", 0.01, dict.fromkeys(("0.1", "0.2"), NUMBERS)),
            *CIFAR10,
        ),
        by_quantile=(),
    ),
}


def run(config: Config, workspace: Workspace) -> Mapping[str, Any]:
    """Measure and draw all panels."""
    return figure1.run(config, workspace, "figure3")
