"""Figure 2: Figure 1 (left) for the other settings of Table 1.

    python -m experiments concentration/figure2 --preset cpu

Presets:
    smoke: digits; shows that the program runs, nothing else.
    cpu: MNIST .1, .2 and .4.
    cifar10: CIFAR-10 2/255, 4/255 and 16/255.
    paper: both.
"""

from collections.abc import Mapping
from typing import Any

from experiments.concentration import figure1
from experiments.concentration.figure1 import Config, results_table
from experiments.concentration.table1 import cases
from experiments.workspace import Workspace

__all__ = ["PRESETS", "results_table", "run"]

MNIST = cases("mnist", 0.01, {"0.1": 5, "0.2": 10, "0.4": 10})
CIFAR10 = cases("cifar10", 0.05, {"2/255": 10, "4/255": 20, "16/255": 75})

PRESETS = {
    "smoke": Config(
        cases=(),
        by_quantile=cases("digits", 0.05, {"0.1": 2}),
        quantiles=(0.6, 0.8),
        train_size=300,
        num_neighbors=10,
    ),
    "cpu": Config(cases=(), by_quantile=MNIST),
    "cifar10": Config(cases=(), by_quantile=CIFAR10),
    "paper": Config(cases=(), by_quantile=(*MNIST, *CIFAR10)),
}


def run(config: Config, workspace: Workspace) -> Mapping[str, Any]:
    """Measure and draw all panels."""
    return figure1.run(config, workspace, "figure2")
