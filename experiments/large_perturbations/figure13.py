"""Figure 13: Figure 6 for more images.

    python -m experiments large_perturbations/figure13 --preset cpu

See `figure6`, whose computation this is.

Presets:
    smoke: binarized digits, a few epochs; shows that the program runs, nothing else.
    cpu: 30 test images, the models of `table1 --preset cpu` and the one extended to .5;
        about half a minute on 2 cores if figure6 has been run.
    paper: the paper's network; wants an accelerator.

Differs from the paper: which images it shows is not said; here those that follow the
ones of Figure 6.
"""

import dataclasses

from experiments.large_perturbations import figure6
from experiments.large_perturbations.figure6 import results_table, run

__all__ = ["PRESETS", "results_table", "run"]


def _more(preset: str, last: int) -> figure6.Config:
    config = figure6.PRESETS[preset]
    examples = tuple(range(len(config.examples), last))
    return dataclasses.replace(config, examples=examples, item="figure13")


PRESETS = {
    "smoke": _more("smoke", 15),
    "cpu": _more("cpu", 40),
    "paper": _more("paper", 40),
}
