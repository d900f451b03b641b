"""Randomized smoothing against closed forms, sums of binomials and tests of scipy."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.tree_util import Partial
from scipy import stats

from jaxrobust.bounds import (
    ABSTAINED,
    Smoothing,
    clopper_pearson,
    smoothed_prediction,
    smoothing,
)

SHAPE, SIGMA = (2, 3, 1), 0.5
rng = np.random.default_rng(5)
NORMAL = rng.normal(size=6)
NORMAL /= np.linalg.norm(NORMAL)


def half_space(normal, images):
    """Class 1 where the distance from the plane through 1/2 is positive, class 0 else.

    There is a third class that never wins.
    """
    distance = (images - 0.5).reshape(len(images), -1) @ normal
    return jnp.stack([jnp.zeros_like(distance), distance, distance - 1], axis=1)


LOGITS_FN = Partial(half_space, jnp.asarray(NORMAL, jnp.float32))


def at_distances(distances):
    """Images whose distances from the plane are these."""
    return (0.5 + np.outer(distances, NORMAL)).reshape(-1, *SHAPE).astype(np.float32)


DISTANCES = np.array([-1.2, -0.6, -0.3, -0.1, 0.05, 0.2, 0.4, 0.7, 0.9, 1.5])
LABELS = (DISTANCES > 0).astype(int)


@pytest.fixture(scope="module")
def certified():
    images = at_distances(DISTANCES)
    return smoothing(LOGITS_FN, images, LABELS, SIGMA, num_samples=10_000)


def test_certified_radii_come_near_the_true_ones_and_never_exceed_them(certified):
    # The smoothed classifier is the half-space, so the plane is what is certified.
    truth = np.abs(DISTANCES)
    assert np.all(certified.radius <= truth)
    np.testing.assert_array_equal(certified.classes, LABELS)
    # Shares near 1 cannot be told from it by so many draws.
    inner = truth < 2 * SIGMA
    assert np.all(certified.radius[inner] > 0.9 * truth[inner] - 0.03)
    assert np.all(certified.radius <= SIGMA * stats.norm.ppf(0.001**1e-4) + 1e-12)


def test_votes_are_shares_of_the_normal_distribution(certified):
    expected = stats.norm.cdf(DISTANCES / SIGMA)
    for votes, count in ((certified.votes, 10_000), (certified.selecting_votes, 100)):
        np.testing.assert_array_equal(votes.sum(axis=1), count)
        assert not votes[:, 2].any()
        spread = np.sqrt(expected * (1 - expected) / count)
        # Five standard errors, of twenty numbers.
        assert np.all(np.abs(votes[:, 1] / count - expected) < 5 * spread + 1 / count)


def test_the_radius_grows_towards_the_true_one_with_the_number_of_draws():
    images, labels = at_distances([0.3, 0.6]), [1, 1]
    radii = [
        smoothing(LOGITS_FN, images, labels, SIGMA, num_samples=count).radius
        for count in (100, 1000, 30_000)
    ]
    assert np.all(np.diff(radii, axis=0) > 0)
    np.testing.assert_allclose(radii[-1], [0.3, 0.6], rtol=0.06)


def test_every_draw_is_another_one():
    # The same noise for two batches, or for two examples, would change the variance.
    images = np.repeat(at_distances([0.0]), 300, axis=0)
    found = smoothing(
        LOGITS_FN, images, np.zeros(300, int), SIGMA, num_samples=400, batch_size=50
    )
    variance = found.votes[:, 0].var()
    # Its standard error is about 100 * sqrt(2 / 300).
    assert variance == pytest.approx(100, abs=33)
    together = np.corrcoef(found.selecting_votes[:, 0], found.votes[:, 0])[0, 1]
    assert abs(together) < 5 / np.sqrt(300)


@pytest.mark.parametrize("batch_size", [7, 64, 5000])
def test_votes_are_independent_of_batches_and_of_the_other_examples(batch_size):
    images, chosen = at_distances(DISTANCES), np.array([6, 3])
    whole = smoothing(LOGITS_FN, images, LABELS, SIGMA, num_samples=500)
    part = smoothing(
        LOGITS_FN,
        images[chosen],
        LABELS[chosen],
        SIGMA,
        num_samples=500,
        batch_size=batch_size,
        indices=chosen,
    )
    for field, values in part._asdict().items():
        np.testing.assert_array_equal(values, getattr(whole, field)[chosen])


def test_the_class_is_selected_by_draws_of_its_own():
    # Were it that of most votes, they could not be taken for a sample of its share.
    images = np.repeat(at_distances([0.05]), 40, axis=0)
    found = smoothing(
        LOGITS_FN, images, np.ones(40, int), SIGMA, num_selection=1, num_samples=200
    )
    selected = found.selecting_votes.argmax(axis=1)
    assert np.any(selected != found.votes.argmax(axis=1))
    expected = clopper_pearson(found.votes[np.arange(40), selected], 200, 0.001)
    np.testing.assert_array_equal(found.lowest_share, expected)


def test_another_seed_draws_other_noise(certified):
    images = at_distances(DISTANCES)
    other = smoothing(LOGITS_FN, images, LABELS, SIGMA, seed=1)
    assert np.any(other.votes != certified.votes)


def test_models_and_deviations_share_a_program():
    images, batches = at_distances([0.4]), []

    def traced(normal, images):
        batches.append(len(images))
        return half_space(normal, images)

    found = []
    for sign, sigma in ((1.0, 0.25), (1.0, 0.5), (-1.0, 0.5)):
        model = Partial(traced, jnp.asarray(sign * NORMAL, jnp.float32))
        found.append(smoothing(model, images, [1], sigma))
    assert batches.count(250) == 1
    assert found[0].radius[0] != found[1].radius[0]
    assert [each.classes[0] for each in found] == [1, 1, 0]
    assert [each.is_correct[0] for each in found] == [True, True, False]


def test_a_plain_function_may_change_between_two_calls():
    images, sign = at_distances([0.4]), [1.0]

    def logits_fn(images):
        return half_space(sign[0] * NORMAL, images)

    found = []
    for sign[0] in (1.0, -1.0):
        found.append(smoothing(logits_fn, images, [1], 0.25).classes[0])
    assert found == [1, 0]


def test_an_abstention_is_never_right(certified):
    # On the plane no class has a share above a half.
    images = at_distances([0.0, 0.0])
    found = smoothing(LOGITS_FN, images, [0, 1], SIGMA)
    np.testing.assert_array_equal(found.classes, ABSTAINED)
    assert not found.is_correct.any() and not found.radius.any()
    assert found.certified_accuracy([0.0])[0] == 0 and found.average_radius == 0
    assert np.all(found.lowest_share <= 0.5)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_answers_that_are_not_finite_are_votes_for_no_class(value):
    def logits_fn(images):
        logits = half_space(NORMAL, images)
        is_odd = images[:, 0, 0, 0] > 0.5
        return jnp.where(is_odd[:, None] & (jnp.arange(3) == 1)[None], value, logits)

    images = np.full((1, *SHAPE), 0.5, np.float32)
    found = smoothing(logits_fn, images, [1], SIGMA, num_samples=1000)
    # Half of the noise is odd; of the rest no class has all.
    assert 400 < found.votes.sum() < 600
    assert found.classes[0] == ABSTAINED
    assert smoothed_prediction(logits_fn, images, SIGMA).votes.sum() < 600


def test_results_say_their_forms_in_a_line(certified):
    assert repr(certified).startswith(
        "Smoothing(classes=int64[10], is_correct=bool[10]"
    )
    assert "\n" not in repr(certified)


def test_certified_accuracy_counts_all_examples_strictly_beyond_the_radius():
    radius = np.array([0.5, 0.5, 1.0, 0.0])
    right = np.array([True, False, True, False])
    classes, votes = np.array([1, 1, 0, ABSTAINED]), np.zeros((4, 2), int)
    found = Smoothing(classes, right, radius, radius, votes, votes)
    accuracy = found.certified_accuracy([0.0, 0.4, 0.5, 1.0])
    np.testing.assert_array_equal(accuracy, [0.5, 0.5, 0.25, 0.0])
    assert found.average_radius == (0.5 + 1.0) / 4
    with pytest.raises(ValueError, match=r"`radii` must be in \[0, inf\)"):
        found.certified_accuracy([-0.1])


def upper_tail(successes, trials, share):
    """Probability of as many successes or more."""
    return math.fsum(
        math.comb(trials, count) * share**count * (1 - share) ** (trials - count)
        for count in range(successes, trials + 1)
    )


@pytest.mark.parametrize("trials", [1, 2, 13])
@pytest.mark.parametrize("alpha", [0.001, 0.05, 0.5])
def test_the_bound_is_the_share_with_that_upper_tail(trials, alpha):
    bounds = clopper_pearson(np.arange(trials + 1), trials, alpha)
    assert bounds[0] == 0
    assert bounds[-1] == pytest.approx(alpha ** (1 / trials))
    for successes in range(1, trials + 1):
        tail = upper_tail(successes, trials, bounds[successes])
        assert tail == pytest.approx(alpha, rel=1e-9)


@settings(max_examples=50)
@given(
    trials=st.integers(1, 60), share=st.floats(0, 1), alpha=st.sampled_from([0.01, 0.2])
)
def test_the_bound_exceeds_the_share_with_probability_alpha_at_most(
    trials, share, alpha
):
    bounds = clopper_pearson(np.arange(trials + 1), trials, alpha)
    chances = stats.binom.pmf(np.arange(trials + 1), trials, share)
    assert chances[bounds > share].sum() <= alpha + 1e-9


def test_predictions_are_those_of_the_exact_test():
    images = at_distances(np.linspace(-0.3, 0.3, 13))
    found = smoothed_prediction(LOGITS_FN, images, SIGMA, num_samples=300, alpha=0.05)
    expected = []
    for first, second, _ in found.votes:
        chance = stats.binomtest(int(first), int(first + second)).pvalue
        expected.append(int(second > first) if chance <= 0.05 else ABSTAINED)
    np.testing.assert_array_equal(found.classes, expected)
    assert {*found.classes} == {0, 1, ABSTAINED}


def test_predictions_draw_other_noise_than_certificates():
    images = np.repeat(at_distances([0.1]), 100, axis=0)
    options = {"num_samples": 200}
    votes = smoothed_prediction(LOGITS_FN, images, SIGMA, **options).votes[:, 0]
    labels = np.zeros(100, int)
    certified = smoothing(
        LOGITS_FN, images, labels, SIGMA, num_selection=1, **options
    ).votes[:, 0]
    assert abs(np.corrcoef(votes, certified)[0, 1]) < 0.5


def test_a_model_of_one_class_is_certain():
    images = at_distances([0.1])
    found = smoothed_prediction(lambda images: images[:, 0, 0], images, SIGMA)
    assert found.classes[0] == 0


def test_bytes_are_pixels_in_the_unit_interval():
    pixels = np.full((1, *SHAPE), 153, np.uint8)
    found, expected = (
        smoothing(LOGITS_FN, images, [1], SIGMA, num_samples=100)
        for images in (pixels, pixels.astype(np.float32) / 255)
    )
    np.testing.assert_array_equal(found.votes, expected.votes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sigma": 0.0}, r"`sigma` must be in \(0, inf\), got 0.0"),
        ({"sigma": np.array([0.1, 0.2])}, r"`sigma` must be of shape \(\)"),
        ({"alpha": 1.0}, r"`alpha` must be in \(0, 1\)"),
        ({"num_samples": 0}, "`num_samples` must be at least 1"),
        ({"num_selection": 0}, "`num_selection` must be at least 1"),
        ({"batch_size": 0}, "`batch_size` must be at least 1"),
        ({"labels": [3]}, "`labels` must be classes of the model, from 0 to 2"),
        ({"labels": [0, 1]}, "`labels` must be one class for each image"),
        ({"indices": [0, 1]}, "`indices` must be one"),
        ({"images": np.zeros((0, *SHAPE)), "labels": np.zeros(0, int)}, "`images` mus"),
        ({"logits_fn": lambda images: images}, "`logits_fn` must be a function from"),
    ],
)
def test_wrong_arguments_are_refused(changes, message):
    arguments = {
        "logits_fn": LOGITS_FN,
        "images": at_distances([0.1]),
        "labels": [1],
        "sigma": SIGMA,
    }
    with pytest.raises(ValueError, match=message):
        smoothing(**arguments | changes)


def test_images_that_are_other_integers_are_refused():
    images = np.zeros((1, *SHAPE), np.int32)
    with pytest.raises(TypeError, match="`images` must be floats in"):
        smoothing(LOGITS_FN, images, [1], SIGMA)
