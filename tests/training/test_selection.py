"""What is held out, how it is judged, and which checkpoint is kept by it."""

import dataclasses
import os
import signal

import chex
import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxrobust.attacks import PGD
from jaxrobust.data import Dataset, hold_out
from jaxrobust.evaluation import evaluate_models
from jaxrobust.training import (
    Averaging,
    Interrupted,
    LineReporter,
    NullReporter,
    Placement,
    RunError,
    SweepConfig,
    TrainConfig,
    Validation,
    applied,
    load_run,
    sweep,
    train,
)
from jaxrobust.training.course.examples import problem_of
from jaxrobust.training.course.selection import CLEAN, ROBUST, best_epoch
from jaxrobust.training.step.programs import Programs
from jaxrobust.training.step.trainer import to_arrays


def numbered(labels) -> Dataset:
    """Images that are told apart by their one pixel."""
    count = len(labels)
    images = (np.arange(count) + 1.0).astype("float32").reshape(-1, 1, 1, 1) / count
    return Dataset.of(images, np.asarray(labels), name="numbered")


@given(
    st.lists(st.integers(5, 12), min_size=2, max_size=4),
    st.floats(0.1, 0.6),
    st.randoms(use_true_random=False),
)
def test_parts_are_disjoint_complete_and_stratified(counts, share, random):
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    random.shuffle(labels)
    whole = numbered(labels)
    kept, held = hold_out(whole, share)
    both = np.concatenate([kept.images, held.images]).ravel()
    np.testing.assert_array_equal(np.sort(both), whole.images.ravel())
    assert len(held) == round(share * len(whole))
    for label, count in enumerate(counts):
        expected = share * count
        assert abs(np.sum(held.labels == label) - expected) <= 1.5


def test_nothing_is_held_out_of_too_few():
    with pytest.raises(ValueError, match="`share` must be in"):
        hold_out(numbered([0, 1, 0]), 0.01)


def record(epoch, epsilon, robust=None, clean=0.5, is_jump=False):
    measured = {} if robust is None else {ROBUST: robust, CLEAN: clean}
    return {"epoch": epoch, "epsilon": epsilon, "is_jump": is_jump, **measured}


@pytest.mark.parametrize(
    ("records", "best"),
    [
        ([], None),
        ([record(1, 0.1)], None),
        ([record(1, 0.1, 0.5), record(2, 0.1, 0.7), record(3, 0.1, 0.6)], 2),
        # Ties: clean accuracy, then the first.
        ([record(1, 0.1, 0.5, 0.5), record(2, 0.1, 0.5, 0.6)], 2),
        ([record(1, 0.1, 0.5), record(2, 0.1, 0.5)], 1),
        # A new radius takes the place of what was measured at others.
        ([record(1, 0.1, 0.9), record(2, 0.2, 0.4), record(3, 0.2, 0.3)], 2),
        ([record(1, 0.1, 0.9), record(2, 0.2)], 1),
        # A jump is taken back.
        ([record(1, 0.1, 0.5), record(2, 0.1, 0.9, is_jump=True)], 1),
        ([record(1, 0.1, 0.5), record(2, 0.2, 0.1, is_jump=True)], 1),
    ],
)
def test_the_best_epoch(records, best):
    assert best_epoch(records) == best


@pytest.fixture(scope="module")
def config(tiny) -> TrainConfig:
    """The tiny run, a quarter held out, judged every other epoch."""
    validation = Validation(share=0.25, every=2, num_steps=5)
    # Two batches hold what is held out, the second of them in part.
    return dataclasses.replace(tiny, batch_size=18, validation=validation)


@pytest.fixture(scope="module")
def selected(config, digits, tmp_path_factory):
    directory = tmp_path_factory.mktemp("selected") / "run"
    return train(config, directory, dataset=digits)


def test_held_out_examples_are_judged_as_evaluations_do(selected, digits):
    kept, held = hold_out(digits, 0.25)
    assert (len(kept), len(held)) == (72, 24)
    # Four steps of 18 in each epoch: nothing that is held out is trained on.
    assert int(selected.state.step) == 6 * 4
    newest = selected.records[-1]
    phase = selected.config.phases[-1]
    radius = phase.epsilon.end
    found = evaluate_models(
        applied(selected.network),
        [selected.weights],
        held,
        PGD(num_steps=5, step_size=2.5 * radius / 5, keep="best"),
        [radius],
    )[0]
    assert newest[CLEAN] == pytest.approx(found.clean_accuracy)
    # Other random starts.
    assert abs(newest[ROBUST] - found.robust_accuracy[0]) <= 2 / 24


def test_it_is_looked_at_when_due_and_at_the_end_of_each_phase(selected):
    looked = [each["epoch"] for each in selected.records if ROBUST in each]
    assert looked == [2, 4, 6]
    # Without a radius nothing is attacked.
    assert selected.records[1][ROBUST] == selected.records[1][CLEAN]


def test_the_best_checkpoint_has_the_weights_of_its_epoch(selected, config, tmp_path):
    best = load_run(selected.directory, checkpoint="best")
    epoch = best_epoch(selected.records)
    assert len(best.records) == epoch and best.checkpoint == "best"
    assert best.is_complete
    assert int(best.state.step) == 4 * epoch


def test_groups_of_a_sweep_share_the_program_that_judges(config, digits):
    kept, held = hold_out(digits, 0.25)
    programs = Programs([config], problem_of(kept), Placement(), 1)
    validator = programs.validator(held, config.validation)
    assert programs.validator(held, config.validation) is validator
    # Others are judged on others.
    assert programs.validator(kept, config.validation) is not validator


def test_the_log_says_what_was_measured(config, digits, tmp_path, capsys):
    phases = config.phases[1:2]
    short = dataclasses.replace(config, phases=phases)
    run = train(short, tmp_path / "run", dataset=digits, reporter=LineReporter())
    lines = [line for line in capsys.readouterr().out.splitlines() if "epoch" in line]
    assert "held out" not in lines[0]
    last = run.records[-1]
    assert f"held out {last[CLEAN]:.2%} clean, {last[ROBUST]:.2%} robust" in lines[1]


def test_without_any_held_out_there_is_no_best(trained):
    with pytest.raises(RunError, match=r"hold examples out \(--validation .1\)"):
        load_run(trained.directory, checkpoint="best")


class Killing(NullReporter):
    """Stops a run at a batch."""

    def __init__(self, batch):
        self.batch = batch

    def update(self, num_done, values):
        if num_done == self.batch:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    "batch",
    [13, *(pytest.param(each, marks=pytest.mark.slow) for each in (6, 17))],
)
def test_resuming_finds_the_same_best(
    batch, config, selected, digits, tmp_path, small_slices
):
    with pytest.raises(Interrupted):
        train(config, tmp_path / "run", dataset=digits, reporter=Killing(batch))
    train(config, tmp_path / "run", dataset=digits, resume=True)
    for checkpoint in ("newest", "best"):
        one, other = (
            load_run(directory, checkpoint=checkpoint)
            for directory in (tmp_path / "run", selected.directory)
        )
        chex.assert_trees_all_equal(to_arrays(one.state), to_arrays(other.state))
        measured = [each.get(ROBUST) for each in one.records]
        assert measured == [each.get(ROBUST) for each in other.records]


@pytest.mark.slow
def test_members_of_a_sweep_have_each_their_best(config, selected, digits, tmp_path):
    base = dataclasses.replace(config, phases=config.phases[1:2])
    found = sweep(
        SweepConfig(base=base, epsilon=(0.05, 0.2)), tmp_path / "sweep", dataset=digits
    )
    alone = dataclasses.replace(found.runs["epsilon0.2"].config)
    run = train(alone, tmp_path / "alone", dataset=digits)
    member = load_run(tmp_path / "sweep" / "epsilon0.2", checkpoint="best")
    best = load_run(run.directory, checkpoint="best")
    assert [each.get(ROBUST) for each in member.records] == [
        each.get(ROBUST) for each in best.records
    ]
    assert int(member.state.step) == int(best.state.step)


def test_where_an_average_is_kept_it_is_judged_and_chosen(config, digits, tmp_path):
    phase = dataclasses.replace(
        config.phases[1], averaging=Averaging(decay=0.9), epochs=2
    )
    averaged = dataclasses.replace(config, phases=(phase,))
    run = train(averaged, tmp_path / "run", dataset=digits)
    best = load_run(run.directory, checkpoint="best")
    _, held = hold_out(digits, 0.25)
    jax.tree.map(
        np.testing.assert_array_equal, best.weights, best.state.weights.average
    )
    logits = applied(best.network)(best.weights)(held.images)
    accuracy = np.mean(np.argmax(logits, axis=1) == held.labels)
    assert best.records[-1][CLEAN] == pytest.approx(accuracy)


@pytest.mark.slow
def test_a_run_starts_from_the_best_with_its_optimizer(
    selected, config, digits, tmp_path
):
    phase = dataclasses.replace(
        config.phases[-1],
        carry="optimizer",
        start_from=str(selected.directory),
        start_checkpoint="best",
    )
    started = dataclasses.replace(config, phases=(phase,))
    run = train(started, tmp_path / "run", dataset=digits)
    assert run.is_complete


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"share": 1.0}, r"`validation.share` must be in \(0, 1\), got 1.0"),
        ({"every": 0}, "`validation.every` must be at least 1, got 0"),
        ({"num_steps": 0}, "`validation.num_steps` must be at least 1, got 0"),
    ],
)
def test_wrong_settings_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Validation(**fields)
