"""The engine on stages whose outcome is written in the images."""

import dataclasses
import itertools
import zlib
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrobust.attacks import AttackResult, with_restarts
from jaxrobust.data import Dataset
from jaxrobust.evaluation.engine import programs, run, sizes
from jaxrobust.evaluation.engine.builders import (
    numbers_by_radius,
    put_together,
    taken_apart,
)
from jaxrobust.evaluation.engine.plan import Plan, Stage
from jaxrobust.evaluation.engine.run import run_plan
from jaxrobust.pytrees import Pytree, static
from jaxrobust.threat import LinfBall

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


@dataclasses.dataclass(frozen=True)
class Reader(Pytree):
    """Breaks what the pixel `first + turn` says; a bad gradient too.

    The steps to the image that it finds say the turn and the radius.
    """

    first: int
    turns: int = static()
    index: int = 0

    def num_turns(self, num_classes):
        assert num_classes == 2
        return self.turns

    def turn(self, index):
        return dataclasses.replace(self, index=index)

    def __call__(self, threat):
        def attack(key, logits_fn, images, labels):
            del key, logits_fn, labels
            falls = images[:, 0, 0, self.first + self.index] <= threat.epsilon
            steps = jnp.full_like(images, threat.epsilon / 100)
            marks = images - steps.at[..., 0].set(self.index / 100)
            return AttackResult(marks, jnp.zeros(len(falls)), falls, ~falls)

        return attack


OFFSETS = (0, *itertools.accumulate(NUM_TURNS))
STAGES = tuple(
    Stage(f"stage{number}", Reader(OFFSETS[number], turns))
    for number, turns in enumerate(NUM_TURNS)
)


def plan_of(stages=STAGES, **changes):
    plan = Plan(tuple(stages), RADII, LinfBall, num_classes=2, batch_size=5)
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
@pytest.mark.slow
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
    stages = (Stage("only", Reader(0, num_turns)),)
    plan = plan_of(stages, epsilons=radii, batch_size=4, search="bisect")
    (tally,) = run_plan(lambda _: always_right, [()], written(limits), plan)
    np.testing.assert_array_equal(tally.num_robust[1], np.arange(num_radii + 1))
    most = np.ceil(np.log2(num_radii + 1)) * num_turns * len(limits)
    assert tally.num_attacks[0] <= most


@pytest.fixture
def sent(monkeypatch):
    """What each stage was sent: (stage, example, turn, radius) without padding."""
    found = []
    original = run._programs

    def recorded(*arguments):
        wanted = original(*arguments)

        def record(number, program):
            def attacked(key, weights, data, *items):
                found.extend((number, *item) for item in zip(*items[:3], strict=True))
                return program(key, weights, data, *items)

            return attacked

        wrapped = [
            attack._replace(program=record(number, attack.program))
            for number, attack in enumerate(wanted.attacks)
        ]
        return wanted._replace(attacks=tuple(wrapped))

    monkeypatch.setattr(run, "_programs", recorded)
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


def answering(_):
    return always_right


def tallies_of(plan, limits):
    """The tally after each bucket and stage."""
    found, buckets = [], run._buckets

    def noted(*arguments):
        for tally in buckets(*arguments):
            found.append(tally)
            yield tally

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "_buckets", noted)
        run_plan(answering, [()], written(limits), plan)
    return found


@settings(max_examples=6)
@given(limits=many_limits, batch_size=st.sampled_from([4, 13]))
def test_buckets_that_are_sent_ahead_are_those_that_would_be_sent(limits, batch_size):
    limits = np.float32(limits)
    for is_compact in (True, False):
        plan = plan_of(
            STAGES[:2], batch_size=batch_size, is_compact=is_compact, is_shared=True
        )
        ahead = tallies_of(plan, limits)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(run, "items_ahead", lambda *_: None)
            one_by_one = tallies_of(plan, limits)
        chex.assert_trees_all_equal(ahead, one_by_one)


def test_the_next_bucket_is_sent_before_the_last_is_waited_for(monkeypatch, tmp_path):
    events = []

    def noted(name):
        original = getattr(run, name)

        def call(*arguments):
            events.append((name, *arguments[-1].examples[:1].tolist()))
            return original(*arguments)

        monkeypatch.setattr(run, name, call)

    noted("_sent")
    noted("_received")
    data = written(np.full((9, 6), 0.9))
    plan = plan_of(STAGES[:1], epsilons=RADII[:1], batch_size=3)

    def stop(progress):
        raise KeyboardInterrupt

    def judged(**options):
        events.clear()
        options |= {"journal": tmp_path / "journal.npz"}
        (tally,) = run_plan(lambda _: always_right, [()], data, plan, **options)
        return tally

    with pytest.raises(KeyboardInterrupt):
        judged(progress=stop)
    assert events == [("_sent", 0), ("_sent", 3), ("_received", 0)]
    # What was on its way is in no journal, so it is sent once more.
    assert judged().num_attacks.tolist() == [9]
    later = [("_sent", 3), ("_sent", 6), ("_received", 3), ("_received", 6)]
    assert events == later
    # What may break an example is waited for before its next attack.
    plan = plan_of(STAGES[:1], epsilons=RADII[:2], batch_size=9)
    events.clear()
    run_plan(lambda _: always_right, [()], data, plan)
    assert events == [("_sent", 0), ("_received", 0)] * 2


def test_draws_depend_on_seed_stage_turn_and_example_alone():
    def drawing(threat):
        def attack(key, logits_fn, images, labels):
            del logits_fn
            falls = jax.random.uniform(key, (len(labels),)) < threat.epsilon
            return AttackResult(images, jnp.zeros(len(labels)), falls, ~falls)

        return attack

    data = written(np.zeros((40, 1)))
    twice = with_restarts(drawing, 2)
    first, second = Stage("first", twice), Stage("second", twice)

    def broken_by(*stages, **changes):
        plan = plan_of(stages, batch_size=7, is_compact=False, **changes)
        (tally,) = run_plan(lambda _: always_right, [()], data, plan)
        return tally.num_robust[-1]

    alone, other = broken_by(first), broken_by(second)
    assert np.any(alone != other)
    np.testing.assert_array_equal(broken_by(first, second), np.minimum(alone, other))
    np.testing.assert_array_equal(broken_by(second, first), np.minimum(alone, other))
    assert np.any(alone != broken_by(first, seed=1))
    # The key, by hand: seed, name, turn, example.
    seed_key = jax.random.key(0, impl="threefry2x32")
    streams = {"pgd": 0, "apgd-t": 2, "first": zlib.crc32(b"first")}
    for name, stream in streams.items():
        base = jax.random.fold_in(seed_key, stream) if stream else seed_key
        draws = [
            [
                jax.random.uniform(jax.random.fold_in(jax.random.fold_in(base, t), i))
                for t in range(2)
            ]
            for i in range(40)
        ]
        found = broken_by(Stage(name, twice))
        np.testing.assert_array_equal(found, radii_withstood(np.float32(draws)))


@settings(max_examples=6)
@given(limits=many_limits, batch_size=st.sampled_from([4, 13]))
@pytest.mark.slow
def test_the_image_that_is_kept_broke_the_example_at_the_smallest_radius(
    limits, batch_size
):
    limits = np.float32(limits)
    for changes in ({}, {"is_compact": False}, {"search": "bisect"}):
        plan = plan_of(batch_size=batch_size, keeps_images=True, **changes)
        (tally,) = run_plan(lambda _: always_right, [()], written(limits), plan)
        for example, row in enumerate(limits):
            breaks = [
                (place, number, turn)
                for place, radius in enumerate(np.float32(RADII))
                for number, turns in enumerate(NUM_TURNS)
                for turn in range(turns)
                if row[OFFSETS[number] + turn] <= radius
            ]
            if not breaks:
                assert tally.image_stage[example] == -1
                assert not tally.images[example].any()
                continue
            place, number, turn = min(breaks)
            assert tally.image_stage[example] == number
            expected = place * NUM_TURNS[number] + turn
            assert tally.image_place[example] == expected
            marks = row - tally.images[example, 0, 0]
            expected = [turn / 100, RADII[place] / 100]
            np.testing.assert_allclose(marks[:2], expected, atol=1e-6)


def test_images_that_nobody_asked_for_take_no_memory():
    (tally,) = run_plan(
        lambda _: always_right, [()], written(np.ones((4, 6))), plan_of()
    )
    assert tally.images.size == tally.image_stage.size == 0


@dataclasses.dataclass(frozen=True)
class Numbered(Pytree):
    """Breaks from a radius on that is a number of its own, by the radius attacked."""

    limit: float
    scale: float = 1.0
    kind: str = static(default="plain")

    def at(self, epsilon):
        return dataclasses.replace(self, scale=1.0 if epsilon < 0.25 else 0.0)

    def __call__(self, threat):
        def attack(key, logits_fn, images, labels):
            del key, logits_fn
            falls = jnp.full(len(labels), self.limit * self.scale <= threat.epsilon)
            return AttackResult(images, jnp.zeros(len(falls)), falls, ~falls)

        return attack


def test_numbers_of_a_builder_are_arguments_of_one_program():
    traced = []

    def apply(weights):
        def logits_fn(images):
            traced.append(images.shape)
            return always_right(images) * weights

        return logits_fn

    def withstood(**numbers):
        stages = (Stage("own", Numbered(**numbers)),)
        plan = plan_of(stages, is_shared=True)
        weights = [jnp.float32(1)]
        (tally,) = run_plan(apply, weights, written(np.ones((4, 1))), plan)
        return tally.num_robust[-1].tolist()

    # The third radius is the only one at which the scale is another one.
    assert withstood(limit=0.5) == [2] * 4
    before = len(traced)
    assert withstood(limit=0.15) == [1] * 4
    assert len(traced) == before
    assert withstood(limit=0.5, kind="other") == [2] * 4
    parts = [taken_apart(Numbered(limit=0.5, kind=kind)) for kind in ("plain", "other")]
    assert parts[0].structure != parts[1].structure
    assert parts[0].numbers == parts[1].numbers == (0.5, 1.0)
    varies, numbers = numbers_by_radius([Numbered(0.5, s) for s in (1.0, 0.0)])
    assert varies == (False, True)
    np.testing.assert_array_equal(numbers[1], np.float32([1, 0]))


def test_only_numbers_follow_the_radius():
    builds = [Numbered(0.5, kind=kind) for kind in ("one", "other")]
    with pytest.raises(ValueError, match="only numbers follow the radius, got 'numb"):
        numbers_by_radius(builds)


def test_settings_of_a_partial_are_structure_and_equal_ones_are_one():
    def own(threat, *, count=1, reach=None):
        return reach

    structure, functions, numbers = taken_apart(with_restarts(partial(own, count=3), 2))
    again = taken_apart(with_restarts(partial(own, count=3), 2))
    assert (structure, functions) == again[:2] and functions == (own,) and not numbers
    assert structure != taken_apart(with_restarts(partial(own, count=4), 2)).structure
    build = put_together(structure, functions, [])
    assert build == with_restarts(build.build, 2) and build.build.keywords["count"] == 3
    # What is not known by its value is known by what it is.
    odd = partial(own, reach=np.zeros(2))
    assert taken_apart(odd).functions == (odd,)


def test_calls_with_the_same_functions_share_their_programs():
    @chex.assert_max_traces(n=3)
    def apply(weights):
        return lambda images: always_right(images) * weights

    for seed in range(3):
        plan = plan_of(STAGES[:2], is_shared=True, seed=seed)
        run_plan(apply, [jnp.float32(1)], written(np.full((4, 6), 0.05)), plan)


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
    assert sizes.bucket_size(5000, 1e6, "cpu") == 128
    assert sizes.bucket_size(5000, 1e6, "gpu") == 2048
    assert sizes.bucket_size(300, 1e6, "tpu") == 512
    assert sizes.bucket_size(300, 1e9, "gpu") == 128
    assert sizes.bucket_size(5000, 1e12, "cpu") == 1
    assert sizes.bucket_size(0, 1.0, "cpu") == 256


def test_the_size_of_a_bucket_follows_the_kind_of_device():
    def size(kind, platform="gpu"):
        return sizes.bucket_size(300, 1e9, platform, kind)

    # 5 seconds at a twentieth of the peak are this many of 3e11 operations.
    peaks = {"NVIDIA A100-SXM4-80GB": 156e12, "NVIDIA H100 80GB HBM3": 495e12}
    peaks |= {"TPU v4": 275e12, "TPU v5 lite": 197e12, "TPU v6 lite": 918e12}
    for kind, peak in (peaks | dict.fromkeys(("TPU v5", "TPU v5p"), 459e12)).items():
        wanted = 5 * peak / 20 / 3e11
        assert size(kind) <= wanted < 2 * size(kind)
    assert size("NVIDIA GH200 480GB") == size("NVIDIA H200") == 256
    assert size("NVIDIA of the future") == size("") == 128
    # The same on all CPUs, whose numbers are then the same, too.
    assert size("cpu", "cpu") == size("AMD EPYC", "cpu") == size("", "cpu") == 2


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
    assert (last.attack, last.num_left) == ("stage1", 0)
    assert last.epsilons == RADII
    assert last.robust_accuracy == pytest.approx((2 / 3, 1 / 3, 1 / 3))
    for one, other in itertools.pairwise(each for each in seen if not each.model):
        shares = zip(one.robust_accuracy, other.robust_accuracy, strict=True)
        assert all(now <= before for before, now in shares)
