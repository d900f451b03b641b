"""Commands judge a run on the data that it was trained on, and on no others."""

import json

import numpy as np
import pytest

from jaxrobust.attacks import PGD
from jaxrobust.cli import main
from jaxrobust.data import load_arrays
from jaxrobust.keeping import read_json
from jaxrobust.networks import ModelConfig
from jaxrobust.training import (
    TrainConfig,
    adversarial,
    load_run,
    train,
)

SIZES = {"train": 64, "test": 32}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """Negatives of digits, in files."""
    found = tmp_path_factory.mktemp("mine")
    for split, size in SIZES.items():
        digits = load_arrays("digits", split)
        negative = np.ascontiguousarray(1 - digits.images[:size])
        np.savez(found / f"{split}.npz", image=negative, label=digits.labels[:size])
    return found


@pytest.fixture(scope="module")
def config():
    phase = adversarial(0.05, 1, attack=PGD(step_size=0.05))
    return TrainConfig(model=ModelConfig(name="linear"), batch_size=32, phases=(phase,))


@pytest.fixture(scope="module")
def own(directory, config, tmp_path_factory):
    """A run on arrays in memory, whose configuration says digits."""
    run = tmp_path_factory.mktemp("own") / "run"
    train(config, run, dataset=load_arrays(str(directory), "train"))
    return run


EVALUATE = [
    "--epsilon",
    "0.05",
    "--set",
    "num_steps",
    "1",
    "--set",
    "num_restarts",
    "1",
]
REPORT = ["--parts", "accuracy", "training", "--attack", "pgd", "--num-steps", "1"]
REPORT += ["--set", "num_steps", "1", "--set", "num_restarts", "1"]
REPORT += ["--num-images", "20", "--num-strength-images", "0"]
LIMITS = ["--epsilon", "0.05", "--set", "num_steps", "1", "--set", "num_restarts", "1"]
LIMITS += ["--num-regions", "2", "--num-optimum", "0"]

COMMANDS = {
    "evaluate": (["evaluate"], EVALUATE, "out.json"),
    "report": (["report"], REPORT, "out"),
    "limits": (["limits", "compare"], LIMITS, "out"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_arrays_of_the_caller_must_be_given(name, own, directory, tmp_path, capsys):
    words, flags, output = COMMANDS[name]
    path = tmp_path / output
    command = [*words, str(own), *flags, "--output", str(path)]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "must be judged on the data that" in error and str(own) in error
    assert "arrays of the caller" in error and "got digits" in error
    assert not path.exists()
    assert main([*command, "--dataset", "digits"]) == 2
    assert main([*command, "--dataset", str(directory)]) == 0
    record = {
        "evaluate": lambda: json.loads(path.read_text())["rows"][0],
        "report": lambda: json.loads((path / "report.json").read_text()),
        "limits": lambda: read_json(path / "results.json"),
    }[name]()
    if name == "evaluate":
        test = load_arrays(str(directory), "test")
        predicted = np.argmax(load_run(own).logits_fn(test.images), axis=1)
        assert record["clean_accuracy"] == np.mean(predicted == test.labels)
    if name == "report":
        assert record["command"].split()[3:5] == ["--dataset", str(directory)]
        assert len(record["runs"][0]["accuracy"]["images"]["label"]) == 20
    if name == "limits":
        assert record["config"]["dataset"] == str(directory)


def test_runs_on_other_data_are_evaluated_apart_from_each_other(
    own, config, directory, tmp_path, capsys
):
    named = tmp_path / "named"
    train(config, named)
    assert main(["evaluate", str(named), *EVALUATE]) == 0
    assert main(["evaluate", str(named), str(own), *EVALUATE]) == 2
    assert str(own) in capsys.readouterr().err
    assert main(["evaluate", str(named), str(own), *EVALUATE, "--dataset",
                 str(directory)]) == 2  # fmt: skip
    assert str(named) in capsys.readouterr().err
