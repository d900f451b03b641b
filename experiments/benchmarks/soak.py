"""A run that is killed again and again, against one that is left alone.

    python -m experiments benchmarks/soak --preset cpu

Trains in a process of its own, kills it by SIGKILL at random moments, starts it again
with --resume, and so on until the run is complete. Then the same run is trained in one
go, and the weights of both are compared bit for bit. Checkpoints that a kill damaged
would have been reported, set aside, and counted here.

Presets:
    smoke: digits, killed once or twice; shows that it runs.
    cpu: MNIST, killed every 30 to 90 seconds for half an hour.
"""

import dataclasses
import json
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.disturbances import Process
from experiments.workspace import Workspace
from jaxrobust.training import load_run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What is trained, and how it is disturbed."""

    flags: tuple[str, ...]
    """Of `jaxrobust train`."""
    seconds: float
    """Kills go on for so long; then the run is left to finish."""
    least: float
    """Fewest seconds between a start and its kill."""
    most: float
    """Most seconds between a start and its kill."""


PRESETS = {
    "smoke": Config(
        flags=(
            *("--dataset", "digits", "--train-size", "256", "--batch-size", "32"),
            *("--model", "linear", "--epsilon", "0.1", "--epochs", "40"),
            *("--attack.step-size", "0.05"),
        ),
        seconds=3.0,
        least=3.0,
        most=4.0,
    ),
    "cpu": Config(
        flags=(
            *("--dataset", "mnist", "--train-size", "6000", "--batch-size", "64"),
            *("--model", "lenet", "--widen-factor", "0.25"),
            *("--epsilon", "0.1", "0.2", "--epochs", "100", "500"),
            *("--attack.step-size", "0.05"),
        ),
        seconds=1800.0,
        least=30.0,
        most=90.0,
    ),
}


def _start(config: Config, directory: Path, workspace: Workspace) -> Process:
    words = ["-m", "jaxrobust", "train", *config.flags]
    words += ["--run-dir", str(directory), "--resume"]
    if workspace.data_dir is not None:
        words += ["--data-dir", str(workspace.data_dir)]
    return Process(words, Path.cwd())


def _disturbed(config: Config, directory: Path, workspace: Workspace) -> dict[str, int]:
    """Train under fire; what happened."""
    moments = random.Random(workspace.seed)
    counts = {"kills": 0, "starts": 0, "damaged_checkpoints": 0}
    began = time.perf_counter()
    while True:
        left = config.seconds - (time.perf_counter() - began)
        patience = moments.uniform(config.least, config.most) if left > 0 else None
        with _start(config, directory, workspace) as process:
            counts["starts"] += 1
            ended = process.end(patience)
        counts["damaged_checkpoints"] += ended.err.count("CheckpointWarning")
        if ended.code == 0:
            return counts
        if ended.code is not None:
            raise RuntimeError(f"training failed: {ended.err[-2000:]}")
        counts["kills"] += 1
        workspace.say(f"killed {counts['kills']} times")


def run(config: Config, workspace: Workspace) -> Mapping[str, Any]:
    """Train both, compare them."""
    disturbed = workspace.directory / "disturbed"
    counts = workspace.cached(
        "counts",
        dataclasses.asdict(config),
        lambda: _disturbed(config, disturbed, workspace),
    )
    left_alone = workspace.directory / "undisturbed"

    def train_alone() -> int:
        with _start(config, left_alone, workspace) as process:
            ended = process.end(None)
        if ended.code != 0:
            raise RuntimeError(f"training failed: {ended.err[-2000:]}")
        return ended.code

    workspace.cached("undisturbed", dataclasses.asdict(config), train_alone)
    one, other = load_run(disturbed), load_run(left_alone)
    leaves = zip(
        jax.tree.leaves(one.state.weights),
        jax.tree.leaves(other.state.weights),
        strict=True,
    )
    largest = max(
        float(np.max(np.abs(np.asarray(x, float) - np.asarray(y, float))))
        for x, y in leaves
    )
    lines = (disturbed / "metrics.jsonl").read_text().splitlines()
    epochs = [json.loads(line)["epoch"] for line in lines]
    row = {
        **counts,
        "epochs": len(epochs),
        "epochs_logged_once_and_in_order": epochs == [*range(1, len(epochs) + 1)],
        "largest_weight_difference": largest,
        "final_loss": one.records[-1]["loss"],
    }
    return {
        "title": "Killed again and again, against left alone",
        "rows": [row],
        "notes": [
            f"`jaxrobust train {' '.join(config.flags)}`, killed by SIGKILL every "
            f"{config.least:g} to {config.most:g} seconds for {config.seconds:g} "
            "seconds, then left to finish."
        ],
        "tables": {"Soak": results_table({"rows": [row]})},
    }


def results_table(result: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the table, also from a committed results file."""
    header = ["kills", "epochs", "each logged once, in order", "damaged checkpoints"]
    header += ["largest difference of a weight"]
    lines = [
        [
            str(row["kills"]),
            str(row["epochs"]),
            "yes" if row["epochs_logged_once_and_in_order"] else "no",
            str(row["damaged_checkpoints"]),
            f"{row['largest_weight_difference']:g}",
        ]
        for row in result["rows"]
    ]
    return [header, *lines]
