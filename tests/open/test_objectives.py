"""Objectives and optimizers of a user's own: trained, resumed, swept, loaded."""

import dataclasses
import json
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust.attacks import PGD
from jaxrobust.cli import main
from jaxrobust.cli.train import Train
from jaxrobust.data import load_arrays, subset
from jaxrobust.networks import ModelConfig
from jaxrobust.references import resolve
from jaxrobust.training import (
    Interrupted,
    NullReporter,
    OptimizerConfig,
    RunError,
    SweepConfig,
    TrainConfig,
    Unresolved,
    adversarial,
    load_run,
    resolved_objective,
    standard,
    sweep,
    train,
    unresolved,
)
from jaxrobust.training.recipe.objectives import AWP
from jaxrobust.training.step import programs as programs_module

HERE = Path(__file__).parent
OBJECTIVES, OPTIMIZER = HERE / "own_objective.py", HERE / "own_optimizer.py"
FILES = {"clean": HERE / "own_loss.py", "Paired": OBJECTIVES}
LINEAR = ModelConfig(name="linear")


def own(name):
    return resolve(f"{FILES[name]}:{name}", what="objective").value


def config_of(objective, epochs=2, **settings):
    phase = adversarial(0.1, epochs, objective=objective, **settings)
    return TrainConfig(train_size=96, batch_size=32, model=LINEAR, phases=(phase,))


@pytest.fixture(scope="module")
def digits():
    return subset(load_arrays("digits", "train"), 96)


def test_an_own_function_is_trained_as_ours_that_says_the_same(digits, tmp_path):
    run = train(config_of(own("clean")), tmp_path / "own", dataset=digits)
    ours = dataclasses.replace(run.config, phases=(standard(2),))
    expected = train(ours, tmp_path / "ours", dataset=digits)
    chex.assert_trees_all_equal(run.weights, expected.weights)
    chex.assert_trees_all_equal(run.records[1]["loss"], expected.records[1]["loss"])


@pytest.mark.slow
def test_an_own_objective_is_resumed_to_the_bit_and_never_imported_to_load_it(
    digits, tmp_path, monkeypatch
):
    config = config_of(own("Paired")(beta=0.3))
    whole = train(config, tmp_path / "whole", dataset=digits)

    class Stopping(NullReporter):
        def epoch(self, values):
            raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, Interrupted)):
        train(config, tmp_path / "run", dataset=digits, reporter=Stopping())
    run = train(config, tmp_path / "run", dataset=digits, resume=True)
    chex.assert_trees_all_equal(run.weights, whole.weights)
    monkeypatch.setattr("jaxrobust.references.run", lambda *_, **__: 1 / 0)
    loaded = load_run(run.directory)
    chex.assert_trees_all_equal(loaded.weights, run.weights)
    (phase,) = loaded.config.phases
    assert isinstance(phase.objective, Unresolved)
    assert phase.objective.name == f"{OBJECTIVES}:Paired"
    assert phase.objective.settings["beta"] == 0.3


def test_three_betas_of_an_own_objective_are_one_trace(digits, tmp_path, monkeypatch):
    make = programs_module.trainer_for

    def counted(*arguments, **options):
        trainer = make(*arguments, **options)
        return trainer._replace(run=chex.assert_max_traces(trainer.run, n=1))

    monkeypatch.setattr(programs_module, "trainer_for", counted)
    values = (0.0, 1.0, 3)
    config = SweepConfig(
        base=config_of(own("Paired")()), over={"objective.beta": values}
    )
    runs = sweep(config, tmp_path / "sweep", dataset=digits).runs
    monkeypatch.undo()
    assert [name.rpartition("-")[2] for name in runs] == ["beta0", "beta1", "beta3"]
    distances = []
    for value, member in zip(values, runs.values(), strict=True):
        alone = config_of(own("Paired")(beta=value))
        run = train(alone, tmp_path / f"alone{value}", dataset=digits)
        chex.assert_trees_all_close(member.weights, run.weights, atol=1e-6)
        distances.append(np.asarray(run.weights.params["head"]["kernel"]))
    assert not np.allclose(distances[0], distances[2], atol=1e-3)


def test_the_command_line_takes_both(tmp_path, capsys):
    flags = ["--objective", f"{OBJECTIVES}:Paired", "--set", "objective.beta", "2"]
    flags += ["--optimizer.name", f"{OPTIMIZER}:lion", "--train-size", "96"]
    flags += ["--optimizer.weight-decay", "0.1", "--model", "linear"]
    flags += ["--batch-size", "32"]
    flags += ["--epochs", "1", "--epsilon", "0.1", "--run-dir", str(tmp_path / "run")]
    assert main(["train", *flags]) == 0
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    (phase,) = record["config"]["phases"]
    assert phase["objective"]["name"] == f"{OBJECTIVES}:Paired"
    assert phase["objective"]["beta"] == 2.0
    capsys.readouterr()
    command = ["evaluate", str(tmp_path / "run"), "--num-images", "9"]
    assert main([*command, "--set", "num_steps", "1"]) == 2
    assert "--trust-code" in capsys.readouterr().err
    assert main([*command, "--set", "num_steps", "1", "--trust-code"]) == 0
    further = ["extend", str(tmp_path / "run"), "--epsilon", "0.2", "--epochs", "1"]
    further += ["--carry", "weights", "--run-dir", str(tmp_path / "further")]
    assert main(further) == 2
    assert "--trust-code" in capsys.readouterr().err
    assert main([*further, "--trust-code"]) == 0
    (phase,) = load_run(tmp_path / "further", trust_code=True).config.phases
    assert phase.objective.settings["beta"] == 2.0


def test_a_transform_of_an_own_objective_is_read_and_resolved(digits, tmp_path):
    config = config_of(AWP(objective=own("Paired")(beta=0.3), gamma=0.01), 1)
    run = train(config, tmp_path / "run", dataset=digits)
    loaded = load_run(run.directory).config
    (phase,) = loaded.phases
    assert unresolved(phase.objective).name == f"{OBJECTIVES}:Paired"
    with pytest.raises(ValueError, match=r"`objective` must be there, got .*Paired"):
        train(loaded, run.directory, dataset=digits, resume=True)
    assert resolved_objective(phase.objective) == config.phases[0].objective
    assert unresolved(config.phases[0].objective) is None


def test_an_own_optimizer_makes_its_own_steps(digits, tmp_path):
    rule = OptimizerConfig(name=f"{OPTIMIZER}:lion", learning_rate=0.01)
    config = config_of(own("clean"), 1, optimizer=rule)
    run = train(config, tmp_path / "run", dataset=digits)
    # Three steps of the length of the learning rate in each weight, or fewer.
    kernel = np.asarray(run.weights.params["head"]["kernel"])
    first = jax.eval_shape(lambda: optax.lion(0.01).init(run.weights.params))
    found = jax.tree.leaves(run.state.weights.opt_state)
    assert [leaf.shape for leaf in found] == [
        leaf.shape for leaf in jax.tree.leaves(first)
    ]
    assert np.max(np.abs(kernel)) <= 0.03 + 1e-6
    with pytest.raises(RunError, match="trust_code=True"):
        load_run(run.directory)
    loaded = load_run(run.directory, trust_code=True)
    chex.assert_trees_all_equal(loaded.weights, run.weights)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pgd", "`objective` must be one of standard, adversarial"),
        ("own.py:loss", "`objective` must name a Python file"),
        ("standard(adversarial)", "a transform of one as in awp"),
    ],
)
def test_an_unknown_objective_is_refused_before_anything_is_made(
    name, message, tmp_path, capsys
):
    target = tmp_path / "run"
    assert main(["train", "--objective", name, "--run-dir", str(target)]) == 2
    assert message in capsys.readouterr().err and not target.exists()


BARE = """
import dataclasses
from jaxrobust.pytrees import Pytree


@dataclasses.dataclass(frozen=True)
class Bare(Pytree):
    beta: float = 1.0

    def __call__(self, key, model, threat, images, labels): ...


def plain(key, model, threat, images, labels): ...
"""


def test_one_without_an_attack_is_taken_by_name_and_refuses_its_settings(tmp_path):
    file = tmp_path / "bare.py"
    file.write_text(BARE)
    for name in ("Bare", "plain"):
        objective = f"{file}:{name}"
        assert Train(objective=objective).phase_settings()
        asked = Train(objective=objective, attack=PGD(step_size=0.3))
        with pytest.raises(ValueError, match="`objective` must be one that has attack"):
            asked.phase_settings()


def test_what_is_no_objective_is_refused(digits, tmp_path):
    def short(key, model, images, labels): ...

    with pytest.raises(
        TypeError, match=r", got short\(key, model, images, labels\); see"
    ):
        train(config_of(short), tmp_path / "run", dataset=digits)
    with pytest.raises(TypeError, match=r"`objective` must be a function \(key, model"):
        train(config_of("trades"), tmp_path / "run", dataset=digits)
    with pytest.raises(TypeError, match="must give"):
        train(config_of(lambda *_: jnp.float32(0)), tmp_path / "other", dataset=digits)
    assert not (tmp_path / "other").exists()
