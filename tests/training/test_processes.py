"""Jobs of several real processes on this machine, which talk through gloo."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import chex
import numpy as np
import pytest

from jaxrobust.models import ModelConfig
from jaxrobust.training import (
    AttackConfig,
    SweepConfig,
    TrainConfig,
    WarmStart,
    adversarial,
    load_run,
    sweep,
)

SCRIPT = Path(__file__).with_name("on_processes.py")
ROOT = SCRIPT.parents[2]
NAMES = ("epsilon0.05", "epsilon0.1", "epsilon0.2")
LINES = {"epsilon0.05": 2, "epsilon0.1": 2, "epsilon0.2": 1}


def start(count, *arguments):
    """The processes of a job, started but not waited for."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = os.environ | {
        "JAXROBUST_COORDINATOR": f"127.0.0.1:{port}",
        "JAXROBUST_NUM_PROCESSES": str(count),
        "JAXROBUST_HEARTBEAT_SECONDS": "10",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return [
        subprocess.Popen(
            command,
            env=shared | {"JAXROBUST_PROCESS_ID": str(index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(count)
    ]


def finish(processes):
    """Exit codes and texts of a job that ends by itself."""
    texts = [process.communicate(timeout=240) for process in processes]
    return [process.returncode for process in processes], texts


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The weights that one process trains."""
    base = TrainConfig(
        train_size=96,
        model=ModelConfig(name="linear"),
        batch_size=32,
        phases=(adversarial(0.1, 2, attack=AttackConfig(step_size=0.05)),),
    )
    config = SweepConfig(
        base=base,
        epsilon=(0.05, 0.1, 0.2),
        warm_start=WarmStart(rule="above", threshold=0.1, epochs=1),
    )
    found = sweep(config, tmp_path_factory.mktemp("alone") / "sweep")
    return {name: run.state.weights[:2] for name, run in found.runs.items()}


def check(directory, alone):
    for name in NAMES:
        run = load_run(directory / name)
        assert run.is_complete
        chex.assert_trees_all_close(run.state.weights[:2], alone[name], atol=1e-6)
        lines = (directory / name / "metrics.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        assert [each["epoch"] for each in records] == [*range(1, LINES[name] + 1)]
        assert np.isfinite(records[-1]["loss"])


def test_four_processes_train_the_weights_of_one(alone, tmp_path):
    codes, texts = finish(start(4, 2, 2, tmp_path / "sweep"))
    assert codes == [0, 0, 0, 0], texts
    check(tmp_path / "sweep", alone)
    # Only the first one says anything.
    assert "training together" in texts[0][0]
    said = "".join(out for out, _ in texts[1:])
    assert all(line.startswith("[Gloo]") for line in said.splitlines())


def test_a_killed_process_stops_the_others_and_the_job_goes_on_without_it(
    alone, tmp_path
):
    directory = tmp_path / "sweep"
    codes, texts = finish(start(2, 1, 2, directory, int(signal.SIGKILL)))
    assert codes[1] == -signal.SIGKILL
    assert codes[0] not in (0, 75)
    assert "another process of this job stopped" in texts[0][1]
    assert not all(
        (directory / name).is_dir() and load_run(directory / name).is_complete
        for name in NAMES
    )
    # On another number of hosts, and of devices.
    codes, texts = finish(start(1, 1, 1, directory))
    assert codes == [0], texts
    check(directory, alone)


def test_a_signal_to_one_process_saves_and_ends_them_all(alone, tmp_path):
    directory = tmp_path / "sweep"
    codes, texts = finish(start(2, 2, 1, directory, int(signal.SIGTERM)))
    assert codes == [75, 75], texts
    assert "at step 2, saved in" in texts[0][0]
    codes, texts = finish(start(2, 1, 2, directory))
    assert codes == [0, 0], texts
    check(directory, alone)
