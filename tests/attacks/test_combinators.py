import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrobust.attacks import (
    PGD,
    AttackResult,
    aimed,
    auto_pgd,
    fgsm,
    judge,
    over_targets,
    pgd,
    randomized,
    transferred_from,
    with_restarts,
    worst_of,
)
from jaxrobust.attacks.base import better, nothing_found
from jaxrobust.attacks.builders import (
    builder_name,
    described,
    num_passes,
    num_turns,
    settled,
    turn_of,
)
from jaxrobust.losses import margin
from jaxrobust.threat import LinfBall


def result(images, loss, is_adversarial):
    count = len(loss)
    return AttackResult(
        jnp.full((count, 1), images),
        jnp.asarray(loss),
        jnp.asarray(is_adversarial),
        jnp.ones(count, bool),
    )


def test_success_comes_before_loss_and_ties_keep_the_first():
    first = result(1.0, [0.9, 0.5, 0.1, 0.3], [False, False, True, True])
    second = result(2.0, [0.8, 0.7, 9.0, 0.3], [True, False, False, True])
    chosen = better(first, second)
    np.testing.assert_array_equal(chosen.images[:, 0], [2.0, 2.0, 1.0, 1.0])
    np.testing.assert_array_equal(chosen.is_adversarial, [True, False, True, True])


def test_anything_improves_on_nothing():
    found = result(2.0, [-5.0], [False])
    assert float(better(nothing_found(jnp.ones((1, 1))), found).images[0, 0]) == 2.0


def test_a_number_for_a_whole_batch_is_no_result():
    found = nothing_found(jnp.ones((2, 1)))
    with pytest.raises(AssertionError, match="assert_equal_shape"):
        better(found, found._replace(loss=jnp.float32(1)))


def test_a_loss_that_is_no_number_is_never_preferred():
    first, second = result(1.0, [0.1], [False]), result(2.0, [jnp.nan], [False])
    assert float(better(first, second).images[0, 0]) == 1.0


def test_restarts_equal_the_best_of_single_runs(linear_problem, key):
    build, threat = PGD(step_size=0.03, num_steps=1), LinfBall(0.05)
    single = build(threat)
    found = with_restarts(build, 4)(threat)(
        key, linear_problem.logits_fn, *linear_problem[2:]
    )
    runs = [
        single(
            jax.random.fold_in(key, index),
            linear_problem.logits_fn,
            *linear_problem[2:],
        )
        for index in range(4)
    ]
    is_adversarial = np.any([run.is_adversarial for run in runs], axis=0)
    np.testing.assert_array_equal(found.is_adversarial, is_adversarial)
    losses = np.asarray([run.loss for run in runs])
    success = np.asarray([run.is_adversarial for run in runs])
    eligible = np.where(success == is_adversarial, losses, -np.inf)
    np.testing.assert_allclose(found.loss, eligible.max(axis=0), rtol=1e-5)
    assert losses.std(axis=0).max() > 0


def test_at_least_one_restart_is_asked_for():
    with pytest.raises(ValueError, match="`num_restarts` must be at least 1"):
        with_restarts(PGD(num_steps=1), 0)


@pytest.mark.parametrize(
    ("logits", "label", "is_wrong", "is_target"),
    [
        ([1.0, 2.0], 1, False, True),
        ([2.0, 1.0], 1, True, False),
        ([1.0, 1.0], 0, False, True),
        ([1.0, 1.0], 1, True, False),
        ([np.nan, 1.0], 0, True, False),
        ([np.nan, 1.0], 1, True, False),
    ],
)
def test_judgement(logits, label, is_wrong, is_target):
    logits, labels = jnp.asarray([logits]), jnp.asarray([label])
    assert bool(judge(logits, labels)[0]) == is_wrong
    assert bool(judge(logits, labels, must_hit=True)[0]) == is_target


def test_the_worst_of_attacks_equals_the_best_of_single_runs(linear_problem, key):
    threat = LinfBall(0.05)
    builds = [
        PGD(step_size=0.03, num_steps=1, loss="margin"),
        PGD(step_size=0.02, num_steps=2, loss="margin"),
    ]
    parts = [build(threat) for build in builds]
    found = worst_of(*builds)(threat)(
        key, linear_problem.logits_fn, *linear_problem[2:]
    )
    runs = [
        part(
            jax.random.fold_in(key, index),
            linear_problem.logits_fn,
            *linear_problem[2:],
        )
        for index, part in enumerate(parts)
    ]
    for run in runs:
        assert np.all(found.is_adversarial >= run.is_adversarial)
    # Margins tell success, so the worst is the largest.
    expected = np.max([run.loss for run in runs], axis=0)
    np.testing.assert_allclose(found.loss, expected, rtol=1e-5)
    assert np.any(expected != runs[0].loss) and np.any(expected != runs[1].loss)


def fixed(images, loss, is_adversarial, is_finite):
    """A builder whose attack answers as it is told."""
    return lambda _: lambda *_: AttackResult(images, loss, is_adversarial, is_finite)


@given(data=st.data())
@settings(max_examples=25)
def test_the_worst_is_never_weaker_than_a_part(data):
    def flags():
        return jnp.asarray(data.draw(st.lists(st.booleans(), min_size=3, max_size=3)))

    number = st.floats(-5, 5, width=32)
    parts = [
        fixed(
            jnp.full((3, 1), float(index)),
            jnp.asarray(data.draw(st.lists(number, min_size=3, max_size=3))),
            flags(),
            flags(),
        )
        for index in range(3)
    ]
    images, labels = jnp.zeros((3, 1)), jnp.zeros(3, jnp.int32)
    found = worst_of(*parts)(None)(jax.random.key(0), None, images, labels)
    for part in parts:
        alone = part(None)()
        assert np.all(found.is_adversarial >= alone.is_adversarial)
        same = np.asarray(found.is_adversarial == alone.is_adversarial)
        assert np.all((found.loss >= alone.loss)[same])
        assert np.all(found.is_gradient_finite <= alone.is_gradient_finite)
    chosen = np.asarray(found.images[:, 0]).astype(int)
    losses = np.asarray([part(None)().loss for part in parts])
    np.testing.assert_array_equal(found.loss, losses[chosen, np.arange(3)])


def targets_met(logits_fn, images, labels, run):
    """The targets that an attack is built with."""
    seen = []

    def aim(threat, targets):
        def attack(key, logits_fn, images, labels):
            seen.append(np.asarray(targets))
            return nothing_found(images)

        return attack

    run(aim)(None)(jax.random.key(0), logits_fn, images, labels)
    return seen


LOGITS = jnp.asarray([[3.0, 1.0, 2.0, 0.0], [3.0, 1.0, 2.0, 0.0], [1.0, 1.0, 9.0, 1.0]])


@pytest.mark.parametrize(
    ("rank", "expected"), [(0, [2, 0, 0]), (1, [1, 2, 1]), (2, [3, 3, 3])]
)
def test_the_target_is_the_next_likeliest_wrong_class(rank, expected):
    labels = jnp.asarray([0, 1, 2])
    for given_rank in (rank, jnp.int32(rank)):
        (seen,) = targets_met(
            lambda _: LOGITS,
            jnp.zeros((3, 1)),
            labels,
            lambda aim, rank=given_rank: aimed(aim, rank),
        )
        np.testing.assert_array_equal(seen, expected)


def test_logits_that_are_no_numbers_never_aim_at_the_label():
    logits = jnp.asarray([[jnp.nan, jnp.nan, jnp.nan], [-jnp.inf, -jnp.inf, jnp.nan]])
    for rank in (0, 1):
        (seen,) = targets_met(
            lambda _: logits,
            jnp.zeros((2, 1)),
            jnp.asarray([0, 1]),
            lambda aim, rank=rank: aimed(aim, rank),
        )
        assert np.all(seen != [0, 1])


def test_a_rank_beyond_the_wrong_classes_is_refused(linear_problem, key):
    attack = aimed(PGD(num_steps=1), 2)(LinfBall(0.1))
    with pytest.raises(ValueError, match=r"`rank` must be in \[0, 1\], got 2"):
        attack(key, linear_problem.logits_fn, *linear_problem[2:])


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int8, jnp.int32])
def test_targets_are_right_whatever_integers_the_labels_are(dtype, key):
    # More classes than a byte can count, the likeliest of which are the last.
    height = jnp.arange(1000.0)[None]

    def logits_fn(images):
        return height + 0 * images.reshape(-1, 1)

    images, labels = jnp.full((3, 1, 1, 1), 0.5), jnp.asarray([0, 5, 99], dtype)
    (seen,) = targets_met(logits_fn, images, labels, lambda aim: aimed(aim, 0))
    assert seen.dtype == np.int32
    np.testing.assert_array_equal(seen, [999, 999, 999])


def test_over_targets_is_the_best_of_attacks_at_each_rank(key):
    # The second wrong class is often the less likely one, and always moves faster.
    weights = jnp.array([[0, 0.1, 4], [0, 0.1, -4], [0, 0.1, 4], [0, 0.1, -4]])
    images = jax.random.uniform(key, (16, 2, 2, 1))
    labels = jnp.zeros(16, int)

    def logits_fn(images):
        return images.reshape(-1, 4) @ weights

    aim, threat = PGD(step_size=0.05, num_steps=3, loss="margin"), LinfBall(0.1)
    # There are only two wrong classes.
    found = over_targets(aim, 9)(threat)(key, logits_fn, images, labels)
    runs = [
        aimed(aim, rank)(threat)(
            jax.random.fold_in(key, rank), logits_fn, images, labels
        )
        for rank in (0, 1)
    ]
    expected = better(*runs)
    np.testing.assert_allclose(found.images, expected.images, atol=1e-6)
    is_broken = runs[0].is_adversarial | runs[1].is_adversarial
    np.testing.assert_array_equal(found.is_adversarial, is_broken)
    wins = np.any(expected.images != runs[0].images, axis=(1, 2, 3))
    assert wins.any() and not wins.all()


def test_a_transferred_attack_never_asks_the_model_for_a_gradient(linear_problem, key):
    source_fn = linear_problem.logits_fn

    def model(images):  # no gradient: it has the other sign of some weights
        logits = jax.pure_callback(
            lambda images: (
                np.asarray(images).reshape(len(images), -1)
                @ np.asarray(-linear_problem.weights)
            ),
            jax.ShapeDtypeStruct((images.shape[0], 3), jnp.float32),
            images,
        )
        return logits

    build, threat = PGD(step_size=0.05, num_steps=4), LinfBall(0.2)
    alone = build(threat)(key, source_fn, *linear_problem[2:])
    transferred = transferred_from(build, source_fn)(threat)
    moved = transferred(key, model, *linear_problem[2:])
    np.testing.assert_array_equal(moved.images, alone.images)
    logits = -source_fn(alone.images)
    np.testing.assert_array_equal(
        moved.is_adversarial, np.argmax(logits, axis=1) != linear_problem.labels
    )
    np.testing.assert_allclose(
        moved.loss, margin(logits, linear_problem.labels), rtol=1e-4
    )


def test_a_transferred_attack_tells_of_the_other_models_gradients(key):
    def source_fn(images):
        flat = images.reshape(images.shape[0], -1)
        bad = jnp.sqrt(0 * flat.sum(axis=1))
        return jnp.stack([flat.sum(axis=1) + bad, flat[:, 0]], axis=1)

    def logits_fn(images):
        flat = images.reshape(images.shape[0], -1)
        return jnp.stack([flat.sum(axis=1), flat[:, 0]], axis=1)

    build = transferred_from(PGD(step_size=0.1, num_steps=2), source_fn)
    attack = build(LinfBall(0.2))
    images, labels = jnp.full((2, 2, 2, 1), 0.5), jnp.zeros(2, int)
    found = attack(key, logits_fn, images, labels)
    assert not np.any(found.is_gradient_finite)


def first_pixel_wins(images):
    flat = images.reshape(len(images), -1)
    return jnp.stack([flat[:, 0], *3 * [0 * flat[:, 0]]], axis=1)


def drawing(threat, targets=None):
    """Answers with a draw, so that keys and targets show."""

    def attack(key, logits_fn, images, labels):
        draw = jax.random.uniform(key, (len(labels),))
        draw = draw if targets is None else draw + targets
        never = jnp.zeros(len(labels), bool)
        return AttackResult(images, draw, never, ~never)

    return attack


@pytest.mark.parametrize(
    ("build", "turns"),
    [
        (drawing, 1),
        (with_restarts(drawing, 4), 4),
        (over_targets(drawing, 2), 2),
        (over_targets(drawing, 9), 3),
        (with_restarts(over_targets(drawing, 2), 3), 6),
        (with_restarts(with_restarts(drawing, 2), 3), 6),
        (transferred_from(with_restarts(drawing, 5), first_pixel_wins), 5),
        (worst_of(drawing, with_restarts(drawing, 2)), 1),
    ],
)
def test_a_builder_tells_its_turns_and_each_is_an_attack(build, turns, key):
    assert num_turns(build, num_classes=4) == turns
    images, labels = jnp.full((2, 1, 1, 1), 0.5), jnp.zeros(2, int)

    def losses(index):
        attack = turn_of(build, index)(LinfBall(0.1))
        return attack(key, first_pixel_wins, images, labels).loss

    met = [losses(jnp.int32(index)) for index in range(2 * turns)]
    # Beyond the last turn it begins again.
    np.testing.assert_array_equal(met[:turns], met[turns:])


def test_each_restart_takes_every_target(key):
    build = with_restarts(over_targets(drawing, 2), 3)
    images, labels = jnp.full((1, 1, 1, 1), 0.5), jnp.asarray([2])

    def loss(build, key):
        attack = build(LinfBall(0.1))
        return float(attack(key, first_pixel_wins, images, labels).loss[0])

    keys = [
        jax.random.fold_in(jax.random.fold_in(key, run), rank)
        for run in range(3)
        for rank in range(2)
    ]
    # The likeliest wrong classes of class 2 are 0 and 1.
    expected = [float(jax.random.uniform(each)) + i % 2 for i, each in enumerate(keys)]
    assert loss(build, key) == pytest.approx(max(expected))
    targets = [int(loss(turn_of(build, jnp.int32(index)), key)) for index in range(6)]
    assert targets == [0, 1, 0, 1, 0, 1]


def test_numbers_that_follow_the_radius_are_settled_wherever_the_builder_lies():
    follows = PGD(step_size=0.1)
    builds = (
        with_restarts(follows, 2),
        over_targets(follows, 2),
        aimed(follows, 0),
        worst_of(drawing, follows),
        transferred_from(follows, first_pixel_wins),
    )
    for build in builds:
        leaves = jax.tree.leaves(settled(build, 0.4))
        assert 10 in leaves and 10 not in jax.tree.leaves(build)
    assert settled(drawing, 0.4) is drawing


def test_builders_have_names_costs_and_a_description():
    ladder = with_restarts(over_targets(partial(auto_pgd, loss="dlr"), 2), 3)
    assert builder_name(ladder) == "auto-pgd-t"
    assert builder_name(with_restarts(PGD(), 2)) == "pgd"
    assert builder_name(lambda threat: None) == "attack"
    # A forward and a backward pass a step, and the last look.
    assert num_passes(ladder, num_classes=10) == 301
    assert num_passes(PGD(num_steps=7), num_classes=10) == 22
    assert num_passes(worst_of(fgsm, with_restarts(PGD(num_steps=7), 2)), 10) == 48
    assert num_passes(drawing, num_classes=10) == 0
    shown = json.loads(json.dumps(described(ladder)))
    assert shown["build"]["aim"]["loss"] == "dlr" and shown["num_restarts"] == 3
    other = with_restarts(over_targets(partial(auto_pgd, loss="margin"), 2), 3)
    assert described(other) != described(ladder)
    assert described(PGD(num_steps=3)) != described(PGD(num_steps=4))


class TestRandomized:
    @staticmethod
    def noisy(key, images):
        noise = jax.random.normal(key, images.shape)
        flat = (images + noise).reshape(images.shape[0], -1)
        return jnp.stack([flat.sum(axis=1), 0 * flat[:, 0]], axis=1)

    def test_every_evaluation_draws_anew_also_in_a_compiled_loop(self, key):
        logits_fn = randomized(self.noisy, key)
        images = jnp.zeros((1, 4))

        @jax.jit
        def draws(images):
            def body(index, values):
                return values.at[index].set(logits_fn(images)[0, 0])

            return jax.lax.fori_loop(0, 50, body, jnp.zeros(50))

        values = np.concatenate([draws(images), draws(images)])
        assert len(np.unique(values)) == 100
        assert abs(values.mean()) < 4 * 2 / 10 and 1.5 < values.std() < 2.5

    def test_it_may_be_differentiated_and_mapped_inside_a_loop(self, key):
        # The gradient of a random scale is that scale.
        logits_fn = randomized(
            lambda key, images: images * jax.random.uniform(key), key
        )

        @jax.jit
        @jax.vmap
        def gradients(images):
            def body(index, values):
                slope = jax.grad(lambda images: logits_fn(images).sum())(images)
                return values.at[index].set(slope[0, 0])

            return jax.lax.fori_loop(0, 20, body, jnp.zeros(20))

        images = jnp.arange(3.0).reshape(3, 1, 1)
        values = np.asarray(gradients(images))
        assert len(np.unique(values)) == 60
        assert values.min() >= 0 and values.max() <= 1

    @pytest.mark.slow
    def test_averaging_gradients_breaks_a_model_that_hides_in_noise(self, key):
        weights = jax.random.normal(key, (36,))

        def apply(key, images):
            # The direction is right in the mean, and lost in noise in each draw.
            noise = 25 * jax.random.normal(key, weights.shape)
            flat = images.reshape(images.shape[0], -1) - 0.5
            score = flat @ weights + (
                flat @ noise - jax.lax.stop_gradient(flat @ noise)
            )
            return jnp.stack([score, jnp.full_like(score, 0.0)], axis=1)

        images = jnp.clip(0.5 + 0.06 * jnp.sign(weights), 0, 1).reshape(1, 6, 6, 1)
        images = jnp.repeat(images, 8, axis=0)
        labels = jnp.zeros(8, int)

        def mean_loss(num_samples):
            attack = auto_pgd(
                LinfBall(0.05), num_steps=4, num_samples=num_samples, loss="margin"
            )
            return np.mean(attack(key, randomized(apply, key), images, labels).loss)

        assert mean_loss(1024) > mean_loss(1) + 0.3


hit = "`must_hit` must be False without targets, got True"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (worst_of, r"`builds` must be one builder or more, got \(\)"),
        (lambda: over_targets(drawing, 0), "`num_targets` must be at least 1"),
        (lambda: pgd(LinfBall(0.1), step_size=0.1, num_steps=1, must_hit=True), hit),
    ],
)
def test_wrong_settings_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
