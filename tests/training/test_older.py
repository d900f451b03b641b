"""Configurations that older versions wrote mean what they meant."""

import copy
import dataclasses
import json
import shutil

import chex
import pytest

from jaxrobust.attacks import PGD
from jaxrobust.training import Adversarial, RunError, Standard, TrainConfig, train
from jaxrobust.training.recipe.config_json import config_from_json, config_to_json
from jaxrobust.training.recipe.older import renewed

# Written by version 0.1 for `chain((0.0, 0.3), (2, 3))` in l_2, the first one standard.
ATTACK = {
    "norm": "l2",
    "is_bounded": False,
    "step_size": 0.05,
    "num_steps": 7,
    "random_start": False,
    "direction": "sign",
    "loss": "margin",
    "keep": "best",
    "batch_norm": "train",
}
PGD_FIELDS = config_to_json(PGD())
SCHEDULE = {"kind": "constant", "end": 0.3, "start": 0.01, "increment": 0.01}
PHASE = {
    "name": "extended",
    "epochs": 3,
    "epsilon": SCHEDULE | {"ramp_epochs": 50},
    "attack": ATTACK,
    "optimizer": {
        "name": "sgd",
        "learning_rate": 0.1,
        "milestones": [2],
        "decay": 0.5,
        "momentum": 0.8,
        "weight_decay": 0.01,
        "clip_norm": None,
    },
    "carry": "optimizer",
    "start_from": None,
    "stop_at_jump": None,
}
FIRST = PHASE | {"name": "standard", "epsilon": PHASE["epsilon"] | {"end": 0.0}}


def test_the_attack_of_a_phase_becomes_its_ball_and_its_objective():
    record = {"seed": 3, "augment": True, "phases": [FIRST, PHASE]}
    before = copy.deepcopy(record)
    config = config_from_json(TrainConfig, renewed(record))
    assert record == before
    first, phase = config.phases
    assert (phase.norm, phase.is_bounded) == ("l2", False)
    assert phase.objective == Adversarial(
        attack=PGD(
            step_size=0.05,
            num_steps=7,
            random_start=False,
            direction="sign",
            loss="margin",
            keep="best",
        ),
        batch_norm="train",
    )
    assert first.objective == Standard() and first.norm == "l2"
    assert phase.optimizer.milestones == (2,) and phase.optimizer.momentum == 0.8
    assert config.seed == 3 and config.augmentation == "crop-flip"
    del record["augment"]
    record["augment"] = False
    assert config_from_json(TrainConfig, renewed(record)).augmentation is None


def in_older_form(config):
    """The JSON of a configuration as version 0.1 wrote it, of phases with PGD."""
    record = copy.deepcopy(config)
    record["augment"] = record.pop("augmentation") is not None
    for phase in record["phases"]:
        objective = phase.pop("objective")
        default = {**PGD_FIELDS, "batch_norm": "eval"}
        attack = objective.get("attack", default)
        modes = {"batch_norm": objective.get("batch_norm", "eval")}
        ball = {name: phase.pop(name) for name in ("norm", "is_bounded")}
        phase["attack"] = attack | modes | ball
        for name in ("schedule", "warmup_epochs"):
            del phase["optimizer"][name]
        del phase["epsilon"]["every"]
    return record


def test_a_run_of_an_older_version_is_resumed_where_it_stands(
    trained, tiny, digits, tmp_path
):
    directory = tmp_path / "run"
    shutil.copytree(trained.directory, directory)
    path = directory / "config.json"
    record = json.loads(path.read_text())
    del record["checksum"]
    record["config"] = in_older_form(record["config"])
    assert "objective" not in json.dumps(record)
    path.write_text(json.dumps(record))
    run = train(tiny, directory, dataset=digits, resume=True)
    chex.assert_trees_all_equal(run.weights, trained.weights)
    other = dataclasses.replace(tiny, phases=tiny.phases[:2])
    with pytest.raises(RunError, match=r"differs in config\.phases"):
        train(other, directory, dataset=digits, resume=True)


def test_what_is_written_today_is_left_alone():
    record = {"phases": [{"name": "x", "objective": {"name": "standard"}}]}
    assert renewed(record) == record
