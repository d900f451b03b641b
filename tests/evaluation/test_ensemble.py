"""The standard ensemble on models small enough to know the answer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrobust.attacks import PGD, count_passes, with_restarts
from jaxrobust.attacks.builders import num_passes, num_turns, turn_of
from jaxrobust.data import Dataset
from jaxrobust.evaluation import evaluate, evaluate_models, standard_ensemble
from jaxrobust.evaluation.ensemble import STAGES
from jaxrobust.threat import L2Ball, LinfBall

# Enough for a linear model, few enough to be quick.
FEW = {"num_steps": 15, "num_queries": 30, "num_targets": 3}


def apply_linear(weights):
    def logits_fn(images):
        flat = images.reshape(len(images), -1)
        return flat @ weights["matrix"] + weights["offset"][None]

    return logits_fn


def linear_problem(num_classes, size=12, seed=0):
    """A linear model, data that it gets mostly right, and their distances in l_inf."""
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(9, num_classes))
    images = rng.uniform(0.35, 0.65, size=(size, 3, 3, 1))
    scores = images.reshape(size, 9) @ matrix
    offset = -np.median(scores, axis=0)
    scores = scores + offset
    labels = np.argmax(scores, axis=1)
    labels[0] = (labels[0] + 1) % num_classes
    gap = scores.max(axis=1)[:, None] - scores
    best = np.argmax(scores, axis=1)
    slope = np.abs(matrix[:, best, None] - matrix[:, None, :]).sum(axis=0)
    with np.errstate(invalid="ignore"):
        distance = np.nanmin(np.where(gap > 0, gap / slope, np.nan), axis=1)
    distance[0] = 0
    dataset = Dataset(
        name="linear",
        title="linear",
        images=images.astype(np.float32),
        labels=labels.astype(np.int32),
        num_classes=num_classes,
    )
    weights = {"matrix": jnp.float32(matrix), "offset": jnp.float32(offset)}
    return weights, dataset, distance


def radii_between(distance):
    """Radii that fall well between the examples' distances."""
    found = np.sort(distance[distance > 0])
    index = np.argsort(np.diff(np.log(found)))[-2:]
    return tuple(float(np.sqrt(found[i] * found[i + 1])) for i in sorted(index))


@functools.cache
def solved(num_classes):
    weights, dataset, distance = linear_problem(num_classes)
    radii = radii_between(distance)
    attacks = standard_ensemble(**FEW)
    (found,) = evaluate_models(apply_linear, [weights], dataset, attacks, radii)
    return dataset, distance, found


@pytest.mark.parametrize(
    "num_classes",
    [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 10, 100))],
)
def test_any_number_of_classes_gives_the_closed_form(num_classes):
    dataset, distance, found = solved(num_classes)
    assert found.attacks == STAGES[:4] and found.num_examples == len(dataset)
    assert found.num_bad_gradients == (0, 0, 0, 0)
    np.testing.assert_array_equal(found.is_clean_correct, distance > 0)
    for radius in found.epsilons:
        np.testing.assert_array_equal(found.at(radius), distance > radius)
    low, high = found.robust_accuracy
    assert 0 < high < low < 1
    # One target for two classes, nine turns at most.
    builds = standard_ensemble(**FEW).values()
    turns = [num_turns(build, num_classes) for build in builds]
    assert turns == [1, min(3, num_classes - 1), min(3, num_classes - 1), 1]


@pytest.mark.slow
def test_which_attack_broke_what_adds_up():
    *_, found = solved(10)
    np.testing.assert_array_equal(found.broken_by == -1, found.is_robust)
    np.testing.assert_array_equal((found.broken_by == -2)[0], ~found.is_clean_correct)
    counts = [np.sum(found.broken_by == index, axis=1) for index in range(4)]
    expected = found.clean_accuracy - np.cumsum(counts, axis=0) / found.num_examples
    np.testing.assert_allclose(found.robust_accuracy_after, expected)
    np.testing.assert_array_equal(
        found.robust_accuracy_after[-1], found.robust_accuracy
    )
    # Broken at a smaller radius is broken at the larger one.
    small, large = found.broken_by
    assert np.all(large[small >= 0] >= 0)
    assert found.num_attacks[0] >= found.is_clean_correct.sum()


def test_a_seed_gives_the_same_again_alone_and_in_a_list():
    weights, dataset, distance = linear_problem(3)
    attacks = standard_ensemble(stages=("apgd-ce", "square"), **FEW)
    options = {"attacks": attacks, "epsilons": radii_between(distance)}
    (found,) = evaluate_models(apply_linear, [weights], dataset, **options)
    again = evaluate(apply_linear(weights), dataset, **options)
    others = evaluate_models(
        apply_linear,
        [weights, jax.tree.map(jnp.zeros_like, weights)],
        dataset,
        **options,
    )
    for other in (again, others[0]):
        assert other.num_attacks == found.num_attacks
        np.testing.assert_array_equal(other.broken_by, found.broken_by)
    # The second model answers the first class to everything.
    is_first = dataset.labels == 0
    np.testing.assert_array_equal(others[1].is_clean_correct, is_first)


# Attacks that find something each, and not all of it.
WEAK = {
    "pgd": with_restarts(PGD(num_steps=1), 2),
    **standard_ensemble(num_steps=2, num_queries=6, stages=("apgd-ce", "square")),
}


def weakly(names, dataset, weights, batch_size):
    attacks = {name: WEAK[name] for name in names}
    radii = (0.02, 0.04)
    (found,) = evaluate_models(
        apply_linear, [weights], dataset, attacks, radii, batch_size=batch_size
    )
    return found


@settings(max_examples=4)
@given(
    names=st.permutations(["pgd", "apgd-ce", "square"]),
    batch_size=st.sampled_from([3, 8]),
    data=st.data(),
)
@pytest.mark.slow
def test_a_further_attack_can_only_lower_the_accuracy(names, batch_size, data):
    weights, dataset, distance = linear_problem(3, size=13, seed=1)
    count = data.draw(st.integers(1, len(names) - 1))
    some = weakly(names[:count], dataset, weights, batch_size)
    every = weakly(names[: count + 1], dataset, weights, 8)
    alone = weakly(names[count : count + 1], dataset, weights, batch_size)
    for radius in (0.02, 0.04):
        # Exactly those that withstand both, whatever the order and the buckets.
        both = some.at(radius) & alone.at(radius)
        np.testing.assert_array_equal(every.at(radius), both)
        assert np.all(distance[~every.at(radius)] <= radius * (1 + 1e-5))
        assert len(every.at(radius)) == 13


def test_the_second_call_compiles_nothing():
    weights, dataset, *_ = linear_problem(3)
    traced = []

    def apply(weights):
        traced.append(1)
        return apply_linear(weights)

    def judged(weights):
        attacks = standard_ensemble(stages=("apgd-ce", "square"), **FEW)
        evaluate_models(apply, [weights], dataset, attacks, [0.3], batch_size=12)

    judged(weights)
    first = len(traced)
    judged(jax.tree.map(lambda leaf: 2 * leaf, weights))
    assert 0 < first == len(traced)


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.slow
def test_the_stated_cost_is_about_the_measured_one(name):
    # Only chooses the size of a bucket, so a third more or less does no harm.
    weights, dataset, _ = linear_problem(4)
    (build,) = standard_ensemble(stages=(name,), num_steps=12, num_queries=40).values()
    stated = num_passes(build, 4)

    def measured(threat):
        spent = count_passes(
            turn_of(build, 0)(threat),
            apply_linear(weights),
            dataset.images[1:2],
            dataset.labels[1:2],
        )
        return spent.forward + 2 * spent.backward

    if name == "square":
        # Under linf it leaves out squares that change nothing; the start is one more.
        assert measured(L2Ball(0.001)) == stated + 1
        assert measured(LinfBall(0.001)) <= stated + 1
    else:
        passes = measured(LinfBall(0.001))
        assert passes / 1.5 <= stated <= passes * 1.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_steps": 0}, "`num_steps` must be at least 1, got 0"),
        ({"num_targets": 0}, "`num_targets` must be at least 1, got 0"),
        ({"num_queries": 0}, "`num_queries` must be at least 1, got 0"),
        ({"num_restarts": 0}, "`num_restarts` must be at least 1, got 0"),
        ({"stages": ("apgd",)}, "`stages` must be among apgd-ce, .*, got 'apgd'"),
        ({"stages": ()}, r"at least one attack, each named once, got \(\)"),
        ({"stages": ("square", "square")}, "use num_restarts"),
    ],
)
def test_wrong_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        standard_ensemble(**changes)


@pytest.mark.parametrize(
    ("norm", "message"),
    [
        ("l1", r"got 'fab-t', .*; in l1, `--attack apgd-ce fmn pdpgd pgd`"),
        ("l0", r"got 'apgd-ce', .*; in l0, `--attack fmn pdpgd sigma-zero pgd`"),
    ],
)
def test_a_norm_without_these_attacks_is_refused_before_the_model_is_asked(
    norm, message
):
    def logits_fn(images):
        raise AssertionError("nothing is computed")

    _, data, _ = linear_problem(2)
    with pytest.raises(ValueError, match=message):
        evaluate(logits_fn, data, standard_ensemble(), [1.0], norm=norm)
