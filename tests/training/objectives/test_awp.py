"""Adversarial weight perturbation on a linear network, by hand in float64."""

import dataclasses

import chex
import jax
import numpy as np
import pytest

from jaxrobust.attacks import PGD
from jaxrobust.threat import LinfBall
from jaxrobust.training.recipe.objectives import AWP, Adversarial, Standard
from tests.training.objectives import linear

ADVERSARIAL = Adversarial(attack=PGD(num_steps=3, step_size=0.05))


def by_hand(found, labels, gamma):
    before = linear.ByHand(found)
    slope = before.gradient(before.errors(labels))["kernel"]
    length = gamma * np.linalg.norm(before.kernel)
    kernel = before.kernel + length * slope / np.linalg.norm(slope)
    there = linear.ByHand(found, {"kernel": kernel, "bias": before.bias})
    loss = there.cross_entropies(labels).mean()
    return loss, there.gradient(there.errors(labels))


@pytest.mark.parametrize("gamma", [0.0, 0.005, 0.3])
def test_loss_and_gradient_are_those_at_the_moved_weights(gamma):
    images, labels = linear.batch()
    objective = AWP(objective=Standard(), gamma=gamma)
    result = linear.loss_and_gradient(objective, LinfBall(0.1), images, labels)
    linear.assert_near(result, by_hand(images, labels, gamma))


def test_images_are_those_found_at_the_weights_as_they_were():
    images, labels = linear.batch()
    threat = LinfBall(0.1)
    found = ADVERSARIAL.search(linear.KEY, linear.model(), threat, images, labels)
    objective = AWP(objective=ADVERSARIAL, gamma=2.0)
    result = linear.loss_and_gradient(objective, threat, images, labels)
    linear.assert_near(result, by_hand(found.images, labels, 2.0))


def test_images_are_searched_once():
    count = []

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Counted(Adversarial):
        def search(self, *arguments):
            count.append(1)
            return super().search(*arguments)

    images, labels = linear.batch()
    objective = AWP(objective=Counted(attack=ADVERSARIAL.attack))
    linear.loss_and_gradient(objective, LinfBall(0.1), images, labels)
    assert len(count) == 1


def test_weights_of_zeros_stay():
    images, labels = linear.batch()
    at = linear.model()
    at = at.with_params(jax.tree.map(np.zeros_like, at.params))
    arguments = (LinfBall(0.0), images, labels)
    result = linear.loss_and_gradient(AWP(objective=Standard()), *arguments, at=at)
    plain = linear.loss_and_gradient(Standard(), *arguments, at=at)
    linear.assert_near(result, plain, atol=1e-6)


def test_gammas_share_a_trace():
    images, labels = linear.batch()
    function = jax.jit(chex.assert_max_traces(linear.loss_and_gradient, n=1))
    losses = [
        float(
            function(
                AWP(objective=ADVERSARIAL, gamma=gamma), LinfBall(0.1), images, labels
            )[0]
        )
        for gamma in (0.005, 0.05, 0.5)
    ]
    assert losses[0] < losses[1] < losses[2]


def test_a_negative_length_is_refused():
    with pytest.raises(ValueError, match="`gamma` must be in"):
        AWP(gamma=-1.0)
