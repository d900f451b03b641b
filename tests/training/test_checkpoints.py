import re
import warnings
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from jaxrobust.models import Linear
from jaxrobust.training import (
    AttackConfig,
    CheckpointError,
    Checkpoints,
    CheckpointWarning,
    OptimizerConfig,
    make_trainer,
)

IMAGES = jnp.zeros((1, 4, 4, 1))


def new_state(step=0):
    trainer = make_trainer(
        Linear(3), attack=AttackConfig(), optimizer=OptimizerConfig(), batch_size=2
    )
    state = trainer.init(jax.random.key(7), IMAGES)
    noise = jax.random.normal(jax.random.key(step), (16, 3))
    params = {"head": {"kernel": noise, "bias": jnp.arange(3.0) / 7}}
    weights = state.weights._replace(params=params)
    return state._replace(step=jnp.int32(step), weights=weights)


def like(progress):
    del progress
    return jax.eval_shape(new_state)


def plain(state):
    return state._replace(key=jax.random.key_data(state.key))


@pytest.fixture
def saved(tmp_path):
    """Checkpoints at steps 1 and 2, closed."""
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        for step in (1, 2):
            checkpoints.save(new_state(step), {"note": step})
    return tmp_path / "checkpoints"


def test_a_checkpoint_comes_back_to_the_bit_with_its_record(saved):
    with Checkpoints(saved) as checkpoints:
        state, progress = checkpoints.restore_newest(like)
    chex.assert_trees_all_equal(plain(state), plain(new_state(2)))
    chex.assert_trees_all_equal_dtypes(plain(state), plain(new_state(2)))
    assert progress == {"note": 2}
    expected = jax.random.uniform(new_state(2).key)
    assert float(jax.random.uniform(state.key)) == float(expected)


def largest_files(directory: Path, number: int) -> list[Path]:
    files = [path for path in directory.rglob("*") if path.is_file()]
    return sorted(files, key=lambda path: path.stat().st_size)[-number:]


def truncate(step: Path) -> None:
    for path in largest_files(step / "state", 2):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(step: Path) -> None:
    for path in largest_files(step / "state", 2):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)


def forge(step: Path) -> None:
    """Change a checksum: stands for damage that Orbax itself would not notice."""
    for path in (step / "progress").iterdir():
        text = path.read_text()
        path.write_text(re.sub(r'("\.step": )\d+', r"\g<1>1", text))


def remove_metadata(step: Path) -> None:
    for path in (step / "progress").iterdir():
        path.unlink()


DAMAGE = [truncate, flip, forge, remove_metadata]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(saved, damage):
    damage(saved / "2")
    with Checkpoints(saved) as checkpoints:
        with pytest.warns(CheckpointWarning, match=r"checkpoints/2 is damaged \("):
            state, progress = checkpoints.restore_newest(like)
        chex.assert_trees_all_equal(plain(state), plain(new_state(1)))
        assert progress == {"note": 1}
        checkpoints.set_aside_newer(1)
        assert checkpoints.steps() == [1]
        checkpoints.save(new_state(2), {"note": "again"})
    assert (saved.parent / "damaged" / "2").is_dir()
    with Checkpoints(saved) as checkpoints:
        assert checkpoints.restore_newest(like)[1] == {"note": "again"}


def test_nothing_but_damage_is_an_error(saved):
    for step in (1, 2):
        truncate(saved / str(step))
    with Checkpoints(saved) as checkpoints, warnings.catch_warnings():
        warnings.simplefilter("ignore", CheckpointWarning)
        with pytest.raises(CheckpointError, match=r"no usable checkpoint .*\[2, 1\]"):
            checkpoints.restore_newest(like)


def test_no_checkpoint_at_all_is_an_error(tmp_path):
    with Checkpoints(tmp_path / "none") as checkpoints:
        with pytest.raises(CheckpointError, match="looked at steps none"):
            checkpoints.restore_newest(like)


def test_only_the_newest_are_kept(tmp_path):
    with Checkpoints(tmp_path / "c", max_to_keep=2) as checkpoints:
        for step in range(5):
            checkpoints.save(new_state(step), {})
        checkpoints.wait()
        assert checkpoints.steps() == [4, 3]


def test_a_step_that_is_saved_is_not_saved_again(saved):
    with Checkpoints(saved) as checkpoints:
        checkpoints.save(new_state(2), {"note": "other"})
        checkpoints.wait()
        assert checkpoints.restore_newest(like)[1] == {"note": 2}


def test_saving_copies_before_it_returns(tmp_path):
    state = new_state(3)
    expected = np.asarray(state.weights.params["head"]["kernel"]).copy()
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(state, {})
        # What donation does to a buffer while the save is still under way.
        jax.tree.map(lambda leaf: leaf.delete(), plain(state))
    with Checkpoints(tmp_path / "c") as checkpoints:
        restored, _ = checkpoints.restore_newest(like)
    np.testing.assert_array_equal(restored.weights.params["head"]["kernel"], expected)


def test_a_record_that_grows_while_it_is_saved_is_saved_as_it_was(
    tmp_path, monkeypatch
):
    handed = []
    save = ocp.CheckpointManager.save

    def late_save(self, step, args):
        # The record is written by another thread, some time after this call.
        handed.append(args["progress"].item)
        return save(self, step, args=args)

    monkeypatch.setattr(ocp.CheckpointManager, "save", late_save)
    records = [{"epoch": 1}]
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(new_state(1), {"records": records})
        records[0]["is_jump"] = True
        records.append({"epoch": 2})
        assert handed[0]["records"] == [{"epoch": 1}]
