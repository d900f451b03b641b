"""Networks of a user's own: trained, resumed, loaded, evaluated, exported."""

import dataclasses
import importlib.util
import json
import os
import shutil
import signal
from pathlib import Path

import chex
import jax
import numpy as np
import pytest

from jaxrobust.attacks import PGD
from jaxrobust.cli import main
from jaxrobust.data import load_arrays, subset
from jaxrobust.evaluation import evaluate
from jaxrobust.interop import export_model, load_exported
from jaxrobust.networks import ModelConfig, as_network
from jaxrobust.references import resolve
from jaxrobust.training import (
    Adversarial,
    CodeWarning,
    Interrupted,
    NullReporter,
    OptimizerConfig,
    RunError,
    SweepConfig,
    TrainConfig,
    adversarial,
    bind,
    extended,
    load_run,
    sweep,
    train,
)
from jaxrobust.training.course import group
from jaxrobust.training.step import programs as programs_module
from jaxrobust.training.step.trainer import trainer_for

HERE = Path(__file__).parent
OTHERS = [
    pytest.param(name, marks=pytest.mark.slow) for name in ("nnx", "equinox", "pair")
]
NAMES = ["linen", *OTHERS]
ATTACK = PGD(step_size=0.05)
# Not Adam, which makes steps of the same length of gradients that are but roundings.
RULE = OptimizerConfig(name="sgd", learning_rate=0.05)
PHASE = adversarial(0.05, 2, attack=ATTACK, optimizer=RULE)
CONFIG = TrainConfig(train_size=96, batch_size=32, phases=(PHASE,))


def value_of(name):
    if name == "equinox" and importlib.util.find_spec("equinox") is None:
        pytest.skip("Equinox is not installed")
    return resolve(f"{HERE}/own_{name}.py:Net", what="model").value


@pytest.fixture(scope="module")
def digits():
    return subset(load_arrays("digits", "train"), 96)


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    """The run of a network, made once."""
    made = {}

    def of(name):
        value = value_of(name)
        if name not in made:
            directory = tmp_path_factory.mktemp(name) / "run"
            made[name] = train(CONFIG, directory, network=value, dataset=digits)
        return made[name], value

    return of


def arrays(run):
    return run.state._replace(key=jax.random.key_data(run.state.key))


class Stopper(NullReporter):
    """Asks to stop, as a cluster does, in the middle of the second epoch."""

    def __init__(self):
        self.num_updates = 0

    def update(self, *arguments, **named):
        self.num_updates += 1
        if self.num_updates == 4:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("name", NAMES)
def test_it_learns_and_its_state_moves(name, trained):
    run, _ = trained(name)
    first, last = (record["loss"] for record in run.records)
    assert last < first and run.is_complete
    assert run.config.model == ModelConfig(name="given")
    stays = [np.all(leaf == 0) for leaf in jax.tree.leaves(run.weights.state)]
    assert stays and not any(stays)


@pytest.mark.parametrize(
    "name", [pytest.param("linen", marks=pytest.mark.exact), *OTHERS]
)
def test_stopped_and_resumed_it_is_the_same_to_the_bit(
    name, trained, digits, tmp_path, monkeypatch
):
    run, value = trained(name)
    monkeypatch.setattr(group, "SLICE_SECONDS", 0.0)
    settings = {"network": value, "dataset": digits}
    with pytest.raises(Interrupted):
        train(CONFIG, tmp_path / "run", **settings, reporter=Stopper())
    with pytest.raises(ValueError, match="`network` must be given again"):
        train(
            dataclasses.replace(CONFIG, model=ModelConfig(name="given")),
            tmp_path / "run",
            dataset=digits,
            resume=True,
        )
    resumed = train(CONFIG, tmp_path / "run", **settings, resume=True)
    chex.assert_trees_all_equal(arrays(resumed), arrays(run))


@pytest.mark.parametrize("name", NAMES)
def test_loaded_evaluated_and_exported_it_says_the_same(
    name, trained, digits, tmp_path
):
    run, value = trained(name)
    with pytest.raises(RunError, match="was handed over from Python, got none"):
        load_run(run.directory, trust_code=True)
    loaded = load_run(run.directory, network=value)
    chex.assert_trees_all_equal(arrays(loaded), arrays(run))
    right = np.argmax(run.logits_fn(digits.images), axis=1) == digits.labels
    found = evaluate(loaded.logits_fn, digits, PGD(num_steps=2), [0.05])
    np.testing.assert_array_equal(found.is_clean_correct, right)
    export_model(loaded, tmp_path / "model", platforms=("cpu",))
    images = digits.images[:3]
    exported = load_exported(tmp_path / "model")(images)
    np.testing.assert_allclose(exported, run.logits_fn(images), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "mapping"),
    [
        *(
            pytest.param(*pair, marks=pytest.mark.slow)
            for pair in (
                ("linen", "vmap"),
                ("nnx", "vmap"),
                ("equinox", "vmap"),
                ("nnx", "loop"),
            )
        ),
    ],
)
def test_a_sweep_trains_its_members_as_if_alone(
    name, mapping, trained, digits, tmp_path, monkeypatch
):
    monkeypatch.setattr(programs_module, "mapping_for", lambda *_: mapping)
    run, value = trained(name)
    config = SweepConfig(base=CONFIG, epsilon=(0.05, 0.1))
    found = sweep(config, tmp_path / "sweep", network=value, dataset=digits)
    member = found.runs["epsilon0.05"]
    chex.assert_trees_all_close(member.weights, run.weights, atol=1e-5)
    again = sweep(
        config, tmp_path / "sweep", network=value, dataset=digits, resume=True
    )
    assert list(again.runs) == list(found.runs) and not again.failures


@pytest.mark.parametrize("name", NAMES)
def test_in_half_precision_its_weights_and_state_keep_their_types(name, digits):
    network = as_network(value_of(name), 10)
    objective = Adversarial(attack=ATTACK, batch_norm="train")
    numbers = dataclasses.replace(PHASE, objective=objective).at(1, 3)
    config = dataclasses.replace(CONFIG, precision="bfloat16")
    trainer = trainer_for(config, network)
    before = jax.eval_shape(trainer.init, jax.random.key(0), digits.images, RULE)
    arrays = (digits.images, digits.labels, 1)
    after = jax.eval_shape(trainer.run, before, numbers, *arrays)
    chex.assert_trees_all_equal_shapes_and_dtypes(after.weights, before.weights)
    variables = network.init(jax.random.key(0), digits.images)
    one, other = (
        bind(network, variables, precision)(digits.images[:2])
        for precision in ("float32", "bfloat16")
    )
    assert other.dtype == np.float32 and 0 < np.max(np.abs(one - other)) < 0.1


@pytest.mark.slow
def test_it_is_extended_from_its_own_run(trained, digits, tmp_path):
    run, value = trained("pair")
    phase = extended(
        0.1, 1, start_from=str(run.directory), attack=ATTACK, optimizer=RULE
    )
    config = dataclasses.replace(CONFIG, phases=(phase,))
    further = train(config, tmp_path / "further", network=value, dataset=digits)
    assert int(run.weights.state["steps"]) == 6
    assert int(further.weights.state["steps"]) == 9
    with pytest.raises(RunError, match="`network` must have the arrays of the run"):
        train(config, tmp_path / "other", network=value_of("nnx"), dataset=digits)


def test_another_network_is_refused_by_its_arrays(trained, digits):
    run, _ = trained("linen")
    with pytest.raises(RunError, match=r"got one with others: .*Dense_0"):
        load_run(run.directory, network=value_of("nnx"))
    with pytest.raises(RunError, match=r"got one with others: .*Dense_0"):
        train(
            CONFIG,
            run.directory,
            network=value_of("nnx"),
            dataset=digits,
            resume=True,
        )


def test_a_network_that_does_not_fit_the_data_is_refused_before_it_trains(
    digits, tmp_path
):
    module = value_of("linen")(num_classes=3)
    with pytest.raises(ValueError, match=r"logits \(batch, 10\) .*got float32\[2, 3\]"):
        train(CONFIG, tmp_path / "run", network=module, dataset=digits)
    assert not (tmp_path / "run").exists()


FAST = ("--train-size", "96", "--batch-size", "32", "--attack.step-size", "0.05")
FAST += ("--optimizer.name", "sgd", "--optimizer.learning-rate", "0.05")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with the file of a network and a run of it."""
    place = tmp_path_factory.mktemp("own")
    shutil.copy(HERE / "own_linen.py", place / "own.py")
    flags = ["--epsilon", "0.05", "--epochs", "2", "--run-dir", f"{place}/run"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert main(["train", "--model", "own.py:Net", *FAST, *flags]) == 0
    return place


class TestCommandLine:
    @pytest.fixture(autouse=True)
    def there(self, place, monkeypatch):
        monkeypatch.chdir(place)

    def test_the_run_names_the_code_and_knows_its_hash(self, place, trained):
        record = json.loads(Path("run/config.json").read_text())
        assert record["config"]["model"]["name"] == "own.py:Net"
        expected = resolve("own.py:Net", what="model").sha256
        assert record["network"]["sha256"] == expected
        run = load_run("run", trust_code=True)
        chex.assert_trees_all_close(run.weights, trained("linen")[0].weights, atol=1e-5)

    @pytest.mark.parametrize(
        "command",
        [
            ["evaluate", "run", "--epsilon", "0.05", "--set", "num_steps", "2"],
            ["export", "run", "--output", "exported"],
            ["report", "run", "--output", "written"],
            ["extend", "run", "--epsilon", "0.1", "--run-dir", "more"],
            ["limits", "compare", "run", "--output", "compared"],
        ],
        ids=lambda command: command[0],
    )
    def test_no_command_runs_what_a_run_names_unasked(
        self, command, capsys, monkeypatch
    ):
        def run(*arguments, **named):
            raise AssertionError("the code was run")

        monkeypatch.setattr("jaxrobust.references.run", run)
        assert main(command) == 2
        told = capsys.readouterr().err
        assert "code outside jaxrobust, 'own.py:Net', got none" in told
        assert "--trust-code" in told and "--model" in told

    @pytest.mark.parametrize("flags", [["--model", "own.py:Net"], ["--trust-code"]])
    def test_commands_take_it_when_it_is_named_or_trusted(
        self, flags, tmp_path, capsys
    ):
        attack = [
            "--epsilon",
            "0.05",
            "--set",
            "num_steps",
            "2",
            "--set",
            "num_restarts",
            "1",
        ]
        assert main(["evaluate", "run", *attack, *flags]) == 0
        assert "| run |" in capsys.readouterr().out
        output = tmp_path / "exported"
        assert main(["export", "run", "--output", str(output), *flags]) == 0
        target = tmp_path / "more"
        further = ["--epsilon", "0.1", "--epochs", "1", "--run-dir", str(target)]
        assert main(["extend", "run", *further, *flags]) == 0
        run = load_run(target, trust_code=True)
        assert run.config.model.name == "own.py:Net" and len(run.records) == 1

    def test_what_is_no_network_is_refused_in_a_sentence(self, tmp_path, capsys):
        Path("wrong.py").write_text("Net = 3")
        flags = ["--run-dir", str(tmp_path / "run")]
        assert main(["train", "--model", "wrong.py:Net", *FAST, *flags]) == 2
        assert "`network` must be a Flax Linen" in capsys.readouterr().err

    def test_the_same_file_by_another_path_is_the_same_network(self, place, capsys):
        model = ["--model", f"{place}/own.py:Net", "--epsilon", "0.05", "--epochs", "2"]
        target = ["--run-dir", str(place / "run"), "--resume"]
        assert main(["train", *model, *FAST, *target]) == 0
        assert (
            f"evaluate {place}/run --model {place}/own.py:Net"
            in capsys.readouterr().out
        )

    def test_a_sweep_takes_it_too(self, tmp_path):
        flags = ["--epsilon", "0.05", "0.1", "--epochs", "1"]
        target = ["--run-dir", str(tmp_path / "sweep")]
        model = ["--model", "own.py:Net"]
        assert main(["sweep", *model, *FAST, *flags, *target]) == 0

    def test_a_file_that_changed_is_warned_of(self, place, tmp_path, monkeypatch):
        shutil.copytree(place / "run", tmp_path / "run")
        text = (place / "own.py").read_text()
        (tmp_path / "own.py").write_text(text.replace("0.2", "0.3"))
        monkeypatch.chdir(tmp_path)
        with pytest.warns(CodeWarning, match="the file of the network has changed"):
            load_run("run", trust_code=True)
        config = load_run("run", network=value_of("linen")).config
        with pytest.warns(CodeWarning, match="the file of the network has changed"):
            train(config, "run", resume=True)
