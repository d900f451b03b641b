"""MART on a linear network, against its formula in probabilities."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import PGD, auto_pgd
from jaxrobust.threat import LinfBall
from jaxrobust.training.recipe.objectives import Adversarial, Mart
from tests.training.objectives import linear

ATTACK = PGD(num_steps=3, step_size=0.05)


def by_formula(params, images, found, labels, beta):
    def shares(points):
        logits = points.reshape(len(points), -1) @ params["kernel"]
        return jax.nn.softmax(logits + params["bias"][None])

    clean, moved = shares(images), shares(found)
    is_label = jax.nn.one_hot(labels, linear.CLASSES) == 1
    rival = jnp.max(jnp.where(is_label, 0.0, moved), axis=1)
    boosted = -jnp.log(jnp.sum(is_label * moved, axis=1)) - jnp.log(1 - rival)
    divergences = jnp.sum(clean * jnp.log(clean / moved), axis=1)
    doubt = 1 - jnp.sum(is_label * clean, axis=1)
    return jnp.mean(boosted + beta * divergences * doubt)


@pytest.mark.parametrize("beta", [0.0, 5.0])
def test_loss_and_gradient_are_those_of_the_formula(beta):
    images, labels = linear.batch()
    objective, threat = Mart(attack=ATTACK, beta=beta), LinfBall(0.1)
    found = objective.search(linear.KEY, linear.model(), threat, images, labels).images
    derived = jax.value_and_grad(by_formula)
    expected = derived(linear.model().params, images, found, labels, beta)
    result = linear.loss_and_gradient(objective, threat, images, labels)
    linear.assert_near(result, expected)


@pytest.mark.parametrize("build", [ATTACK, partial(auto_pgd, num_steps=2)])
def test_it_trains_on_the_images_of_adversarial_training(build):
    images, labels = linear.batch()
    one, other = (
        kind(attack=build).search(
            linear.KEY, linear.model(), LinfBall(0.1), images, labels
        )
        for kind in (Mart, Adversarial)
    )
    np.testing.assert_array_equal(one.images, other.images)


def test_answers_that_are_certain_and_wrong_have_a_finite_loss_and_gradient():
    images, labels = linear.batch()
    at = linear.model()
    bias = jnp.where(jnp.arange(linear.CLASSES) == (labels[0] + 1) % 4, 500.0, 0.0)
    at = at.with_params(at.params | {"bias": bias})
    objective = Mart(attack=ATTACK)
    result = linear.loss_and_gradient(objective, LinfBall(0.1), images, labels, at=at)
    chex.assert_tree_all_finite(result)


def test_betas_share_a_trace():
    images, labels = linear.batch()
    function = jax.jit(chex.assert_max_traces(linear.loss_and_gradient, n=1))
    losses = [
        float(
            function(Mart(attack=ATTACK, beta=beta), LinfBall(0.1), images, labels)[0]
        )
        for beta in (1.0, 3.0, 5.0)
    ]
    assert losses[0] < losses[1] < losses[2]


def test_a_negative_weight_is_refused():
    with pytest.raises(ValueError, match="`beta` must be in"):
        Mart(beta=-1.0)
