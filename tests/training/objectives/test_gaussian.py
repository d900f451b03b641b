"""Training under Gaussian noise on a linear network, against formulas in float64."""

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxrobust.networks import Network, Variables
from jaxrobust.threat import LinfBall
from jaxrobust.training import SweepConfig, TrainConfig, standard
from jaxrobust.training.recipe.config_json import config_from_json, config_to_json
from jaxrobust.training.recipe.model import Model
from jaxrobust.training.recipe.objectives import Gaussian, LabelSmoothing, Standard
from tests.training.objectives import linear

THREAT = LinfBall(0.0)


def seen_pixels(sigma, images, key=linear.KEY, threat=THREAT):
    """The images that a network is trained on: one whose logits are its pixels."""

    def apply(variables, images, *, train, key):
        return images.reshape(len(images), -1), variables

    model = Model(Network(linear.init, apply), Variables({}, {}))
    labels = jnp.zeros(len(images), int)
    _, seen = Gaussian(sigma=sigma)(key, model, threat, images, labels)
    return np.asarray(seen.logits, np.float64).reshape(images.shape)


def test_noise_is_normal_and_another_one_for_every_pixel():
    images = jnp.full((400, *linear.SHAPE), 0.25)
    noise = (seen_pixels(0.5, images) - 0.25) / 0.5
    assert stats.kstest(noise.ravel(), "norm").pvalue > 0.01
    # Neither the pixels of an image nor the images share their noise.
    assert len(np.unique(noise)) > 0.99 * noise.size
    between = np.corrcoef(noise.reshape(400, -1).T)
    assert np.abs(between - np.eye(9)).max() < 5 / np.sqrt(400)
    assert np.mean(noise * 0.5 + 0.25 < 0) > 0.2, "noise is cut"


def test_noise_is_that_of_the_key_whatever_the_radius():
    images, _ = linear.batch()
    first = seen_pixels(0.5, images)
    np.testing.assert_array_equal(first, seen_pixels(0.5, images, threat=LinfBall(0.3)))
    assert not np.allclose(first, seen_pixels(0.5, images, key=jax.random.key(8)))


def test_loss_and_gradient_are_those_of_the_cross_entropy_of_noisy_images():
    images, labels = linear.batch()
    there = linear.ByHand(seen_pixels(0.5, images))
    expected = there.cross_entropies(labels).mean()
    result = linear.loss_and_gradient(Gaussian(sigma=0.5), THREAT, images, labels)
    linear.assert_near(result, (expected, there.gradient(there.errors(labels))))


@pytest.mark.parametrize("is_smoothed", [False, True])
def test_without_noise_it_is_standard_training(is_smoothed):
    images, labels = linear.batch()

    def result(objective):
        around = LabelSmoothing(objective=objective) if is_smoothed else objective
        return linear.loss_and_gradient(around, THREAT, images, labels)

    found, clean = result(Gaussian(sigma=0.0)), result(Standard())
    linear.assert_near(found, clean, atol=1e-6)


def test_deviations_share_a_trace():
    images, labels = linear.batch()
    function = jax.jit(chex.assert_max_traces(linear.loss_and_gradient, n=1))
    losses = {
        float(function(Gaussian(sigma=sigma), THREAT, images, labels)[0])
        for sigma in (0.25, 0.5, 1.0)
    }
    assert len(losses) == 3


def test_deviations_are_swept_and_written_by_name():
    phase = standard(1, objective=Gaussian(sigma=0.5))
    sweep = SweepConfig(
        base=TrainConfig(dataset="digits", phases=(phase,)),
        over={"objective.sigma": (0.25, 1.0)},
    )
    members = sweep.members()
    assert [each.name for each in members] == ["sigma0.25", "sigma1"]
    for each, sigma in zip(members, (0.25, 1.0), strict=True):
        record = json.loads(json.dumps(config_to_json(each.config)))
        (read,) = config_from_json(TrainConfig, record).phases
        assert read.objective == Gaussian(sigma=sigma)


@pytest.mark.parametrize("sigma", [-0.1, float("nan")])
def test_a_deviation_out_of_range_is_refused(sigma):
    with pytest.raises(ValueError, match=r"`sigma` must be in \[0, inf\)"):
        Gaussian(sigma=sigma)
