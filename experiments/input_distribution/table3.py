"""Table 3 and Figure 2b: CIFAR-10's levels of saturation.

    python -m experiments input_distribution/table3 --preset paper

The same network trained on clean images and adversarially, once for each level: above 2
pixels move to 0 and 1, below to 1/2. On accelerators all levels train as members of one
compiled program, which makes the variant in its steps.

Presets:
    smoke: two levels of digits, a few epochs in one program; shows that it runs.
    cpu: three levels, 5,000 images of CIFAR-10 and a quarter of WRN-28; an hour on 2
        cores.
    paper: all levels and the paper's settings; wants an accelerator.

Differs from the paper: in `cpu` the network is that of a quarter of the width (Table
5), trained for 10 epochs on a tenth of the images and judged on 1,000.
"""

from collections.abc import Mapping
from typing import Any

from experiments.input_distribution.cases import asking
from experiments.input_distribution.comparing import (
    Variants,
    compared,
    variants_table,
)
from experiments.input_distribution.families import cifar, cifar_paper, digits
from experiments.input_distribution.published import TABLE3
from experiments.input_distribution.variants import CIFAR
from experiments.workspace import Workspace

PRESETS = {
    "smoke": asking(
        Variants,
        digits(is_together=True),
        variants=("saturate(2)", "saturate(inf)"),
        width=0.25,
    ),
    "cpu": asking(
        Variants,
        cifar(ensemble_size=200),
        variants=("saturate(2)", "saturate(8)", "saturate(inf)"),
        width=0.25,
        train_size=5000,
    ),
    "paper": asking(Variants, cifar_paper(is_together=True), variants=CIFAR, width=4.0),
}


def _published(dataset: str) -> Mapping[str, tuple[float, ...]]:
    return TABLE3 if dataset == "cifar10" else {}


def run(config: Variants, workspace: Workspace) -> Mapping[str, Any]:
    """Train and judge every level."""
    found = compared(
        config,
        workspace,
        title="Levels of saturation of CIFAR-10",
        figure="figure2b",
        published=_published(config.dataset),
    )
    if config.train_size is not None:
        found["notes"] += [
            f"Trained on {config.train_size:,} images at {config.width:g} of WRN-28's "
            "width; the paper's are all images at 4 times the width."
        ]
    return found


def results_table(result: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the accuracies, also from a committed results file."""
    return variants_table(result["rows"], _published(result["config"]["dataset"]))
