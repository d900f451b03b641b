"""Schedules of a user's own, by name and as values."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from jaxrobust.attacks import PGD
from jaxrobust.cli import main
from jaxrobust.data import load_arrays, subset
from jaxrobust.networks import ModelConfig
from jaxrobust.training import (
    EpsilonSchedule,
    OptimizerConfig,
    TrainConfig,
    adversarial,
    load_run,
    train,
)
from jaxrobust.training.recipe.config_json import config_from_json, config_to_json

OWN = Path(__file__).parent / "own_schedule.py"


@pytest.fixture(scope="module")
def digits():
    return subset(load_arrays("digits", "train"), 96)


def third(done):
    """A schedule in this module, to be handed over as a value."""
    return np.full_like(done, 1 / 3)


def test_an_own_rate_is_that_of_the_function():
    optimizer = OptimizerConfig(learning_rate=0.2, schedule=f"{OWN}:half")
    rates = [optimizer.learning_rates(epoch, 2, 3) for epoch in (1, 2)]
    np.testing.assert_allclose(rates, [[0.2] * 3, [0.1] * 3])
    given = OptimizerConfig(learning_rate=0.3, schedule=third)
    np.testing.assert_allclose(given.learning_rates(1, 1, 2), [0.1, 0.1])


def test_an_own_radius_is_that_of_the_function():
    schedule = EpsilonSchedule(end=0.2, kind=f"{OWN}:staircase")
    assert [schedule(epoch) for epoch in (1, 2, 3, 4, 9)] == [0, 0.1, 0.1, 0.2, 0.2]


def too_far(schedule, epoch):
    return 2 * schedule.end


def negative(done):
    return done - 1


def scalar(done):
    return 1.0


def test_results_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"`epsilon.kind` must be in \[0, 0.2\]"):
        EpsilonSchedule(end=0.2, kind=too_far)(1)
    for wrong in (negative, scalar):
        with pytest.raises(ValueError, match="`schedule` must be a function to 3"):
            OptimizerConfig(schedule=wrong).learning_rates(1, 1, 3)


def test_what_no_run_could_find_again_is_refused():
    for build in (
        lambda: OptimizerConfig(schedule=lambda done: done),
        lambda: OptimizerConfig(name=lambda rate, decay: None),
        lambda: EpsilonSchedule(kind=lambda schedule, epoch: 0.0),
    ):
        with pytest.raises(ValueError, match="a function at the top of a module"):
            build()
    with pytest.raises(ValueError, match="did you mean 'cosine'"):
        OptimizerConfig(schedule="cosin")


def test_a_run_by_it_is_loaded_without_it_and_resumed_with_it(digits, tmp_path, capsys):
    schedules = {
        "optimizer": OptimizerConfig(schedule=f"{OWN}:half"),
        "attack": PGD(step_size=0.05),
    }
    phase = adversarial(0.1, 2, **schedules)
    phase = dataclasses.replace(
        phase, epsilon=EpsilonSchedule(end=0.1, kind=f"{OWN}:staircase")
    )
    config = TrainConfig(
        train_size=96,
        batch_size=32,
        model=ModelConfig(name="linear"),
        phases=(phase,),
    )
    written = config_to_json(config)
    assert config_from_json(TrainConfig, written) == config
    run = train(config, tmp_path / "run", dataset=digits)
    assert [each["epsilon"] for each in run.records] == [0, 0.05]
    rates = [each["learning_rate"] for each in run.records]
    np.testing.assert_allclose(rates, [0.001, 0.0005])
    # Weights need no schedule: nothing is imported.
    loaded = load_run(tmp_path / "run")
    assert loaded.config == config
    again = train(config, tmp_path / "run", dataset=digits, resume=True)
    assert again.records == run.records


@pytest.mark.slow
def test_the_command_line_takes_one(tmp_path, capsys):
    flags = ["--train-size", "96", "--batch-size", "32", "--epochs", "2"]
    flags += ["--optimizer.schedule", f"{OWN}:half", "--epsilon", "0.05"]
    assert main(["train", "--run-dir", str(tmp_path / "run"), *flags]) == 0
    rates = [each["learning_rate"] for each in load_run(tmp_path / "run").records]
    np.testing.assert_allclose(rates, [0.001, 0.0005])
