"""A process that is really killed, and resumed."""

import json
import signal
from pathlib import Path

import chex
import jax
import pytest

from experiments.disturbances import Ended, Process, appears
from jaxrobust.keeping import InUseError
from jaxrobust.training import load_run, train

EPOCHS = 30
WORDS = (
    *("-m", "jaxrobust", "train", "--run-dir", "disk/run"),
    *("--model", "linear", "--train-size", "1000", "--batch-size", "50"),
    *("--epsilon", "0.1", "--epochs", str(EPOCHS), "--attack.step-size", "0.01"),
)
RUN = Path("disk", "run")


def finish(place: Path, *more: str) -> Ended:
    with Process((*WORDS, *more), place) as process:
        ended = process.end(120)
    assert ended.code == 0, ended.err
    return ended


def start_and_signal(place: Path, at_epoch: int, number: int, *more: str) -> Ended:
    """Start training, send a signal once an epoch is logged, wait for the end."""
    logged = appears("epoch logged", "run/metrics.jsonl", num_lines=at_epoch)
    with Process((*WORDS, *more), place) as process:
        assert process.reaches(logged, 120), "the run does not come on"
        process.send(number)
        return process.end(60)


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
    place = tmp_path_factory.mktemp("kill")
    finish(place)
    return place / RUN


# `test_loop.py` stops runs at every place, without a process, in the fast part.
@pytest.mark.slow
def test_after_kill_9_resuming_equals_never_having_stopped(undisturbed, tmp_path):
    # The log line of an epoch comes just before its checkpoint, so the kill lands in
    # the middle of a save.
    for at_epoch, more in ((3, ()), (12, ("--resume",))):
        ended = start_and_signal(tmp_path, at_epoch, signal.SIGKILL, *more)
        assert ended.code == -signal.SIGKILL
        assert not load_run(tmp_path / RUN).is_complete
    finish(tmp_path, "--resume")
    assert_same_weights(tmp_path / RUN, undisturbed)
    lines = (tmp_path / RUN / "metrics.jsonl").read_text().splitlines()
    epochs = [json.loads(line)["epoch"] for line in lines]
    assert epochs == list(range(1, EPOCHS + 1))


@pytest.mark.slow
def test_sigterm_saves_and_says_how_to_go_on(undisturbed, tmp_path):
    ended = start_and_signal(tmp_path, 5, signal.SIGTERM)
    assert ended.code == 75
    assert "stopped by SIGTERM" in ended.err and "--resume" in ended.err
    finish(tmp_path, "--resume")
    assert_same_weights(tmp_path / RUN, undisturbed)


@pytest.mark.slow
def test_a_second_process_is_refused_and_readers_do_no_harm(undisturbed, tmp_path):
    config = load_run(undisturbed).config
    logged = appears("epoch logged", "run/metrics.jsonl", num_lines=2)
    with Process(WORDS, tmp_path) as process:
        assert process.reaches(logged, 120), "the run does not come on"
        with pytest.raises(InUseError, match=f"process {process.pid} on .* since"):
            train(config, tmp_path / RUN, resume=True)
        epochs = [len(load_run(tmp_path / RUN).records) for _ in range(20)]
        assert epochs == sorted(epochs)
        assert process.end(120).code == 0
    assert_same_weights(tmp_path / RUN, undisturbed)
    assert len((tmp_path / RUN / "metrics.jsonl").read_text().splitlines()) == EPOCHS
    assert train(config, tmp_path / RUN, resume=True).is_complete
