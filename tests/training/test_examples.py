"""A run is judged on the data that it was trained on, and on no other."""

import dataclasses
import json

import numpy as np
import pytest

from jaxrobust.data import Dataset, load_arrays, subset
from jaxrobust.keeping import fingerprint
from jaxrobust.training import (
    RunError,
    check_data,
    load_run,
    load_run_data,
    train,
)


@pytest.fixture(scope="module")
def mine(digits) -> Dataset:
    """Arrays of the caller that look like digits in everything but their values."""
    images = np.ascontiguousarray(1 - digits.images)
    return dataclasses.replace(digits, images=images)


@pytest.fixture(scope="module")
def on_mine(tiny, mine, tmp_path_factory):
    config = dataclasses.replace(tiny, phases=tiny.phases[:1])
    return train(config, tmp_path_factory.mktemp("mine") / "run", dataset=mine)


@pytest.fixture(scope="module")
def by_name(tiny, tmp_path_factory):
    config = dataclasses.replace(tiny, phases=tiny.phases[:1])
    return train(config, tmp_path_factory.mktemp("named") / "run")


@pytest.fixture
def stored(tmp_path):
    """A data set in files; `write(seed)` gives it other contents."""

    def write(seed):
        values = np.random.default_rng(seed)
        for split, count in (("train", 64), ("test", 32)):
            np.savez(
                tmp_path / "data" / f"{split}.npz",
                image=values.uniform(size=(count, 8, 8, 1)).astype(np.float32),
                label=np.arange(count) % 10,
            )

    (tmp_path / "data").mkdir()
    write(0)
    return tmp_path / "data", write


def forget_data(directory):
    """Make a run one of a version that recorded no data, nor checksums."""
    path = directory / "config.json"
    record = json.loads(path.read_text())
    del record["data"], record["checksum"]
    path.write_text(json.dumps(record))


def test_a_run_records_what_it_was_trained_on(on_mine, mine, by_name):
    known = on_mine.trained_on
    assert known == load_run(on_mine.directory).trained_on
    assert known.is_given and known.title == mine.title
    expected = {"images": mine.images, "labels": mine.labels}
    expected["num_classes"] = np.int32(10)
    assert known.fingerprint == fingerprint(expected)
    assert not by_name.trained_on.is_given
    used = subset(load_arrays("digits", "train"), 96)
    assert by_name.trained_on.fingerprint == used.fingerprint


def test_arrays_of_the_caller_are_not_taken_for_the_data_set_of_the_configuration(
    on_mine,
):
    run = load_run(on_mine.directory)
    assert run.config.dataset == "digits"  # what the default says
    told = r"must be judged on the data .* \(arrays of the caller, .*got digits, whose"
    for split in ("train", "test"):
        with pytest.raises(RunError, match=told):
            load_run_data(run, split)


def test_arrays_of_the_caller_that_the_configuration_means_are_accepted(trained):
    assert trained.trained_on.is_given
    found = load_run_data(trained, "test")
    np.testing.assert_array_equal(found.images, load_arrays("digits", "test").images)


def test_a_run_by_name_is_judged_by_name(by_name):
    assert len(load_run_data(by_name, "test")) == 360


def test_files_that_have_changed_since_are_refused(short, stored):
    directory, write = stored
    config = dataclasses.replace(short, dataset=str(directory), train_size=None)
    run = train(config, directory.parent / "run")
    assert len(load_run_data(run, "test")) == 32
    write(1)
    with pytest.raises(RunError, match="whose training examples are others"):
        load_run_data(run, "test")
    with pytest.raises(RunError, match=r"differs in data\.fingerprint: '"):
        train(config, run.directory, resume=True)


def test_the_same_data_elsewhere_may_be_named(short, stored, tmp_path):
    directory, _ = stored
    config = dataclasses.replace(short, dataset=str(directory), train_size=None)
    run = train(config, tmp_path / "run")
    moved = directory.rename(tmp_path / "moved")
    assert len(load_run_data(run, "test", name=str(moved))) == 32
    with pytest.raises(RunError, match="must be judged on"):
        load_run_data(run, "test", name="digits")


def test_without_its_training_split_a_data_set_is_used_with_a_warning(
    short, stored, tmp_path
):
    directory, _ = stored
    config = dataclasses.replace(short, dataset=str(directory), train_size=None)
    run = train(config, tmp_path / "run")
    (directory / "train.npz").unlink()
    with pytest.warns(UserWarning, match="cannot be told, since its training split"):
        assert len(load_run_data(run, "test")) == 32


@pytest.mark.parametrize("change", ["shape", "classes"])
def test_data_of_another_form_are_refused(by_name, change):
    test = load_arrays("digits", "test")
    if change == "shape":
        other = dataclasses.replace(
            test, images=np.pad(test.images, ((0, 0), (1, 1), (0, 0), (0, 0)))
        )
    else:
        other = dataclasses.replace(test, num_classes=11)
    with pytest.raises(
        RunError, match=r"must be judged on images of \(8, 8, 1\) in 10"
    ):
        check_data(by_name, other)


def test_another_edition_of_a_prepared_data_set_is_refused(by_name):
    other = dataclasses.replace(load_arrays("digits", "test"), title="digits (JPEG)")
    with pytest.raises(RunError, match=r"got digits \(JPEG\); restore"):
        check_data(by_name, other)


def test_runs_that_recorded_no_data_are_known_by_their_title(tiny, digits, tmp_path):
    config = dataclasses.replace(tiny, phases=tiny.phases[:1])
    train(config, tmp_path / "run", dataset=digits)
    forget_data(tmp_path / "run")
    run = load_run(tmp_path / "run")
    assert run.trained_on is None
    assert len(load_run_data(run, "test")) == 360
    # Such a run goes on, on whatever data.
    assert train(config, tmp_path / "run", dataset=digits, resume=True).is_complete
    titled = dataclasses.replace(digits, title="thesis")
    train(config, tmp_path / "other", dataset=titled)
    forget_data(tmp_path / "other")
    with pytest.raises(RunError, match="must be judged on thesis"):
        load_run_data(load_run(tmp_path / "other"), "test")


def test_resuming_on_other_data_is_refused(tiny, mine, on_mine, digits):
    config = dataclasses.replace(tiny, phases=tiny.phases[:1])
    again = train(config, on_mine.directory, dataset=mine, resume=True)
    assert again.is_complete
    with pytest.raises(RunError, match=r"differs in data\.fingerprint: '.*', now '"):
        train(config, on_mine.directory, dataset=digits, resume=True)
