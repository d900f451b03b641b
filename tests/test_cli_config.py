"""`--config FILE`: the same again, from settings that were written, or by hand."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from jaxrobust.attacks import PGD
from jaxrobust.cli import chosen, main
from jaxrobust.training import (
    Adversarial,
    Averaging,
    Phase,
    Validation,
    load_run,
)
from jaxrobust.training.recipe.config_json import config_to_json
from jaxrobust.training.recipe.objectives import Trades

FAST = ["--model", "linear", "--train-size", "96", "--batch-size", "32"]
FAST += ["--attack.num-steps", "2", "--epochs", "1", "--epsilon", "0.1"]
# Whatever a setting is, it is in the file.
RICH = [*FAST, "--norm", "l2", "--objective", "label_smoothing(trades)"]
RICH += ["--optimizer.schedule", "cosine", "--set", "objective.objective.beta", "3"]
RICH += ["--averaging", "ema", "--validation", "0.25", "--validation-every", "2"]
RICH += ["--augmentation", "crop-flip(1)", "--seed", "3", "--variant", "saturate(4)"]
RICH += ["--micro-batches", "2", "--precision", "bfloat16"]


def configured(*words):
    return chosen(["train", *map(str, words)]).configuration()


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("config") / "run"
    assert main(["train", *FAST, "--seed", "3", "--run-dir", str(directory)]) == 0
    return directory


def test_the_file_of_a_run_trains_it_again(run_dir, tmp_path):
    again = tmp_path / "again"
    command = ["train", "--config", str(run_dir / "config.json")]
    assert main([*command, "--run-dir", str(again)]) == 0
    before, after = load_run(run_dir), load_run(again)
    assert before.config == after.config
    assert jax.tree.structure(before.weights) == jax.tree.structure(after.weights)
    leaves = zip(*map(jax.tree.leaves, (before.weights, after.weights)), strict=True)
    for one, other in leaves:
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "flags",
    [
        RICH,
        ["--recipe", "iterative", "--increment", "0.1"],
        ["--recipe", "standard"],
        ["--epsilon", "0.1", "0.2", "0.4"],
    ],
    ids=["rich", "iterative", "standard", "chain"],
)
def test_what_is_written_is_what_is_read(flags, tmp_path):
    config = configured(*flags)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"config": config_to_json(config)}))
    assert configured("--config", path) == config
    # Without what has its default, and without the frame of a run.
    path.write_text(json.dumps(config_to_json(config, has_defaults=False)))
    assert configured("--config", path) == config


TOML = """
dataset = "digits"
batch_size = 64
seed = 7

[model]
name = "linear"

[[phases]]
name = "first"
epochs = 2
epsilon = {end = 0.1}

[[phases]]
name = "second"
epochs = 3
epsilon = {kind = "linear", end = 0.2, ramp_epochs = 2}
objective = {name = "trades", beta = 4, attack = {step_size = 0.02}}
optimizer = {learning_rate = 0.01}
"""


@pytest.fixture
def toml(tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text(TOML)
    return path


def test_toml_has_the_same_form(toml):
    config = configured("--config", toml)
    assert (config.batch_size, config.seed, config.model.name) == (64, 7, "linear")
    first, second = config.phases
    assert first == Phase(
        name="first",
        epochs=2,
        epsilon=dataclasses.replace(first.epsilon, end=0.1),
        objective=Adversarial(),
    )
    assert second.objective == Trades(beta=4, attack=PGD(step_size=0.02))
    assert second.optimizer.learning_rate == 0.01
    assert [second.epsilon(epoch) for epoch in (1, 2, 3)] == [0.01, 0.2, 0.2]


def test_flags_beside_it_win(toml):
    words = ["--config", toml, "--batch-size=32", "--seed", "0", "--norm", "l2"]
    words += ["--attack.step_size", "0.05", "--optimizer.learning-rate", "0.1"]
    words += ["--no-is-bounded", "--averaging", "swa", "--validation", "0.2"]
    words += ["--epsilon", "0.3", "0.4", "--epochs", "4", "5", "--train-size", "320"]
    before, config = configured("--config", toml), configured(*words)
    assert (config.batch_size, config.seed, config.train_size) == (32, 0, 320)
    assert config.validation == Validation(share=0.2)
    assert config.model == before.model and config.dataset == before.dataset
    for phase, old, radius, epochs in zip(
        config.phases, before.phases, (0.3, 0.4), (4, 5), strict=True
    ):
        assert (phase.norm, phase.is_bounded, phase.epochs) == ("l2", False, epochs)
        assert phase.averaging == Averaging(name="swa")
        assert phase.epsilon == dataclasses.replace(old.epsilon, end=radius)
        assert phase.optimizer.learning_rate == 0.1
        attack = dataclasses.replace(old.objective.attack, step_size=0.05)
        assert phase.objective == dataclasses.replace(old.objective, attack=attack)
    # A flag with its default is given, too.
    assert configured("--config", toml, "--batch-size", "128").batch_size == 128


def test_another_objective_keeps_the_attack(toml):
    config = configured("--config", toml, "--objective", "trades", "--set",
                        "objective.beta", "2")  # fmt: skip
    attacks = [phase.objective.attack for phase in config.phases]
    assert attacks == [PGD(), PGD(step_size=0.02)]
    assert all(phase.objective.beta == 2 for phase in config.phases)


def test_a_recipe_makes_the_phases_anew_with_the_last_settings(toml):
    words = ["--recipe", "iterative", "--increment", "0.1", "--epsilon", "0.2"]
    (phase,) = configured("--config", toml, *words).phases
    assert phase.name == "iterative" and phase.epochs == 2
    assert phase.objective == Trades(beta=4, attack=PGD(step_size=0.02))
    assert phase.optimizer.learning_rate == 0.01


def test_a_sweep_has_the_run_of_a_file_as_its_base(toml):
    def swept(*words):
        return chosen(["sweep", "--config", str(toml), *words]).config()

    base = configured("--config", toml)
    assert swept().base == base
    assert [member.config for member in swept().members()] == [base]
    config = swept("--epsilon", "0.1:0.3:3", "--seed", "1", "2", "--batch-size", "16")
    assert config.epsilon == (0.1, 0.2, 0.3) and config.seed == (1, 2)
    assert config.base == dataclasses.replace(base, batch_size=16)
    text = "epsilon = [0.1, 0.3]\nwarm_start = {rule = 'chain'}\n"
    text += "over = {'optimizer.learning_rate' = [0.1]}\n"
    lines = TOML.replace("[[phases]]", "[[base.phases]]").replace(
        "[model]", "[base.model]"
    )
    lines = lines.replace("\ndataset", "\n[base]\ndataset", 1)
    toml.write_text(text + lines)
    config = swept("--sweep", "optimizer.momentum", "0.5", "--warm-start.epochs", "1")
    assert config.base == base and config.epsilon == (0.1, 0.3)
    assert config.over == {
        "optimizer.learning_rate": [0.1],
        "optimizer.momentum": (0.5,),
    }
    assert (config.warm_start.rule, config.warm_start.epochs) == ("chain", 1)


PHASE = "[[phases]]\nname = 'a'\nepochs = 1\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batchsize = 3", "got 'batchsize'; did you mean 'batch_size'?"),
        ("seed = 'a'", "`seed` must be of the type int, got 'a'"),
        ("seed = true", "`seed` must be of the type int, got True"),
        ("precision = 'half'", "`precision` must be of the type 'float32' or"),
        ("phases = 3", "`phases` must be of the type list, got 3"),
        ("[[phases]]\nname = 'a'", "`phases[0].epochs` must be there"),
        (
            PHASE + "optimizer = {learning_rat = 1}",
            "`phases[0].optimizer` must be made of name, .* mean 'learning_rate'?",
        ),
        (
            PHASE + "objective = {name = 'trades', bet = 1}",
            "`phases[0].objective` must be made of .*; did you mean 'beta'?",
        ),
        (PHASE + "objective = {}", "objective.name` must"),
        ("batch_size = 0", "`batch_size` must be at least 1"),
        ("batch_size = ", "Invalid value"),
        ("dataset = 'own.py:load'", "names code of its own (own.py:load); say --trust"),
    ],
)
def test_a_wrong_file_is_refused_in_a_line(text, message, tmp_path, capsys):
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    assert main(["train", "--config", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"jaxrobust: `--config` cannot be read from {path}: ")
    assert error.count("\n") == 1
    place = 0
    for part in message.split(".*"):
        assert part in error[place:], error
        place = error.index(part, place)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--increment", "0.1"], "`--increment` must not be given with --config"),
        (["--epsilon", "0.1"], "one number for each of the 2 phases of --config"),
        (["--validation-every", "2"], "left out without --validation"),
        (
            ["--objective", "standard", "--attack.num-steps", "2"],
            "left out for objectives without one",
        ),
    ],
)
def test_flags_that_the_file_has_no_place_for_are_refused(words, message, toml, capsys):
    assert main(["train", "--config", str(toml), *words]) == 2
    assert message in capsys.readouterr().err
    assert main(["train", "--config", str(toml.with_name("none"))]) == 2
    assert "`--config` must be a file" in capsys.readouterr().err


OWN = """
def objective(key, model, threat, images, labels):
    raise NotImplementedError
"""


def test_code_that_a_file_names_runs_where_it_is_trusted(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    path = tmp_path / "settings.toml"
    name = f"{tmp_path / 'own.py'}:objective"
    objective = f"objective = {{name = '{name}'}}"
    path.write_text(f"[[phases]]\nname = 'a'\nepochs = 1\n{objective}\n")
    with pytest.raises(ValueError, match="--trust-code"):
        configured("--config", path)
    (phase,) = configured("--config", path, "--trust-code").phases
    assert phase.objective.__name__ == "objective"


EVALUATION = """
attack = ["pgd", "fgsm"]
epsilons = [0.1, 0.2]
num_images = 40
checkpoint = "best"

[set]
num_restarts = 1
pgd.num_steps = 3
"pgd.step_size" = "2/255"
pgd.random_start = false
"""


@pytest.fixture
def evaluation(tmp_path):
    path = tmp_path / "evaluation.toml"
    path.write_text(EVALUATION)
    return path


def evaluated(*words):
    return chosen(["evaluate", "runs/here", *map(str, words)]).configured().settings


@pytest.mark.slow
def test_an_evaluation_is_made_again_from_what_it_wrote(run_dir, tmp_path):
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    words = ["--attack", "noise", "--set", "num_samples", "9"]
    words += ["--set", "num_samples", "2"]
    words += ["--set", "num_restarts", "1", "--epsilon", "0.1", "--num-images", "30"]
    command = ["evaluate", str(run_dir), "--quiet"]
    assert main([*command, *words, "--output", str(first)]) == 0
    before = json.loads(first.read_text())
    assert before["settings"]["set"] == {"num_samples": "2", "num_restarts": "1"}
    again = ["--config", str(first), "--output", str(second)]
    assert main([*command, *again]) == 0
    assert json.loads(second.read_text()) == before
    # The norm is written, too, which was that of the run.
    assert evaluated("--config", first) == dataclasses.replace(
        evaluated(*words),
        set=(("num_samples", "2"), ("num_restarts", "1")),
        norm="linf",
    )


def test_an_evaluation_by_hand_has_settings_of_its_attacks(evaluation):
    settings = evaluated("--config", evaluation)
    words = ["--attack", "pgd", "fgsm", "--epsilon", "0.1", "0.2", "--num-images", "40"]
    words += ["--checkpoint", "best", "--set", "num_restarts", "1", "--set"]
    words += ["pgd.num_steps", "3", "--set", "pgd.random_start", "false"]
    words += ["--set", "pgd.step_size", "2/255"]
    same = evaluated(*words)
    assert {*settings.set} == {*same.set}
    assert dataclasses.replace(settings, set=same.set) == same
    assert settings.builders() == same.builders()
    path = evaluation.with_suffix(".json")
    path.write_text(json.dumps({"settings": settings.record(), "rows": []}))
    assert evaluated("--config", path) == settings
    assert settings.builders()["pgd"].build == PGD(
        num_steps=3, step_size=2 / 255, random_start=False
    )


def test_flags_beside_a_file_win_in_an_evaluation_and_a_report(evaluation, tmp_path):
    words = ["--epsilon", "8/255", "--seed=3", "--checkpoint", "newest"]
    words += ["--set", "num_restarts", "2"]
    settings, before = (
        evaluated("--config", evaluation, *more) for more in (words, ())
    )
    assert settings == dataclasses.replace(
        before,
        epsilons=(8 / 255,),
        seed=3,
        checkpoint="newest",
        set=(*before.set, ("num_restarts", "2")),
    )
    assert settings.builders()["fgsm"].num_restarts == 2
    path = tmp_path / "report.json"
    path.write_text(
        json.dumps(
            {
                "command": "as it was",
                "settings": {"parts": ["curve"], "epsilons": [0.1], "num_steps": 7},
                "runs": [],
            }
        )
    )
    words = ["report", "runs/here", "--config", str(path)]
    config = chosen([*words, "--epsilon", "0.2", "--seed", "0"]).settings()
    assert (config.parts, config.num_steps) == (("curve",), 7)
    assert (config.epsilons, config.num_images) == ((0.2,), None)
    assert chosen(words).settings().epsilons == (0.1,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epsilon = [0.1]", "must be made of attack, set,.*mean 'epsilons'?"),
        ("epsilons = 0.1", "`epsilons` must be of the type list, got 0.1"),
        ("num_images = '9'", "`num_images` must be of the type int or null, got '9'"),
        ("split = 'tset'", "`split` must be of the type 'train' or 'test'"),
        ("set = [['num_steps', '5']]", "`set` must be a table, got"),
        ("set = {pgd = {num_steps = [5]}}", "`set.pgd.num_steps` must be a text"),
        ("attack = ['own.py:creeping']", "(own.py:creeping); say --trust-code"),
    ],
)
def test_a_wrong_file_of_an_evaluation_is_refused(text, message, tmp_path, capsys):
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    assert main(["evaluate", str(tmp_path), "--config", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"jaxrobust: `--config` cannot be read from {path}: ")
    assert error.count("\n") == 1
    start, _, end = message.partition(".*")
    assert start in error and end in error


def test_a_wrong_file_of_a_report_is_refused(tmp_path, capsys):
    path = tmp_path / "wrong.toml"
    for text, message in (
        ("epsilonss = [0.1]", "mean 'epsilons'?"),
        ("epsilons = [-0.1]", "`epsilons` must be in (0, inf)"),
        ("attack = ['own.py:creeping']", "(own.py:creeping); say --trust-code"),
    ):
        path.write_text(text)
        assert main(["report", str(tmp_path), "--config", str(path)]) == 2
        error = capsys.readouterr().err
        assert f"`--config` cannot be read from {path}: " in error and message in error
