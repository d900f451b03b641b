"""TRADES on a linear network, against its formula in float64."""

from functools import partial

import chex
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrobust.attacks import PGD, auto_pgd, fab, fgsm, with_restarts
from jaxrobust.networks import ModelConfig
from jaxrobust.threat import L2Ball, LinfBall
from jaxrobust.training import TrainConfig, adversarial, load_run, train
from jaxrobust.training.recipe.config_json import config_to_json
from jaxrobust.training.recipe.objectives import Standard, Trades
from tests.training.objectives import linear


def trades(**fields):
    return Trades(attack=PGD(num_steps=3, step_size=0.02), **fields)


def by_hand(images, found, labels, beta):
    clean, moved = linear.ByHand(images), linear.ByHand(found)
    log_ratio = np.log(clean.share) - np.log(moved.share)
    divergences = np.sum(clean.share * log_ratio, axis=1)
    loss = np.mean(clean.cross_entropies(labels) + beta * divergences)
    of_clean = clean.share * (log_ratio - divergences[:, None])
    gradient = linear.added(
        clean.gradient(clean.errors(labels) + beta * of_clean),
        moved.gradient(beta * (moved.share - clean.share)),
    )
    return loss, gradient, divergences


@pytest.mark.parametrize("beta", [0.0, 1.0, 6.0])
@pytest.mark.parametrize("threat", [LinfBall(0.05), L2Ball(0.2)])
def test_loss_and_gradient_are_those_of_the_formula(threat, beta):
    images, labels = linear.batch()
    objective = trades(beta=beta)
    found = objective.search(linear.KEY, linear.model(), threat, images, labels)
    result = linear.loss_and_gradient(objective, threat, images, labels)
    expected = by_hand(images, found.images, labels, beta)
    linear.assert_near(result, expected[:2])
    # The attack's own account of what it climbed.
    np.testing.assert_allclose(found.loss, expected[2], rtol=1e-3)


def test_without_steps_the_attack_stays_at_clean_images_with_little_noise():
    images, labels = linear.batch()
    objective = Trades(attack=PGD(num_steps=0))
    threat = LinfBall(0.3)
    found = objective.search(linear.KEY, linear.model(), threat, images, labels)
    moved = np.asarray(found.images - images)
    assert 0.0005 < moved.std() < 0.002


@pytest.mark.parametrize(
    "build",
    [
        PGD(num_steps=20, step_size=0.01),
        pytest.param(
            partial(auto_pgd, num_steps=20, loss="dlr"), marks=pytest.mark.slow
        ),
    ],
    ids=["pgd", "auto-pgd"],
)
def test_the_attack_ends_near_the_largest_divergence_in_the_ball(build):
    images, labels = linear.batch()
    threat = LinfBall(0.02)
    objective = Trades(attack=build)
    # From one start it may end at the lower one of two opposite corners.
    climbed = []
    for key in jax.random.split(linear.KEY, 8):
        found = objective.search(key, linear.model(), threat, images, labels)
        climbed.append(by_hand(images, found.images, labels, 1.0)[2])
    climbed = np.max(climbed, axis=0)
    # All corners of the ball, of which a convex function has its largest value at one.
    corners = np.stack(np.meshgrid(*[[-1, 1]] * 9), -1).reshape(-1, 9)
    best = []
    for image, label in zip(images, labels, strict=True):
        points = np.asarray(image, np.float64).reshape(1, 9) + 0.02 * corners
        same = np.broadcast_to(np.asarray(image).reshape(1, 9), points.shape)
        best.append(by_hand(same, points, np.full(len(points), label), 1.0)[2].max())
    assert np.all(climbed > 0.99 * np.array(best))


def test_a_builder_of_ones_own_climbs_the_divergence_in_place_of_its_loss():
    images, labels = linear.batch()

    def own(threat, *, loss="margin"):
        return PGD(num_steps=5, step_size=0.02)(threat, loss=loss)

    for build in (own, partial(fgsm, random_start=True, loss="dlr")):
        objective = Trades(attack=build)
        arguments = (linear.KEY, linear.model(), LinfBall(0.05), images, labels)
        found = objective.search(*arguments)
        expected = by_hand(images, found.images, labels, 1.0)[2]
        np.testing.assert_allclose(found.loss, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_an_epoch_with_another_builder(tmp_path):
    objective = Trades(attack=partial(auto_pgd, num_steps=2))
    phase = adversarial(0.1, 1, objective=objective)
    config = TrainConfig(
        train_size=96, batch_size=32, model=ModelConfig(name="linear"), phases=(phase,)
    )
    run = train(config, tmp_path / "run")
    (record,) = run.records
    assert 0 < record["adversarial_accuracy"] < 1 and np.isfinite(record["loss"])
    loaded = load_run(run.directory).config
    assert config_to_json(loaded) == config_to_json(run.config)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (fab, "must be a builder that takes `loss`, .* got 'fab'"),
        (with_restarts(PGD(), 2), "must be a builder that takes `loss`, .* got 'pgd'"),
        (lambda threat: PGD()(threat), "must be a builder that takes `loss`"),
        (fgsm, "must be one that begins beside .* give it random_start=True"),
        (partial(auto_pgd, random_start=False), "must be one that begins beside"),
        (3, "must be a builder, .* got 3"),
    ],
)
def test_an_attack_that_cannot_climb_it_is_refused(build, message):
    with pytest.raises(ValueError, match=f"`attack` {message}"):
        Trades(attack=build)


def test_at_radius_0_it_is_the_clean_cross_entropy():
    images, labels = linear.batch()
    found = linear.loss_and_gradient(trades(), LinfBall(0.0), images, labels)
    clean = linear.loss_and_gradient(Standard(), LinfBall(0.0), images, labels)
    linear.assert_near(found, clean, atol=1e-6)


def test_betas_share_a_trace():
    images, labels = linear.batch()
    function = jax.jit(chex.assert_max_traces(linear.loss_and_gradient, n=1))
    threat = LinfBall(0.05)
    losses = [
        function(trades(beta=beta), threat, images, labels) for beta in (1.0, 3.0, 6.0)
    ]
    values = [float(loss) for loss, _ in losses]
    assert values[0] < values[1] < values[2]


def test_what_is_seen_is_the_answer_under_attack():
    images, labels = linear.batch()
    threat = LinfBall(0.3)
    objective = Trades(attack=PGD(num_steps=5, step_size=0.1))
    found = objective.search(linear.KEY, linear.model(), threat, images, labels)
    _, seen = objective(linear.KEY, linear.model(), threat, images, labels)
    answers = linear.ByHand(found.images).share.argmax(axis=1)
    clean = linear.ByHand(images).share.argmax(axis=1)
    assert np.any(answers != clean)
    np.testing.assert_array_equal(seen.is_correct, answers == np.asarray(labels))


@settings(max_examples=15, deadline=None)
@given(st.floats(0, 1, width=32), st.floats(0, 0.5), st.integers(0, 9))
def test_images_trained_on_lie_in_the_ball_and_in_the_pixel_range(epsilon, noise, seed):
    images, labels = linear.batch(seed)
    threat = LinfBall(epsilon)
    objective = trades(noise=noise)
    found = objective.search(linear.KEY, linear.model(), threat, images, labels)
    moved = np.asarray(found.images, np.float64) - np.asarray(images, np.float64)
    assert np.abs(moved).max() <= epsilon
    assert found.images.min() >= 0 and found.images.max() <= 1


@pytest.mark.parametrize("field", ["beta", "noise"])
def test_a_negative_weight_is_refused(field):
    with pytest.raises(ValueError, match=f"`{field}` must be in"):
        Trades(**{field: -1.0})  # type: ignore
