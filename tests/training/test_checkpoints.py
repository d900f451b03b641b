import asyncio
import errno
import json
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from jaxrobust.networks import Linear, as_network
from jaxrobust.training import (
    CheckpointError,
    Checkpoints,
    CheckpointWarning,
    OptimizerConfig,
    StorageError,
    make_trainer,
)

IMAGES = jnp.zeros((1, 4, 4, 1))


def new_state(step=0):
    trainer = make_trainer(
        as_network(Linear(3), 3),
        batch_size=2,
    )
    state = trainer.init(jax.random.key(7), IMAGES, OptimizerConfig())
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
    """Change a checksum in the record, which has one of its own."""
    for path in (step / "progress").iterdir():
        text = path.read_text()
        path.write_text(re.sub(r'("\.step": )\d+', r"\g<1>1", text))


def exchange(step: Path) -> None:
    """Other weights, whole and of the same form, which Orbax itself would take."""
    other = new_state(9)._replace(step=jnp.int32(int(step.name)))
    with Checkpoints(step.parent.parent / "others") as checkpoints:
        checkpoints.save(other, {})
    shutil.rmtree(step / "state")
    shutil.copytree(step.parent.parent / "others" / step.name / "state", step / "state")


def remove_metadata(step: Path) -> None:
    for path in (step / "progress").iterdir():
        path.unlink()


DAMAGE = [truncate, flip, forge, exchange, remove_metadata]


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
        with pytest.raises(CheckpointError, match="which has none yet"):
            checkpoints.restore_newest(like)


def test_a_failed_save_leaves_no_words_of_asyncio_to_the_user(saved, caplog):
    loop = asyncio.new_event_loop()
    for text in ("ENOSPC, /disk/0.orbax-checkpoint-tmp/state", "something else"):
        future = loop.create_future()
        future.set_exception(OSError(text))
        del future
    loop.close()
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1 and "something else" in told[0]


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


def record_of(step: Path) -> Path:
    return step / "progress" / "metadata"


RECORD = {"phase": 1, "records": [{"epoch": 1, "loss": 0.5}], "is_complete": False}
EDITS = {
    "a number": lambda record: record.update(phase=2),
    "a digit deep inside": lambda record: record["records"][0].update(loss=0.25),
    "a flag": lambda record: record.update(is_complete=True),
    "an entry less": lambda record: record.pop("is_complete"),
    "an entry more": lambda record: record.update(extra=1),
    "the order of a list": lambda record: record["records"].append({"epoch": 0}),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_edited_progress_record_is_damage(tmp_path, edit):
    with Checkpoints(tmp_path / "c") as checkpoints:
        for step in (1, 2):
            checkpoints.save(new_state(step), RECORD)
    path = record_of(tmp_path / "c" / "2")
    record = json.loads(path.read_text())
    edit(record)
    path.write_text(json.dumps(record))
    with Checkpoints(tmp_path / "c") as checkpoints:
        with pytest.warns(CheckpointWarning, match="2 is damaged .*progress record"):
            state, progress = checkpoints.restore_newest(like)
    assert int(state.step) == 1 and progress == RECORD


def test_a_record_of_another_step_is_damage(saved):
    record_of(saved / "2").write_text(record_of(saved / "1").read_text())
    with Checkpoints(saved) as checkpoints:
        with pytest.warns(CheckpointWarning, match="that of another step"):
            assert int(checkpoints.restore_newest(like)[0].step) == 1


def test_checkpoints_of_versions_without_a_seal_are_read(saved):
    path = record_of(saved / "2")
    record = json.loads(path.read_text())
    del record["checksum"], record["step"]
    path.write_text(json.dumps(record))
    with Checkpoints(saved) as checkpoints:
        state, progress = checkpoints.restore_newest(like)
    assert int(state.step) == 2 and progress == {"note": 2}


def test_arrays_of_another_form_than_asked_for_are_refused(saved):
    def wider(progress):
        state = like(progress)
        kernel = jax.ShapeDtypeStruct((16, 4), jnp.float32)
        bias = state.weights.params["head"]["bias"]
        params = {"head": {"kernel": kernel, "bias": bias}}
        return state._replace(weights=state.weights._replace(params=params))

    with Checkpoints(saved) as checkpoints:
        told = r"kernel.* is float32\[16, 3\] rather than float32\[16, 4\]"
        with pytest.warns(CheckpointWarning, match=told):
            with pytest.raises(CheckpointError, match="no usable checkpoint"):
                checkpoints.restore_newest(wider)


def test_a_reader_leaves_alone_what_another_process_is_saving(saved):
    under_way = saved / "3.orbax-checkpoint-tmp"
    under_way.mkdir()
    with Checkpoints(saved, is_read_only=True) as checkpoints:
        assert checkpoints.steps() == [2, 1]
        assert checkpoints.restore_newest(like)[1] == {"note": 2}
    assert under_way.is_dir()
    with Checkpoints(saved) as checkpoints:
        checkpoints.save(new_state(3), {"note": 3})
    assert not under_way.exists() and (saved / "3").is_dir()


def test_a_reader_makes_no_directory(tmp_path):
    with Checkpoints(tmp_path / "none", is_read_only=True) as checkpoints:
        assert checkpoints.steps() == []
    assert not (tmp_path / "none").exists()


SAVE_ON = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_checkpoints import Checkpoints, new_state
first = new_state(0)
with Checkpoints(Path(sys.argv[2]), max_to_keep=1) as checkpoints:
    for step in range(1, 100000):
        checkpoints.save(first._replace(step=first.step + step), {"note": step})
        print(step, flush=True)
"""


def test_a_checkpoint_removed_while_it_is_read_gives_way_to_a_newer_one(tmp_path):
    command = [sys.executable, "-c", SAVE_ON, str(Path(__file__).parent)]
    writer = subprocess.Popen(
        [*command, str(tmp_path / "c")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert writer.stdout is not None
        for _ in range(3):
            assert writer.stdout.readline()
        found = []
        # A warning of damage would be an error here.
        for _ in range(10):
            with Checkpoints(tmp_path / "c", is_read_only=True) as checkpoints:
                state, progress = checkpoints.restore_newest(like)
            assert progress == {"note": int(state.step)}
            found.append(int(state.step))
        assert writer.poll() is None, "the reader harmed the writer"
        assert found == sorted(found) and found[-1] > found[0]
    finally:
        writer.kill()
        writer.communicate()


def test_a_list_that_has_neither_the_old_nor_the_new_is_made_again(saved, monkeypatch):
    with Checkpoints(saved, is_read_only=True) as checkpoints:
        manager = checkpoints._manager
        every, reload, is_stale = manager.all_steps, manager.reload, [True]
        monkeypatch.setattr(
            manager, "all_steps", lambda *_: [] if is_stale else every()
        )
        monkeypatch.setattr(manager, "reload", lambda: (is_stale.clear(), reload()))
        state, _ = checkpoints.restore_newest(like)
        assert int(state.step) == checkpoints.steps()[0]


SAVE_UNDER_A_LIMIT = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_checkpoints import Checkpoints, StorageError, new_state
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
checkpoints = Checkpoints(Path(sys.argv[2]))
for step in (1, 2):
    checkpoints.save(new_state(step), {"note": step})
checkpoints.wait()
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), -1))
for step in (3, 4):
    try:
        checkpoints.save(new_state(step), {"note": step})
        checkpoints.wait()
    except StorageError as error:
        print(error.errno, error.filename, error, flush=True)
try:
    checkpoints.close()
except StorageError as error:
    pass
"""


@pytest.mark.parametrize("limit", [0, 300])
def test_files_that_may_not_grow_fail_as_storage_and_harm_no_checkpoint(
    tmp_path, limit
):
    directory = tmp_path / "c"
    command = [sys.executable, "-c", SAVE_UNDER_A_LIMIT, str(Path(__file__).parent)]
    done = subprocess.run(
        [*command, str(directory), str(limit)], capture_output=True, text=True
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and len(lines) == 2, done.stderr
    for step, line in zip((3, 4), lines, strict=True):
        assert line.startswith(f"{errno.EFBIG} {directory} {directory}: File too large")
        assert f"step {step}, or the last one, was not saved" in line or (
            "the newest checkpoint was not saved" in line
        )
        assert line.endswith("the one before it, of step 2, is whole")
    assert "Traceback" not in done.stderr
    with Checkpoints(directory) as checkpoints:
        assert checkpoints.steps()[0] == 2
        state, _ = checkpoints.restore_newest(like)
        checkpoints.save(new_state(3), {"note": 3})
    chex.assert_trees_all_equal(plain(state), plain(new_state(2)))


def fill(disk: Path, leave: int) -> None:
    """Leave so many bytes of a file system free."""
    with (disk / "fill").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass
        file.truncate(file.tell() - leave)


@pytest.mark.parametrize("leave", [0, 20_000, 40_000])
def test_a_full_disk_fails_as_storage_and_harms_no_checkpoint(small_disk, leave):
    directory = small_disk / "c"
    with Checkpoints(directory) as checkpoints:
        for step in (1, 2):
            checkpoints.save(new_state(step), {"note": step})
    fill(small_disk, leave)
    with pytest.raises(StorageError, match="No space left on device") as found:
        with Checkpoints(directory) as checkpoints:
            for step in range(3, 9):
                checkpoints.save(new_state(step), {"note": "x" * 9000})
                checkpoints.wait()
    assert found.value.errno == errno.ENOSPC
    assert found.value.filename == str(directory)
    kept = re.search(r"the one before it, of step (\d), is whole$", str(found.value))
    assert kept is not None
    (small_disk / "fill").unlink()
    with Checkpoints(directory) as checkpoints:
        state, _ = checkpoints.restore_newest(like)
        assert int(state.step) == checkpoints.steps()[0] == int(kept[1])
        checkpoints.save(new_state(9), {"note": 9})
    with Checkpoints(directory) as checkpoints:
        assert checkpoints.restore_newest(like)[1] == {"note": 9}
