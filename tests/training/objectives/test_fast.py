"""Fast adversarial training on a linear network, against its formula in float64."""

import chex
import jax
import numpy as np
import pytest

from jaxrobust.threat import LinfBall
from jaxrobust.training.recipe.objectives import Fast, Standard
from tests.training.objectives import linear


def searched(objective, threat, seed=0):
    images, labels = linear.batch(seed)
    found = objective.search(linear.KEY, linear.model(), threat, images, labels)
    return np.asarray(found.images, np.float64)


def test_without_a_step_images_are_uniform_in_the_ball():
    images, _ = linear.batch()
    moved = (searched(Fast(step=0.0), LinfBall(0.1)) - np.asarray(images)) / 0.1
    assert np.abs(moved).max() <= 1 + 1e-6
    assert np.std(moved) == pytest.approx(1 / np.sqrt(3), rel=0.2)


@pytest.mark.parametrize("step", [0.5, 1.25])
def test_the_step_is_taken_from_the_start_and_projected(step):
    images, labels = linear.batch()
    threat = LinfBall(0.2)
    start = searched(Fast(step=0.0), threat)
    gradient = linear.ByHand(start).input_gradients(labels).reshape(start.shape)
    clean = np.asarray(images, np.float64)
    moved = np.clip(start + step * 0.2 * np.sign(gradient), clean - 0.2, clean + 0.2)
    expected = np.clip(moved, 0, 1)
    np.testing.assert_allclose(searched(Fast(step=step), threat), expected, atol=1e-6)


def test_loss_and_gradient_are_those_of_the_cross_entropy_there():
    images, labels = linear.batch()
    threat = LinfBall(0.2)
    there = linear.ByHand(searched(Fast(), threat))
    expected = there.cross_entropies(labels).mean()
    result = linear.loss_and_gradient(Fast(), threat, images, labels)
    linear.assert_near(result, (expected, there.gradient(there.errors(labels))))


def test_at_radius_0_it_is_the_clean_cross_entropy():
    images, labels = linear.batch()
    found = linear.loss_and_gradient(Fast(), LinfBall(0.0), images, labels)
    clean = linear.loss_and_gradient(Standard(), LinfBall(0.0), images, labels)
    linear.assert_near(found, clean, atol=1e-6)


def test_steps_share_a_trace():
    images, labels = linear.batch()
    function = jax.jit(chex.assert_max_traces(linear.loss_and_gradient, n=1))
    losses = {
        float(function(Fast(step=step), LinfBall(0.2), images, labels)[0])
        for step in (0.5, 1.0, 1.5)
    }
    assert len(losses) == 3


def test_a_negative_step_is_refused():
    with pytest.raises(ValueError, match="`step` must be in"):
        Fast(step=-1.0)
