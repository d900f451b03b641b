import itertools
import math
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from jaxrobust.theory.bernoulli import (
    bayes_error,
    l0_error,
    l0_threshold_errors,
    linf_error,
    log_bayes_error,
    log_l0_error,
    log_linf_error,
    sample,
)


@cache
def program(function, num_features):
    """The function for a number of features: one program for all other arguments."""
    return jax.jit(partial(function, num_features))


def best_of_all_labelings(num_features, advantage, reaches):
    """Smallest robust error of every function on the corners, by trying all of them.

    Args:
        num_features: at most 4, which has 65,536 labelings.
        advantage: of each feature.
        reaches: `(corners, corners)`, whether the adversary gets from one to the other.
    """
    corners = np.array(list(itertools.product([-1, 1], repeat=num_features)))
    agree = np.sum(corners == 1, axis=1)
    p = 0.5 + advantage
    mass = p**agree * (1 - p) ** (num_features - agree)
    count = len(corners)
    says_one = (np.arange(2**count)[:, None] >> np.arange(count) & 1).astype(np.float32)
    reaches = reaches.astype(np.float32)
    loses_one = (1 - says_one) @ reaches.T > 0
    loses_other = says_one @ reaches.T > 0
    return np.min(loses_one @ mass + loses_other @ mass[::-1]) / 2


def flips(num_features):
    """How many coordinates two corners differ in."""
    corners = np.array(list(itertools.product([-1, 1], repeat=num_features)))
    return np.sum(corners[:, None] != corners[None], axis=-1)


@pytest.mark.parametrize("advantage", [0.1, 0.3])
@pytest.mark.parametrize("num_features", [1, 3, 4])
def test_no_labeling_beats_the_l0_optimum(num_features, advantage):
    budgets = np.arange(num_features + 2)
    found = program(l0_error, num_features)(advantage, budgets)
    for budget, value in zip(budgets, found, strict=True):
        reaches = flips(num_features) <= budget
        best = best_of_all_labelings(num_features, advantage, reaches)
        assert float(value) == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize("num_features", [2, 3])
@pytest.mark.parametrize("epsilon", [0.0, 0.5, 0.99, 1.0, 1.5])
def test_no_labeling_of_signs_beats_the_linf_optimum(num_features, epsilon):
    # sign(x + delta) with sign(0) = +1: what a classifier of signs can be shown.
    corners = np.array(list(itertools.product([-1, 1], repeat=num_features)))
    can_be_one = corners + epsilon >= 0
    can_be_other = corners - epsilon < 0
    reaches = np.all(
        np.where(corners[None] == 1, can_be_one[:, None], can_be_other[:, None]),
        axis=-1,
    )
    best = best_of_all_labelings(num_features, 0.2, reaches)
    found = float(program(linf_error, num_features)(0.2, epsilon))
    assert found == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize("advantage", [0.02, 0.3, 0.45])
@pytest.mark.parametrize("num_features", [6, 51])
def test_the_bayes_error_is_half_of_what_the_classes_share(num_features, advantage):
    # Half of the sum of the smaller probability: for any two distributions.
    agree = np.arange(num_features + 1)
    masses = [
        stats.binom(num_features, 0.5 + sign * advantage).pmf(agree) for sign in (1, -1)
    ]
    expected = np.minimum(*masses).sum() / 2
    found = float(program(bayes_error, num_features)(advantage))
    assert found == pytest.approx(expected, rel=1e-5)


@given(advantage=st.floats(0.01, 0.49))
def test_an_even_number_of_features_is_as_good_as_one_less(advantage):
    even, odd = (program(bayes_error, count)(advantage) for count in (6, 5))
    np.testing.assert_allclose(even, odd, rtol=1e-4)


@pytest.mark.parametrize("num_features", [1000, 10_000])
def test_logarithms_do_not_underflow(num_features):
    # Where 10,000 features have an error near exp(-2236), float64 has 0.
    found = float(program(log_bayes_error, num_features)(0.3))
    agree = np.arange(num_features // 2 + 1)
    logs = (
        special.gammaln(num_features + 1)
        - special.gammaln(agree + 1)
        - special.gammaln(num_features - agree + 1)
        + agree * np.log(0.8)
        + (num_features - agree) * np.log(0.2)
    )
    logs[-1] -= np.log(2)
    assert found == pytest.approx(special.logsumexp(logs), rel=2e-6)
    assert num_features < 10_000 or found < math.log(np.nextafter(0, 1))


def test_ten_thousand_features_under_attack():
    budgets = np.array([0, 1000, 2000, 2900, 3100])
    found = np.asarray(program(log_l0_error, 10_000)(0.3, budgets))
    law = stats.binom(10_000, 0.8)
    thresholds = np.arange(10_000)
    for value, budget in zip(found, budgets, strict=True):
        up = law.logcdf(np.minimum(thresholds + budget, 10_000))
        down = law.logcdf(np.minimum(9_999 - thresholds + budget, 10_000))
        expected = min(np.min(np.logaddexp(up, down)), 0) + np.log(0.5)
        if np.isfinite(expected):
            assert value == pytest.approx(expected, rel=1e-5, abs=1e-4)
    bayes = float(program(log_bayes_error, 10_000)(0.3))
    assert found[0] == pytest.approx(bayes, rel=1e-6)
    assert np.all(np.diff(found) > 0)
    assert found[-1] == pytest.approx(np.log(0.5), rel=1e-6)


@pytest.fixture(scope="module")
def drawn():
    key = jax.random.key(3)
    draw = jax.jit(partial(sample, num_examples=20_000, num_features=8, advantage=0.2))
    points, labels = draw(key)
    return np.asarray(points), np.asarray(labels)


@pytest.mark.parametrize(("threshold", "budget"), [(4, 0), (3, 2), (6, 1), (8, 3)])
def test_a_threshold_rule_fails_on_a_sample_as_often_as_computed(
    threshold, budget, drawn, assert_share
):
    points, labels = drawn
    ones = np.sum(points == 1, axis=1)
    # The worst flips are all in one direction, as far as there are coordinates.
    shown = np.clip(ones - labels * budget, 0, 8)
    is_wrong = np.where(shown <= threshold, -1, 1) != labels
    errors = program(l0_threshold_errors, 8)(0.2, budget)
    assert_share(is_wrong, float(errors[threshold]))


def test_coordinates_agree_with_the_label_as_often_as_asked(drawn, assert_share):
    points, labels = drawn
    assert points.shape == (20_000, 8) and set(np.unique(points)) == {-1.0, 1.0}
    agrees = points == labels[:, None]
    assert_share(labels == 1, 0.5)
    for coordinate in range(8):
        assert_share(agrees[:, coordinate], 0.7)
    # Independent: three agree as often as the product says.
    assert_share(agrees[:, :3].all(axis=1), 0.7**3)


def printed(num_features, advantage, threshold, budget):
    """The formula as the paper has it, with the second sum for the last threshold."""
    law = stats.binom(num_features, 0.5 + advantage)
    first = law.cdf(threshold + budget)
    return (first + law.cdf(num_features - threshold + budget - 1)) / 2


def test_the_printed_formula_is_wrong_for_the_constant_rule(drawn):
    shown = [printed(4, 0.3, threshold, 1) for threshold in range(5)]
    found = np.asarray(program(l0_threshold_errors, 4)(0.3, 1))
    np.testing.assert_allclose(found[:4], shown[:4], rtol=1e-5)
    assert shown[4] == pytest.approx(0.5008)
    # The last rule answers -1 whatever it is shown: wrong on one class exactly.
    _, labels = drawn
    lost = [np.mean(labels[labels == label] != -1) for label in (-1, 1)]
    assert lost == [0, 1] and found[4] == np.mean(lost)


def test_the_printed_minimum_exceeds_one_half_where_a_constant_has_it():
    minimum = min(printed(50, 0.3, threshold, 26) for threshold in range(51))
    assert minimum == pytest.approx(0.5000010, abs=1e-7) and minimum > 0.5
    errors = np.asarray(program(l0_error, 50)(0.3, np.arange(27)))
    assert errors[15] < 0.49 and np.all(errors[16:] <= 0.5)
    np.testing.assert_allclose(errors[16:], 0.5, rtol=1e-6)


@given(advantage=st.floats(0.01, 0.49), budget=st.integers(0, 9))
def test_rules_come_in_mirrored_pairs(advantage, budget):
    errors, more = np.asarray(
        program(l0_threshold_errors, 8)(advantage, np.array([budget, budget + 1]))
    )
    np.testing.assert_allclose(errors[:8], errors[:8][::-1], rtol=1e-5)
    assert np.all((errors > 0) & (errors <= 1 + 1e-6))
    assert np.all(more >= errors * (1 - 1e-6))


def test_a_budget_beyond_all_coordinates_changes_nothing():
    found = program(l0_error, 3)(0.4, np.array([3, 4, 5, 6, 1000]))
    np.testing.assert_allclose(found, 0.5, rtol=1e-6)


@pytest.mark.parametrize(
    "budget",
    [
        2**31 - 1,
        2**31,
        10**30,
        np.int64(2**40),
        np.array([2**31 - 1, 2**63 - 1]),
        np.uint64(2**64 - 1),
        np.int8(127),
        jnp.int32(2**31 - 1),
        jnp.uint32(2**32 - 1),
        jnp.int8(127),
    ],
    ids=repr,
)
def test_no_budget_is_too_large(budget):
    np.testing.assert_allclose(l0_error(150, 0.3, budget), 0.5, rtol=1e-6)


def test_a_traced_budget_may_be_the_largest_there_is():
    found = program(l0_error, 50)(0.3, jnp.int32([0, 50, 2**31 - 1]))
    np.testing.assert_allclose(found, [1.29363e-6, 0.5, 0.5], rtol=1e-5)


@pytest.mark.parametrize("num_features", [3, 10_000])
def test_the_logarithm_for_linf_steps_at_one(num_features):
    epsilons = np.array([0, 0.99, 1, 50])
    found = program(log_linf_error, num_features)(0.3, epsilons)
    bayes = program(log_bayes_error, num_features)(0.3)
    np.testing.assert_allclose(found, [bayes, bayes, *2 * [np.log(0.5)]], rtol=1e-6)


def exact_log_bayes_error(num_features, advantage):
    """In float64, the even case as that of one feature less."""
    agree = np.arange((num_features + 1) // 2)
    count = num_features - (num_features % 2 == 0)
    good, bad = np.log(0.5 + advantage), np.log(0.5 - advantage)
    logs = (
        agree * good
        + (count - agree) * bad
        - special.betaln(agree + 1, count - agree + 1)
    )
    return special.logsumexp(logs - np.log(count + 1))


@pytest.mark.exact
@pytest.mark.parametrize("num_features", [1, 50, 1001, 10_000])
def test_logarithms_are_as_exact_as_said(num_features):
    advantages = np.linspace(0.005, 0.499, 100)
    found = np.asarray(program(log_bayes_error, num_features)(advantages))
    exact = [exact_log_bayes_error(num_features, each) for each in advantages]
    np.testing.assert_allclose(found, exact, rtol=5e-6)


def test_arrays_give_the_values_of_their_entries():
    advantages, budgets = np.array([0.1, 0.2, 0.3]), np.array([0, 1, 1])
    found = program(l0_error, 4)(advantages, budgets)
    pairs = zip(advantages, budgets, strict=True)
    single = (program(l0_error, 4)(t, np.arange(6))[budget] for t, budget in pairs)
    np.testing.assert_allclose(found, list(single), rtol=1e-6)
    shape = jax.eval_shape(program(l0_threshold_errors, 4), 0.1, budgets.reshape(3, 1))
    assert shape.shape == (3, 1, 5)


@pytest.mark.exact
def test_in_float64_the_sums_are_exact_to_its_last_digits():
    with jax.enable_x64(True):
        found = float(jax.jit(partial(bayes_error, 51))(0.3))
    exact = stats.binom(51, 0.8).cdf(25)
    assert found == pytest.approx(exact, rel=1e-12)
