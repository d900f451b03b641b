"""Trains examples where a test cannot: in processes that are killed, on four devices.

    python -m tests.open.trained killed DIRECTORY CASE ...
    python -m tests.open.trained divided DIRECTORY CASE ...

Both begin one process for all cases, since it takes seconds to import what they need.
"""

import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path

import jax
import numpy as np

from jaxrobust.training import MeshConfig, NullReporter, Placement, train
from jaxrobust.training.course import group
from tests.open.sockets import NUM_BATCHES, digits, given_of


def flat(weights) -> np.ndarray:
    """All numbers of some weights."""
    leaves = [np.ravel(leaf) for leaf in jax.tree.leaves(weights)]
    return np.concatenate([np.asarray(leaf, np.float64) for leaf in leaves])


class Fatal(NullReporter):
    """Kills the process in the second epoch, once the first one is saved."""

    def __init__(self, directory: Path):
        self.saved = directory / "checkpoints" / str(NUM_BATCHES)

    def update(self, num_done, values):
        """Batches done so far."""
        if num_done > NUM_BATCHES:
            while not self.saved.is_dir():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)


def killed(directory: Path, case: str) -> int:
    """How a process of its own ended that trained the case."""
    # JAX has not begun to compute in this process, nor does it ever.
    pid = os.fork()
    if not pid:
        signal.alarm(120)
        try:
            group.SLICE_SECONDS = 0.0  # every batch is a slice
            config, network, dataset = given_of(case)
            run = directory / case
            reporter = Fatal(run)
            train(config, run, network=network, dataset=dataset, reporter=reporter)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def divided(directory: Path, case: str) -> np.ndarray:
    """The weights of the case, every batch divided among four devices."""
    config, network, dataset = given_of(case)
    placement = Placement(MeshConfig(data=4))
    settings = {"network": network, "dataset": dataset, "placement": placement}
    return flat(train(config, directory / case, **settings).weights)


def main(how: str, directory: str, *cases: str) -> None:
    """Train the cases; says how processes ended, or leaves weights in a file."""
    place = Path(directory)
    if how == "killed":
        digits()  # read for all of them
        print(json.dumps({case: killed(place, case) for case in cases}))
        return
    weights = {}
    for case in cases:
        try:
            weights[case] = divided(place, case)
        except Exception:
            # It is missing then; the others are not.
            traceback.print_exc()
    np.savez(place / "weights.npz", **weights)


if __name__ == "__main__":
    main(*sys.argv[1:])
