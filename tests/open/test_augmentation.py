"""Augmentations of a user's own, by name and as a value."""

import json
from pathlib import Path

import chex
import numpy as np
import pytest

from jaxrobust.data import PadCropFlip, load_arrays, subset
from jaxrobust.networks import ModelConfig
from jaxrobust.references import resolve
from jaxrobust.training import TrainConfig, load_run, standard, train

FILE = Path(__file__).with_name("own_augmentation.py")


@pytest.fixture(scope="module")
def digits():
    return subset(load_arrays("digits", "train"), 96)


def config_of(augmentation):
    return TrainConfig(
        train_size=96,
        batch_size=32,
        model=ModelConfig(name="linear"),
        phases=(standard(2),),
        augmentation=augmentation,
    )


def test_an_own_augmentation_is_the_same_by_name_and_as_a_value(digits, tmp_path):
    by_name = train(config_of(f"{FILE}:brighter"), tmp_path / "name", dataset=digits)
    value = resolve(f"{FILE}:brighter", what="augmentation").value
    by_value = train(config_of(value), tmp_path / "value", dataset=digits)
    without = train(config_of(None), tmp_path / "without", dataset=digits)
    chex.assert_trees_all_equal(by_name.weights, by_value.weights)
    kernels = [
        np.asarray(run.weights.params["head"]["kernel"]) for run in (by_name, without)
    ]
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-4
    for run in (by_name, by_value):
        record = json.loads((run.directory / "config.json").read_text())
        assert record["config"]["augmentation"] == f"{FILE}:brighter"


def test_loading_a_run_imports_no_augmentation(digits, tmp_path, monkeypatch):
    run = train(config_of(f"{FILE}:brighter"), tmp_path / "run", dataset=digits)
    monkeypatch.setattr("jaxrobust.references.run", lambda *_, **__: 1 / 0)
    chex.assert_trees_all_equal(load_run(run.directory).weights, run.weights)


def test_ours_are_the_same_by_name_and_as_a_value(digits, tmp_path):
    by_name = train(config_of("crop-flip(1)"), tmp_path / "name", dataset=digits)
    by_value = train(config_of(PadCropFlip(1)), tmp_path / "value", dataset=digits)
    chex.assert_trees_all_equal(by_name.weights, by_value.weights)
    again = train(
        config_of(PadCropFlip(1)), by_value.directory, dataset=digits, resume=True
    )
    chex.assert_trees_all_equal(again.weights, by_value.weights)
    loaded = load_run(by_value.directory)
    assert loaded.config.augmentation == "given: PadCropFlip(padding=1, flip=True)"
    with pytest.raises(ValueError, match="augmentation"):
        train(
            config_of(PadCropFlip(2)), by_value.directory, dataset=digits, resume=True
        )


def test_an_unknown_augmentation_is_refused():
    with pytest.raises(ValueError, match="`augmentation` must be"):
        config_of("crop-flop")
