"""GradAlign on a linear network, whose input gradients are a formula."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.threat import LinfBall
from jaxrobust.training.recipe.objectives import Fast, GradAlign, Standard
from tests.training.objectives import linear


def penalty(params, images, others, labels):
    def gradients(points):
        logits = points.reshape(len(points), -1) @ params["kernel"]
        share = jax.nn.softmax(logits + params["bias"][None])
        return (share - jax.nn.one_hot(labels, linear.CLASSES)) @ params["kernel"].T

    here, there = gradients(images), gradients(others)
    lengths = jnp.linalg.norm(here, axis=1) * jnp.linalg.norm(there, axis=1)
    return 1 - jnp.mean(jnp.sum(here * there, axis=1) / lengths)


@pytest.mark.parametrize("inner", [Standard(), Fast()])
@pytest.mark.parametrize(
    "weight",
    [0.2, *(pytest.param(each, marks=pytest.mark.slow) for each in (0.0, 10.0))],
)
def test_loss_and_gradient_are_those_of_the_formula(inner, weight):
    images, labels = linear.batch()
    threat = LinfBall(0.5)
    objective = GradAlign(objective=inner, weight=weight)
    result = linear.loss_and_gradient(objective, threat, images, labels)
    others = threat.sample(jax.random.fold_in(linear.KEY, 5), images)
    params = linear.model().params
    added, slope = jax.value_and_grad(penalty)(params, images, others, labels)
    assert added > 1e-3
    loss, gradient = linear.loss_and_gradient(inner, threat, images, labels)
    slope = jax.tree.map(lambda one, two: one + weight * two, gradient, slope)
    linear.assert_near(result, (loss + weight * added, slope), atol=1e-4)


def test_at_radius_0_nothing_is_added():
    images, labels = linear.batch()
    result = linear.loss_and_gradient(GradAlign(), LinfBall(0.0), images, labels)
    clean = linear.loss_and_gradient(Standard(), LinfBall(0.0), images, labels)
    linear.assert_near(result, clean, atol=1e-5)


def test_gradients_of_zeros_add_nothing_and_do_no_harm():
    images, labels = linear.batch()
    at = linear.model()
    at = at.with_params(jax.tree.map(jnp.zeros_like, at.params))
    arguments = (LinfBall(0.1), images, labels)
    result = linear.loss_and_gradient(GradAlign(weight=10.0), *arguments, at=at)
    chex.assert_tree_all_finite(result)
    np.testing.assert_allclose(result[0], np.log(linear.CLASSES), rtol=1e-5)


def test_weights_share_a_trace():
    images, labels = linear.batch()
    function = jax.jit(chex.assert_max_traces(linear.loss_and_gradient, n=1))
    losses = [
        float(function(GradAlign(weight=weight), LinfBall(0.5), images, labels)[0])
        for weight in (0.2, 1.0, 5.0)
    ]
    assert losses[0] < losses[1] < losses[2]


def test_a_negative_weight_is_refused():
    with pytest.raises(ValueError, match="`weight` must be in"):
        GradAlign(weight=-1.0)
