"""What every objective of the table does."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrobust.attacks import PGD
from jaxrobust.networks import Network
from jaxrobust.threat import LinfBall
from jaxrobust.training import Phase, make_trainer
from jaxrobust.training.recipe.config_json import config_from_json, config_to_json
from jaxrobust.training.recipe.objectives import (
    NFGSM,
    OBJECTIVES,
    Adversarial,
    Attacking,
    Fast,
    GradAlign,
    Mart,
    Standard,
    attack_numbers,
    named_objective,
    objective_name,
    with_attack,
)
from jaxrobust.training.recipe.schedules import EpsilonSchedule
from tests.training.objectives import linear

TRANSFORMS = ["grad_align", "awp", "label_smoothing"]
ATTACKING = [name for name, kind in OBJECTIVES.items() if issubclass(kind, Attacking)]


def short(name):
    return with_attack(OBJECTIVES[name](), lambda _: PGD(num_steps=2, step_size=0.05))


def phase_of(objective):
    epsilon = EpsilonSchedule(end=0.1)
    return Phase(name="any", epochs=1, epsilon=epsilon, objective=objective)


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTIVES)
def test_it_trains_in_a_loop_mapped_over_members(name):
    trained_in_a_loop(short(name))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_function_can_be_transformed(name):
    def own(key, model, threat, images, labels):
        return Standard()(key, model, threat, images, labels)

    trained_in_a_loop(OBJECTIVES[name](objective=own))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transform_of_another_is_written_and_read(name):
    objective = OBJECTIVES[name](objective=OBJECTIVES["awp"](objective=Mart(beta=2.0)))
    phase = phase_of(objective)
    record = json.loads(json.dumps(config_to_json(phase)))
    assert config_from_json(Phase, record) == phase


def trained_in_a_loop(objective):
    images, labels = linear.batch()
    phase = phase_of(objective)
    numbers = phase.at(1, 2)
    trainer = make_trainer(linear.NETWORK, batch_size=3)

    def two_steps(key, numbers):
        state = trainer.init(key, images, numbers.optimizer)
        state = trainer.begin_epoch(state)
        return trainer.run(state, numbers, images, labels, jnp.int32(2))

    mapped = jax.jit(jax.vmap(two_steps, in_axes=(0, None)))
    after = mapped(jax.random.split(linear.KEY, 2), numbers)
    before, now = after.epoch_weights.params, after.weights.params
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(now), strict=True):
        assert np.all(np.isfinite(new))
        for member in range(2):
            assert np.abs(new[member] - old[member]).max() > 1e-5
    np.testing.assert_array_equal(after.batch, 2)


@pytest.mark.parametrize("name", ATTACKING)
def test_in_training_mode_the_attack_sees_the_network_in_training(name):
    def reversed_in_training(variables, images, *, train, key):
        logits, _ = linear.apply(variables, images, train=train, key=key)
        return (-logits if train else logits), variables

    def searched(apply, sign, mode):
        images, labels = linear.batch()
        at = linear.model()
        at = at.with_params(jax.tree.map(lambda leaf: sign * leaf, at.params))
        at = type(at)(Network(linear.init, apply), at.variables)
        fields = {"batch_norm": mode}
        if "attack" in OBJECTIVES[name].__dataclass_fields__:
            fields["attack"] = PGD(num_steps=2, step_size=0.05)
        objective = OBJECTIVES[name](**fields)
        return objective.search(linear.KEY, at, LinfBall(0.1), images, labels).images

    found = searched(reversed_in_training, 1, "train")
    expected = searched(linear.apply, -1, "eval")
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert not np.allclose(found, searched(reversed_in_training, 1, "eval"))


@pytest.mark.parametrize("kind", [Fast, Mart])
@settings(max_examples=10, deadline=None)
@given(epsilon=st.floats(0, 1, width=32), seed=st.integers(0, 9))
def test_images_trained_on_lie_in_the_ball_and_in_the_pixel_range(kind, epsilon, seed):
    images, labels = linear.batch(seed)
    objective = with_attack(kind(), lambda _: PGD(num_steps=2, step_size=0.3))
    arguments = (linear.KEY, linear.model(), LinfBall(epsilon), images, labels)
    found = objective.search(*arguments).images
    moved = np.asarray(found, np.float64) - np.asarray(images, np.float64)
    assert np.abs(moved).max() <= epsilon
    assert found.min() >= 0 and found.max() <= 1


@pytest.mark.parametrize("name", OBJECTIVES)
def test_it_is_found_by_its_name(name):
    assert objective_name(named_objective(name)) == name


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="`batch_norm` must be one of eval, train"):
        Fast(batch_norm="frozen")  # type: ignore


@pytest.mark.parametrize(
    ("objective", "numbers"),
    [
        (Standard(), {}),
        (Adversarial(attack=PGD(step_size=0.1)), {"step_size": 0.1, "num_steps": 5}),
        (Fast(step=1.5), {"step_size": 0.3, "num_steps": 1}),
        (GradAlign(objective=NFGSM(step=0.5)), {"step_size": 0.1, "num_steps": 1}),
    ],
)
def test_what_is_logged_of_an_attack(objective, numbers):
    assert attack_numbers(objective, 0.2) == pytest.approx(numbers)
