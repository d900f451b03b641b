"""Table 4: MNIST's variants by the width of the network.

    python -m experiments input_distribution/table4 --preset cpu

Accuracy on the training and on the test set of the networks of Table 2, of several
widths: whether a variant needs more capacity to be learned robustly.

Presets:
    smoke: two widths on digits, a few epochs; shows that the program runs.
    cpu: three variants at an eighth, a quarter and half of the width; two hours on 2
        cores.
    paper: all variants and widths, and the paper's settings; wants an accelerator.

Differs from the paper: as Table 2. In `cpu` 10,000 training images are judged.
"""

from collections.abc import Mapping
from typing import Any

from experiments.input_distribution.capacity import (
    Published,
    Widths,
    by_width,
    published_at,
    widths_table,
)
from experiments.input_distribution.cases import asking
from experiments.input_distribution.families import digits, mnist, mnist_paper
from experiments.input_distribution.published import TABLE4, WIDTHS4
from experiments.input_distribution.variants import BINARY, MNIST, ORIGINAL
from experiments.workspace import Workspace

PRESETS = {
    "smoke": asking(
        Widths,
        digits(),
        variants=(BINARY,),
        widths=(0.125, 0.25),
    ),
    "cpu": asking(
        Widths,
        mnist(ensemble_size=500),
        variants=(BINARY, ORIGINAL, "smooth(8)"),
        widths=(0.125, 0.25, 0.5),
    ),
    "paper": asking(Widths, mnist_paper(), variants=MNIST, widths=WIDTHS4),
}


def _published(dataset: str) -> Published:
    return published_at(TABLE4 if dataset == "mnist" else {}, WIDTHS4)


def run(config: Widths, workspace: Workspace) -> Mapping[str, Any]:
    """Train and judge every variant at every width."""
    return by_width(config, workspace, _published(config.dataset))


def results_table(result: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the accuracies, also from a committed results file."""
    return widths_table(result["rows"], _published(result["config"]["dataset"]))
