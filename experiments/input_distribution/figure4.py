"""Figure 4: by the number of training images.

    python -m experiments input_distribution/figure4 --preset cpu

Accuracy on the training and on the test set of the network of Table 2 and, in `paper`,
of CIFAR-10's, trained on fewer images. By width, the other half of the figure, see
Tables 4 and 5.

Presets:
    smoke: two sizes of digits, a few epochs; shows that the program runs.
    cpu: MNIST and its binarized images, a quarter of the width; an hour on 2 cores.
    paper: MNIST and the paper's settings; wants an accelerator.

Differs from the paper: it does not say whether models of fewer images have as many
epochs or as many steps; here as many steps. Weight decay is .002 as there; with Adam it
is an L2 term.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from experiments.input_distribution.capacity import capacity_table, draw_capacity
from experiments.input_distribution.cases import Case, Family, asking
from experiments.input_distribution.families import digits, mnist, mnist_paper
from experiments.input_distribution.variants import BINARY, MNIST, ORIGINAL
from experiments.workspace import Workspace
from jaxrobust.training import Phase

SIZES = (1000, 3000, 9000, 27_000, None)
"""Training images; None for all."""

WEIGHT_DECAY = 0.002


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Family):
    """The variants and numbers of training images."""

    variants: tuple[str, ...]
    sizes: tuple[int | None, ...]
    width: float

    def cases(self, seed: int) -> list[Case]:
        """One for each variant and number of images."""
        return [
            Case(variant=variant, width=self.width, train_size=size, seed=seed)
            for variant in self.variants
            for size in self.sizes
        ]


def _config(family: Family, **fields: Any) -> Config:
    """The family with weight decay."""

    def decayed(phases: tuple[Phase, ...]) -> tuple[Phase, ...]:
        return tuple(
            dataclasses.replace(
                phase,
                optimizer=dataclasses.replace(
                    phase.optimizer, weight_decay=WEIGHT_DECAY
                ),
            )
            for phase in phases
        )

    changes: dict[str, Any] = {
        "standard": decayed(family.standard),
        "robust": decayed(family.robust),
    }
    return asking(Config, family, **changes, **fields)


PRESETS = {
    "smoke": _config(digits(), variants=(BINARY,), sizes=(500, None), width=0.25),
    "cpu": _config(
        mnist(), variants=(BINARY, ORIGINAL), sizes=(1000, 9000, None), width=0.25
    ),
    "paper": _config(mnist_paper(), variants=MNIST, sizes=SIZES, width=1.0),
}


def run(config: Config, workspace: Workspace) -> Mapping[str, Any]:
    """Train and judge every variant with every number of images."""
    rows = config.rows(config.cases(workspace.seed), workspace)
    drawn = draw_capacity(
        rows, xlabel="training images", field="train_size", full=config.full_size
    )
    note = (
        f"At most {config.judged_train_size:,} of the training images are judged, and "
        f"{rows[0]['num_test']:,} test images; PGD with {config.evaluation.text} at "
        f"epsilon {config.epsilon:.3g}; weight decay {WEIGHT_DECAY:g}. The paper "
        "prints no numbers."
    )
    return {
        "title": "Robust accuracy by the number of training images",
        "rows": rows,
        "notes": [note],
        "tables": {"Accuracy": results_table({"rows": rows})},
        "figures": {"Figure 4": workspace.save_figure("figure4", drawn)},
    }


def results_table(result: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the accuracies, also from a committed results file."""
    return capacity_table(
        result["rows"],
        lambda *_: None,
        column="training images",
        field="train_size",
    )
