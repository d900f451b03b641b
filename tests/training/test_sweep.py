"""Members of a sweep against the same runs alone."""

import dataclasses
import itertools
import json
import os
import signal
from types import SimpleNamespace

import chex
import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxrobust.attacks import PGD
from jaxrobust.data import PadCropFlip
from jaxrobust.keeping import InUseError, claimed
from jaxrobust.networks import ModelConfig, as_network
from jaxrobust.training import (
    Interrupted,
    MeshConfig,
    NullReporter,
    OptimizerConfig,
    Placement,
    RunError,
    SweepConfig,
    TrainConfig,
    WarmStart,
    adversarial,
    linspace,
    load_run,
    make_trainer,
    sweep,
    train,
)
from jaxrobust.training.course import group
from jaxrobust.training.course.examples import problem_of
from jaxrobust.training.recipe.problem import Problem
from jaxrobust.training.recipe.sweeps import Member, part_of, waves
from jaxrobust.training.step import programs as programs_module
from jaxrobust.training.step.members import MemberProgram, mapping_for, model_for

ATTACK = PGD(step_size=0.05)
BASE = TrainConfig(
    train_size=96,
    model=ModelConfig(name="linear"),
    batch_size=32,
    phases=(adversarial(0.1, 2, attack=ATTACK),),
)
CHAIN = SweepConfig(
    base=BASE,
    epsilon=(0.05, 0.1, 0.2),
    seed=(0, 1),
    warm_start=WarmStart(rule="above", threshold=0.1, epochs=1),
)


class Listener(NullReporter):
    def __init__(self):
        self.told = []

    def message(self, text):
        self.told.append(text)


def weights(run):
    return run.weights


@pytest.fixture(scope="module")
def swept(digits, tmp_path_factory):
    return sweep(CHAIN, tmp_path_factory.mktemp("swept") / "sweep", dataset=digits)


class TestDefinition:
    def names(self, **settings):
        return [each.name for each in SweepConfig(base=BASE, **settings).members()]

    def test_a_grid_has_every_combination(self):
        assert self.names(epsilon=(0.1, 0.2), seed=(0, 1)) == [
            "epsilon0.1-seed0",
            "epsilon0.1-seed1",
            "epsilon0.2-seed0",
            "epsilon0.2-seed1",
        ]

    def test_a_list_goes_through_its_columns_together(self):
        names = self.names(
            mode="list",
            epsilon=(0.1, 0.2),
            over={"optimizer.learning_rate": (0.1, 0.01)},
        )
        assert names == ["epsilon0.1-learning_rate0.1", "epsilon0.2-learning_rate0.01"]

    def test_a_column_of_one_value_is_repeated(self):
        names = self.names(mode="list", epsilon=(0.1, 0.2), seed=(7,))
        assert names == ["epsilon0.1", "epsilon0.2"]

    def test_columns_of_different_lengths_are_refused(self):
        with pytest.raises(
            ValueError, match=r"`seed` must have 1 or 3 values, .*got 2"
        ):
            self.names(mode="list", epsilon=(0.1, 0.2, 0.3), seed=(1, 2))

    def test_every_value_arrives_in_the_configuration(self):
        (member,) = SweepConfig(
            base=BASE,
            epsilon=(0.3,),
            seed=(5,),
            over={
                "optimizer.learning_rate": (0.1,),
                "optimizer.weight_decay": (0.01,),
                "objective.attack.step_size": (0.02,),
                "objective.attack.num_steps": (3.0,),
            },
            start_from=("runs/a",),
        ).members()
        phase = member.config.phases[0]
        assert member.config.seed == 5 and phase.epsilon.end == 0.3
        assert phase.optimizer.learning_rate == 0.1
        assert phase.optimizer.weight_decay == 0.01
        assert phase.objective.attack == PGD(step_size=0.02, num_steps=3)
        assert phase.start_from == "runs/a"

    def test_any_number_of_a_phase_can_be_swept(self):
        base = dataclasses.replace(BASE, phases=(*BASE.phases, *BASE.phases))
        values = {"optimizer.momentum": (0.5,), "objective.attack.step_size": (0.3,)}
        (member,) = SweepConfig(base=base, over=values).members()
        for phase in member.config.phases:
            assert phase.optimizer.momentum == 0.5
            assert phase.objective.attack.step_size == 0.3

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            (
                "optimizer.rate",
                1.0,
                r"`number` must be one of objective\..*'optimizer.rate'",
            ),
            ("optimizer.name", 1.0, "`number` must be one of objective"),  # a word
            ("epochs", 1.0, "`number` must be one of objective"),
            ("objective.attack.num_steps", 1.5, "must be a whole number, got 1.5"),
            ("optimizer.learning_rate", -1.0, r"must be in \(0, inf\), got -1.0"),
        ],
    )
    def test_what_is_no_number_cannot_be_swept(self, name, value, message):
        with pytest.raises(ValueError, match=message):
            SweepConfig(base=BASE, over={name: (value,)})

    def test_linspace_includes_both_ends_without_rounding_noise(self):
        assert linspace(0.1, 0.3, 3) == (0.1, 0.2, 0.3)
        with pytest.raises(ValueError, match="`count` must be at least 2, got 1"):
            linspace(0.1, 0.3, 1)

    def test_a_chain_starts_each_from_the_next_smaller_radius(self):
        rule = WarmStart(rule="chain", epochs=1)
        config = SweepConfig(base=BASE, epsilon=(0.3, 0.1, 0.2), warm_start=rule)
        sources = {each.name: each.start_from for each in config.members()}
        assert sources == {
            "epsilon0.1": None,
            "epsilon0.2": "epsilon0.1",
            "epsilon0.3": "epsilon0.2",
        }
        phases = {each.name: each.config.phases[0] for each in config.members()}
        assert phases["epsilon0.2"].name == "extended"
        assert phases["epsilon0.2"].epochs == 1 and phases["epsilon0.1"].epochs == 2

    def test_every_radius_above_a_threshold_starts_from_its_own_seeds_member(self):
        sources = {each.name: each.start_from for each in CHAIN.members()}
        assert sources["epsilon0.2-seed1"] == "epsilon0.1-seed1"
        assert sources["epsilon0.05-seed0"] is None

    def test_a_threshold_that_is_no_radius_is_refused(self):
        rule = WarmStart(rule="above", threshold=0.3)
        with pytest.raises(ValueError, match=r"`threshold` must be one of the radii"):
            SweepConfig(base=BASE, epsilon=(0.1, 0.4), warm_start=rule)

    def test_members_that_are_the_same_are_refused(self):
        with pytest.raises(ValueError, match=r"`members` must differ, got epsilon0\.1"):
            SweepConfig(base=BASE, epsilon=(0.1, 0.1))

    def test_a_circle_of_starts_is_refused(self):
        one = Member(name="a", config=BASE, start_from="b")
        other = Member(name="b", config=BASE, start_from="a")
        with pytest.raises(ValueError, match="`start_from` must name another member"):
            waves([one, other])

    @given(st.lists(st.integers(-1, 8), min_size=1, max_size=9), st.integers(1, 4))
    def test_parts_cover_every_member_once_and_keep_chains_together(self, links, count):
        table = [
            Member(
                name=str(index),
                config=BASE,
                start_from=str(link) if 0 <= link < index else None,
            )
            for index, link in enumerate(links)
        ]
        parts = [part_of(table, index, count) for index in range(count)]
        names = [[each.name for each in part] for part in parts]
        everyone = sorted(itertools.chain(*names))
        assert everyone == sorted(each.name for each in table)
        for part, known in zip(parts, names, strict=True):
            assert all(m.start_from in (None, *known) for m in part)
        order = [each.name for wave in waves(table) for each in wave]
        for each in table:
            if each.start_from is not None:
                assert order.index(each.start_from) < order.index(each.name)


def test_members_are_the_same_runs_alone(swept, digits, tmp_path):
    assert set(swept.runs) == {each.name for each in CHAIN.members()}
    for name in ("epsilon0.05-seed1", "epsilon0.2-seed1"):
        alone = train(swept.runs[name].config, tmp_path / name, dataset=digits)
        # One trained in a group, and one that started from it.
        chex.assert_trees_all_close(
            weights(alone), weights(swept.runs[name]), atol=1e-6
        )
        for one, other in zip(alone.records, swept.runs[name].records, strict=True):
            assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
            assert one["num_steps"] == other["num_steps"]


def test_a_member_is_a_run_like_any_other(swept):
    run = swept.runs["epsilon0.2-seed0"]
    loaded = load_run(run.directory)
    assert loaded.is_complete and len(loaded.records) == 1
    chex.assert_trees_all_equal(weights(loaded), weights(run))
    assert loaded.config.phases[0].start_from.endswith("epsilon0.1-seed0")


@pytest.mark.parametrize("epsilons", [(0.1,), (0.05, 0.1, 0.2, 0.3)])
def test_any_number_of_members_is_one_traced_program(
    epsilons, digits, tmp_path, monkeypatch
):
    make = programs_module.trainer_for

    def counted(*arguments, **sharing):
        trainer = make(*arguments, **sharing)
        return trainer._replace(run=chex.assert_max_traces(trainer.run, n=1))

    monkeypatch.setattr(programs_module, "trainer_for", counted)
    rule = WarmStart(rule="chain" if len(epsilons) > 1 else "none", epochs=1)
    config = SweepConfig(base=BASE, epsilon=epsilons, warm_start=rule)
    found = sweep(config, tmp_path / "sweep", dataset=digits)
    assert len(found.runs) == len(epsilons)


@pytest.mark.slow
def test_a_member_that_diverges_is_frozen_and_harms_no_other(digits, tmp_path):
    config = SweepConfig(
        base=BASE,
        mode="list",
        epsilon=(0.05, 0.1, 0.2),
        over={"optimizer.learning_rate": (0.001, 1e38, 0.001)},
    )
    listener = Listener()
    found = sweep(config, tmp_path / "sweep", dataset=digits, reporter=listener)
    wild = "epsilon0.1-learning_rate1e+38"
    assert list(found.failures) == [wild]
    assert "the loss became" in found.failures[wild]
    assert any(text.startswith(f"{wild} failed") for text in listener.told)
    for name, run in found.runs.items():
        alone = train(run.config, tmp_path / f"alone-{name}", dataset=digits)
        chex.assert_trees_all_close(weights(alone), weights(run), atol=1e-6)
    again = sweep(config, tmp_path / "sweep", dataset=digits, resume=True)
    assert "Delete" in again.failures[wild] and len(again.runs) == 2


def test_what_starts_from_a_failure_is_not_trained(digits, tmp_path):
    wild = dataclasses.replace(
        BASE,
        phases=(adversarial(0.1, 1, optimizer=OptimizerConfig(learning_rate=1e38)),),
    )
    table = [
        Member(name="wild", config=wild),
        Member(name="after", config=BASE, start_from="wild"),
    ]
    found = sweep(table, tmp_path / "sweep", dataset=digits)
    assert found.failures["after"] == "not trained: it starts from wild, which failed"


class Stopper(NullReporter):
    def __init__(self, update):
        self.left = update

    def update(self, num_done, values):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)


SLOWER = [pytest.param(update, marks=pytest.mark.slow) for update in (3, 7)]


@pytest.mark.parametrize("update", [2, *SLOWER])
def test_resuming_a_sweep_equals_never_having_stopped(
    swept, digits, tmp_path, update, monkeypatch
):
    monkeypatch.setattr(group, "SLICE_SECONDS", 0.0)
    directory = tmp_path / "sweep"
    with pytest.raises(Interrupted, match=r"stopped by SIGTERM .*--resume"):
        sweep(CHAIN, directory, dataset=digits, reporter=Stopper(update))
    found = sweep(CHAIN, directory, dataset=digits, resume=True)
    for name, run in swept.runs.items():
        chex.assert_trees_all_equal(weights(found.runs[name]), weights(run))
        assert len(found.runs[name].records) == len(run.records)


class LastMoment(NullReporter):
    """Sends a signal when the last member of the first group ends its last epoch."""

    def epoch(self, record):
        if record["epoch"] == 2 and record["member"] == "epsilon0.1-seed1":
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.slow
def test_a_signal_at_the_end_of_a_group_stops_the_sweep(swept, digits, tmp_path):
    directory = tmp_path / "sweep"
    with pytest.raises(Interrupted, match="stopped by SIGTERM"):
        sweep(CHAIN, directory, dataset=digits, reporter=LastMoment())
    assert load_run(directory / "epsilon0.1-seed1").is_complete
    assert not (directory / "epsilon0.2-seed1").exists()
    found = sweep(CHAIN, directory, dataset=digits, resume=True)
    for name, run in swept.runs.items():
        chex.assert_trees_all_equal(weights(found.runs[name]), weights(run))


@pytest.mark.slow
def test_a_member_behind_the_others_catches_up(swept, digits, tmp_path):
    """Killed between two saves, the members stand at different epochs."""
    directory = tmp_path / "sweep"
    sweep(CHAIN, directory, dataset=digits)
    newest = max(
        (directory / "epsilon0.05-seed1" / "checkpoints").iterdir(),
        key=lambda path: int(path.name),
    )
    newest.rename(tmp_path / "lost")
    found = sweep(CHAIN, directory, dataset=digits, resume=True)
    name = "epsilon0.05-seed1"
    chex.assert_trees_all_equal(weights(found.runs[name]), weights(swept.runs[name]))


def test_parts_of_a_sweep_train_its_members_in_one_directory(swept, digits, tmp_path):
    parts = [
        sweep(CHAIN, tmp_path / "sweep", dataset=digits, part=(index, 2))
        for index in (0, 1)
    ]
    assert set(parts[0].runs) | set(parts[1].runs) == set(swept.runs)
    assert not set(parts[0].runs) & set(parts[1].runs)
    whole = sweep(CHAIN, tmp_path / "sweep", dataset=digits, resume=True)
    for name, run in swept.runs.items():
        chex.assert_trees_all_close(weights(whole.runs[name]), weights(run), atol=1e-6)


@pytest.mark.slow
def test_members_that_do_not_fit_train_in_groups(digits, tmp_path, monkeypatch):
    config = SweepConfig(base=BASE, epsilon=(0.05, 0.1, 0.2), seed=(0,))
    whole = sweep(config, tmp_path / "whole", dataset=digits)
    sizes = []
    put = MemberProgram.put

    def counted(self, states):
        sizes.append(len(states))
        return put(self, states)

    monkeypatch.setattr(MemberProgram, "put", counted)
    programs = programs_module.Programs(
        [config.members()[0].config],
        problem_of(digits),
        Placement(),
        3,
    )
    settings = BASE.phases[0].at(1, 3)
    shapes = programs.program.shapes(settings, (8, 8, 1), 96, np.float32)
    own, shared = programs.program.memory(shapes)
    limit = shared + own * 5 // 6
    listener = Listener()
    found = sweep(
        config,
        tmp_path / "groups",
        dataset=digits,
        memory_limit=limit,
        reporter=listener,
    )
    assert "training them in groups of 2" in listener.told[0]
    assert set(sizes) == {2}
    for name, run in whole.runs.items():
        chex.assert_trees_all_close(weights(found.runs[name]), weights(run), atol=1e-6)
    with pytest.raises(ValueError, match="`memory_limit` must allow for one member"):
        sweep(config, tmp_path / "none", dataset=digits, memory_limit=1000)


@pytest.mark.slow
def test_a_member_killed_in_its_first_save_is_begun_again(swept, digits, tmp_path):
    directory = tmp_path / "sweep"

    class AtOnce(NullReporter):
        def start(self, num_batches, num_done):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        sweep(CHAIN, directory, dataset=digits, reporter=AtOnce())
    # What `kill -9` leaves of a save: Orbax gives it its name when it is whole.
    saved = directory / "epsilon0.1-seed0" / "checkpoints" / "0"
    saved.rename(saved.with_name("0.orbax-checkpoint-tmp"))
    found = sweep(CHAIN, directory, dataset=digits, resume=True)
    for name, run in swept.runs.items():
        chex.assert_trees_all_equal(weights(found.runs[name]), weights(run))


class TestClaims:
    def test_a_sweep_in_use_is_refused_before_its_data_are_read(self, tmp_path):
        base = dataclasses.replace(BASE, dataset=str(tmp_path / "nowhere"))
        config = dataclasses.replace(CHAIN, base=base)
        with claimed(tmp_path / "sweep", what="run_dir"):
            with pytest.raises(InUseError, match="`run_dir` must not be in use"):
                sweep(config, tmp_path / "sweep")

    @pytest.mark.slow
    def test_a_member_in_use_is_refused_and_the_others_go_on_later(
        self, swept, digits, tmp_path
    ):
        member = tmp_path / "sweep" / "epsilon0.2-seed0"
        with claimed(member, what="run_dir"):
            with pytest.raises(InUseError, match=r"epsilon0\.2-seed0"):
                sweep(CHAIN, tmp_path / "sweep", dataset=digits)
        found = sweep(CHAIN, tmp_path / "sweep", dataset=digits, resume=True)
        assert set(found.runs) == set(swept.runs)

    def test_parts_share_the_directory_while_they_train(self, swept, digits, tmp_path):
        found = {}

        class Other(NullReporter):
            """Trains the second part while the first one is under way."""

            def start(self, num_batches, num_done):
                if not found:
                    found.update(
                        sweep(
                            CHAIN, tmp_path / "sweep", dataset=digits, part=(1, 2)
                        ).runs
                    )

        first = sweep(
            CHAIN, tmp_path / "sweep", dataset=digits, part=(0, 2), reporter=Other()
        )
        assert set(found) | set(first.runs) == set(swept.runs)
        for name, run in {**found, **first.runs}.items():
            chex.assert_trees_all_close(
                weights(run), weights(swept.runs[name]), atol=1e-6
            )


@pytest.mark.parametrize("name", ["sweep.json", "failure.json"])
def test_damaged_records_of_a_sweep_are_named(digits, tmp_path, name):
    wild = dataclasses.replace(
        BASE,
        phases=(adversarial(0.1, 1, optimizer=OptimizerConfig(learning_rate=1e38)),),
    )
    table = [Member(name="wild", config=wild)]
    directory = tmp_path / "sweep"
    assert sweep(table, directory, dataset=digits).failures
    (path,) = directory.rglob(name)
    content = path.read_text()
    for damaged in (content[:-20], content.replace("wild", "mild", 1), ""):
        if damaged == content:
            damaged = content.replace("loss", "lass", 1)
        path.write_text(damaged)
        with pytest.raises(RunError, match=rf"{name}' is damaged"):
            sweep(table, directory, dataset=digits, resume=True)
    # A version that wrote no checksum.
    record = json.loads(content)
    del record["checksum"]
    path.write_text(json.dumps(record))
    found = sweep(table, directory, dataset=digits, resume=True)
    assert "the loss became" in found.failures["wild"]


def test_a_sweep_is_the_same_one_however_its_paths_are_written(
    swept, digits, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for directory in (
        "sweep",
        str(tmp_path / "sweep"),
        "../" + tmp_path.name + "/sweep",
    ):
        found = sweep(CHAIN, directory, dataset=digits, resume=True)
        assert set(found.runs) == set(swept.runs)
    # A member that starts from another one, by itself.
    member = found.runs["epsilon0.2-seed0"]
    source = str(tmp_path / "sweep" / "epsilon0.1-seed0")
    phase = dataclasses.replace(member.config.phases[0], start_from=source)
    config = dataclasses.replace(member.config, phases=(phase,))
    run = train(config, member.directory, dataset=digits, resume=True)
    chex.assert_trees_all_equal(weights(run), weights(member))


class TestRefusals:
    def test_members_of_different_kinds(self, digits, tmp_path):
        other = dataclasses.replace(BASE, batch_size=16)
        table = [Member(name="a", config=BASE), Member(name="b", config=other)]
        with pytest.raises(ValueError, match="`members` must share batch_size"):
            sweep(table, tmp_path / "sweep", dataset=digits)
        l2 = dataclasses.replace(BASE, phases=(adversarial(0.1, 1, norm="l2"),))
        table[1] = Member(name="b", config=l2)
        with pytest.raises(ValueError, match="`members` must share threat, got"):
            sweep(table, tmp_path / "sweep", dataset=digits)
        assert not (tmp_path / "sweep").exists()

    def test_a_used_directory(self, swept, digits):
        directory = next(iter(swept.runs.values())).directory.parent
        with pytest.raises(RunError, match="holds a sweep; resume it"):
            sweep(CHAIN, directory, dataset=digits)
        other = dataclasses.replace(CHAIN, seed=(0, 2))
        with pytest.raises(RunError, match="differs in members"):
            sweep(other, directory, dataset=digits, resume=True)

    def test_a_directory_of_something_else(self, digits, tmp_path):
        (tmp_path / "thesis.tex").write_text("x")
        with pytest.raises(RunError, match=r"holds files but no sweep\.json"):
            sweep(CHAIN, tmp_path, dataset=digits)

    def test_no_members(self, digits, tmp_path):
        with pytest.raises(ValueError, match="`members` must be at least one"):
            sweep([], tmp_path / "sweep", dataset=digits)

    def test_a_part_that_does_not_exist(self):
        with pytest.raises(ValueError, match="`part` must be from 0 to 1, got 2"):
            part_of(CHAIN.members(), 2, 2)


class TestMapping:
    """How a device takes its members must not change what they become."""

    def trained(self, mapping, network, count=3, bad=None):
        images = np.random.default_rng(0).uniform(0.2, 0.8, size=(24, 6, 6, 3))
        images = images.astype(np.float32)
        labels = np.random.default_rng(1).integers(0, 3, 24).astype(np.int32)
        trainer = make_trainer(
            as_network(network, 3),
            batch_size=8,
            augmentation=PadCropFlip(),
        )
        program = MemberProgram(trainer, count, Placement(), mapping)
        numbers = [
            adversarial(
                0.05 * (1 + index),
                1,
                attack=PGD(step_size=0.05, num_steps=1 + 2 * index),
                optimizer=OptimizerConfig(
                    name="sgd", learning_rate=3e38 if index == bad else 0.05
                ),
            ).at(1, 3)
            for index in range(count)
        ]
        optimizer = numbers[0].optimizer
        states = [
            trainer.init(jax.random.key(seed), images, optimizer)
            for seed in range(count)
        ]
        stacked = program.begin_epoch(program.put(states), [True] * count)
        arguments = program.arguments(numbers, [3, 2, 3][:count])
        stacked = program.run(stacked, *arguments, images, labels)
        return program, stacked

    def network(self):
        from jaxrobust.networks.resnet import ResNet

        return ResNet(
            block_counts=(1,),
            is_bottleneck=False,
            num_classes=3,
            widen_factor=0.0625,
            formulation="patches",
        )

    @pytest.mark.slow
    def test_loop_and_vmap_agree(self):
        """Batch norm, augmentation, and other numbers of steps and batches for each."""
        loop_program, looped = self.trained("loop", self.network())
        _, mapped = self.trained("vmap", self.network())
        chex.assert_trees_all_close(looped.weights, mapped.weights, atol=2e-5)
        chex.assert_trees_all_close(looped.metrics, mapped.metrics, rtol=1e-4)
        assert list(loop_program.summary(looped).batch) == [3, 2, 3]

    @pytest.mark.parametrize("mapping", ["loop", "vmap"])
    @pytest.mark.slow
    def test_a_bad_member_stops_and_the_others_do_not_notice(self, mapping):
        from jaxrobust.networks import Linear

        program, good = self.trained(mapping, Linear(3))
        _, mixed = self.trained(mapping, Linear(3), bad=1)
        assert not np.isfinite(program.summary(mixed).loss[1])
        for index in (0, 2):
            chex.assert_trees_all_equal(
                program.take(good, index).weights, program.take(mixed, index).weights
            )

    @pytest.mark.parametrize(
        ("platform", "members", "batch_size", "width", "expected"),
        [
            *((platform, 1, 128, 1, "one") for platform in ("cpu", "gpu", "tpu")),
            *(("cpu", 2, size, 1, "loop") for size in (1, 128)),
            *(("gpu", 2, size, 1, "vmap") for size in (1, 128)),
            *(("tpu", 8, 32, 0.5, "loop"), ("tpu", 8, 16, 1, "vmap")),
            ("tpu", 2, 128, 0.25, "vmap"),
        ],
    )
    def test_it_is_that_of_the_platform(
        self, platform, members, batch_size, width, expected
    ):
        assert mapping_for(platform, members, batch_size, width) == expected

    def test_formulations_follow_it(self):
        model = ModelConfig(name="lenet")
        assert model_for(model, "gpu", "vmap").formulation == "patches"
        assert model_for(model, "tpu", "vmap") == model
        assert model_for(model, "gpu", "one") == model
        direct = ModelConfig(name="lenet", formulation="direct")
        assert model_for(direct, "gpu", "vmap") == direct
        own = ModelConfig(name="own.py:Net")
        assert model_for(own, "gpu", "vmap") == own

    @pytest.mark.parametrize(
        ("platform", "mapping", "formulation"),
        [
            ("cpu", "loop", "auto"),
            ("gpu", "vmap", "patches"),
            ("tpu", "vmap", "auto"),
        ],
    )
    def test_the_devices_of_the_program_choose(
        self, platform, mapping, formulation, monkeypatch
    ):
        """Though this is a CPU. Of a batch of 64 a device has 16 at once."""
        asked = []

        def network(model, *_):
            asked.append(model.formulation)
            return model

        monkeypatch.setattr(programs_module, "network_for", network)
        placement = SimpleNamespace(config=MeshConfig(data=2), platform=platform)
        config = dataclasses.replace(
            BASE, model=ModelConfig(name="lenet"), batch_size=64, micro_batches=2
        )
        problem = Problem("made up", (28, 28, 1), 10)
        programs = programs_module.Programs([config], problem, placement, 2)
        assert programs.mapping == mapping
        assert programs.network and asked == [formulation]


def test_each_member_starts_from_its_own_checkpoint(swept, digits, tmp_path):
    sources = [swept.runs[f"epsilon0.1-seed{seed}"].directory for seed in (0, 1)]
    config = SweepConfig(
        base=dataclasses.replace(BASE, phases=(adversarial(0.2, 1, attack=ATTACK),)),
        start_from=tuple(map(str, sources)),
    )
    found = sweep(config, tmp_path / "sweep", dataset=digits)
    assert list(found.runs) == ["from0", "from1"]
    for index, source in enumerate(sources):
        run = found.runs[f"from{index}"]
        alone = train(run.config, tmp_path / f"alone{index}", dataset=digits)
        chex.assert_trees_all_close(weights(alone), weights(run), atol=1e-6)
        # One epoch from there is nearer than one from anywhere else.
        start = load_run(source)
        moved = [
            np.abs(
                np.asarray(run.state.weights.params["head"]["kernel"]) - kernel
            ).max()
            for kernel in (
                np.asarray(start.state.weights.params["head"]["kernel"]),
                np.asarray(
                    load_run(sources[1 - index]).state.weights.params["head"]["kernel"]
                ),
            )
        ]
        assert moved[0] < moved[1]
