"""Table 2 and Figure 2a: MNIST's variants, which differ in robustness only.

    python -m experiments input_distribution/table2 --preset cpu

The same network trained on clean images and adversarially, once for each variant of
the data: the binarized images, the images as they are, and smoothed ones.

Presets:
    smoke: two variants of digits, a few epochs; shows that the program runs.
    cpu: MNIST and a quarter of the paper's width, seeds 0 to 2; some hours on 2 cores.
    paper: MNIST and the paper's settings; wants an accelerator.

Differs from the paper: the smoothing is that of its text, which is stronger than that
of its figures (Table 6). In `cpu` models are trained by a chain of radii (.1, .2, .3),
with Adam of rate .001 and batches of 128, in 6 epochs.
"""

from collections.abc import Mapping
from typing import Any

from experiments.input_distribution.cases import asking
from experiments.input_distribution.comparing import (
    Variants,
    compared,
    variants_table,
)
from experiments.input_distribution.families import digits, mnist, mnist_paper
from experiments.input_distribution.published import TABLE2, TABLE4, WIDTHS4
from experiments.input_distribution.variants import BINARY, MNIST
from experiments.workspace import Workspace

PRESETS = {
    "smoke": asking(
        Variants,
        digits(),
        variants=(BINARY, "smooth(2)"),
        width=0.25,
    ),
    "cpu": asking(
        Variants, mnist(ensemble_size=500), variants=MNIST, width=0.25, seeds=(0, 1, 2)
    ),
    "paper": asking(Variants, mnist_paper(is_together=True), variants=MNIST, width=1.0),
}


def _published(dataset: str, width: float) -> dict[str, list[str]]:
    """The paper's numbers; of robust accuracy also those of Table 4 for the width."""
    if dataset != "mnist":
        return {}
    found = {}
    for variant, numbers in TABLE2.items():
        cells = [f"{number:g}" for number in numbers]
        if width != 1 and width in WIDTHS4:
            _, test = TABLE4["robust"][variant]
            cells[2] += f"; {test[WIDTHS4.index(width)]:g}"
        found[variant] = cells
    return found


def run(config: Variants, workspace: Workspace) -> Mapping[str, Any]:
    """Train and judge every variant with every seed."""
    found = compared(
        config,
        workspace,
        title="Variants of MNIST",
        figure="figure2a",
        published=_published(config.dataset, config.width),
    )
    if config.dataset == "mnist" and config.width != 1:
        found["notes"] += [
            "The paper's numbers are of its full width; of robust accuracy also that "
            f"of its Table 4 for {config.width:g} of the width."
        ]
    return found


def results_table(result: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the accuracies, also from a committed results file."""
    config = result["config"]
    return variants_table(
        result["rows"], _published(config["dataset"], config["width"])
    )
