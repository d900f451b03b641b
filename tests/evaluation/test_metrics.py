import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from jaxrobust.attacks import PGD, AttackResult
from jaxrobust.data import Dataset
from jaxrobust.evaluation import (
    Evaluation,
    accuracy_curve,
    accuracy_under_attack,
    minimal_epsilons,
    robustness_wrt_predictions,
    success_by_class,
    wilson_interval,
)


@given(
    trials=st.integers(1, 3000),
    share=st.floats(0, 1),
    confidence=st.sampled_from([0.5, 0.9, 0.95, 0.999]),
)
def test_the_wilson_interval_is_that_of_scipy(trials, share, confidence):
    successes = round(share * trials)
    test = stats.binomtest(successes, trials)
    expected = test.proportion_ci(confidence, method="wilson")
    found = wilson_interval(successes, trials, confidence=confidence)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    assert 0 <= found[0] <= successes / trials <= found[1] <= 1


def test_the_wilson_interval_of_a_textbook():
    # Newcombe, 1998, Statistics in Medicine 17, Table I: 81 of 263 and 0 of 20.
    np.testing.assert_allclose(wilson_interval(81, 263), (0.2553, 0.3662), atol=5e-5)
    np.testing.assert_allclose(wilson_interval(0, 20), (0.0, 0.1611), atol=5e-5)


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        ((1, 0), {}, "`trials` must be at least 1, got 0"),
        ((3, 2), {}, r"`successes` must be in \[0, 2\], got 3"),
        ((1, 2), {"confidence": 95}, "`confidence` must be in"),
    ],
)
def test_counts_out_of_range_are_refused(arguments, settings, message):
    with pytest.raises(ValueError, match=message):
        wilson_interval(*arguments, **settings)


def test_the_curve_counts_those_further_away():
    smallest = [0.0, 0.1, 0.2, 0.2, math.inf]
    curve = accuracy_curve(np.array(smallest), [0, 0.05, 0.1, 0.15, 0.2, 9])
    np.testing.assert_allclose(curve, [0.8, 0.8, 0.6, 0.6, 0.2, 0.2])


def flags(*values):
    return np.array(values, bool)


# Two classes; clean errors, survivors and losses in each.
IS_CORRECT = flags(1, 1, 1, 0, 1, 1, 0, 0)
IS_ROBUST = np.stack([flags(1, 1, 1, 0, 1, 0, 0, 0), flags(1, 0, 0, 0, 0, 0, 0, 0)])
FOUND = Evaluation(
    epsilons=(0.1, 0.2),
    is_clean_correct=IS_CORRECT,
    is_robust=IS_ROBUST,
    attacks=("own",),
    broken_by=np.where(IS_ROBUST, -1, np.where(IS_CORRECT, 0, -2)),
    num_attacks=(9,),
    num_passes=(9,),
    num_bad_gradients=(0,),
)
LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 2])


def test_success_is_counted_by_class():
    found = success_by_class(FOUND, LABELS, 0.2)
    assert list(found) == [0, 1, 2]
    counts = [(each.num_correct, each.num_broken) for each in found.values()]
    assert counts == [(3, 2), (2, 2), (0, 0)]
    assert found[0].share == pytest.approx(2 / 3) and math.isnan(found[2].share)
    assert found[0].interval() == wilson_interval(2, 3)
    assert found[2].interval() == (0.0, 1.0)
    with pytest.raises(ValueError, match=r"one of 0\.1, 0\.2, got 0\.3"):
        success_by_class(FOUND, LABELS, 0.3)
    with pytest.raises(
        ValueError, match=r"`labels` must be of shape \(8,\), got \(2,\)"
    ):
        success_by_class(FOUND, LABELS[:2], 0.1)


def test_both_definitions_of_accuracy_under_attack():
    assert accuracy_under_attack(FOUND, 0.1) == 4 / 8
    assert accuracy_under_attack(FOUND, 0.1, among_correct=True) == 4 / 5
    nothing = dataclasses.replace(FOUND, is_clean_correct=flags(*8 * [0]))
    assert math.isnan(accuracy_under_attack(nothing, 0.1, among_correct=True))


def line_problem(size=30):
    """A linear score of two classes, whose distances are known."""
    rng = np.random.default_rng(3)
    weights = rng.normal(size=4)
    images = rng.uniform(0.3, 0.7, size=(size, 2, 2, 1)).astype(np.float32)
    offset = -np.median(images.reshape(size, 4) @ weights)
    score = images.reshape(size, 4) @ weights + offset
    labels = (score < 0).astype(np.int32)
    labels[:4] = 1 - labels[:4]

    def logits_fn(pixels):
        total = pixels.reshape(pixels.shape[0], 4) @ jnp.asarray(weights, jnp.float32)
        return jnp.stack([total + offset, jnp.zeros_like(total)], axis=1)

    dataset = Dataset(
        name="line", title="line", images=images, labels=labels, num_classes=2
    )
    return logits_fn, dataset, np.abs(score), weights


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
def test_the_smallest_radius_of_a_linear_model_is_its_distance(norm, dual):
    logits_fn, dataset, distance, weights = line_problem()
    found = minimal_epsilons(logits_fn, dataset, norm=norm, batch_size=7)
    expected = distance / np.linalg.norm(weights, dual)
    expected[:4] = 0
    # Bounds of the pixels bind nowhere: the data lie in the middle of the range.
    assert expected.max() < 0.3
    np.testing.assert_allclose(found.epsilons, expected, rtol=0.02, atol=1e-3)
    assert np.all(found.epsilons >= expected * (1 - 1e-4))
    middle = np.sort(found.epsilons)[(len(dataset) - 1) // 2]
    assert found.median == pytest.approx(middle)
    assert found.curve([0.0])[0] == pytest.approx(26 / 30)


def test_batches_change_no_smallest_radius():
    logits_fn, dataset, *_ = line_problem(9)
    whole, ragged = (
        minimal_epsilons(logits_fn, dataset, batch_size=size) for size in (9, 4)
    )
    np.testing.assert_allclose(whole.epsilons, ragged.epsilons, rtol=1e-5)


def test_what_no_attack_can_break_is_infinitely_far():
    _, dataset, *_ = line_problem(5)

    def constant(images):
        return jnp.zeros((len(images), 2)).at[:, 0].set(1.0) + 0 * images.sum()

    found = minimal_epsilons(constant, dataset)
    np.testing.assert_array_equal(
        found.epsilons, np.where(dataset.labels == 0, np.inf, 0)
    )
    with pytest.raises(
        ValueError, match="`norm` must be one of linf, l2, l1, l0, got 'l7'"
    ):
        minimal_epsilons(constant, dataset, norm="l7")
    with pytest.raises(ValueError, match="`batch_size` must be at least 1, got 0"):
        minimal_epsilons(constant, dataset, batch_size=0)


def test_predictions_that_stay_count_right_or_wrong():
    logits_fn, dataset, distance, weights = line_problem()
    radii = (0.02, 0.05)
    found = robustness_wrt_predictions(logits_fn, dataset, PGD(num_steps=20), radii)
    assert found.clean_accuracy == 1
    for radius, stays in zip(radii, found.is_robust, strict=True):
        expected = distance > radius * np.abs(weights).sum()
        np.testing.assert_array_equal(stays, expected)
        assert 0 < expected.sum() < len(expected)


def test_the_key_of_an_example_does_not_depend_on_its_place_in_a_batch():
    # An attack that draws: the draw is the perturbation.
    _, dataset, *_ = line_problem(7)

    def drawing(threat):
        def attack(key, logits_fn, images, labels):
            del logits_fn
            yes = jnp.ones(len(labels), bool)
            moved = images + 0.1 * jax.random.uniform(key, images.shape)
            return AttackResult(threat.clip(moved), jnp.zeros(len(labels)), yes, yes)

        return attack

    def right(images):
        return jnp.zeros((len(images), 2))

    everywhere = [
        minimal_epsilons(right, dataset, attack=drawing, batch_size=size).epsilons
        for size in (2, 7)
    ]
    np.testing.assert_array_equal(*everywhere)
    # Ties go to the first class, so the others are lost on the clean image.
    is_first = dataset.labels == 0
    assert len({*everywhere[0][is_first]}) == is_first.sum() > 1
