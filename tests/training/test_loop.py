import contextlib
import dataclasses
import errno
import json
import os
import shutil
import signal
from functools import partial
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.data import DataError, load_arrays, of_classes
from jaxrobust.keeping import InUseError, claimed
from jaxrobust.networks import ModelConfig
from jaxrobust.training import (
    CheckpointWarning,
    Interrupted,
    JumpRule,
    NonFiniteLossError,
    NullReporter,
    OptimizerConfig,
    RunError,
    StorageError,
    adversarial,
    extended,
    load_run,
    load_training_data,
    standard,
    train,
)
from jaxrobust.training.course import position
from jaxrobust.training.step import programs as programs_module
from jaxrobust.training.step.mesh import Placement
from jaxrobust.training.step.programs import Programs


def same_state(one, other):
    chex.assert_trees_all_equal(
        one._replace(key=jax.random.key_data(one.key)),
        other._replace(key=jax.random.key_data(other.key)),
    )


def losses(run):
    return [record["loss"] for record in run.records]


class Stopper(NullReporter):
    """Sends this process a signal at one of the updates."""

    def __init__(self, update, number=signal.SIGINT):
        self.left, self.number = update, number

    def update(self, num_done, values):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.number)


def test_examples_of_one_class_are_refused_before_anything_is_written(
    tiny, digits, tmp_path
):
    with pytest.raises(DataError, match="at least two classes to train on, got only 3"):
        train(tiny, tmp_path / "run", dataset=of_classes(digits, [3]))
    assert not (tmp_path / "run").exists()


def test_a_run_goes_through_its_phases(trained):
    radii = [record["epsilon"] for record in trained.records]
    assert radii == [0.0, 0.0, 0.05, 0.05, 0.1, 0.1]
    names = [record["phase"] for record in trained.records]
    assert names == ["standard"] * 2 + ["adversarial"] * 2 + ["extended"] * 2
    steps = [record.get("num_steps") for record in trained.records]
    assert steps == [None, None, 2, 2, 5, 5]
    assert int(trained.state.step) == 18 and int(trained.state.epoch) == 6
    assert losses(trained)[1] < losses(trained)[0]


def test_every_epoch_has_a_line_of_metrics(trained):
    lines = (trained.directory / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["epoch"] for record in records] == [1, 2, 3, 4, 5, 6]
    assert records == trained.records
    assert records[0]["loss_change"] is None
    change = records[1]["loss"] - records[0]["loss"]
    assert records[1]["loss_change"] == pytest.approx(change)


def test_a_run_is_loaded_as_it_was_left(trained):
    loaded = load_run(trained.directory)
    assert loaded.is_complete and loaded.config == trained.config
    same_state(loaded.state, trained.state)
    images = jnp.ones((1, 8, 8, 1))
    np.testing.assert_array_equal(loaded.logits_fn(images), trained.logits_fn(images))


def test_phases_that_differ_in_numbers_share_one_compiled_program(
    tiny, digits, tmp_path, monkeypatch
):
    make = programs_module.trainer_for

    def counted(*arguments, **sharing):
        trainer = make(*arguments, **sharing)
        return trainer._replace(run=counting(trainer.run))

    counting = lambda run: chex.assert_max_traces(run, n=1)  # noqa: E731
    monkeypatch.setattr(programs_module, "trainer_for", counted)
    iat = dataclasses.replace(
        tiny.phases[1],
        name="iterative",
        epsilon=dataclasses.replace(tiny.phases[1].epsilon, kind="iterative"),
        optimizer=OptimizerConfig(learning_rate=0.1, milestones=(1,)),
    )
    config = dataclasses.replace(tiny, phases=(*tiny.phases[1:], iat))
    assert len(train(config, tmp_path / "run", dataset=digits).records) == 6


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("update", [1, pytest.param(5, marks=pytest.mark.exact), 6, 16])
def test_resuming_equals_never_having_stopped(
    tiny, digits, trained, tmp_path, update, number, small_slices
):
    message = rf"stopped by {number.name} at step {update}, .*--resume"
    with pytest.raises(Interrupted, match=message):
        train(tiny, tmp_path / "run", dataset=digits, reporter=Stopper(update, number))
    assert not load_run(tmp_path / "run").is_complete
    resumed = train(tiny, tmp_path / "run", dataset=digits, resume=True)
    same_state(resumed.state, trained.state)
    assert losses(resumed) == losses(trained)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_the_configured_generator_changes_nothing(
    tiny, digits, trained, tmp_path, small_slices
):
    with pytest.raises(Interrupted):
        train(tiny, tmp_path / "run", dataset=digits, reporter=Stopper(5))
    with jax.default_prng_impl("rbg"):
        resumed = train(tiny, tmp_path / "run", dataset=digits, resume=True)
        same_state(load_run(trained.directory).state, trained.state)
        other = train(tiny, tmp_path / "other", dataset=digits)
    same_state(resumed.state, trained.state)
    same_state(other.state, trained.state)


@pytest.mark.slow
def test_a_run_that_an_older_version_began_with_another_generator_goes_on(
    short, digits, tmp_path, small_slices, monkeypatch
):
    # Before, a run had the generator that was configured when it began.
    monkeypatch.setattr(position, "seeded", partial(jax.random.key, impl="rbg"))
    whole = train(short, tmp_path / "whole", dataset=digits)
    with pytest.raises(Interrupted):
        train(short, tmp_path / "run", dataset=digits, reporter=Stopper(3))
    monkeypatch.undo()
    assert jax.random.key_impl(load_run(tmp_path / "run").state.key) == "rbg"
    resumed = train(short, tmp_path / "run", dataset=digits, resume=True)
    same_state(resumed.state, whole.state)
    usual = position.fresh_state(short, whole.problem, print)
    members = Programs([short] * 2, whole.problem, Placement(), 2).program
    with pytest.raises(ValueError, match=r"one generator.*'rbg', 'threefry2x32'"):
        members.put([whole.state, usual])


def test_signals_do_their_own_again_after_training(short, digits, tmp_path):
    before = signal.getsignal(signal.SIGINT)
    train(short, tmp_path / "run", dataset=digits)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_damaged_checkpoint_is_set_aside_and_training_ends_the_same(
    tiny, digits, trained, tmp_path, small_slices
):
    with pytest.raises(Interrupted):
        train(tiny, tmp_path / "run", dataset=digits, reporter=Stopper(9))
    newest = max((tmp_path / "run/checkpoints").iterdir(), key=lambda p: int(p.name))
    for path in (newest / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:10])
    with pytest.warns(CheckpointWarning, match="is damaged"):
        resumed = train(tiny, tmp_path / "run", dataset=digits, resume=True)
    same_state(resumed.state, trained.state)
    assert (tmp_path / "run/damaged" / newest.name).is_dir()


def stamps(directory):
    """Which file lies under each name, and when it was written."""
    paths = [path for path in directory.rglob("*") if path.is_file()]
    found = {path: path.stat() for path in paths}
    return {path: (stat.st_ino, stat.st_mtime_ns) for path, stat in found.items()}


def test_a_complete_run_is_returned_as_it_is(tiny, digits, trained):
    before = stamps(trained.directory)
    again = train(tiny, trained.directory, dataset=digits, resume=True)
    same_state(again.state, trained.state)
    assert again.records == trained.records
    assert stamps(trained.directory) == before


def test_lines_of_metrics_that_are_lost_come_back(tiny, digits, trained, tmp_path):
    directory = shutil.copytree(trained.directory, tmp_path / "run")
    path = directory / "metrics.jsonl"
    expected = path.read_text()
    path.write_text(expected[:100])
    train(tiny, directory, dataset=digits, resume=True)
    assert path.read_text() == expected


def test_a_used_directory_is_refused(tiny, digits, trained):
    with pytest.raises(RunError, match=r"`run_dir` must be new, .*--resume"):
        train(tiny, trained.directory, dataset=digits)


def test_resuming_under_other_settings_is_refused(tiny, digits, trained):
    other = dataclasses.replace(tiny, seed=5)
    with pytest.raises(RunError, match=r"differs in config\.seed: 0, now 5"):
        train(other, trained.directory, dataset=digits, resume=True)


class TestDamagedConfiguration:
    """`config.json` decides what the network is and what it was trained for."""

    @pytest.fixture
    def copied(self, trained, tmp_path):
        return shutil.copytree(trained.directory, tmp_path / "run")

    def test_every_byte_counts(self, copied):
        path = copied / "config.json"
        content = path.read_bytes()
        # A digit for another one, or a letter: the rest would not even be JSON.
        places = [i for i, byte in enumerate(content) if chr(byte).isalnum()]
        told = 0
        for place in places[:: len(places) // 40]:
            changed = bytearray(content)
            changed[place] ^= 1
            path.write_bytes(changed)
            with pytest.raises(RunError, match=r"run/config\.json"):
                load_run(copied)
            told += 1
        assert told >= 40

    def test_resuming_refuses_it_by_name(self, copied, tiny, digits):
        (copied / "config.json").write_text('{"config": ')
        with pytest.raises(
            RunError, match=r"run/config\.json' is damaged: it is no JSON"
        ):
            train(tiny, copied, dataset=digits, resume=True)

    def test_versions_without_a_checksum_are_read(self, copied, trained, tiny, digits):
        path = copied / "config.json"
        record = json.loads(path.read_text())
        del record["checksum"]
        path.write_text(json.dumps(record))
        assert load_run(copied).config == trained.config
        same_state(
            train(tiny, copied, dataset=digits, resume=True).state, trained.state
        )


def test_a_checkpoint_of_another_course_is_damage(tiny, trained, tmp_path):
    """One whose record fits no run of this configuration, though its seal is right."""
    directory = shutil.copytree(trained.directory, tmp_path / "run")
    config = json.loads((directory / "config.json").read_text())
    del config["config"]["phases"][2], config["checksum"]
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.warns(CheckpointWarning, match="is none of this run"):
        with pytest.raises(RunError, match="no usable checkpoint"):
            load_run(directory)


@pytest.mark.parametrize("seed", [2**32, 2**70, -(2**31) - 1, 0.5, "1"])
def test_seeds_that_jax_would_not_take_as_they_are_are_refused(tiny, seed):
    with pytest.raises(
        ValueError, match=r"`seed` must be a whole number in \[-2\*\*31"
    ):
        dataclasses.replace(tiny, seed=seed)


def test_different_seeds_are_different_keys(tiny):
    seeds = [0, 1, 2**31, 2**32 - 1, -(2**31) + 1]
    keys = [
        jax.random.key_data(jax.random.key(dataclasses.replace(tiny, seed=seed).seed))
        for seed in seeds
    ]
    assert len({tuple(map(int, key)) for key in keys}) == len(seeds)


class TestClaims:
    def test_a_directory_in_use_is_refused_and_left_alone(
        self, tiny, digits, trained, tmp_path
    ):
        directory = shutil.copytree(trained.directory, tmp_path / "run")
        before = stamps(directory)
        with claimed(directory, what="run_dir"):
            with pytest.raises(InUseError, match=f"process {os.getpid()} on"):
                train(tiny, directory, dataset=digits, resume=True)
        assert stamps(directory) == before
        assert train(tiny, directory, dataset=digits, resume=True).is_complete

    def test_it_is_claimed_before_the_data_are_read(self, tiny, tmp_path):
        config = dataclasses.replace(tiny, dataset=str(tmp_path / "nowhere"))
        with claimed(tmp_path / "run", what="run_dir"):
            with pytest.raises(InUseError):
                train(config, tmp_path / "run")
        with pytest.raises(DataError):
            train(config, tmp_path / "run")

    def test_it_is_claimed_until_the_end_and_free_then(self, short, digits, tmp_path):
        refused = []

        class Rival(NullReporter):
            def start(self, num_batches, num_done):
                self.epoch({})

            def epoch(self, record):
                with pytest.raises(InUseError):
                    train(short, tmp_path / "run", dataset=digits, resume=True)
                refused.append(record)

        train(short, tmp_path / "run", dataset=digits, reporter=Rival())
        assert len(refused) == 3
        assert train(short, tmp_path / "run", dataset=digits, resume=True).is_complete

    def test_a_run_is_read_while_it_is_trained(self, tiny, digits, trained, tmp_path):
        found = []

        class Reader(NullReporter):
            def epoch(self, record):
                run = load_run(tmp_path / "run")
                found.append(len(run.records))

        run = train(tiny, tmp_path / "run", dataset=digits, reporter=Reader())
        same_state(run.state, trained.state)
        assert found == sorted(found) and len(found) == 6


def test_what_a_kill_leaves_of_a_beginning_does_not_block_the_run(
    short, digits, tmp_path
):
    directory = tmp_path / "run"
    directory.mkdir()
    # As a process leaves it that is killed while it writes its first file.
    (directory / "config.json.0123456789abcdef.part").write_text('{"config": {')
    run = train(short, directory, dataset=digits, resume=True)
    assert run.is_complete and not list(directory.glob("*.part"))


class TestPlaces:
    """A path is the same place however it is written."""

    def test_a_run_to_start_from(self, tiny, digits, trained, tmp_path, monkeypatch):
        monkeypatch.chdir(trained.directory.parent)
        ways = (
            trained.directory.name,
            str(trained.directory),
            f"./{trained.directory.name}/",
        )
        for way in ways:
            phase = extended(0.2, 1, start_from=way)
            config = dataclasses.replace(tiny, phases=(phase,))
            run = train(config, tmp_path / "run", dataset=digits, resume=True)
            assert run.is_complete
            # What was said at the beginning stays.
            told = load_run(tmp_path / "run").config.phases[0].start_from
            assert told == trained.directory.name
        other = dataclasses.replace(
            tiny, phases=(extended(0.2, 1, start_from=str(tmp_path)),)
        )
        with pytest.raises(
            RunError, match=r"differs in config\.phases\[0\]\.start_from"
        ):
            train(other, tmp_path / "run", dataset=digits, resume=True)

    def test_a_data_set(self, short, digits, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        Path("data").mkdir()
        np.savez("data/train.npz", image=digits.images, label=digits.labels)
        config = dataclasses.replace(short, train_size=None)
        for way in ("data", str(tmp_path / "data")):
            named = dataclasses.replace(config, dataset=way)
            assert train(named, tmp_path / "run", resume=True).is_complete


class TestFullDisk:
    @pytest.fixture
    def fill(self, small_disk):
        def until_full(record=None):
            del record
            with (small_disk / "fill").open("wb", buffering=0) as file:
                with contextlib.suppress(OSError):
                    while True:
                        file.write(b"x" * 1024)

        return until_full

    def test_training_ends_by_it_and_goes_on_when_there_is_room(
        self, tiny, digits, trained, small_disk, fill
    ):
        class Filler(NullReporter):
            def epoch(self, record):
                if record["epoch"] == 3:
                    fill()

        directory = small_disk / "run"
        with pytest.raises(StorageError, match="No space left on device") as found:
            train(tiny, directory, dataset=digits, reporter=Filler())
        assert found.value.errno == errno.ENOSPC
        assert str(directory) in str(found.value.filename)
        assert 1 <= len(load_run(directory).records) < 6
        (small_disk / "fill").unlink()
        run = train(tiny, directory, dataset=digits, resume=True)
        same_state(run.state, trained.state)
        lines = (directory / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3, 4, 5, 6]

    def test_a_run_that_cannot_begin_says_where(self, short, digits, small_disk, fill):
        fill()
        with pytest.raises(OSError) as found:
            train(short, small_disk / "run", dataset=digits)
        assert found.value.errno == errno.ENOSPC
        assert str(small_disk / "run") in str(found.value.filename)
        (small_disk / "fill").unlink()
        run = train(short, small_disk / "run", dataset=digits, resume=True)
        assert run.is_complete


def test_a_directory_of_something_else_is_refused(tiny, digits, tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(RunError, match=r"holds files but no config\.json"):
        train(tiny, tmp_path, dataset=digits, resume=True)


def test_missing_data_leaves_no_directory(tiny, tmp_path):
    config = dataclasses.replace(tiny, dataset="mnist")
    with pytest.raises(DataError, match="jaxrobust data prepare mnist"):
        train(config, tmp_path / "run", data_dir=tmp_path)
    assert not (tmp_path / "run").exists()


def test_a_batch_larger_than_the_data_is_refused(tiny, digits, tmp_path):
    config = dataclasses.replace(tiny, batch_size=97)
    with pytest.raises(
        ValueError, match=r"`batch_size` must be at most .*\(96\), got 97"
    ):
        train(config, tmp_path / "run", dataset=digits)
    assert not (tmp_path / "run").exists()


def test_checkpoint_every_must_count_epochs(tiny, digits, tmp_path):
    with pytest.raises(ValueError, match="`checkpoint_every` must be at least 1"):
        train(tiny, tmp_path / "run", dataset=digits, checkpoint_every=0)


def test_rare_checkpoints_still_hold_the_end(short, digits, tmp_path):
    run = train(short, tmp_path / "run", dataset=digits, checkpoint_every=100)
    steps = {int(path.name) for path in (tmp_path / "run/checkpoints").iterdir()}
    assert steps == {0, 6}
    same_state(load_run(run.directory).state, run.state)


class TestWarmStart:
    def start(self, tiny, trained, digits, directory, **changes):
        phase = extended(0.2, 1, start_from=str(trained.directory), **changes)
        return train(
            dataclasses.replace(tiny, phases=(phase,)), directory, dataset=digits
        )

    def first_checkpoint(self, tiny, trained, digits, directory, **changes):
        """The state before the first step: a signal at once stops the run there."""
        phase = extended(0.2, 1, start_from=str(trained.directory), **changes)
        config = dataclasses.replace(tiny, phases=(phase,))

        class AtOnce(NullReporter):
            def start(self, num_batches, num_done):
                os.kill(os.getpid(), signal.SIGINT)

        with pytest.raises(Interrupted):
            train(config, directory, dataset=digits, reporter=AtOnce())
        return load_run(directory).state.weights

    def test_weights_and_optimizer_are_taken_over(
        self, tiny, trained, digits, tmp_path
    ):
        weights = self.first_checkpoint(tiny, trained, digits, tmp_path / "run")
        chex.assert_trees_all_equal(weights, trained.state.weights)

    def test_or_the_weights_alone(self, tiny, trained, digits, tmp_path):
        weights = self.first_checkpoint(
            tiny, trained, digits, tmp_path / "run", carry="weights"
        )
        chex.assert_trees_all_equal(weights.params, trained.state.weights.params)
        assert all(
            np.all(np.asarray(x) == 0) for x in jax.tree.leaves(weights.opt_state)
        )
        old = jax.tree.leaves(trained.state.weights.opt_state)
        assert any(np.any(np.asarray(x) != 0) for x in old)

    def test_an_unfinished_run_may_be_started_from_but_it_is_said(
        self, tiny, digits, tmp_path, small_slices
    ):
        with pytest.raises(Interrupted):
            train(tiny, tmp_path / "half", dataset=digits, reporter=Stopper(7))

        class Listener(NullReporter):
            told = ""

            def message(self, text):
                self.told += text

        listener = Listener()
        phase = extended(0.2, 1, start_from=str(tmp_path / "half"))
        config = dataclasses.replace(tiny, phases=(phase,))
        train(config, tmp_path / "run", dataset=digits, reporter=listener)
        assert "half is not finished; starting from its state after 2" in listener.told

    def test_training_goes_on(self, tiny, trained, digits, tmp_path):
        run = self.start(tiny, trained, digits, tmp_path / "run")
        assert [record["epsilon"] for record in run.records] == [0.2]

    def test_another_network_is_refused_with_the_difference(
        self, tiny, trained, digits, tmp_path
    ):
        config = dataclasses.replace(
            tiny, model=ModelConfig(name="lenet-small", widen_factor=0.125)
        )
        with pytest.raises(RunError, match=r"parameters .*conv1.*missing against"):
            self.start(config, trained, digits, tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_another_number_of_classes_is_refused(
        self, tiny, trained, digits, tmp_path
    ):
        eleven = dataclasses.replace(digits, num_classes=11)
        with pytest.raises(RunError, match=r"\(64, 10\) against \(64, 11\)"):
            self.start(tiny, trained, eleven, tmp_path / "run")

    def test_another_optimizer_is_refused_when_its_state_is_to_carry_over(
        self, tiny, trained, digits, tmp_path
    ):
        sgd = OptimizerConfig(name="sgd")
        with pytest.raises(RunError, match="optimizer state"):
            self.start(tiny, trained, digits, tmp_path / "run", optimizer=sgd)
        self.start(
            tiny, trained, digits, tmp_path / "ok", optimizer=sgd, carry="weights"
        )

    def test_a_missing_run_is_refused(self, tiny, digits, tmp_path):
        phase = extended(0.2, 1, start_from=str(tmp_path / "nowhere"))
        with pytest.raises(RunError, match=r"has no config\.json"):
            train(
                dataclasses.replace(tiny, phases=(phase,)),
                tmp_path / "run",
                dataset=digits,
            )


def test_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint(
    tiny, digits, tmp_path
):
    wild = OptimizerConfig(learning_rate=1e38)
    config = dataclasses.replace(
        tiny, phases=(tiny.phases[0], extended(0.1, 3, optimizer=wild))
    )
    message = r"phase 2 \(extended\), epoch 3, at epsilon 0\.1, .*checkpoint is kept"
    with pytest.raises(NonFiniteLossError, match=message):
        train(config, tmp_path / "run", dataset=digits)
    kept = load_run(tmp_path / "run")
    assert len(kept.records) == 2
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(kept.state.weights))


def test_a_jump_ends_the_phase_with_the_weights_from_before(tiny, digits, tmp_path):
    # The radius leaps in the second epoch, so the loss does.
    leap = dataclasses.replace(
        adversarial(0.0, 5),
        epsilon=dataclasses.replace(
            adversarial(0.0, 1).epsilon,
            kind="linear",
            start=0.0,
            end=0.5,
            ramp_epochs=2,
        ),
    )
    calm = dataclasses.replace(tiny, phases=(standard(3),))
    rule = JumpRule(ratio=1.01, rise=0.0, window=1)
    phases = (dataclasses.replace(leap, stop_at_jump=rule), standard(1))
    run = train(
        dataclasses.replace(tiny, phases=phases), tmp_path / "run", dataset=digits
    )
    assert [record["is_jump"] for record in run.records] == [False, True, False]
    assert [record["phase"] for record in run.records][-1] == "standard"
    # One epoch of clean training (radius 0) and then another, as if nothing had been
    # tried in between, but for shuffling, which goes on.
    assert len(run.records) == 3
    reference = train(calm, tmp_path / "calm", dataset=digits)
    assert run.records[2]["loss"] == pytest.approx(
        reference.records[1]["loss"], rel=0.05
    )
    assert run.records[2]["loss"] < run.records[1]["loss"]


def test_tensorboard_writes_an_event_file(short, digits, tmp_path):
    pytest.importorskip("tensorboardX")
    train(short, tmp_path / "run", dataset=digits, tensorboard=True)
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))


def test_without_tensorboard_the_extra_is_named(short, digits, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r"jaxrobust\[tensorboard\]"):
        train(short, tmp_path / "run", dataset=digits, tensorboard=True)
    assert not (tmp_path / "run").exists()


def test_the_training_data_are_those_of_the_configuration(tiny):
    config = dataclasses.replace(tiny, variant="binary")
    dataset = load_training_data(config)
    assert len(dataset.labels) == 96 and set(np.unique(dataset.images)) == {0.0, 1.0}
    assert len(load_arrays("digits", "train").labels) == 1437


@pytest.mark.slow
def test_a_trace_is_written_where_it_is_asked_for(
    short, digits, tmp_path, small_slices
):
    train(short, tmp_path / "run", dataset=digits, profile=tmp_path / "trace")
    written = {path.name for path in (tmp_path / "trace").rglob("*")}
    assert "perfetto_trace.json.gz" in written  # for Perfetto
    assert any(name.endswith(".xplane.pb") for name in written)  # for TensorBoard
