"""Figure 11: Figure 4 under a stronger attack, 200 steps of .005.

    python -m experiments large_perturbations/figure11 --preset cpu

See `figure4`, whose computation this is.

Presets:
    smoke: binarized digits, a few epochs; shows that the program runs, nothing else.
    cpu: the models of `table1 --preset cpu`, at 25 points; about 10 minutes on 2 cores
        if table1 has been run (estimated).
    paper: the paper's network and 200 points; wants an accelerator.

Differs from the paper: in `cpu` 25 points instead of 200; clean losses are shown too.
"""

import dataclasses

from experiments.large_perturbations import figure4
from experiments.large_perturbations.figure4 import results_table, run
from jaxrobust.attacks import PGD

__all__ = ["PRESETS", "results_table", "run"]

_STRONG = PGD(step_size=0.005, num_steps=200)


def _strong(preset: str, **changes) -> figure4.Config:
    changes = {"attack": _STRONG, "bezier_steps": 0, "item": "figure11", **changes}
    return dataclasses.replace(figure4.PRESETS[preset], **changes)


PRESETS = {
    "smoke": _strong("smoke", num_points=3),
    "cpu": _strong("cpu", num_points=25),
    "paper": _strong("paper"),
}
