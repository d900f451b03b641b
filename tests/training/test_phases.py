import json

import jax
import numpy as np
import optax
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jaxrobust.attacks import PGD
from jaxrobust.keeping import difference
from jaxrobust.networks import ModelConfig
from jaxrobust.threat import L2Ball, LinfBall
from jaxrobust.training import (
    Adversarial,
    EpsilonSchedule,
    JumpRule,
    OptimizerConfig,
    Phase,
    TrainConfig,
    adversarial,
    chain,
    extended,
    iterative,
    standard,
)
from jaxrobust.training.recipe.config_json import config_from_json, config_to_json


def test_iat_grows_by_a_hundredth_an_epoch_and_starts_above_zero():
    phase = iterative(0.4)
    assert phase.epochs == 40  # LP-X2
    radii = [phase.epsilon(epoch) for epoch in range(1, 41)]
    assert radii == [round(0.01 * epoch, 2) for epoch in range(1, 41)]


def test_iat_holds_the_last_radius():
    phase = iterative(0.05, increment=0.02, hold_epochs=2)
    assert [phase.epsilon(epoch) for epoch in range(1, phase.epochs + 1)] == [
        *(0.02, 0.04, 0.05),
        *(0.05, 0.05),
    ]


def test_the_linear_schedule_is_numpys_linspace():
    schedule = EpsilonSchedule(kind="linear", start=0.01, end=0.3, ramp_epochs=50)
    expected = [*np.linspace(0.01, 0.3, 50), 0.3, 0.3]  # SN-M3
    found = [schedule(epoch) for epoch in range(1, 53)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_the_smooth_schedule_is_a_power_and_then_a_line_without_a_corner():
    schedule = EpsilonSchedule(kind="smooth", start=0.1, end=0.5, ramp_epochs=21)
    shares = [(schedule(1 + 20 * at) - 0.1) / 0.4 for at in (0.1, 0.2, 0.25, 0.5, 1)]
    # By hand: (1/4)^4 + 3/4 * 4 (1/4)^3 = 13/256, so the power is 256/13 share^4.
    expected = [256 / 13 * at**4 for at in (0.1, 0.2, 0.25)]
    expected += [1 / 13 + 4 * (0.5 - 0.25) * 4 / 13, 1]
    assert shares == pytest.approx(expected)
    below, above = (schedule(1 + 20 * at) - schedule(6) for at in (0.2499, 0.2501))
    assert -below == pytest.approx(above, rel=1e-3)
    assert schedule(30) == 0.5


def test_the_exponential_schedule_has_equal_ratios():
    schedule = EpsilonSchedule(kind="exponential", start=0.01, end=0.16, ramp_epochs=5)
    found = [schedule(epoch) for epoch in range(1, 7)]
    np.testing.assert_allclose(found, [0.01, 0.02, 0.04, 0.08, 0.16, 0.16])


def rates(epochs, num_batches, **settings):
    config = OptimizerConfig(learning_rate=0.1, **settings)
    each = [
        config.learning_rates(epoch, epochs, num_batches)
        for epoch in range(1, epochs + 1)
    ]
    return np.concatenate(each)


def test_learning_rate_falls_after_each_milestone():
    found = rates(101, 1, milestones=(50, 100))
    expected = np.repeat([0.1, 0.01, 0.001], [50, 50, 1])
    np.testing.assert_allclose(found, expected)


def test_the_cosine_schedule_is_optaxs_at_the_middle_of_each_step():
    expected = optax.cosine_decay_schedule(0.1, 24)  # half steps
    found = rates(3, 4, schedule="cosine")
    np.testing.assert_allclose(
        found, [expected(2 * step + 1) for step in range(12)], rtol=1e-5
    )


def test_the_cyclic_schedule_rises_to_the_middle_and_falls():
    found = rates(2, 3, schedule="cyclic")
    np.testing.assert_allclose(found, 0.1 * np.array([1, 3, 5, 5, 3, 1]) / 6)
    found = rates(1, 4, schedule="linear")
    np.testing.assert_allclose(found, 0.1 * np.array([7, 5, 3, 1]) / 8)


def test_a_warm_up_grows_evenly_into_whatever_schedule():
    found = rates(2, 4, warmup_epochs=1, milestones=(1,))
    first = 0.1 * np.array([1, 3, 5, 7]) / 8
    np.testing.assert_allclose(found, [*first, *(0.01,) * 4])


@given(
    st.sampled_from(["constant", "linear", "cosine", "cyclic"]),
    st.integers(1, 5),
    st.integers(1, 7),
    st.floats(0, 3),
)
@example("constant", 1, 1, 5e-324)
def test_no_step_has_a_rate_of_zero_or_above_the_given_one(
    schedule, epochs, num_batches, warmup
):
    found = rates(epochs, num_batches, schedule=schedule, warmup_epochs=warmup)
    assert found.shape == (epochs * num_batches,)
    assert np.all(found > 0) and np.all(found <= 0.1)


def test_a_radius_may_move_on_in_every_step():
    schedule = EpsilonSchedule(
        kind="linear", start=0.1, end=0.3, ramp_epochs=3, every="step"
    )
    phase = Phase(
        name="ramp",
        epochs=4,
        epsilon=schedule,
        objective=Adversarial(attack=PGD(step_size=0.1)),
    )
    found = [phase.at(epoch, 2) for epoch in (1, 2, 3, 4)]
    radii = np.concatenate([each.threat.epsilon for each in found])
    expected = [0.1, 0.15, 0.2, 0.25, 0.3, 0.3, 0.3, 0.3]
    np.testing.assert_allclose(radii, expected, rtol=1e-6)
    steps = np.concatenate([each.objective.attack.num_steps for each in found])
    np.testing.assert_array_equal(steps, [2, 3, 5, 6, 7, 7, 7, 7])
    # The same program as one whose radius stays.
    other = adversarial(0.3, 4, attack=PGD(step_size=0.1)).at(1, 2)
    assert jax.tree.structure(other) == jax.tree.structure(found[0])
    assert all(
        one.dtype == two.dtype and one.shape == two.shape
        for one, two in zip(
            jax.tree.leaves(other), jax.tree.leaves(found[0]), strict=True
        )
    )


def test_attack_steps_follow_the_radius_unless_given():
    assert PGD(step_size=0.01).num_steps_at(0.18) == 45
    assert PGD(step_size=0.01, num_steps=40).num_steps_at(0.3) == 40
    assert PGD(num_steps=40).num_steps_at(0.0) == 0


def test_the_threat_of_a_configuration():
    (radius,) = (adversarial(0.1, 1).at(1, 1).threat.epsilon,)
    assert radius == np.float32(0.1)
    threat = adversarial(0.1, 1, norm="l2", is_bounded=False).at(1, 1).threat
    assert isinstance(threat, L2Ball) and threat.bounds is None
    assert isinstance(adversarial(0.1, 1).at(1, 1).threat, LinfBall)


def test_the_settings_of_a_step_are_numbers_for_every_batch():
    attack = PGD(step_size=0.01)
    rule = OptimizerConfig(learning_rate=0.1, milestones=(1,), weight_decay=0.5)
    phase = iterative(0.4, attack=attack, optimizer=rule)
    threat, objective, optimizer, average_share, variant = phase.at(18, 3)
    assert average_share is None and variant is None
    np.testing.assert_array_equal(threat.epsilon, np.full(3, 0.18, np.float32))
    # 2.5 * .18 / .01, which is 44.999... in floats.
    np.testing.assert_array_equal(objective.attack.num_steps, np.full(3, 45))
    np.testing.assert_array_equal(optimizer.learning_rate, np.full(3, 0.01, np.float32))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(phase.at(18, 3))} == {
        "int32",
        "float32",
    }


def test_phases_that_differ_in_numbers_only_have_one_structure():
    def structure(phase):
        return jax.tree.structure(phase.at(1, 2))

    first = structure(adversarial(0.3, 2))
    rule = OptimizerConfig(learning_rate=0.1, milestones=(3,), momentum=0.5)
    attack = PGD(step_size=0.2, num_steps=7)
    alike = iterative(0.4, attack=attack, optimizer=rule)
    assert structure(alike) == first
    for other in (
        standard(1),
        adversarial(0.3, 2, norm="l2"),
        adversarial(0.3, 2, is_bounded=False),
        adversarial(0.3, 2, attack=PGD(keep="best")),
        adversarial(0.3, 2, objective=Adversarial(batch_norm="train")),
        adversarial(0.3, 2, optimizer=OptimizerConfig(name="sgd")),
        adversarial(0.3, 2, optimizer=OptimizerConfig(clip_norm=1.0)),
    ):
        assert structure(other) != first


def test_recipes_differ_in_schedule_and_carry_over():
    assert standard(5).epsilon(3) == 0
    assert adversarial(0.3, 30).epsilon(30) == 0.3
    assert extended(0.4).carry == "optimizer"  # LP-X1
    first, *rest = chain((0.1, 0.2, 0.3), (3, 2, 1))
    assert [first.epsilon(1), *(phase.epsilon(1) for phase in rest)] == [0.1, 0.2, 0.3]
    assert [phase.epochs for phase in (first, *rest)] == [3, 2, 1]
    assert [phase.name for phase in rest] == ["extended", "extended"]


class TestJumpRule:
    rule = JumpRule(ratio=1.5, rise=0.2, window=3)

    def first_jump(self, losses):
        for index in range(len(losses)):
            if self.rule.is_jump(losses[: index + 1]):
                return index
        return None

    def test_gradual_growth_is_no_jump(self):
        assert self.first_jump([0.1 * 1.1**epoch for epoch in range(33)]) is None

    def test_a_sudden_leap_is_one(self):
        # The shape of LP-F7: slow growth, then up to ln 10.
        losses = [0.3, 0.1, 0.12, 0.15, 0.2, 0.26, 2.3, 2.3]
        assert self.first_jump(losses) == 6

    def test_falling_and_stuck_losses_are_none(self):
        assert self.first_jump([2.3, 1.0, 0.5, 0.4, 0.3]) is None
        assert self.first_jump([2.3] * 10) is None

    def test_noise_round_a_tiny_loss_is_none(self):
        assert self.first_jump([0.01, 0.02, 0.01, 0.01, 0.09, 0.01]) is None

    def test_the_window_must_be_full(self):
        assert self.first_jump([0.1, 0.1, 2.3]) is None


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: standard(1, norm="l7"), "`norm` must be one of linf, l2"),
        (lambda: PGD(step_size=0), r"`step_size` must be in \(0, inf\), got 0"),
        (lambda: PGD(num_steps=-1), "`num_steps` must be at least 0, got -1"),
        (lambda: PGD(direction="up"), "`direction` must be one of"),
        (lambda: PGD(loss="l"), "`loss` must be one of"),
        (lambda: PGD(keep="no"), "`keep` must be one of"),
        (lambda: Adversarial(batch_norm="x"), "`batch_norm` must be one of"),
        (
            lambda: OptimizerConfig(name="lion"),
            "`optimizer.name` must be one of adam, adamw, sgd",
        ),
        (
            lambda: OptimizerConfig(learning_rate=0),
            r"`learning_rate` must be in \(0, inf\), got 0",
        ),
        (
            lambda: OptimizerConfig(weight_decay=float("nan")),
            r"`weight_decay` must be in \[0, inf\), got nan",
        ),
        (
            lambda: OptimizerConfig(schedule="step"),
            "`schedule` must be one of constant",
        ),
        (lambda: OptimizerConfig(warmup_epochs=-1), r"`warmup_epochs` must be in \[0"),
        (lambda: EpsilonSchedule(every="batch"), "`every` must be one of epoch, step"),
        (lambda: OptimizerConfig(momentum=-1), r"`momentum` must be in \[0, inf\)"),
        (lambda: OptimizerConfig(clip_norm=0), r"`clip_norm` must be in \(0, inf\)"),
        (
            lambda: adversarial(0.1, 1, attack=PGD(), objective=Adversarial()),
            "`attack` must be left out where there is an objective",
        ),
        (lambda: OptimizerConfig(milestones=(2, 1)), "`milestones` must be increasing"),
        (
            lambda: EpsilonSchedule(end=-0.1),
            r"`epsilon.end` must be in \[0, inf\), got",
        ),
        (
            lambda: EpsilonSchedule(start=float("nan")),
            r"`epsilon.start` must be in \[0, inf\), got",
        ),
        (lambda: EpsilonSchedule(end=1e39), "`epsilon.end` must be at most 3.4"),
        (lambda: adversarial(8, 1), r"`epsilon.end` must be in \[0, 1\].*8/255"),
        (lambda: adversarial(1e30, 1), r"`epsilon.end` must be in \[0, 1\] in linf"),
        (lambda: extended(1.5), r"`epsilon.end` must be in \[0, 1\] in linf"),
        (lambda: iterative(4, increment=1), r"`epsilon.end` must be in \[0, 1\]"),
        (
            lambda: Phase(
                name="x", epochs=1, epsilon=EpsilonSchedule(kind="linear", start=8)
            ),
            r"`epsilon.start` must be in \[0, 1\] in linf",
        ),
        (lambda: EpsilonSchedule(kind="cos"), "`epsilon.kind` must be one of constant"),
        (lambda: EpsilonSchedule(increment=0), "`increment` must be positive"),
        (lambda: EpsilonSchedule(ramp_epochs=0), "`ramp_epochs` must be at least 1"),
        (lambda: EpsilonSchedule(kind="exponential", start=0), "positive for an exp"),
        (lambda: JumpRule(ratio=1.0), "`ratio` must be above 1"),
        (lambda: JumpRule(window=0), "`window` must be at least 1"),
        (lambda: Phase(name="x", epochs=0), "`epochs` must be at least 1"),
        (lambda: Phase(name="x", epochs=1, carry="all"), "`carry` must be one of"),
        (lambda: chain((0.1, 0.2), (1,)), r"`epochs` must be as many numbers .*\(2\)"),
        (lambda: TrainConfig(batch_size=0), "`batch_size` must be at least 1"),
        (lambda: TrainConfig(phases=()), "`phases` must be a non-empty list"),
        (
            lambda: TrainConfig(
                phases=(standard(1), Phase(name="x", epochs=1, start_from="run"))
            ),
            "`start_from` must be given for the first phase only",
        ),
    ],
)
def test_wrong_configurations_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_an_l2_radius_is_refused_once_the_size_of_the_images_is_known():
    phase = adversarial(9, 1, norm="l2")
    phase.require_radii((9, 9, 1))
    with pytest.raises(ValueError, match=r"`epsilon.end` must be in \[0, 8\] in l2"):
        phase.require_radii((8, 8, 1))


CONFIG = TrainConfig(
    dataset="mnist",
    train_size=100,
    model=ModelConfig(name="lenet", widen_factor=0.25),
    phases=(
        standard(2, optimizer=OptimizerConfig(milestones=(1,), clip_norm=2.0)),
        iterative(0.3, attack=PGD(num_steps=3)),
    ),
)


def test_a_configuration_survives_json():
    text = json.dumps(config_to_json(CONFIG))
    assert config_from_json(TrainConfig, json.loads(text)) == CONFIG


def test_settings_without_defaults_are_what_was_said():
    phase = extended(0.4, 7, objective=Adversarial(attack=PGD(step_size=0.02)))
    config = TrainConfig(phases=(phase,), seed=3)
    assert config_to_json(config, has_defaults=False) == {
        "phases": [
            {
                "name": "extended",
                "epochs": 7,
                "epsilon": {"end": 0.4},
                "objective": {"name": "adversarial", "attack": {"step_size": 0.02}},
                "carry": "optimizer",
            }
        ],
        "seed": 3,
    }


def test_an_unknown_field_is_refused():
    with pytest.raises(ValueError, match="got 'surprise'; leave it out"):
        config_from_json(TrainConfig, {"surprise": 1})


def test_the_difference_of_two_configurations_names_the_field():
    other = config_to_json(CONFIG)
    other["phases"][1]["objective"]["attack"]["num_steps"] = 4
    assert difference(config_to_json(CONFIG), other) == [
        "phases[1].objective.attack.num_steps: 3, now 4"
    ]
    other["phases"] = other["phases"][:1]
    assert difference(config_to_json(CONFIG), other) == ["phases: 2 entries, now 1"]
