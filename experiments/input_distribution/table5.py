"""Table 5: CIFAR-10's levels of saturation by the width of the network.

    python -m experiments input_distribution/table5 --preset cpu

Accuracy on the training and on the test set of the networks of Table 3, of several
widths. At width 4 the paper's models overfit: up to a level of 3 they are less robust
on the test set than those of width 1.

Presets:
    smoke: two widths on digits, a few epochs; shows that the program runs.
    cpu: the models of this preset of `table3`, of a quarter of the width.
    paper: all levels and widths, and the paper's settings; wants an accelerator.

Differs from the paper: in `cpu` as Table 3; wider networks take days on 2 cores.
"""

from collections.abc import Mapping
from typing import Any

from experiments.input_distribution import table3
from experiments.input_distribution.capacity import (
    Published,
    Widths,
    by_width,
    published_at,
    widths_table,
)
from experiments.input_distribution.cases import asking
from experiments.input_distribution.families import cifar_paper, digits
from experiments.input_distribution.published import TABLE5, WIDTHS5
from experiments.input_distribution.variants import CIFAR
from experiments.workspace import Workspace

PRESETS = {
    "smoke": asking(
        Widths,
        digits(),
        variants=("saturate(8)",),
        widths=(0.125, 0.25),
    ),
    "cpu": asking(
        Widths,
        table3.PRESETS["cpu"],
        variants=table3.PRESETS["cpu"].variants,
        widths=(0.25,),
        train_size=table3.PRESETS["cpu"].train_size,
    ),
    "paper": asking(
        Widths, cifar_paper(is_together=True), variants=CIFAR, widths=WIDTHS5
    ),
}


def _published(dataset: str) -> Published:
    return published_at(TABLE5 if dataset == "cifar10" else {}, WIDTHS5)


def run(config: Widths, workspace: Workspace) -> Mapping[str, Any]:
    """Train and judge every variant at every width."""
    return by_width(config, workspace, _published(config.dataset))


def results_table(result: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the accuracies, also from a committed results file."""
    return widths_table(result["rows"], _published(result["config"]["dataset"]))
