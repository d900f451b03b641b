"""Averages of the weights, against the weights of every step averaged in NumPy."""

import dataclasses
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import PGD
from jaxrobust.networks import ModelConfig, network_of
from jaxrobust.training import (
    Averaging,
    Interrupted,
    NullReporter,
    Phase,
    RunError,
    TrainConfig,
    adversarial,
    extended,
    load_run,
    make_trainer,
    train,
    with_number,
)

NUM_BATCHES = 4


def weights_of_each_step(phase: Phase, epochs: int, averaged: Phase):
    """Kernel after each step, trained one step at a time, and the average kept."""
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.uniform(size=(NUM_BATCHES * 8, 4, 4, 1)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 3, NUM_BATCHES * 8))
    trainer = make_trainer(network_of(ModelConfig(name="linear"), 3), batch_size=8)
    optimizer = phase.optimizer.unscheduled()
    state = trainer.init(jax.random.key(0), images, optimizer, is_averaged=True)
    run, kernels, averages = jax.jit(trainer.run), [], []
    for epoch in range(1, epochs + 1):
        state = trainer.begin_epoch(state)
        settings = averaged.at(epoch, NUM_BATCHES)
        for stop in range(1, NUM_BATCHES + 1):
            state = run(state, settings, images, labels, jnp.int32(stop))
            kernels.append(np.asarray(state.weights.params["head"]["kernel"]))
            averages.append(np.asarray(state.weights.average.params["head"]["kernel"]))
        state, _ = trainer.end_epoch(state)
    return kernels, averages


def phase_with(averaging):
    return adversarial(0.0, 3, averaging=averaging)


def test_an_exponential_average_forgets_the_beginning():
    phase = phase_with(Averaging(decay=0.5))
    kernels, averages = weights_of_each_step(phase, 3, phase)
    average = np.zeros_like(kernels[0])
    for step, (kernel, found) in enumerate(zip(kernels, averages, strict=True), 1):
        decay = min(0.5, (1 + step) / (10 + step))
        # The first average is that of weights nobody sees here, hence the comparison
        # from what was found.
        average = kernel if step == 1 else decay * average + (1 - decay) * kernel
        if step > 1:
            np.testing.assert_allclose(found, average, rtol=2e-6, atol=1e-7)
        average = found


def test_swa_is_the_mean_of_the_ends_of_epochs():
    phase = phase_with(Averaging(name="swa", start_epoch=2))
    kernels, averages = weights_of_each_step(phase, 3, phase)
    ends = kernels[NUM_BATCHES - 1 :: NUM_BATCHES]
    np.testing.assert_array_equal(averages[2 * NUM_BATCHES - 1], ends[1])
    np.testing.assert_allclose(averages[-1], np.mean(ends[1:], axis=0), rtol=1e-6)
    # Between the ends of epochs nothing moves.
    for index in range(2 * NUM_BATCHES, 3 * NUM_BATCHES - 1):
        np.testing.assert_array_equal(averages[index], ends[1])


def test_training_knows_nothing_of_the_average():
    phase = phase_with(Averaging(decay=0.9))
    plain = dataclasses.replace(phase, averaging=Averaging(name="swa"))
    one, _ = weights_of_each_step(phase, 1, phase)
    other, _ = weights_of_each_step(phase, 1, plain)
    np.testing.assert_array_equal(one, other)


def test_its_numbers_are_swept_by_name():
    phase = with_number(phase_with(Averaging()), "averaging.decay", 0.9)
    assert phase.averaging == Averaging(decay=0.9)
    assert phase.at(5, 100).average_share[0] == pytest.approx(1 - 0.9)
    phase = with_number(phase_with(Averaging(name="swa")), "averaging.start_epoch", 2)
    assert phase.averaging == Averaging(name="swa", start_epoch=2)
    with pytest.raises(ValueError, match=r"must be in \[1, 3\], got 4"):
        with_number(phase, "averaging.start_epoch", 4)
    phase = with_number(phase_with(Averaging()), "averaging.decay", 0.9)
    # The first steps: nine parts in eleven are new, whatever the decay.
    assert phase.at(1, 100).average_share[0] == pytest.approx(9 / 11)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "mean"}, "`averaging.name` must be one of ema, swa, got 'mean'"),
        ({"decay": 1.0}, r"`averaging.decay` must be in \[0, 1\), got 1.0"),
        ({"start_epoch": 0}, "`averaging.start_epoch` must be at least 1, got 0"),
    ],
)
def test_wrong_settings_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Averaging(**fields)


@pytest.fixture
def averaged(tiny) -> TrainConfig:
    """Two phases, of which only the second has an average."""
    attack = PGD(step_size=0.05)
    phases = (
        adversarial(0.05, 1, attack=attack),
        extended(0.1, 2, attack=attack, averaging=Averaging(decay=0.9)),
    )
    return dataclasses.replace(tiny, phases=phases)


def test_the_average_is_saved_and_loaded_beside_the_weights(averaged, digits, tmp_path):
    run = train(averaged, tmp_path / "run", dataset=digits)
    newest = load_run(tmp_path / "run")
    average = load_run(tmp_path / "run", checkpoint="average")
    assert average.checkpoint == "average"
    for found, kept in (
        (newest.weights, run.state.weights.variables),
        (average.weights, run.state.weights.average),
    ):
        jax.tree.map(np.testing.assert_array_equal, found, kept)
    difference = jax.tree.map(
        lambda one, other: np.abs(one - other).max(),
        newest.weights.params,
        average.weights.params,
    )
    assert max(jax.tree.leaves(difference)) > 1e-5
    # A new run may start from it, with an optimizer that begins afresh.
    start = {"start_from": str(tmp_path / "run"), "start_checkpoint": "average"}
    phase = dataclasses.replace(averaged.phases[0], **start)
    config = dataclasses.replace(averaged, phases=(phase,))
    begun = train(config, tmp_path / "next", dataset=digits)
    assert begun.is_complete
    phase = dataclasses.replace(phase, carry="optimizer")
    config = dataclasses.replace(averaged, phases=(phase,))
    with pytest.raises(RunError, match="`carry` must be weights"):
        train(config, tmp_path / "third", dataset=digits)


def test_a_run_without_an_average_says_so(trained):
    with pytest.raises(RunError, match="`checkpoint` must be newest for the run in"):
        load_run(trained.directory, checkpoint="average")


class Killing(NullReporter):
    """Stops a run within its last epoch."""

    def update(self, num_done, values):
        if num_done == 7:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.slow
def test_resuming_an_averaged_run_equals_never_having_stopped(
    averaged, digits, tmp_path, small_slices
):
    whole = train(averaged, tmp_path / "whole", dataset=digits)

    with pytest.raises(Interrupted):
        train(averaged, tmp_path / "run", dataset=digits, reporter=Killing())
    resumed = train(averaged, tmp_path / "run", dataset=digits, resume=True)
    jax.tree.map(
        np.testing.assert_array_equal, resumed.state.weights, whole.state.weights
    )
