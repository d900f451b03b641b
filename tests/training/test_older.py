"""Configurations that older versions wrote mean what they meant."""

import copy

from jaxrobust.attacks import PGD
from jaxrobust.training import Adversarial, Standard, TrainConfig
from jaxrobust.training.config_json import config_from_json
from jaxrobust.training.older import renewed

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


def test_what_is_written_today_is_left_alone():
    record = {"phases": [{"name": "x", "objective": {"name": "standard"}}]}
    assert renewed(record) == record
