"""Figure 3: brightness of CIFAR-10, and Fashion-MNIST beside its edges.

    python -m experiments input_distribution/figure3 --preset cpu

The columns of Table 2 for other variants: powers of the pixels (gamma), which leave the
clean accuracy as it is, and Fashion-MNIST, which behaves like CIFAR-10 while its edges
behave like binarized MNIST.

Presets:
    smoke: digits and their edges, a few epochs; shows that the program runs.
    cpu: Fashion-MNIST and its edges, a quarter of the width; half an hour on 2 cores.
    paper: the same with the paper's settings; wants an accelerator.
    paper-gamma: CIFAR-10 at five powers; wants an accelerator.

Differs from the paper: it prints no numbers, nor the powers, nor whose edge detector it
took; here powers from .6 to 1.4, and scikit-image's `canny`.
"""

from collections.abc import Mapping
from typing import Any

from experiments.input_distribution.cases import asking
from experiments.input_distribution.comparing import (
    Variants,
    compared,
    variants_table,
)
from experiments.input_distribution.families import (
    cifar_paper,
    digits,
    mnist,
    mnist_paper,
)
from experiments.input_distribution.variants import ORIGINAL
from experiments.workspace import Workspace

EDGES = "edges(1)"

PRESETS = {
    "smoke": asking(
        Variants,
        digits(),
        variants=(ORIGINAL, EDGES),
        width=0.25,
    ),
    "cpu": asking(
        Variants,
        mnist(dataset="fashion_mnist", ensemble_size=500),
        variants=(ORIGINAL, EDGES),
        width=0.25,
    ),
    "paper": asking(
        Variants,
        mnist_paper(dataset="fashion_mnist"),
        variants=(ORIGINAL, EDGES),
        width=1.0,
    ),
    "paper-gamma": asking(
        Variants,
        cifar_paper(is_together=True),
        variants=tuple(f"gamma({power:g})" for power in (0.6, 0.8, 1, 1.2, 1.4)),
        width=4.0,
    ),
}


def run(config: Variants, workspace: Workspace) -> Mapping[str, Any]:
    """Train and judge every variant."""
    return compared(
        config,
        workspace,
        title="Edges and brightness",
        figure="figure3",
        published={},
    )


def results_table(result: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the accuracies, also from a committed results file."""
    return variants_table(result["rows"], {})
