"""Runs that were written before networks had a state of any kind."""

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


def in_first_form(directory, target, *, is_damaged=False):
    """A copy of a run whose checkpoint is what jaxrobust 0.1 wrote at first."""
    shutil.copytree(directory, target, ignore=shutil.ignore_patterns("checkpoints"))
    state = load_run(directory).state
    options = ocp.CheckpointManagerOptions()
    with ocp.CheckpointManager(directory / "checkpoints", options=options) as manager:
        step = manager.latest_step()
        found = manager.restore(
            step, args=ocp.args.Composite(progress=ocp.args.JsonRestore())
        )
    old = [
        FirstWeights(each.params, each.state.get("batch_stats", {}), each.opt_state)
        for each in (state.weights, state.epoch_weights)
    ]
    state = FirstState(
        **state._asdict()
        | {"weights": old[0], "epoch_weights": old[1]}
        | {"key": jax.random.key_data(state.key), "epsilon": np.float32(0.1)}
    )
    arrays = jax.tree.map(np.asarray, state)
    sums = {
        jax.tree_util.keystr(path): zlib.crc32(leaf.tobytes()) + is_damaged
        for path, leaf in jax.tree_util.tree_leaves_with_path(arrays)
    }
    record = dict(found["progress"])
    for name in ("checksum", "form"):
        del record[name]
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


@pytest.mark.parametrize("name", ["trained", "normalized"])
def test_runs_of_the_first_versions_are_loaded(name, request, tmp_path):
    run = request.getfixturevalue(name)
    sums = in_first_form(run.directory, tmp_path / "run")
    assert any(".batch_stats[" in each for each in sums) is (name == "normalized")
    loaded = load_run(tmp_path / "run")
    chex.assert_trees_all_equal(loaded.weights, run.weights)
    chex.assert_trees_all_equal(
        loaded.state._replace(key=jax.random.key_data(loaded.state.key)),
        run.state._replace(key=jax.random.key_data(run.state.key)),
    )


def test_damage_to_a_run_of_the_first_versions_is_noticed(normalized, tmp_path):
    in_first_form(normalized.directory, tmp_path / "run", is_damaged=True)
    with (
        pytest.warns(CheckpointWarning, match=r"checksum of .* does not match"),
        pytest.raises(RunError, match="no usable checkpoint"),
    ):
        load_run(tmp_path / "run")
