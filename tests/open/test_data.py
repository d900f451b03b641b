"""Data of a user's own (arrays, a function, folders of images) are trained on."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from jaxrobust.attacks import PGD
from jaxrobust.cli import main
from jaxrobust.data import Dataset, load_arrays
from jaxrobust.networks import ModelConfig
from jaxrobust.training import (
    RunError,
    TrainConfig,
    adversarial,
    load_run,
    load_run_data,
    train,
)

OWN = """
from jaxrobust.data import load_arrays

def load(split):
    digits = load_arrays("digits", split)
    return 1 - digits.images[:64], 10 * digits.labels[:64] - 30

def negative(images):
    return 1 - images
"""


@pytest.fixture
def config():
    phase = adversarial(0.05, 1, attack=PGD(step_size=0.05))
    return TrainConfig(model=ModelConfig(name="linear"), batch_size=32, phases=(phase,))


def accuracy(run, dataset):
    predicted = np.argmax(run.logits_fn(dataset.images), axis=1)
    return np.mean(predicted == dataset.labels)


def test_arrays_with_labels_of_any_kind(config, tmp_path):
    digits = load_arrays("digits", "train")
    labels = digits.labels.astype(np.int64) * 2**40 - 5
    mine = Dataset.of(digits.images, labels, classes=np.unique(labels), name="mine")
    run = train(config, tmp_path / "run", dataset=mine)
    test = load_arrays("digits", "test")
    test = Dataset.of(
        test.images, test.labels.astype(np.int64) * 2**40 - 5, classes=mine.classes
    )
    # The same weights as on labels that need no numbers of their own.
    plain = train(config, tmp_path / "plain", dataset=digits)
    assert accuracy(run, test) == accuracy(plain, load_arrays("digits", "test"))
    assert accuracy(run, test) > 0.2


def test_a_function_by_reference(config, tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    name = f"{tmp_path}/own.py:load"
    config = dataclasses.replace(config, dataset=name)
    train(config, tmp_path / "run")
    run = load_run(tmp_path / "run")
    # What only the run directory names is not run.
    with pytest.raises(RunError, match="must be named to run its code, got only"):
        load_run_data(run, "test")
    test = load_run_data(run, "test", name=name)
    assert test.classes == tuple(range(-30, 70, 10))
    assert 0 <= accuracy(run, test) <= 1
    trusted = load_run_data(run, "test", trust_code=True)
    assert trusted.fingerprint == test.fingerprint
    # Other contents under the same name are noticed.
    (tmp_path / "own.py").write_text(OWN.replace("1 - digits", "digits"))
    with pytest.raises(RunError, match="whose training examples are others"):
        load_run_data(run, "test", name=name)


def test_a_variant_by_reference(config, tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    variant = f"{tmp_path}/own.py:negative"
    train(dataclasses.replace(config, variant=variant), tmp_path / "run")
    run = load_run(tmp_path / "run")
    with pytest.raises(RunError, match="`variant` must be trusted to run its code"):
        load_run_data(run, "test")
    test = load_run_data(run, "test", trust_code=True)
    np.testing.assert_array_equal(test.images, 1 - load_arrays("digits", "test").images)


@pytest.mark.parametrize("field", ["dataset", "variant"])
def test_a_run_is_extended_on_code_that_is_trusted_only(
    field, config, tmp_path, capsys
):
    (tmp_path / "own.py").write_text(OWN)
    name = {"dataset": "load", "variant": "negative"}[field]
    config = dataclasses.replace(config, **{field: f"{tmp_path}/own.py:{name}"})
    train(config, tmp_path / "run")
    mark = f"import pathlib; pathlib.Path({str(tmp_path / 'ran')!r}).touch()\n"
    (tmp_path / "own.py").write_text(mark + OWN)
    command = ["extend", str(tmp_path / "run"), "--epsilon", "0.1", "--epochs", "1"]
    command += ["--run-dir", str(tmp_path / "further")]
    assert main(command) == 2
    assert "say --trust-code to run it" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists() and not (tmp_path / "further").exists()
    assert main([*command, "--trust-code"]) == 0


def test_a_folder_of_images_by_class(config, tmp_path):
    for split in ("train", "test"):
        digits = load_arrays("digits", split)
        for place in range(100 if split == "train" else 40):
            folder = tmp_path / "images" / split / f"digit {digits.labels[place]}"
            folder.mkdir(parents=True, exist_ok=True)
            pixels = np.round(digits.images[place, :, :, 0] * 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{place}.png")
    config = dataclasses.replace(config, dataset=str(tmp_path / "images"))
    train(config, tmp_path / "run")
    run = load_run(tmp_path / "run")
    test = load_run_data(run, "test")
    assert len(test) == 40 and test.classes[0] == "digit 0"
    assert 0 <= accuracy(run, test) <= 1
    # An image that was written anew is noticed, though no name has changed.
    first = next((tmp_path / "images" / "train" / "digit 0").iterdir())
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(first)
    with pytest.raises(RunError, match="whose training examples are others"):
        load_run_data(run, "test")


@pytest.mark.parametrize("field", ["dataset", "variant"])
def test_a_value_where_a_configuration_has_a_name_is_refused(field, config):
    """No run directory could say what it was, and no evaluation find it again."""
    with pytest.raises(TypeError, match=f"`{field}` must be a name, got .*function"):
        dataclasses.replace(config, **{field: lambda images: images})
