"""An attack of the user's own, wherever an attack is taken."""

import json
import shlex
from functools import partial
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import PGD, with_restarts
from jaxrobust.attacks.builders import settings_of
from jaxrobust.cli import main
from jaxrobust.data import load_arrays, subset
from jaxrobust.evaluation import ChecklistConfig, checklist, evaluate
from jaxrobust.evaluation.choosing import chosen_attacks
from jaxrobust.networks import ModelConfig
from jaxrobust.references import resolve
from jaxrobust.report import assessment
from jaxrobust.training import (
    Adversarial,
    TrainConfig,
    adversarial,
    load_run,
    resolved_objective,
    train,
)
from jaxrobust.training.recipe.config_json import config_to_json

FILE = Path(__file__).parent / "own_attack.py"
NAME = f"{FILE}:creeping"


@pytest.fixture(scope="module")
def creeping():
    return resolve(NAME, what="attack").value


@pytest.fixture(scope="module")
def run(creeping, tmp_path_factory):
    """A linear model that was trained under the attack."""
    phase = adversarial(0.1, 2, objective=Adversarial(attack=creeping))
    config = TrainConfig(
        dataset="digits",
        train_size=300,
        batch_size=50,
        model=ModelConfig(name="linear"),
        phases=(phase,),
    )
    return train(config, tmp_path_factory.mktemp("runs") / "own")


@pytest.fixture(scope="module")
def images():
    return subset(load_arrays("digits", "test"), 30)


def test_it_has_thirty_lines():
    assert len(FILE.read_text().splitlines()) <= 30


def test_training_takes_it_and_names_it(run):
    record = json.loads((run.directory / "config.json").read_text())
    (phase,) = record["config"]["phases"]
    assert phase["objective"]["attack"] == NAME
    # It is climbed: what is seen under it is worse than what is clean.
    last = run.records[-1]
    assert last["adversarial_accuracy"] < 0.95
    loaded = load_run(run.directory)
    assert config_to_json(loaded.config) == config_to_json(run.config)


def test_extending_its_run_runs_it_only_where_it_is_trusted(
    run, tmp_path, capsys, monkeypatch
):
    target = tmp_path / "further"
    command = ["extend", str(run.directory), "--epsilon", "0.2", "--epochs", "1"]
    command += ["--run-dir", str(target), "--quiet"]
    with monkeypatch.context() as patch:
        patch.setattr("jaxrobust.references.run", lambda *_, **__: 1 / 0)
        assert main(command) == 2
    expected = f"`run` must have attack of jaxrobust, got {NAME!r}, which is code; say"
    assert f"{expected} --trust-code" in capsys.readouterr().err
    for flag, value in (("step-size", "0.01"), ("num-steps", "3")):
        told = [*command, "--trust-code", f"--attack.{flag}", value]
        assert main(told) == 2
        expected = f"`--attack.{flag}` must be left out where the run was trained by "
        assert expected in capsys.readouterr().err
    assert not target.exists()
    assert main([*command, "--trust-code"]) == 0
    (phase,) = load_run(target).config.phases
    assert phase.objective.attack.build == NAME and phase.epsilon.end == 0.2


def test_a_builder_without_a_name_is_not_looked_for():
    told = Adversarial(attack="given: functools:partial")
    with pytest.raises(ValueError, match="`attack` must be named by the run as path"):
        resolved_objective(told)


def test_it_stands_in_an_ensemble(run, images, creeping):
    attacks = [with_restarts(creeping, 2), PGD(num_steps=3)]
    found = evaluate(run.logits_fn, images, attacks, [0.05, 0.2], keep_images=True)
    assert found.attacks == ("creeping", "pgd")
    assert found.broken_by[1].max() >= 0 and np.any(found.image_attack == 0)
    assert found.clean_accuracy > found.robust_accuracy[0] > found.robust_accuracy[1]


@pytest.mark.slow
def test_the_checklist_judges_it(run, images, creeping):
    config = ChecklistConfig(attack=creeping, epsilon=0.1, long_steps=9, num_images=30)
    asked = ("single_step", "more_steps", "logits")
    found = checklist(run.logits_fn, images, config, only=asked)
    assert found["single_step"].measured
    # It is asked for more steps of its own.
    assert "accuracy, the attack with 9 steps" in found["more_steps"].measured


def test_commands_take_it_by_name(run, tmp_path, capsys):
    output, images = tmp_path / "found.json", tmp_path / "images.npz"
    command = ["evaluate", str(run.directory), "--trust-code", "--num-images", "30"]
    command += ["--epsilon", "0.2", "0.1", "--attack", NAME, "pgd"]
    command += ["--set", "creeping.num_steps", "2", "--set", "pgd.num_steps", "3"]
    command += ["--output", str(output), "--save-images", str(images)]
    assert main(command) == 0
    record = json.loads(output.read_text())
    assert record["attacks"]["creeping"]["num_steps"] == 2
    (row,) = record["rows"]
    assert [attack["name"] for attack in row["attacks"]] == ["creeping", "pgd"]
    with np.load(images) as file:
        kept = dict(file)
    assert kept["attacks"].tolist() == ["creeping", "pgd"]
    assert kept["images"].shape == (30, 8, 8, 1) and kept["images"].dtype == np.float32
    assert (
        kept["labels"].shape == kept["epsilon"].shape == kept["attack"].shape == (30,)
    )
    is_robust = np.isinf(kept["epsilon"])
    assert np.mean(is_robust) == row["robust_accuracy"]["0.2"]
    assert np.mean(kept["epsilon"] == 0) == pytest.approx(1 - row["clean_accuracy"])
    # They break the model, within their radii, and are nothing that was not there.
    logits = np.asarray(run.logits_fn(kept["images"]))
    is_wrong = np.argmax(logits, axis=1) != kept["labels"]
    np.testing.assert_array_equal(is_wrong, ~is_robust)
    capsys.readouterr()
    assert main(command[:-4] + command[-2:]) == 2
    assert "`save_images` must be a new file" in capsys.readouterr().err


def bare(key, logits_fn, images, labels):
    """An attack, where a builder is asked for."""


@pytest.mark.parametrize(
    ("wrong", "got"),
    [
        (bare, r"bare\(key, logits_fn, im"),
        (PGD, r"pgd\(\*, step_size"),
        ("pgd", "'pgd'"),
    ],
)
def test_what_is_no_builder_is_refused(wrong, got, images):
    message = (
        f"must be a builder, a function from a threat model .* got .?{got}.*; give"
    )
    with pytest.raises(ValueError, match=message):
        evaluate(jnp.zeros_like, images, [wrong], [0.1])
    if not isinstance(wrong, str):  # in training a name may stand for code to trust
        with pytest.raises(ValueError, match=message):
            Adversarial(attack=wrong)


def test_a_setting_without_a_value_takes_any_number():
    (build,) = chosen_attacks(["mi-fgsm"], [("step_size", "0.02")]).values()
    assert settings_of(build)["step_size"] == 0.02
    (build,) = chosen_attacks([NAME], [("num_steps", "2")]).values()
    assert settings_of(build)["num_steps"] == 2


@pytest.mark.slow
def test_a_report_takes_it_by_name_and_judges_it(run, tmp_path, monkeypatch):
    few = partial(checklist, only=("logits",))
    monkeypatch.setattr(assessment, "checklist", few)
    command = ["report", str(run.directory), "--trust-code", "--attack", NAME]
    command += ["--set", "num_steps", "2", "--parts", "accuracy", "checklist"]
    command += ["--num-images", "20", "--num-steps", "3", "--num-strength-images", "5"]
    output = tmp_path / "report"
    assert main([*command, "--output", str(output)]) == 0
    record = json.loads((output / "report.json").read_text())
    words = shlex.split(record["command"])
    assert words[3:8] == ["--attack", NAME, "--set", "num_steps", "2"]
    (row,) = record["runs"]
    assert [each["name"] for each in row["accuracy"]["attacks"]] == ["creeping"]
    own, _ = row["strength"]["attacks"]
    # Two gradients and a look, counted, at up to four of the radii of the curve.
    assert own["passes"] * 5 % 7 == pytest.approx(0) and own["passes"] <= 4 * 7
    assert row["checklist"]["judged"] == "creeping with 2 steps"
    page = (output / "report.html").read_text()
    assert "how good each attack is" in page


def test_what_is_no_attack_is_refused_before_any_model_is_compiled(
    run, tmp_path, capsys
):
    (tmp_path / "itself.py").write_text("def attack(key, logits_fn, images, labels): 0")
    command = [
        "evaluate",
        str(run.directory),
        "--attack",
        f"{tmp_path}/itself.py:attack",
    ]
    assert main(command) == 2
    assert "must be a builder, a function from a" in capsys.readouterr().err
    (tmp_path / "wrong.py").write_text(
        "def build(threat):\n    return lambda key: key\n"
    )
    command = ["evaluate", str(run.directory), "--trust-code", "--num-images", "9"]
    assert main([*command, "--attack", f"{tmp_path}/wrong.py:build"]) == 2
    error = capsys.readouterr().err
    assert "`attack` must be able to run, got 'build', which says" in error
