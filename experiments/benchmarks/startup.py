"""From the command to the first training step, with and without kept compilations.

    python -m experiments benchmarks/startup --preset cpu

Each time is that of a new process: import, compilation and one PGD-15 training step of
the MNIST network on noise, as `jaxrobust train` does it, with its checkpoints. Cold: an
empty compilation cache. Warm: the cache of the cold process. Rounds alternate, the
median counts.

Presets:
    smoke: one round.
    cpu: five rounds; about 2 minutes.
"""

import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any

from experiments.workspace import ROOT, Workspace

TARGETS = {"cold": 15.0, "warm": 4.0}

FIRST_STEP = """
import sys, tempfile
import numpy as np
from jaxrobust.compilation import keep_compilations
from jaxrobust.data import Dataset
from jaxrobust.networks import ModelConfig
from jaxrobust.attacks import PGD
from jaxrobust.training import TrainConfig, adversarial, train
keep_compilations()
noise = np.random.default_rng(0)
data = Dataset(
    name="noise", title="noise", num_classes=10,
    images=noise.integers(0, 256, size=(128, 28, 28, 1), dtype=np.uint8),
    labels=noise.integers(0, 10, size=128).astype(np.int32),
)
config = TrainConfig(
    model=ModelConfig(name="lenet", widen_factor=float(sys.argv[1])),
    phases=(adversarial(0.3, 1, attack=PGD(step_size=0.05)),),
)
with tempfile.TemporaryDirectory() as directory:
    train(config, directory, dataset=data, resume=True)
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """How often."""

    num_rounds: int
    widen_factor: float = 1.0


PRESETS = {
    "smoke": Config(num_rounds=1, widen_factor=0.125),
    "cpu": Config(num_rounds=5),
}


def _seconds(config: Config, cache: str) -> float:
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", FIRST_STEP, str(config.widen_factor)],
        env=os.environ | {"JAX_COMPILATION_CACHE_DIR": cache},
        cwd=ROOT.parent,
        check=True,
    )
    return time.perf_counter() - began


def run(config: Config, workspace: Workspace) -> Mapping[str, Any]:
    """Time processes with an empty and with a full cache."""
    times: dict[str, list[float]] = {"cold": [], "warm": []}
    for _ in range(config.num_rounds):
        with tempfile.TemporaryDirectory(prefix="jaxrobust-startup-") as cache:
            for name, each in times.items():
                each.append(_seconds(config, cache))
                workspace.say(f"{name}: {each[-1]:.1f} s")
    workspace.seconds += sum(map(sum, times.values()))
    rows = [
        {
            "what": f"{name} cache",
            "seconds": statistics.median(each),
            "least": min(each),
            "target": TARGETS[name],
        }
        for name, each in times.items()
    ]
    return {
        "title": "From the command to the first training step",
        "rows": rows,
        "notes": [
            f"MNIST network, width x{config.widen_factor:g}, batch 128, PGD; the whole "
            f"process, medians of {config.num_rounds}."
        ],
        "tables": {"Seconds": results_table({"rows": rows})},
    }


def results_table(result: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the table, also from a committed results file."""
    lines = [
        [
            row["what"],
            f"{row['seconds']:.1f}",
            f"{row['least']:.1f}",
            f"{row['target']:g}",
        ]
        for row in result["rows"]
    ]
    return [["what", "seconds", "least", "target"], *lines]
