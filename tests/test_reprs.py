"""Results say in one line what they are; none prints its arrays."""

from pathlib import Path

import jax
import numpy as np
import pytest

from jaxrobust.attacks import AttackResult
from jaxrobust.evaluation import (
    Check,
    Checklist,
    Evaluation,
    MinimalEpsilons,
)
from jaxrobust.evaluation.weight_space import Connection
from jaxrobust.evaluation.weight_space import Path as WeightPath
from jaxrobust.networks import ModelConfig
from jaxrobust.training import (
    Problem,
    Run,
    SweepResult,
    TrainConfig,
    adversarial,
    chain,
    iterative,
    standard,
)

BIG = np.zeros((50, 50))


def run_of(phases, records=(), *, model="lenet", is_complete=False):
    config = TrainConfig(model=ModelConfig(name=model), phases=phases)
    return Run(
        directory=Path("runs/mine"),
        config=config,
        problem=Problem("digits (8x8)", (8, 8, 1), 10),
        network=BIG,
        state=BIG,
        records=list(records),
        is_complete=is_complete,
    )


RECORDS = [
    {"loss": 2.0, "adversarial_accuracy": 0.25},
    {"loss": 1.23456, "adversarial_accuracy": 0.5},
]


@pytest.mark.parametrize(
    ("run", "text"),
    [
        (
            run_of((adversarial(0.1, 2),), RECORDS, is_complete=True),
            "lenet on digits (8x8), adversarial 0.1, epoch 2 of 2, loss 1.2346, "
            "adv acc 50.00%, complete",
        ),
        (
            run_of((standard(5), iterative(0.2)), RECORDS[:1], model="given"),
            "own network on digits (8x8), standard -> iterative 0.2, epoch 1 of 25, "
            "loss 2.0000, adv acc 25.00%, not complete",
        ),
        (
            run_of(chain((0.1, 0.2, 0.3, 0.4, 0.5), (2, 1, 1, 1, 1))),
            "lenet on digits (8x8), adversarial 0.1 -> extended 0.2 -> 2 more -> "
            "extended 0.5, epoch 0 of 6, not complete",
        ),
    ],
)
def test_of_a_run(run, text):
    assert repr(run) == f"Run('runs/mine': {text})"


def test_of_a_sweep():
    runs = {f"seed{seed}": run_of((standard(1),)) for seed in range(7)}
    assert repr(SweepResult(runs, {"seed7": "the loss became nan"})) == (
        "SweepResult(7 runs: seed0, seed1, seed2, ..., seed6; 1 failed: seed7)"
    )
    assert repr(SweepResult({}, {})) == "SweepResult(0 runs: none)"


FLAGS = np.arange(1000) < 900


def test_of_evaluations():
    is_robust = np.stack([FLAGS, np.arange(1000) < 500])
    found = Evaluation(
        epsilons=(0.1, 8 / 255),
        is_clean_correct=FLAGS,
        is_robust=is_robust,
        attacks=("apgd-ce", "square"),
        broken_by=np.where(is_robust, -1, np.where(FLAGS, 0, -2)),
        num_attacks=(5, 6),
        num_passes=(5, 6),
        num_bad_gradients=(1200, 34),
        images=BIG,
    )
    assert repr(found) == (
        "Evaluation(1,000 examples: clean 90.00%, 0.1: 90.00%, 0.0313725: 50.00%; "
        "apgd-ce, square; 1,234 attacks with bad gradients)"
    )
    assert repr(MinimalEpsilons(np.array([0.0, 0.25, np.inf]))) == (
        "MinimalEpsilons(3 examples: median 0.25, 1 not broken)"
    )


def test_of_a_checklist():
    checks = [
        Check(name, "", "", verdict, {"share": 0.5}, "", "")
        for name, verdict in (("a", "pass"), ("b", "fail"), ("c", "pass"))
    ]
    text = repr(Checklist(tuple(checks)))
    assert text == "Checklist('fail'; pass: a, c; fail: b)"


def test_of_arrays_by_name():
    flags = np.ones(4, bool)
    found = AttackResult(np.zeros((4, 8, 8, 1), np.float32), np.zeros(4), flags, flags)
    text = (
        "AttackResult(images=float32[4, 8, 8, 1], loss=float32[4], "
        "is_adversarial=bool[4], is_gradient_finite=bool[4])"
    )
    shown = []
    jax.jit(lambda result: shown.append(repr(result)))(found)
    assert shown == [text]
    assert repr(found) == text.replace("loss=float32", "loss=float64")
    path = WeightPath((BIG, BIG, BIG))
    assert repr(Connection(path, BIG[0])) == (
        "Connection(path=Path(3 points), losses=float64[50])"
    )
