"""Data sets that a function of the caller's own makes."""

import hashlib

import numpy as np
import pytest

from jaxrobust.data import DataError, load_arrays

OWN = """
import numpy as np
from jaxrobust.data import Dataset, load_arrays, of_classes

IMAGES = np.arange(60, dtype=np.uint8).reshape(5, 3, 4)
LABELS = {"train": np.array([7, -2, 7, 9, -2]), "test": np.array([7, 7, 7, 9, 9])}

def arrays(split):
    return IMAGES / 255, LABELS[split]

def made(split):
    found = of_classes(load_arrays("digits", split), [3, 8])
    return found

def train_only(split):
    return (IMAGES, LABELS["train"]) if split == "train" else None

def no_split():
    return IMAGES, LABELS["train"]

def fails(split):
    raise KeyError("there")

def other(split):
    return IMAGES

def unlike(split):
    return (IMAGES if split == "train" else IMAGES[:, :2]), LABELS[split]

def unknown(split):
    return IMAGES, (np.arange(5) if split == "train" else np.arange(1, 6))

def half(split):
    return arrays(split) if split == "train" else made(split)

def one_class(split):
    return Dataset.of(IMAGES, np.zeros(5, int), num_classes=3)

def untrained(split):
    labels = np.array([0, 1, 1, 0, 0]) + (split == "test")
    return Dataset.of(IMAGES, labels, num_classes=3)

def counts(split):
    return Dataset.of(IMAGES, np.arange(5) % 2, num_classes=2 + (split == "test"))

def floats(split):
    return IMAGES, np.ones(5)

table = {"train": None}
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    path = tmp_path_factory.mktemp("functions") / "own.py"
    path.write_text(OWN)
    return str(path)


def test_labels_of_both_splits_are_numbered_by_those_of_training(own):
    name = f"{own}:arrays"
    train, test = load_arrays(name, "train"), load_arrays(name, "test")
    np.testing.assert_array_equal(train.labels, [1, 0, 1, 2, 0])
    np.testing.assert_array_equal(test.labels, [1, 1, 1, 2, 2])
    assert train.classes == test.classes == (-2, 7, 9)
    assert train.images.shape == (5, 3, 4, 1) and train.images.dtype == np.float32
    assert (train.name, train.title) == (name, name)
    part = load_arrays(name, "train", share=(1, 2))
    np.testing.assert_array_equal(part.labels, [1, 2, 0])
    assert part.classes == train.classes


def test_the_file_of_the_function_is_known_by_its_hash(own):
    expected = hashlib.sha256(OWN.encode()).hexdigest()
    for name in ("arrays", "made"):
        assert load_arrays(f"{own}:{name}", "test").code_sha256 == expected
    assert load_arrays("digits", "test").code_sha256 is None


def test_a_data_set_keeps_its_title_classes_and_contents(own):
    found = load_arrays(f"{own}:made", "test")
    digits = load_arrays("digits", "test")
    chosen = np.isin(digits.labels, [3, 8])
    np.testing.assert_array_equal(found.images, digits.images[chosen])
    assert (found.title, found.num_classes) == ("digits (8x8)", 10)
    assert found.name == f"{own}:made"


def test_a_split_that_there_is_not_is_missed_only_when_asked_for(own):
    assert len(load_arrays(f"{own}:train_only", "train")) == 5
    with pytest.raises(DataError, match="must make the split 'test', got None"):
        load_arrays(f"{own}:train_only", "test")


@pytest.mark.parametrize(
    "name, message",
    [
        ("no_split", r"must be a function of the split, got one of \(\): .*def load"),
        ("table", "must be a function of the split, got dict"),
        (
            "fails",
            r"must make the split 'train', got KeyError: 'there' \(.*own\.py, line",
        ),
        (
            "other",
            r"must return a Dataset or \(images, labels\), got ndarray for 'train'",
        ),
        ("unlike", r"must hold images like those of .*got uint8 of shape"),
        ("unknown", r"`labels` must be among 0, 1, 2, 3, 4, got 5 for .*\(test\)"),
        ("half", "must return the same for both splits"),
        ("one_class", "must be of at least two classes, got only 0"),
        ("untrained", "examples of every class that the test split has, got none of 2"),
        ("counts", r"same classes in both splits, got 2 \(train\) and 3 \(test\)"),
        ("floats", "`labels` must be integers .* got float64"),
    ],
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_what_cannot_be_used_is_refused_in_a_sentence(own, name, message, split):
    with pytest.raises(DataError, match=message):
        load_arrays(f"{own}:{name}", split)


def test_a_name_that_is_not_there_is_refused(own):
    with pytest.raises(ValueError, match="did you mean 'arrays'"):
        load_arrays(f"{own}:array", "train")
    with pytest.raises(ValueError, match="must name a Python file"):
        load_arrays("nowhere/own.py:arrays", "train")
