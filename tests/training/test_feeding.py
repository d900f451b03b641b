"""Examples that are sent as they are needed give what those on the device give."""

import dataclasses

import chex
import jax
import numpy as np
import pytest

from jaxrobust.data import DataError, load_arrays
from jaxrobust.training import SweepConfig, sweep, train
from jaxrobust.training.course.examples import problem_of
from jaxrobust.training.step import feeding
from jaxrobust.training.step.feeding import Resident, Stream, feed_for
from jaxrobust.training.step.members import MemberProgram
from jaxrobust.training.step.mesh import Placement
from jaxrobust.training.step.programs import Programs


@pytest.fixture
def short_stretches(monkeypatch):
    """Two batches in a stretch, of three in an epoch: the last one is filled up."""
    monkeypatch.setattr(feeding, "STRETCH_BYTES", 0)
    monkeypatch.setattr(feeding, "LEAST_BATCHES", 2)


def test_the_order_of_an_epoch_needs_no_copy_of_the_state(
    tiny, digits, tmp_path, short_stretches, monkeypatch
):
    config = dataclasses.replace(tiny, phases=tiny.phases[:1])
    taken, orders, take, order = [], [], MemberProgram.take, Stream._order

    def counted(self, states, index):
        taken.append(index)
        return take(self, states, index)

    def noted(self, *arguments):
        before = len(taken)
        orders.append(order(self, *arguments))
        assert len(taken) == before
        return orders[-1]

    monkeypatch.setattr(MemberProgram, "take", counted)
    monkeypatch.setattr(Stream, "_order", noted)
    run = train(config, tmp_path / "run", dataset=digits, stream=True)
    assert taken  # for checkpoints
    assert len(orders) == 4  # two stretches in each of two epochs
    for epoch, order in enumerate(orders[::2]):
        key = jax.random.fold_in(jax.random.fold_in(run.state.key, 0), epoch)
        expected = jax.random.permutation(key, len(digits.labels))
        np.testing.assert_array_equal(order, expected)


@pytest.mark.exact
def test_streaming_gives_the_same_run_to_the_bit(
    tiny, digits, trained, tmp_path, short_stretches
):
    run = train(tiny, tmp_path / "run", dataset=digits, stream=True)
    chex.assert_trees_all_equal(run.state.weights, trained.state.weights)
    assert [each["loss"] for each in run.records] == [
        each["loss"] for each in trained.records
    ]


def test_members_stream_each_its_own_order(tiny, digits, tmp_path, short_stretches):
    base = dataclasses.replace(tiny, phases=tiny.phases[1:2])
    config = SweepConfig(base=base, epsilon=(0.05, 0.1), seed=(0, 1))
    streamed = sweep(config, tmp_path / "streamed", dataset=digits, stream=True)
    resident = sweep(config, tmp_path / "resident", dataset=digits, stream=False)
    for name, run in resident.runs.items():
        other = streamed.runs[name].state.weights
        chex.assert_trees_all_close(other, run.state.weights, atol=1e-6)


def test_data_in_files_are_read_as_needed(tiny, digits, trained, tmp_path):
    directory = tmp_path / "data"
    directory.mkdir()
    for split in ("train", "test"):
        np.save(directory / f"{split}_image.npy", digits.images)
        np.save(directory / f"{split}_label.npy", digits.labels)
    mapped = load_arrays(str(directory), "train")
    assert isinstance(mapped.images, np.memmap)
    assert mapped.num_classes == 10
    run = train(tiny, tmp_path / "run", dataset=mapped, stream=True)
    chex.assert_trees_all_equal(run.state.weights, trained.state.weights)
    part = load_arrays(str(directory), "train", share=(1, 3))
    np.testing.assert_array_equal(part.labels, digits.labels[32:64])
    (directory / "train_label.npy").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"must be a whole \.npy file"):
        load_arrays(str(directory), "train")


@pytest.mark.parametrize(
    "free, kind", [(None, Resident), (10**12, Resident), (1, Stream)]
)
def test_what_does_not_fit_is_streamed(tiny, digits, free, kind, monkeypatch):
    monkeypatch.setattr(feeding, "device_memory", lambda: free)
    programs = Programs([tiny], problem_of(digits), Placement(), 1)
    assert isinstance(feed_for(digits, programs, stream=None), kind)
    assert isinstance(feed_for(digits, programs, stream=True), Stream)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_shares_of_a_split_are_the_split(count):
    whole = load_arrays("digits", "test")
    parts = [load_arrays("digits", "test", share=(i, count)) for i in range(count)]
    np.testing.assert_array_equal(
        np.concatenate([part.images for part in parts]), whole.images
    )
    with pytest.raises(DataError, match="`share` must be"):
        load_arrays("digits", "test", share=(count, count))


@pytest.mark.mnist
def test_shares_of_a_prepared_split_are_the_split():
    import os

    if "TFDS_DATA_DIR" not in os.environ:
        pytest.skip("no prepared data")
    whole = load_arrays("mnist", "test")
    parts = [load_arrays("mnist", "test", share=(i, 3)) for i in range(3)]
    images = np.concatenate([part.images for part in parts])
    np.testing.assert_array_equal(images, whole.images)
    labels = np.concatenate([part.labels for part in parts])
    np.testing.assert_array_equal(labels, whole.labels)
