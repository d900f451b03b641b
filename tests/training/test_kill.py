"""A process that is really killed, and resumed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import chex
import jax
import pytest

from jaxrobust.keeping import InUseError
from jaxrobust.training import load_run, train

EPOCHS = 30
FLAGS = (
    *("--model", "linear", "--train-size", "1000", "--batch-size", "50"),
    *("--epsilon", "0.1", "--epochs", str(EPOCHS), "--attack.step-size", "0.01"),
)


def command(directory: Path, *more: str) -> list[str]:
    options = ("--run-dir", str(directory), *more)
    return [sys.executable, "-m", "jaxrobust", "train", *FLAGS, *options]


def epochs_done(directory: Path) -> int:
    path = directory / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def start_and_signal(directory: Path, at_epoch: int, number: int, *more: str):
    """Start training, send a signal once an epoch is logged, wait for the end."""
    process = subprocess.Popen(
        command(directory, *more), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 120
    while epochs_done(directory) < at_epoch and process.poll() is None:
        assert time.monotonic() < deadline, "the run does not come on"
        time.sleep(0.002)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    return process.returncode, stderr.decode()


def assert_same_weights(one: Path, other: Path) -> None:
    first, second = load_run(one), load_run(other)
    assert first.is_complete and second.is_complete
    chex.assert_trees_all_equal(
        first.state._replace(key=jax.random.key_data(first.state.key)),
        second.state._replace(key=jax.random.key_data(second.state.key)),
    )
    losses = [[record["loss"] for record in run.records] for run in (first, second)]
    assert losses[0] == losses[1]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    directory = tmp_path_factory.mktemp("kill") / "undisturbed"
    subprocess.run(command(directory), check=True, capture_output=True)
    return directory


def test_after_kill_9_resuming_equals_never_having_stopped(undisturbed, tmp_path):
    directory = tmp_path / "run"
    # The log line of an epoch comes just before its checkpoint, so the kill lands in
    # the middle of a save.
    for at_epoch, more in ((3, ()), (12, ("--resume",))):
        code, _ = start_and_signal(directory, at_epoch, signal.SIGKILL, *more)
        assert code == -signal.SIGKILL
        assert epochs_done(directory) < EPOCHS
    subprocess.run(command(directory, "--resume"), check=True, capture_output=True)
    assert_same_weights(directory, undisturbed)
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    epochs = [json.loads(line)["epoch"] for line in lines]
    assert epochs == list(range(1, EPOCHS + 1))


def test_sigterm_saves_and_says_how_to_go_on(undisturbed, tmp_path):
    directory = tmp_path / "run"
    code, stderr = start_and_signal(directory, 5, signal.SIGTERM)
    assert code == 75
    assert "stopped by SIGTERM" in stderr and "--resume" in stderr
    subprocess.run(command(directory, "--resume"), check=True, capture_output=True)
    assert_same_weights(directory, undisturbed)


def test_a_run_killed_before_its_first_checkpoint_can_be_resumed(tmp_path):
    directory, few = tmp_path / "run", ("--epochs", "3")
    process = subprocess.Popen(
        command(directory, *few), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not (directory / "config.json").exists() and process.poll() is None:
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = subprocess.run(command(directory, *few, "--resume"), capture_output=True)
    assert done.returncode == 0
    assert load_run(directory).is_complete


def test_a_second_process_is_refused_and_readers_do_no_harm(undisturbed, tmp_path):
    directory = tmp_path / "run"
    process = subprocess.Popen(command(directory), stdout=subprocess.PIPE)
    try:
        while epochs_done(directory) < 2 and process.poll() is None:
            time.sleep(0.002)
        config = load_run(undisturbed).config
        with pytest.raises(InUseError, match=f"process {process.pid} on .* since"):
            train(config, directory, resume=True)
        epochs = [len(load_run(directory).records) for _ in range(20)]
        assert epochs == sorted(epochs)
        process.communicate(timeout=120)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0
    assert_same_weights(directory, undisturbed)
    assert epochs_done(directory) == EPOCHS
    assert train(config, directory, resume=True).is_complete
