"""Members of a sweep that differ in the level of a variant of the data."""

import dataclasses
import os
import signal

import chex
import jax
import numpy as np
import pytest

from jaxrobust.data import apply_variant
from jaxrobust.training import (
    Interrupted,
    NullReporter,
    SweepConfig,
    TrainConfig,
    Validation,
    sweep,
    train,
)
from jaxrobust.training.course.selection import ROBUST
from jaxrobust.training.recipe.sweeps import Member
from jaxrobust.training.step import programs


@pytest.fixture
def config(tiny) -> SweepConfig:
    validation = Validation(share=0.25, num_steps=2)
    base = dataclasses.replace(
        tiny,
        variant="saturate(2)",
        phases=tiny.phases[1:2],
        batch_size=24,
        validation=validation,
    )
    return SweepConfig(base=base, over={"variant.p": (2, 4, 8.5)})


@pytest.mark.slow
def test_each_is_the_run_on_its_variant_and_one_trace_serves_all(
    config, digits, tmp_path, monkeypatch
):
    make = programs.trainer_for

    def counted(*arguments, **options):
        trainer = make(*arguments, **options)
        return trainer._replace(run=chex.assert_max_traces(trainer.run, n=1))

    monkeypatch.setattr(programs, "trainer_for", counted)
    found = sweep(config, tmp_path / "sweep", dataset=digits)
    monkeypatch.undo()
    assert [*found.runs] == ["p2", "p4", "p8.5"]
    for name, text in (("p2", "saturate(2)"), ("p8.5", "saturate(8.5)")):
        member = found.runs[name]
        assert member.config.variant == text
        its = apply_variant(digits, text)
        assert member.trained_on.fingerprint == its.fingerprint
        assert member.problem.title == its.title
        alone = train(member.config, tmp_path / name, dataset=its)
        chex.assert_trees_all_close(member.weights, alone.weights, rtol=1e-4, atol=1e-6)
        assert [each[ROBUST] for each in member.records] == [
            each[ROBUST] for each in alone.records
        ]
    # They are of different variants.
    one, other = (found.runs[name].weights.params for name in ("p2", "p8.5"))
    distances = jax.tree.map(lambda a, b: np.abs(a - b).max(), one, other)
    assert max(jax.tree.leaves(distances)) > 1e-3


@pytest.mark.slow
def test_all_levels_of_the_paper_train_in_one_program(
    tiny, digits, tmp_path, monkeypatch
):
    levels = (1, 1.5, 1.75, 2, 2.25, 2.5, 3, 4, 8, 16, 64, 128, 256, float("inf"))
    make = programs.trainer_for

    def counted(*arguments, **options):
        trainer = make(*arguments, **options)
        return trainer._replace(run=chex.assert_max_traces(trainer.run, n=1))

    monkeypatch.setattr(programs, "trainer_for", counted)
    base = dataclasses.replace(tiny, variant="saturate:2", phases=tiny.phases[:1])
    config = SweepConfig(base=base, over={"variant.p": levels})
    found = sweep(config, tmp_path / "sweep", dataset=digits)
    monkeypatch.undo()
    assert not found.failures and len(found.runs) == 14
    last = found.runs["pinf"]
    assert last.config.variant == "saturate(inf)"
    its = apply_variant(digits, "saturate(inf)")
    alone = train(last.config, tmp_path / "alone", dataset=its)
    chex.assert_trees_all_close(last.weights, alone.weights, rtol=1e-4, atol=1e-6)


class Killing(NullReporter):
    """Stops a sweep within its second epoch."""

    def __init__(self):
        self.left = 5

    def update(self, num_done, values):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.slow
def test_it_is_resumed(config, digits, tmp_path, small_slices):
    whole = sweep(config, tmp_path / "whole", dataset=digits)
    with pytest.raises(Interrupted):
        sweep(config, tmp_path / "sweep", dataset=digits, reporter=Killing())
    found = sweep(config, tmp_path / "sweep", dataset=digits, resume=True)
    for name, run in whole.runs.items():
        chex.assert_trees_all_equal(run.weights, found.runs[name].weights)


@pytest.mark.parametrize(
    ("variant", "over", "message"),
    [
        ("saturate(2)", {"variant.q": (1,)}, "`number` must be one of variant.p"),
        ("original", {"variant.p": (1,)}, "`number` must be one of , got"),
        ("saturate(2)", {"variant.p": (0,)}, r"`p` must be in \(0, inf\], got"),
    ],
)
def test_numbers_that_a_variant_does_not_have(variant, over, message):
    with pytest.raises(ValueError, match=message):
        SweepConfig(base=TrainConfig(variant=variant), over=over)


def test_variants_of_different_kinds_do_not_share_a_program(tiny, digits, tmp_path):
    members = [
        Member(name=text, config=dataclasses.replace(tiny, variant=text))
        for text in ("saturate(2)", "gamma(2)")
    ]
    with pytest.raises(ValueError, match="`variant` must be one that differs in"):
        sweep(members, tmp_path / "sweep", dataset=digits)
