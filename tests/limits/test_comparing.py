"""A model beside the limits: where each number comes from, and the rules between."""

import dataclasses
import math

import numpy as np
import pytest

from jaxrobust.concentration import estimate_l2
from jaxrobust.data import Dataset, as_float, load_arrays, subset
from jaxrobust.evaluation import Evaluation
from jaxrobust.limits import best_possible, compare
from jaxrobust.limits.comparison import require_comparison
from jaxrobust.theory import optimal_robust_classifier

EPSILON = 0.2


@pytest.fixture(scope="module")
def splits():
    return subset(load_arrays("digits", "train"), 300), load_arrays("digits", "test")


def evaluation(test, clean_error, adversarial_error):
    count = len(test)
    is_correct = np.arange(count) >= clean_error * count
    is_robust = np.arange(count) >= adversarial_error * count
    broken_by = np.where(is_robust, -1, np.where(is_correct, 0, -2))
    counts = (1,), (1,), (0,)
    return Evaluation(
        (EPSILON,), is_correct, is_robust[None], ("own",), broken_by[None], *counts
    )


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_limits_are_those_of_the_models_own_error(norm, splits):
    train, test = splits
    found = compare(
        evaluation(test, 0.05, 0.4),
        *splits,
        epsilon=EPSILON,
        norm=norm,
        num_regions=5,
        num_restarts=2,
        num_optimum=100,
    )
    model, concentration, optimum = found.as_rows()
    assert model["risk"] == pytest.approx(0.05) == found.estimate.alpha
    assert model["adversarial_risk"] == pytest.approx(0.4)
    assert found.estimate.mean("train").risk >= 0.05
    assert concentration["risk"] <= concentration["adversarial_risk"]
    part = subset(train, 100)
    points = np.asarray(as_float(part.images)).reshape(100, -1)
    direct = optimal_robust_classifier(points, part.labels, norm=norm, epsilon=EPSILON)
    assert optimum["adversarial_risk"] == direct.lower_bound
    if norm == "l2":
        alone = estimate_l2(
            train.images, test.images, epsilon=EPSILON, alpha=0.05, num_balls=5
        )
        assert alone.test == found.estimate.test


def test_a_faultless_model_is_taken_for_the_least_fault(splits):
    found = compare(
        evaluation(splits[1], 0.0, 0.0),
        *splits,
        epsilon=EPSILON,
        norm="l2",
        num_regions=2,
        num_optimum=0,
    )
    assert found.estimate.alpha == 1 / len(splits[1])
    assert found.clean_error == 0.0 and found.optimum is None
    assert len(found.as_rows()) == 2


def test_every_region_has_the_models_risk(splits):
    # The second of the first two restarts leaves 14 of 300 points, 0.047.
    found = compare(
        evaluation(splits[1], 0.05, 0.4),
        *splits,
        epsilon=EPSILON,
        num_regions=5,
        num_restarts=2,
        num_optimum=0,
    )
    assert len(found.estimate.train) == 2
    for risks in found.estimate.train:
        assert risks.risk >= 0.05 - 1e-9


def test_few_examples_have_fewer_neighbors(splits):
    train, test = splits
    found = compare(
        evaluation(test, 0.1, 0.2),
        subset(train, 40),
        test,
        epsilon=EPSILON,
        num_regions=2,
        num_restarts=1,
        num_optimum=0,
    )
    assert found.estimate.settings["num_neighbors"] == 40


def test_a_radius_that_was_not_evaluated_is_refused(splits):
    with pytest.raises(ValueError, match=r"`epsilon` must be one of 0\.2, got 0\.3"):
        compare(evaluation(splits[1], 0.1, 0.2), *splits, epsilon=0.3)


def test_examples_that_contradict_each_other_cannot_all_be_robust():
    images = np.zeros((4, 1, 1, 1), np.uint8)
    images[2:] = 255
    labels = np.array([0, 1, 1, 1], np.int32)
    dataset = dataclasses.replace(
        load_arrays("digits", "test"), images=images, labels=labels, num_classes=2
    )
    assert isinstance(dataset, Dataset)
    # The two black ones differ in their label; from 1/2 on all balls meet in gray.
    for epsilon, error in ((0.0, 0.25), (0.4, 0.25), (0.5, 0.25)):
        assert best_possible(dataset, epsilon=epsilon).robust_error == error
    dataset = dataclasses.replace(dataset, labels=np.array([0, 0, 1, 1], np.int32))
    assert best_possible(dataset, epsilon=0.49).robust_error == 0.0
    assert best_possible(dataset, epsilon=0.5).robust_error == 0.5


@pytest.mark.parametrize(
    ("norm", "apart", "meeting"),
    # Three of four coordinates differ, by 1 each.
    [("l0", 1, 2), ("l1", 1.49, 1.5), ("l2", 0.86, 0.87), ("linf", 0.49, 0.5)],
)
def test_two_images_conflict_from_half_their_distance_on(norm, apart, meeting):
    images = np.zeros((2, 2, 2, 1), np.uint8)
    images[1].flat[:3] = 255
    dataset = dataclasses.replace(
        load_arrays("digits", "test"), images=images, labels=np.array([0, 1], np.int32)
    )
    assert best_possible(dataset, epsilon=apart, norm=norm).robust_error == 0.0
    assert best_possible(dataset, epsilon=meeting, norm=norm).robust_error == 0.5


def test_bad_numbers_are_refused(splits):
    message = "`norm` must be one of linf, l2, l1, l0, got 'l3'"
    with pytest.raises(ValueError, match=message):
        best_possible(splits[0], epsilon=0.1, norm="l3")
    with pytest.raises(ValueError, match="`num_examples` must be at least 1, got 0"):
        best_possible(splits[0], epsilon=0.1, num_examples=0)


@pytest.fixture
def idle(monkeypatch):
    """Nothing is computed."""
    for name in ("estimate_linf", "estimate_l2", "optimal_robust_classifier", "subset"):
        monkeypatch.setattr(
            f"jaxrobust.limits.comparison.{name}",
            lambda *_, **__: pytest.fail("computed before everything was checked"),
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"norm": "l1", "num_optimum": 0}, "`norm` must be one of linf, l2, got 'l1'"),
        ({"num_regions": 0}, "`num_regions` must be at least 1, got 0"),
        ({"num_regions": -1, "norm": "l2"}, "`num_regions` must be at least 1"),
        ({"num_regions": 301}, r"`num_regions` must be in \[1, 300\], got 301"),
        ({"num_restarts": 0}, "`num_restarts` must be at least 1, got 0"),
        ({"num_optimum": -5}, "`num_optimum` must be at least 0, got -5"),
        ({"time_limit": 0}, r"`time_limit` must be in \(0, inf\], got 0"),
        ({"time_limit": math.nan}, r"`time_limit` must be in \(0, inf\], got nan"),
        ({"epsilon": -0.1}, r"`epsilon` must be in \[0, inf\), got -0.1"),
        ({"epsilon": math.nan}, r"`epsilon` must be in \[0, inf\), got nan"),
    ],
)
def test_a_comparison_is_checked_before_anything_is_computed(
    arguments, message, splits, idle
):
    arguments = {"epsilon": EPSILON} | arguments
    with pytest.raises(ValueError, match=message):
        require_comparison(splits[0], **arguments)
    with pytest.raises(ValueError, match=message):
        compare(evaluation(splits[1], 0.1, 0.2), *splits, **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epsilon": math.inf}, r"`epsilon` must be in \[0, inf\), got inf"),
        ({"time_limit": -1}, r"`time_limit` must be in \(0, inf\], got -1"),
    ],
)
def test_an_optimum_is_checked_before_anything_is_computed(
    arguments, message, splits, idle
):
    with pytest.raises(ValueError, match=message):
        best_possible(splits[0], **{"epsilon": EPSILON} | arguments)
