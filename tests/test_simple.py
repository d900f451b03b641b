"""`jaxrobust.train` is the `TrainConfig` that it stands for, and nothing else."""

import os
import signal

import chex
import jax
import numpy as np
import pytest
from flax import linen as nn

import jaxrobust
from jaxrobust.data import Dataset, Rotate, load_arrays, subset
from jaxrobust.networks import ModelConfig
from jaxrobust.training import (
    Adversarial,
    EpsilonSchedule,
    Interrupted,
    NullReporter,
    OptimizerConfig,
    Phase,
    RunError,
    Standard,
    TrainConfig,
    load_run,
    load_run_data,
    train,
)
from jaxrobust.training.course import group
from jaxrobust.training.course import train as course
from jaxrobust.training.recipe.objectives import NFGSM

OWN = """
from flax import linen as nn

class Net(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, images):
        return nn.Dense(self.num_classes)(images.reshape(len(images), -1))

def load(split):
    from jaxrobust.data import load_arrays, subset

    return subset(load_arrays("digits", split), 96)
"""
SHORT = {"epsilon": 0.05, "epochs": 2, "batch_size": 32}


class Net(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, images):
        return nn.Dense(self.num_classes)(images.reshape(len(images), -1))


@pytest.fixture(scope="module")
def digits():
    return subset(load_arrays("digits", "train"), 96)


@pytest.fixture(scope="module")
def plain(digits, tmp_path_factory):
    """Adversarial training of a linear model, in one call."""
    directory = tmp_path_factory.mktemp("plain") / "run"
    quiet = NullReporter()
    return jaxrobust.train("linear", digits, directory, **SHORT, reporter=quiet)


def require_same_weights(run, other):
    chex.assert_trees_all_equal(
        *(jax.tree.map(np.asarray, r.weights) for r in (run, other))
    )


def test_it_is_pgd_adversarial_training(plain, digits, tmp_path):
    phase = Phase(
        name="adversarial",
        epochs=2,
        epsilon=EpsilonSchedule(kind="constant", end=0.05),
        objective=Adversarial(),
    )
    config = TrainConfig(
        model=ModelConfig(name="linear"), phases=(phase,), batch_size=32
    )
    assert plain.config == config and plain.is_complete
    require_same_weights(plain, train(config, tmp_path / "run", dataset=digits))


def test_arguments_go_where_they_belong(digits, tmp_path):
    optimizer = OptimizerConfig(name="sgd", learning_rate=0.05, schedule="cosine")
    changes = {"batch_size": 48, "seed": 3}
    run = jaxrobust.train(
        Net,
        (digits.images, digits.labels),
        tmp_path / "run",
        epsilon=0.5,
        epochs=1,
        norm="l2",
        objective="n_fgsm",
        optimizer=optimizer,
        augmentation="rotate(15)",
        reporter=NullReporter(),
        **changes,
    )
    phase = Phase(
        name="adversarial",
        epochs=1,
        epsilon=EpsilonSchedule(end=0.5),
        norm="l2",
        objective=NFGSM(),
        optimizer=optimizer,
    )
    config = TrainConfig(
        dataset="own", phases=(phase,), augmentation=Rotate(15), **changes
    )
    other = train(config, tmp_path / "other", network=Net, dataset=digits)
    require_same_weights(run, other)
    # A name is kept as the text that it is.
    changed = {**vars(other.config), "augmentation": "rotate(15)"}
    assert run.config == TrainConfig(**changed)


def test_at_radius_0_it_is_standard_training_of_things_by_name(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(OWN)
    network, data = f"{file}:Net", f"{file}:load"
    quiet = {"reporter": NullReporter()}
    settings = {"epsilon": 0, "epochs": 1, "batch_size": 32, "optimizer": "sgd"}
    run = jaxrobust.train(network, data, tmp_path / "run", **settings, **quiet)
    phase = Phase(
        name="standard",
        epochs=1,
        epsilon=EpsilonSchedule(end=0.0),
        objective=Standard(),
        optimizer=OptimizerConfig(name="sgd"),
    )
    config = TrainConfig(
        dataset=data, model=ModelConfig(name=network), phases=(phase,), batch_size=32
    )
    assert run.config == config
    require_same_weights(run, train(config, tmp_path / "other"))


class Stopper(NullReporter):
    """Asks to stop in the middle of the second epoch."""

    num_updates = 0

    def update(self, *arguments, **named):
        self.num_updates += 1
        if self.num_updates == 4:
            os.kill(os.getpid(), signal.SIGTERM)


def test_the_same_call_goes_on(plain, digits, tmp_path, monkeypatch):
    monkeypatch.setattr(group, "SLICE_SECONDS", 0.0)
    call = ("linear", digits, tmp_path / "run")
    with pytest.raises(Interrupted, match="the same call with resume=True"):
        jaxrobust.train(*call, **SHORT, reporter=Stopper())
    assert not load_run(tmp_path / "run").is_complete
    with pytest.raises(RunError, match="resume=True"):
        jaxrobust.train(*call, **SHORT, reporter=NullReporter())
    run = jaxrobust.train(*call, **SHORT, resume=True, reporter=NullReporter())
    assert run.is_complete
    require_same_weights(run, plain)


def test_progress_is_shown(digits, tmp_path, capsys):
    jaxrobust.train("linear", digits, tmp_path / "run", **SHORT)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["epoch", "1"], ["epoch", "2"]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": None}, "`network` must be a module, .* got None"),
        ({"network": 42}, "`network` must be .* got 42"),
        ({"network": "lenett"}, "`model` must be one of .* got 'lenett'"),
        ({"data": 42}, "`data` must be a Dataset, .* got int"),
        ({"data": (1, 2, 3)}, "`data` must be a Dataset, .* got tuple"),
        ({"data": "digit"}, "`name` must be one of .* got 'digit'"),
        ({"epsilon": 8}, r"must be in \[0, 1\] in linf, got 8"),
        ({"epsilon": -0.1}, r"`epsilon` must be in \[0, inf\), got -0.1"),
        ({"epsilon": float("nan")}, r"`epsilon` must be in \[0, inf\), got nan"),
        ({"epsilon": "8/255"}, "`epsilon` must be a number, got '8/255'"),
        ({"norm": "l7"}, "`norm` must be one of linf, l2, l1, l0, got 'l7'"),
        ({"objective": "trade"}, "`objective` must be one of .* got 'trade'"),
        ({"objective": 3}, "`objective` must be a function .* got 3"),
        ({"objective": "standard"}, "`epsilon` must be 0 for standard .* got 0.05"),
        ({"objective": "gaussian"}, "`epsilon` must be 0 for standard .* got 0.05"),
        (
            {"objective": "label_smoothing(standard)"},
            "`epsilon` must be 0 for standard .* got 0.05",
        ),
        ({"optimizer": "adams"}, "`optimizer.name` must be one of .* got 'adams'"),
        ({"epochs": 0}, "`epochs` must be at least 1, got 0"),
        ({"batch_size": 0}, "`batch_size` must be at least 1, got 0"),
        ({"augmentation": "turn"}, "`augmentation` must be .* got 'turn'"),
        ({"seed": 2**40}, "`seed` must be a whole number"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_done(
    changes, message, digits, tmp_path, monkeypatch
):
    def fail(*arguments, **named):
        raise AssertionError("training began")

    monkeypatch.setattr(course, "fresh_state", fail)
    arguments = {"network": "linear", "data": digits, **SHORT, **changes}
    with pytest.raises((ValueError, TypeError), match=message):
        jaxrobust.train(directory=tmp_path / "run", **arguments)
    assert not [*tmp_path.iterdir()]


def test_data_that_were_handed_over_are_asked_for_by_name(digits, tmp_path, capsys):
    mine = Dataset.of(digits.images, digits.labels, name="mine")
    run = jaxrobust.train(
        "linear", mine, tmp_path / "run", **SHORT, reporter=NullReporter()
    )
    assert capsys.readouterr().out == "", "progress is not wanted"
    message = "`dataset` must be named for the run .* arrays of the caller, 'mine'"
    with pytest.raises(RunError, match=message):
        load_run_data(run, "test")
