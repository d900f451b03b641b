"""Table 4: Table 1 for Fashion-MNIST and SVHN.

    python -m experiments concentration/table4 --preset cpu

Rows whose data set is not prepared are reported as missing, with the reason.

Presets:
    smoke: digits, and a data set that is not there.
    cpu: the rows of Fashion-MNIST.
    paper: all rows.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from experiments.concentration import table1
from experiments.concentration.table1 import Config, cases, results_table
from experiments.workspace import Workspace

__all__ = ["PRESETS", "results_table", "run"]

FASHION = cases("fashion_mnist", 0.05, dict.fromkeys(("0.1", "0.2", "0.3"), 10))
SVHN = cases("svhn_cropped", 0.05, dict.fromkeys(("0.01", "0.02", "0.03"), 10))

PRESETS = {
    "smoke": dataclasses.replace(
        table1.PRESETS["smoke"],
        cases=(*cases("digits", 0.05, {"0.1": 3}), *SVHN[:1]),
    ),
    "cpu": Config(cases=FASHION),
    "paper": Config(cases=(*FASHION, *SVHN)),
}


def run(config: Config, workspace: Workspace) -> Mapping[str, Any]:
    """Estimate all rows whose data are there."""
    found = table1.run(config, workspace)
    return {**found, "title": "Concentration in linf: Fashion-MNIST and SVHN"}
