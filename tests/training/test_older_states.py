"""Runs whose checkpoints have an older form."""

import dataclasses
import shutil
import zlib
from typing import Any, NamedTuple

import chex
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from jaxrobust.keeping import seal
from jaxrobust.networks import ModelConfig
from jaxrobust.training import CheckpointWarning, RunError, load_run, standard, train
from jaxrobust.training.course import checkpoints


class FirstWeights(NamedTuple):
    """What checkpoints held before networks had a state of any kind."""

    params: Any
    batch_stats: Any
    opt_state: Any


class FirstState(NamedTuple):
    """What else they held: a radius that nothing read."""

    step: Any
    epoch: Any
    batch: Any
    weights: FirstWeights
    epoch_weights: FirstWeights
    key: Any
    epsilon: Any
    metrics: Any


class SecondWeights(NamedTuple):
    """What checkpoints held before averages were kept."""

    params: Any
    state: Any
    opt_state: Any


def first_form(state):
    def old(weights):
        stats = weights.state.get("batch_stats", {})
        return FirstWeights(weights.params, stats, weights.opt_state)

    changed = {name: old(getattr(state, name)) for name in ("weights", "epoch_weights")}
    return FirstState(**state._asdict() | changed, epsilon=np.float32(0.1))


def second_form(state):
    return state._replace(
        weights=SecondWeights(*state.weights[:3]),
        epoch_weights=SecondWeights(*state.epoch_weights[:3]),
    )


FORMS = {1: first_form, 2: second_form}


def in_older_form(form, directory, target, *, is_damaged=False):
    """A copy of a run whose checkpoint is what older versions wrote."""
    shutil.copytree(directory, target, ignore=shutil.ignore_patterns("checkpoints"))
    state = load_run(directory).state
    options = ocp.CheckpointManagerOptions()
    with ocp.CheckpointManager(directory / "checkpoints", options=options) as manager:
        step = manager.latest_step()
        found = manager.restore(
            step, args=ocp.args.Composite(progress=ocp.args.JsonRestore())
        )
    state = FORMS[form](state._replace(key=jax.random.key_data(state.key)))
    arrays = jax.tree.map(np.asarray, state)
    sums = {
        jax.tree_util.keystr(path): zlib.crc32(leaf.tobytes()) + is_damaged
        for path, leaf in jax.tree_util.tree_leaves_with_path(arrays)
    }
    record = dict(found["progress"])
    for name in ("checksum", "form"):
        del record[name]
    if form > 1:
        record["form"] = form
    record = seal(record | {"checksums": sums})
    with ocp.CheckpointManager(target / "checkpoints", options=options) as manager:
        state, progress = ocp.args.StandardSave(arrays), ocp.args.JsonSave(record)
        manager.save(step, args=ocp.args.Composite(state=state, progress=progress))
    return sums


@pytest.fixture(scope="module")
def normalized(tiny, digits, tmp_path_factory):
    """A run of two epochs with batch normalization."""
    model = ModelConfig(name="resnet18", widen_factor=1 / 64)
    phases = (standard(2),)
    config = dataclasses.replace(tiny, model=model, phases=phases)
    return train(config, tmp_path_factory.mktemp("bn") / "run", dataset=digits)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "name", ["trained", pytest.param("normalized", marks=pytest.mark.slow)]
)
def test_runs_of_older_versions_are_loaded(name, form, request, tmp_path):
    run = request.getfixturevalue(name)
    sums = in_older_form(form, run.directory, tmp_path / "run")
    if form == 1:
        assert any(".batch_stats[" in each for each in sums) is (name == "normalized")
    loaded = load_run(tmp_path / "run")
    chex.assert_trees_all_equal(loaded.weights, run.weights)
    chex.assert_trees_all_equal(
        loaded.state._replace(key=jax.random.key_data(loaded.state.key)),
        run.state._replace(key=jax.random.key_data(run.state.key)),
    )


@pytest.mark.parametrize("form", FORMS)
def test_damage_to_a_run_of_older_versions_is_noticed(form, trained, tmp_path):
    in_older_form(form, trained.directory, tmp_path / "run", is_damaged=True)
    with (
        pytest.warns(CheckpointWarning, match=r"checksum of .* does not match"),
        pytest.raises(RunError, match="no usable checkpoint"),
    ):
        load_run(tmp_path / "run")


def test_a_checkpoint_of_a_later_version_is_refused(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "FORM", 99)
    shutil.copytree(trained.directory, tmp_path / "run")
    with checkpoints.Checkpoints(tmp_path / "run" / "checkpoints") as kept:
        state = trained.state._replace(step=trained.state.step + 1)
        kept.save(state, {"records": []})
    monkeypatch.undo()
    # It is not damaged: the one before it would be another run's state.
    with pytest.raises(RunError, match="written by a later version of jaxrobust"):
        load_run(tmp_path / "run")
