"""Label smoothing on a linear network, against smoothed labels in float64."""

import chex
import jax
import numpy as np
import pytest

from jaxrobust.attacks import PGD
from jaxrobust.threat import LinfBall
from jaxrobust.training.recipe.objectives import (
    AWP,
    Adversarial,
    LabelSmoothing,
    Standard,
    Trades,
)
from tests.training.objectives import linear

PGD_3 = PGD(num_steps=3, step_size=0.05)
THREAT = LinfBall(0.1)


def smoothed(points, labels, amount):
    """What smoothing adds to the loss and to its gradient."""
    there = linear.ByHand(points)
    hard = np.eye(linear.CLASSES)[np.asarray(labels)]
    moved = amount * (1 / linear.CLASSES - hard)
    added = -np.sum(moved * np.log(there.share), axis=1).mean()
    return added, there.gradient(-moved)


@pytest.mark.parametrize("amount", [0.0, 0.1, 1.0])
def test_standard_training_has_the_cross_entropy_with_smoothed_labels(amount):
    images, labels = linear.batch()
    objective = LabelSmoothing(objective=Standard(), amount=amount)
    there = linear.ByHand(images)
    hard = np.eye(linear.CLASSES)[np.asarray(labels)]
    soft = (1 - amount) * hard + amount / linear.CLASSES
    loss = -np.sum(soft * np.log(there.share), axis=1).mean()
    result = linear.loss_and_gradient(objective, THREAT, images, labels)
    linear.assert_near(result, (loss, there.gradient(there.share - soft)))


@pytest.mark.parametrize("kind", [Adversarial, Trades])
def test_only_the_cross_entropy_is_smoothed(kind):
    images, labels = linear.batch()
    inner = kind(attack=PGD_3)
    found = inner.search(linear.KEY, linear.model(), THREAT, images, labels).images
    # TRADES has the cross-entropy on clean images.
    added, slope = smoothed(images if kind is Trades else found, labels, 0.3)
    loss, gradient = linear.loss_and_gradient(inner, THREAT, images, labels)
    objective = LabelSmoothing(objective=inner, amount=0.3)
    result = linear.loss_and_gradient(objective, THREAT, images, labels)
    linear.assert_near(result, (loss + added, linear.added(gradient, slope)))


def test_weights_are_perturbed_by_the_smoothed_loss_if_smoothing_is_within():
    images, labels = linear.batch()
    within = AWP(objective=LabelSmoothing(objective=Standard(), amount=1.0), gamma=0.1)
    before = linear.ByHand(images)
    # All labels are even, so the gradient is that of even shares.
    slope = before.gradient(before.share - 1 / linear.CLASSES)["kernel"]
    length = 0.1 * np.linalg.norm(before.kernel)
    kernel = before.kernel + length * slope / np.linalg.norm(slope)
    there = linear.ByHand(images, {"kernel": kernel, "bias": before.bias})
    loss = -np.log(there.share).mean()
    gradient = there.gradient(there.share - 1 / linear.CLASSES)
    result = linear.loss_and_gradient(within, THREAT, images, labels)
    linear.assert_near(result, (loss, gradient))


def test_an_objective_without_logits_is_refused():
    def silent(key, model, threat, images, labels):
        loss, seen = Standard()(key, model, threat, images, labels)
        return loss, seen._replace(logits=None)

    images, labels = linear.batch()
    with pytest.raises(ValueError, match="`objective` must be one that gives Seen"):
        linear.loss_and_gradient(
            LabelSmoothing(objective=silent), THREAT, images, labels
        )


def test_amounts_share_a_trace():
    images, labels = linear.batch()
    function = jax.jit(chex.assert_max_traces(linear.loss_and_gradient, n=1))
    losses = {
        float(
            function(
                LabelSmoothing(objective=Standard(), amount=amount),
                THREAT,
                images,
                labels,
            )[0]
        )
        for amount in (0.1, 0.2, 0.3)
    }
    assert len(losses) == 3


def test_an_amount_above_1_is_refused():
    with pytest.raises(ValueError, match="`amount` must be in"):
        LabelSmoothing(amount=1.5)
