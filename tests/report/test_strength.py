"""How good each attack is, against distances that are known."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import PGD, AttackResult, fab, judge
from jaxrobust.evaluation import Evaluation, evaluate
from jaxrobust.report import ReportConfig
from jaxrobust.report.strength import distances, strength
from jaxrobust.report.subjects import subjects


def test_the_distance_is_the_smallest_radius_that_broke_an_image():
    is_robust = np.array([[1, 0, 0, 1], [1, 0, 0, 0], [1, 0, 0, 0]], bool)
    found = Evaluation(
        epsilons=(0.1, 0.2, 0.4),
        is_clean_correct=np.array([1, 1, 0, 1], bool),
        is_robust=is_robust,
        attacks=("a",),
        broken_by=np.zeros((3, 4), int),
        num_attacks=(1,),
        num_passes=(1,),
        num_bad_gradients=(0,),
    )
    assert distances(found).tolist() == [np.inf, 0.1, 0.0, 0.2]


def idle(threat):
    """Looks at the clean images once, and breaks nothing."""

    def attack(key, logits_fn, images, labels):
        logits = logits_fn(images)
        is_finite = jnp.ones(len(labels), bool)
        loss = jnp.zeros(len(labels))
        return AttackResult(images, loss, judge(logits, labels), is_finite)

    return attack


@pytest.mark.slow
def test_optimality_and_passes_are_those_counted_by_hand(runs):
    (subject,) = subjects(runs[:1], ReportConfig(num_images=20))
    short = PGD(step_size=0.002, num_steps=5, random_start=False)
    attacks = {"good": PGD(step_size=0.01, num_steps=30), "short": short, "idle": idle}
    said = []
    found = strength(subject, attacks, num_images=10, seed=0, report=said.append)
    rows = {row["name"]: row for row in found["attacks"]}
    assert found["num_images"] == 10 and list(rows) == [*attacks]
    # Accuracy against epsilon at every radius, and the areas under it.
    radii = [0.0, *subject.curve_epsilons]
    images = subjects(runs[:1], ReportConfig(num_images=10))[0].dataset
    right, stands = None, {}
    for name, build in attacks.items():
        alone = evaluate(subject.run.logits_fn, images, {name: build}, radii[1:])
        right, stands[name] = alone.is_clean_correct, alone.is_robust
    assert right is not None
    best = np.all(list(stands.values()), axis=0)

    def area(flags):
        # An image that falls at a radius stood up to it.
        curve = [np.mean(right), *np.mean(flags, axis=1)]
        return np.sum(np.diff(radii) * curve[:-1])

    room = np.mean(right) * radii[-1] - area(best)
    for name, row in rows.items():
        assert row["area"] == pytest.approx(area(stands[name]))
        loss = (area(stands[name]) - area(best)) / room
        assert row["optimality"] == pytest.approx(1 - loss)
    assert rows["good"]["optimality"] == pytest.approx(1)
    assert rows["idle"]["optimality"] == pytest.approx(0)
    weak = [row["is_weak"] for row in rows.values()]
    assert weak == [False, True, True]
    # It withstands all: bisection asks at log2 of the radii, one pass for each.
    steps = np.ceil(np.log2(len(radii)))
    assert rows["idle"]["passes"] <= steps * np.mean(right)
    assert rows["idle"]["passes"] * 10 == int(rows["idle"]["passes"] * 10) > 0
    # Three for a step, and one for the end.
    assert (rows["good"]["passes"] * 10) % 91 == pytest.approx(0)
    assert any("robust accuracy" in line for line in said)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {},
            r"without curve \(FAB .* and checklist \(.*\) in l1, .* --parts accuracy "
            r"pictures training; in l1, `--attack apgd-ce fmn pdpgd pgd`",
        ),
        (
            {"parts": ("accuracy",)},
            "`attack` must be defined in l1, got 'fab-t', .* `--attack apgd-ce fmn",
        ),
        (
            {"parts": ("curve",), "attacks": fab},
            r"`parts` must be without curve \(FAB .*give --parts accuracy; in l1",
        ),
    ],
)
def test_what_a_norm_does_not_have_is_refused(fields, message, runs):
    config = ReportConfig(norm="l1", epsilons=(2.0,), num_images=10, **fields)
    with pytest.raises(ValueError, match=message):
        subjects(runs, config)
