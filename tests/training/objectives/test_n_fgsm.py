"""N-FGSM on a linear network, against its formula in float64."""

import chex
import jax
import numpy as np
import pytest

from jaxrobust.threat import L2Ball, LinfBall
from jaxrobust.training.recipe.objectives import NFGSM, Standard
from tests.training.objectives import linear


def searched(objective, threat):
    images, labels = linear.batch()
    found = objective.search(linear.KEY, linear.model(), threat, images, labels)
    return np.asarray(found.images, np.float64)


def test_the_noise_is_uniform_in_twice_the_ball():
    images, _ = linear.batch()
    moved = (searched(NFGSM(step=0.0), LinfBall(0.05)) - np.asarray(images)) / 0.05
    assert 1.5 < np.abs(moved).max() <= 2 + 1e-6
    assert np.std(moved) == pytest.approx(2 / np.sqrt(3), rel=0.2)


@pytest.mark.parametrize("epsilon", [0.05, 0.3])
def test_the_step_leaves_the_ball_but_not_the_pixel_range(epsilon):
    images, labels = linear.batch()
    threat = LinfBall(epsilon)
    start = searched(NFGSM(step=0.0), threat)
    gradient = linear.ByHand(start).input_gradients(labels).reshape(start.shape)
    expected = np.clip(start + epsilon * np.sign(gradient), 0, 1)
    found = searched(NFGSM(), threat)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    moved = np.abs(found - np.asarray(images)).max()
    assert moved > (2 if epsilon == 0.05 else 1) * epsilon


def test_in_l2_the_step_follows_the_normalized_gradient():
    labels = linear.batch()[1]
    threat = L2Ball(0.1, bounds=None)
    start = searched(NFGSM(step=0.0), threat)
    gradient = linear.ByHand(start).input_gradients(labels)
    gradient /= np.linalg.norm(gradient, axis=1, keepdims=True)
    expected = start + 0.1 * gradient.reshape(start.shape)
    np.testing.assert_allclose(searched(NFGSM(), threat), expected, atol=1e-5)


def test_loss_and_gradient_are_those_of_the_cross_entropy_there():
    images, labels = linear.batch()
    threat = LinfBall(0.1)
    there = linear.ByHand(searched(NFGSM(), threat))
    expected = there.cross_entropies(labels).mean()
    result = linear.loss_and_gradient(NFGSM(), threat, images, labels)
    linear.assert_near(result, (expected, there.gradient(there.errors(labels))))


def test_at_radius_0_it_is_the_clean_cross_entropy():
    images, labels = linear.batch()
    found = linear.loss_and_gradient(NFGSM(), LinfBall(0.0), images, labels)
    clean = linear.loss_and_gradient(Standard(), LinfBall(0.0), images, labels)
    linear.assert_near(found, clean, atol=1e-6)


def test_noises_share_a_trace():
    images, labels = linear.batch()
    function = jax.jit(chex.assert_max_traces(linear.loss_and_gradient, n=1))
    losses = {
        float(function(NFGSM(noise=noise), LinfBall(0.1), images, labels)[0])
        for noise in (0.5, 1.0, 2.0)
    }
    assert len(losses) == 3


@pytest.mark.parametrize("field", ["noise", "step"])
def test_a_negative_number_is_refused(field):
    with pytest.raises(ValueError, match=f"`{field}` must be in"):
        NFGSM(**{field: -1.0})  # type: ignore
