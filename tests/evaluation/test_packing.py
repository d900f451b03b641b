"""The engine on stages whose outcome is written in the images."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrobust.attacks import AttackResult
from jaxrobust.data import Dataset
from jaxrobust.evaluation import packing, programs
from jaxrobust.evaluation.packing import Plan, Stage, run_plan

RADII = (0.1, 0.2, 0.3)
NUM_TURNS = (1, 3, 2)


def written(limits):
    """Images whose pixels say from which radius on each stage and turn breaks them."""
    limits = np.asarray(limits, np.float32)
    return Dataset(
        name="written",
        title="written",
        images=limits.reshape(len(limits), 1, 1, -1),
        labels=np.zeros(len(limits), np.int32),
        num_classes=2,
    )


def always_right(images):
    count = len(images)
    return jnp.stack([jnp.ones(count), jnp.zeros(count)], axis=1)


def reader(first):
    """A stage that breaks what the pixel `first + turn` says; a bad gradient too."""

    def build(threat, turn):
        def attack(key, logits_fn, images, labels):
            del key, logits_fn, labels
            falls = images[:, 0, 0, first + turn] <= threat.epsilon
            return AttackResult(images, jnp.zeros(len(falls)), falls, ~falls)

        return attack

    return build


OFFSETS = (0, *itertools.accumulate(NUM_TURNS))
STAGES = tuple(
    Stage(f"stage{number}", turns, reader(OFFSETS[number]))
    for number, turns in enumerate(NUM_TURNS)
)


def plan_of(stages=STAGES, **changes):
    plan = Plan(tuple(stages), RADII, "linf", seed=0, batch_size=5)
    return plan._replace(**changes)


def radii_withstood(limits):
    """By hand: radii of the list below the smallest that breaks."""
    return np.sum(np.min(limits, axis=1)[:, None] > np.float32(RADII), axis=1)


many_limits = st.lists(
    st.lists(
        st.sampled_from([0.05, 0.1, 0.15, 0.25, 0.9]),
        min_size=OFFSETS[-1],
        max_size=OFFSETS[-1],
    ),
    # Two sizes, since each is compiled.
    min_size=13,
    max_size=13,
) | st.just([[0.15] * 6])


@settings(max_examples=10)
@given(limits=many_limits, batch_size=st.sampled_from([4, 13]), order=st.data())
def test_every_stage_leaves_what_the_definition_says(limits, batch_size, order):
    limits = np.float32(limits)
    chosen = order.draw(st.permutations(range(3)))
    stages = [STAGES[index] for index in chosen]
    ways = ({}, {"is_compact": False}, {"search": "bisect"})
    for changes in ways:
        plan = plan_of(stages, batch_size=batch_size, **changes)
        (tally,) = run_plan(lambda _: always_right, [()], written(limits), plan)
        seen = []
        for after, index in enumerate(chosen, start=1):
            seen += range(OFFSETS[index], OFFSETS[index + 1])
            expected = radii_withstood(limits[:, seen])
            np.testing.assert_array_equal(tally.num_robust[after], expected)
        if changes == {"search": "bisect"}:
            continue
        # A break is a bad gradient here; each counts until the example has fallen.
        falls = np.diff(tally.num_robust, axis=0) < 0
        np.testing.assert_array_equal(tally.num_bad, falls.sum(axis=1))


@pytest.mark.parametrize("num_turns", [1, 2])
@pytest.mark.parametrize("num_radii", [1, 2, 7, 8])
def test_bisection_takes_the_logarithm_of_the_attacks(num_radii, num_turns):
    radii = tuple(0.1 * number for number in range(1, num_radii + 1))
    # Falls below the first radius, between any two, and never; in the last turn.
    edges = np.float32([0.05 + 0.1 * number for number in range(num_radii + 1)])
    limits = np.ones((len(edges), num_turns), np.float32)
    limits[:, -1] = edges
    stages = (Stage("only", num_turns, reader(0)),)
    plan = Plan(stages, radii, "linf", 0, batch_size=4, search="bisect")
    (tally,) = run_plan(lambda _: always_right, [()], written(limits), plan)
    np.testing.assert_array_equal(tally.num_robust[1], np.arange(num_radii + 1))
    most = np.ceil(np.log2(num_radii + 1)) * num_turns * len(limits)
    assert tally.num_attacks[0] <= most


@pytest.fixture
def sent(monkeypatch):
    """What each stage was sent: (stage, example, turn, radius) without padding."""
    found = []
    original = packing._programs

    def recorded(*arguments):
        wanted = original(*arguments)

        def record(number, program):
            def attacked(key, weights, data, *items):
                found.extend((number, *item) for item in zip(*items[:3], strict=True))
                return program(key, weights, data, *items)

            return attacked

        wrapped = [record(*pair) for pair in enumerate(wanted.attacked)]
        return wanted._replace(attacked=tuple(wrapped))

    monkeypatch.setattr(packing, "_programs", recorded)
    return found


def test_a_later_stage_sees_only_what_is_still_robust(sent):
    # Broken at .2 by the first stage, at .1 by the second, by none.
    limits = np.full((3, OFFSETS[-1]), 0.9, np.float32)
    limits[0, 0], limits[1, 2] = 0.15, 0.05
    plan = plan_of(batch_size=1)
    (tally,) = run_plan(lambda _: always_right, [()], written(limits), plan)
    faced = {
        (stage, example): {float(np.float32(r)) for *_, r in group}
        for (stage, example), group in itertools.groupby(
            sorted((s, int(e), int(t), r) for s, e, t, r in sent), lambda item: item[:2]
        )
    }
    radii = [float(np.float32(radius)) for radius in RADII]
    assert faced[0, 0] == set(radii[:2])
    assert faced[1, 0] == faced[2, 0] == {radii[0]}
    assert faced[1, 1] == {radii[0]} and (2, 1) not in faced
    assert faced[2, 2] == set(radii)
    assert tally.num_attacks.tolist() == [8, 14, 8]
    assert len(sent) == len(set(sent)) == 30


def test_draws_depend_on_seed_stage_turn_and_example_alone():
    def drawing(threat, turn):
        del turn

        def attack(key, logits_fn, images, labels):
            del logits_fn
            falls = jax.random.uniform(key, (len(labels),)) < threat.epsilon
            return AttackResult(images, jnp.zeros(len(labels)), falls, ~falls)

        return attack

    data = written(np.zeros((40, 1)))
    first, second = Stage("first", 2, drawing), Stage("second", 2, drawing)

    def broken_by(*stages, **changes):
        plan = plan_of(stages, batch_size=7, is_compact=False, **changes)
        (tally,) = run_plan(lambda _: always_right, [()], data, plan)
        return tally.num_robust[-1]

    alone, other = broken_by(first), broken_by(second)
    assert np.any(alone != other)
    np.testing.assert_array_equal(broken_by(first, second), np.minimum(alone, other))
    np.testing.assert_array_equal(broken_by(second, first), np.minimum(alone, other))
    assert np.any(alone != broken_by(first, seed=1))
    # The key, by hand: seed, stage, turn, example.
    base = jax.random.fold_in(jax.random.key(0, impl="threefry2x32"), 7)
    draws = [
        [
            jax.random.uniform(jax.random.fold_in(jax.random.fold_in(base, turn), i))
            for turn in range(2)
        ]
        for i in range(40)
    ]
    fixed = broken_by(first._replace(stream=7))
    np.testing.assert_array_equal(fixed, radii_withstood(np.float32(draws)))


def test_calls_with_the_same_functions_share_their_programs():
    @chex.assert_max_traces(n=3)
    def apply(weights):
        return lambda images: always_right(images) * weights

    for seed in range(3):
        plan = plan_of(STAGES[:2], is_shared=True, seed=seed)
        run_plan(apply, [jnp.float32(1)], written(np.zeros((4, 6))), plan)


def test_a_model_without_weights_may_change_between_calls():
    scale = 1.0

    def changing(images):
        return always_right(images) * scale

    plan = plan_of(STAGES[:1])
    data = written(np.full((4, 6), 0.9))
    (right,) = run_plan(lambda _: changing, [()], data, plan)
    scale = -1.0
    (wrong,) = run_plan(lambda _: changing, [()], data, plan)
    assert right.is_correct.all() and not wrong.is_correct.any()


def test_the_size_of_a_bucket_follows_the_work_and_nothing_else():
    # A power of two that takes about five seconds; never none, never too many.
    assert programs.bucket_size(5000, 1e6, "cpu") == 128
    assert programs.bucket_size(5000, 1e6, "gpu") == 2048
    assert programs.bucket_size(300, 1e9, "gpu") == 128
    assert programs.bucket_size(5000, 1e12, "cpu") == 1
    assert programs.bucket_size(0, 1.0, "cpu") == 256


def test_the_work_of_a_model_is_counted():
    def apply(weights):
        return lambda images: images.reshape(len(images), -1) @ weights

    weights = np.zeros((60, 7), np.float32)
    images = np.zeros((3, 5, 4, 3), np.uint8)
    # Two operations for each weight, and two or three for each byte.
    found = programs.counting_program(lambda: apply)(weights, images)
    assert 2 * 420 <= found <= 2 * 420 + 4 * 60


def test_each_finished_radius_of_each_stage_is_told_once():
    limits = np.full((3, OFFSETS[-1]), 0.9, np.float32)
    limits[0, 0], limits[1, 2] = 0.15, 0.05
    told, seen = [], []
    run_plan(
        lambda _: always_right,
        [(), ()],
        written(limits),
        plan_of(STAGES[:2], batch_size=2),
        report=told.append,
        progress=seen.append,
    )
    lines = [
        "stage0, epsilon 0.1: robust accuracy 100.00%",
        "stage0, epsilon 0.2: robust accuracy 66.67%",
        "stage0, epsilon 0.3: robust accuracy 66.67%",
        "stage1, epsilon 0.1: robust accuracy 66.67%",
        "stage1, epsilon 0.2: robust accuracy 33.33%",
        "stage1, epsilon 0.3: robust accuracy 33.33%",
    ]
    names = ("model 1 of 2, ", "model 2 of 2, ")
    assert told == [name + line for name in names for line in lines]
    assert [each.model for each in seen] == sorted(each.model for each in seen)
    last = seen[-1]
    assert (last.stage, last.num_left) == ("stage1", 0)
    assert last.robust_accuracy == pytest.approx({0.1: 2 / 3, 0.2: 1 / 3, 0.3: 1 / 3})
    for one, other in itertools.pairwise(each for each in seen if not each.model):
        shares = zip(*(x.robust_accuracy.values() for x in (one, other)), strict=True)
        assert all(now <= before for before, now in shares)
