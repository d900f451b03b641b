"""Jobs of several real processes on this machine, which talk through gloo."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import chex
import numpy as np
import pytest

from jaxrobust.attacks import PGD
from jaxrobust.keeping import claimed
from jaxrobust.networks import ModelConfig
from jaxrobust.training import (
    SweepConfig,
    TrainConfig,
    WarmStart,
    adversarial,
    load_run,
    sweep,
)

SCRIPT = Path(__file__).with_name("on_processes.py")
APART = Path(__file__).with_name("on_processes_apart.py")
ROOT = SCRIPT.parents[2]
NAMES = ("epsilon0.05", "epsilon0.1", "epsilon0.2")
LINES = {"epsilon0.05": 2, "epsilon0.1": 2, "epsilon0.2": 1}


def start(count, *arguments, script=SCRIPT):
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
    command = [sys.executable, str(script), *map(str, arguments)]
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
    try:
        texts = [process.communicate(timeout=240) for process in processes]
        return [process.returncode for process in processes], texts
    finally:
        for process in processes:
            process.kill()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The weights that one process trains."""
    base = TrainConfig(
        train_size=96,
        model=ModelConfig(name="linear"),
        batch_size=32,
        phases=(adversarial(0.1, 2, attack=PGD(step_size=0.05)),),
    )
    config = SweepConfig(
        base=base,
        epsilon=(0.05, 0.1, 0.2),
        warm_start=WarmStart(rule="above", threshold=0.1, epochs=1),
    )
    found = sweep(config, tmp_path_factory.mktemp("alone") / "sweep")
    return {name: run.weights for name, run in found.runs.items()}


def check(directory, alone):
    for name in NAMES:
        run = load_run(directory / name)
        assert run.is_complete
        chex.assert_trees_all_close(run.weights, alone[name], atol=1e-6)
        lines = (directory / name / "metrics.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        assert [each["epoch"] for each in records] == [*range(1, LINES[name] + 1)]
        assert np.isfinite(records[-1]["loss"])


@pytest.mark.slow
def test_four_processes_train_the_weights_of_one(alone, tmp_path):
    codes, texts = finish(start(4, 2, 2, tmp_path / "sweep"))
    assert codes == [0, 0, 0, 0], texts
    check(tmp_path / "sweep", alone)
    # Only the first one says anything.
    assert "training together" in texts[0][0]
    assert "trains while it saves: True" in texts[0][0]
    said = "".join(out for out, _ in texts[1:])
    assert all(line.startswith("[Gloo]") for line in said.splitlines())


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_process_that_is_killed_while_it_saves_leaves_the_save_before(
    alone, tmp_path
):
    directory = tmp_path / "sweep"
    codes, texts = finish(start(2, 2, 1, directory, int(signal.SIGKILL), "save"))
    assert codes[0] == -signal.SIGKILL and codes[1] not in (0, 75), texts
    names = sorted(path.name for path in directory.glob("*/checkpoints/*"))
    assert names[:2] == ["0", "0"]
    assert names[2:] and all("tmp" in name for name in names[2:])
    codes, texts = finish(start(2, 1, 2, directory))
    assert codes == [0, 0], texts
    assert "at step 0" in texts[0][0]
    check(directory, alone)


@pytest.mark.slow
def test_a_signal_to_one_process_saves_and_ends_them_all(alone, tmp_path):
    directory = tmp_path / "sweep"
    codes, texts = finish(start(2, 2, 1, directory, int(signal.SIGTERM)))
    assert codes == [75, 75], texts
    assert "at step 2, saved in" in texts[0][0]
    codes, texts = finish(start(2, 1, 2, directory))
    assert codes == [0, 0], texts
    check(directory, alone)


@pytest.mark.slow
def test_a_signal_to_one_process_during_the_start_ends_them_all(alone, tmp_path):
    directory = tmp_path / "sweep"
    codes, texts = finish(start(2, 2, 1, directory, int(signal.SIGTERM), "data"))
    assert codes == [75, 75], texts
    assert "before training, so that nothing is lost" in texts[0][0]
    assert not directory.exists()
    codes, texts = finish(start(2, 1, 2, directory))
    assert codes == [0, 0], texts
    check(directory, alone)


@pytest.fixture(scope="module")
def apart(tmp_path_factory):
    """What two processes are told that do not do the same thing."""
    directory = tmp_path_factory.mktemp("apart")
    with claimed(directory / "used", what="run_dir"):
        processes = start(2, directory, directory / "used", script=APART)
        codes, texts = finish(processes)
    assert codes == [0, 0], texts
    return [out.splitlines() for out, _ in texts]


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ("settings", r"config\[0\]\.phases\[0\]\.epsilon\.end: 0\.1, now 0\.4"),
        ("members", r"config\[1\]\.phases\[0\]\.epsilon\.end: 0\.2, now 0\.5"),
        ("work", "operation: 'train', now 'sweep'"),
        ("data", r"data\[0\]\.fingerprint: '\w+', now '"),
        ("files", r"is_begun\[0\]: True, now False"),
    ],
)
@pytest.mark.slow
def test_processes_with_different_work_are_refused_alike(apart, case, told):
    for lines in apart:
        (line,) = [line for line in lines if line.startswith(f"{case}: ")]
        rule = "ValueError: `settings` must be the same in all processes of a job"
        assert re.search(rf"{rule}.*process 1 than in process 0: .*{told}", line), line
        assert case == "files" or f"{case} left False" in lines


def test_a_directory_in_use_is_refused_in_all_processes(apart):
    for lines in apart:
        (line,) = [line for line in lines if line.startswith("in_use: ")]
        told = f"InUseError: `run_dir` must not be in use.* process {os.getpid()} on"
        assert re.search(told, line), line


def test_refusals_leave_the_processes_together(apart):
    assert all("done: 1" in lines for lines in apart)
