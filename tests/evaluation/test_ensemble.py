"""The standard ensemble on models small enough to know the answer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrobust.attacks import count_passes
from jaxrobust.data import Dataset
from jaxrobust.evaluation import (
    EnsembleConfig,
    EvaluationConfig,
    evaluate_ensemble,
    evaluate_ensemble_models,
    evaluate_models,
    pgd_stage,
    standard_stages,
)
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
    config = EnsembleConfig(epsilons=radii_between(distance), **FEW)
    (found,) = evaluate_ensemble_models(apply_linear, [weights], dataset, config)
    return weights, dataset, distance, config, found


@pytest.mark.parametrize("num_classes", [2, 3, 10, 100])
def test_any_number_of_classes_gives_the_closed_form(num_classes):
    _, dataset, distance, config, found = solved(num_classes)
    assert found.stages == STAGES[:4] and found.num_examples == len(dataset)
    assert found.num_bad_gradients == 0
    np.testing.assert_array_equal(found.is_clean_correct, distance > 0)
    for radius in config.epsilons:
        np.testing.assert_array_equal(found.is_robust[radius], distance > radius)
    low, high = (found.robust_accuracy[radius] for radius in config.epsilons)
    assert 0 < high < low < 1
    # One target for two classes, nine turns at most.
    turns = [stage.num_turns for stage in standard_stages(config, num_classes)]
    assert turns == [1, min(3, num_classes - 1), min(3, num_classes - 1), 1]


def test_which_stage_broke_what_adds_up():
    *_, config, found = solved(10)
    row = found.as_row()
    for radius in config.epsilons:
        broken = found.broken_by[radius]
        np.testing.assert_array_equal(broken == -1, found.is_robust[radius])
        np.testing.assert_array_equal(broken == -2, ~found.is_clean_correct)
        left = [found.robust_accuracy_after[name][radius] for name in found.stages]
        counts = [np.sum(broken == index) for index in range(4)]
        expected = found.clean_accuracy - np.cumsum(counts) / found.num_examples
        np.testing.assert_allclose(left, expected)
        assert left[-1] == found.robust_accuracy[radius]
        assert row["stages"][-1]["robust_accuracy"][f"{radius:g}"] == left[-1]
    # Broken at a smaller radius is broken at the larger one.
    small, large = (found.broken_by[radius] for radius in config.epsilons)
    assert np.all(large[small >= 0] >= 0)
    assert [each["stage"] for each in row["stages"]] == list(STAGES[:4])
    assert row["stages"][0]["num_attacks"] >= found.is_clean_correct.sum()


def test_a_seed_gives_the_same_again_alone_and_in_a_list():
    weights, dataset, distance = linear_problem(3)
    config = EnsembleConfig(
        epsilons=radii_between(distance), stages=("apgd-ce", "square"), **FEW
    )
    (found,) = evaluate_ensemble_models(apply_linear, [weights], dataset, config)
    again = evaluate_ensemble(apply_linear(weights), dataset, config)
    others = evaluate_ensemble_models(
        apply_linear, [weights, jax.tree.map(jnp.zeros_like, weights)], dataset, config
    )
    for other in (again, others[0]):
        assert other.num_attacks == found.num_attacks
        for radius in config.epsilons:
            np.testing.assert_array_equal(
                other.broken_by[radius], found.broken_by[radius]
            )
    # The second model answers the first class to everything.
    is_first = dataset.labels == 0
    np.testing.assert_array_equal(others[1].is_clean_correct, is_first)


WEAK_PGD = EvaluationConfig(
    epsilons=(0.02, 0.04), num_steps=1, step_size=0.01, num_restarts=2
)


def weak_stages(num_classes=3):
    """Stages that find something each, and not all of it."""
    config = EnsembleConfig(num_steps=2, num_queries=6, stages=("apgd-ce", "square"))
    first, squares = standard_stages(config, num_classes)
    return {"pgd": pgd_stage(WEAK_PGD), "apgd-ce": first, "square": squares}


WEAK = weak_stages()


def weakly(names, dataset, weights, batch_size, **settings):
    config = EnsembleConfig(epsilons=(0.02, 0.04), batch_size=batch_size)
    (found,) = evaluate_ensemble_models(
        apply_linear,
        [weights],
        dataset,
        config,
        stages=[WEAK[name] for name in names],
        **settings,
    )
    return found


@settings(max_examples=4)
@given(
    names=st.permutations(["pgd", "apgd-ce", "square"]),
    batch_size=st.sampled_from([3, 8]),
    data=st.data(),
)
@pytest.mark.slow
def test_a_further_stage_can_only_lower_the_accuracy(names, batch_size, data):
    weights, dataset, distance = linear_problem(3, size=13, seed=1)
    count = data.draw(st.integers(1, len(names) - 1))
    some = weakly(names[:count], dataset, weights, batch_size)
    every = weakly(names[: count + 1], dataset, weights, 8)
    alone = weakly(names[count : count + 1], dataset, weights, batch_size)
    for radius in (0.02, 0.04):
        # Exactly those that withstand both, whatever the order and the buckets.
        both = some.is_robust[radius] & alone.is_robust[radius]
        np.testing.assert_array_equal(every.is_robust[radius], both)
        assert np.all(distance[~every.is_robust[radius]] <= radius * (1 + 1e-5))
        assert len(every.is_robust[radius]) == 13


def test_its_pgd_stage_is_the_pgd_evaluation():
    weights, dataset, _ = linear_problem(3, size=13, seed=1)
    (plain,) = evaluate_models(apply_linear, [weights], dataset, WEAK_PGD)
    staged = weakly(["pgd"], dataset, weights, 250)
    for radius, flags in plain.is_robust.items():
        np.testing.assert_array_equal(staged.is_robust[radius], flags)
    assert 0 < plain.robust_accuracy[0.04] < plain.clean_accuracy


def test_the_second_call_compiles_nothing():
    weights, dataset, *_ = linear_problem(3)
    traced = []

    def apply(weights):
        traced.append(1)
        return apply_linear(weights)

    config = EnsembleConfig(stages=("apgd-ce", "square"), batch_size=12, **FEW)
    evaluate_ensemble_models(apply, [weights], dataset, config)
    first = len(traced)
    scaled = jax.tree.map(lambda leaf: 2 * leaf, weights)
    same = EnsembleConfig(stages=("apgd-ce", "square"), batch_size=12, **FEW)
    evaluate_ensemble_models(apply, [scaled], dataset, same)
    assert 0 < first == len(traced)


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.slow
def test_the_stated_cost_is_about_the_measured_one(name):
    # Only chooses the size of a bucket, so a third more or less does no harm.
    weights, dataset, _ = linear_problem(4)
    config = EnsembleConfig(stages=(name,), num_steps=12, num_queries=40)
    (stage,) = standard_stages(config, 4)

    def measured(threat):
        spent = count_passes(
            stage.build(threat, 0),
            apply_linear(weights),
            dataset.images[1:2],
            dataset.labels[1:2],
        )
        return spent.forward + 2 * spent.backward

    if name == "square":
        # Under linf it leaves out squares that change nothing; the start is one more.
        assert measured(L2Ball(0.001)) == stage.num_passes + 1
        assert measured(LinfBall(0.001)) <= stage.num_passes + 1
    else:
        passes = measured(LinfBall(0.001))
        assert passes / 1.5 <= stage.num_passes <= passes * 1.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_steps": 0}, "`num_steps` must be at least 1, got 0"),
        ({"num_targets": 0}, "`num_targets` must be at least 1, got 0"),
        ({"num_queries": 0}, "`num_queries` must be at least 1, got 0"),
        ({"num_restarts": 0}, "`num_restarts` must be at least 1, got 0"),
        ({"batch_size": 0}, "`batch_size` must be at least 1, got 0"),
        ({"stages": ("apgd",)}, "`stages` must be among apgd-ce, .*, got 'apgd'"),
        ({"stages": ()}, r"at least one attack, each named once, got \(\)"),
        ({"stages": ("square", "square")}, "use num_restarts"),
        ({"norm": "l1"}, "`norm` must be one of linf, l2, got 'l1'"),
        ({"epsilons": (-0.1,)}, r"`epsilon` must be in \[0, inf\), got -0\.1"),
        ({"epsilons": (8.0,)}, "8/255 rather than 8"),
    ],
)
def test_wrong_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        EnsembleConfig(**changes)


def test_stages_that_cannot_be_told_apart_are_refused():
    weights, dataset, *_ = linear_problem(3)
    stage = WEAK["square"]
    with pytest.raises(ValueError, match="of different names"):
        evaluate_ensemble(
            apply_linear(weights), dataset, EnsembleConfig(), stages=[stage, stage]
        )
    with pytest.raises(ValueError, match="`num_classes` must be at least 2, got 1"):
        standard_stages(EnsembleConfig(), 1)
