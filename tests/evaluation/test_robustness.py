import dataclasses
import functools
import itertools
import os
import subprocess
import sys
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrobust.attacks import AttackResult, judge, pgd
from jaxrobust.data import Dataset
from jaxrobust.evaluation import (
    EvaluationConfig,
    evaluate,
    evaluate_models,
    packing,
)
from jaxrobust.threat import THREATS


def dataset_of(images, labels, num_classes=2):
    return Dataset(
        name="test",
        title="test",
        images=np.asarray(images, np.float32),
        labels=np.asarray(labels, np.int32),
        num_classes=num_classes,
    )


@given(size=st.integers(1, 23), batch_size=st.integers(1, 9), seed=st.integers(0, 99))
def test_every_example_counts_exactly_once(size, batch_size, seed):
    # The answer is written in the image, so the right counts are known.
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 2, size=(size, 1, 1, 2)).astype(np.float32)
    labels = np.zeros(size)

    def logits_fn(pixels):
        return jnp.stack([1 - pixels[:, 0, 0, 0], pixels[:, 0, 0, 0]], axis=1)

    def breaking(epsilon, num_steps):
        del epsilon, num_steps

        # Breaks an example if its second pixel says so.
        def attack(key, logits_fn, pixels, labels):
            del key
            falls = (pixels[:, 0, 0, 1] > 0) | judge(logits_fn(pixels), labels)
            return AttackResult(pixels, jnp.zeros(len(labels)), falls, ~falls)

        return attack

    config = EvaluationConfig(epsilons=(0.1,), num_restarts=2, batch_size=batch_size)
    found = evaluate(logits_fn, dataset_of(images, labels), config, attack_for=breaking)
    is_right = images[:, 0, 0, 0] == 0
    stays = is_right & (images[:, 0, 0, 1] == 0)
    np.testing.assert_array_equal(found.is_clean_correct, is_right)
    np.testing.assert_array_equal(found.is_robust[0.1], stays)
    assert found.clean_accuracy == is_right.mean()
    assert found.robust_accuracy == {0.1: stays.mean()}
    assert found.num_examples == size
    # Examples that the clean image loses are not attacked; each fall counts once.
    assert found.num_bad_gradients == np.sum(is_right & ~stays)


def line_problem(seed=0, size=40):
    """Two classes, a linear score: an example falls where |score| < epsilon |w|_1."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=4)
    images = rng.uniform(0.35, 0.65, size=(size, 2, 2, 1))
    offset = -np.median(images.reshape(size, 4) @ weights)
    score = images.reshape(size, 4) @ weights + offset

    def logits_fn(pixels):
        total = pixels.reshape(pixels.shape[0], 4) @ jnp.asarray(weights, "float32")
        return jnp.stack([total + offset, jnp.zeros_like(total)], axis=1)

    labels = (score < 0).astype(int)
    labels[:3] = 1 - labels[:3]
    return logits_fn, dataset_of(images, labels), score, np.abs(weights).sum()


def test_robust_accuracy_of_a_linear_model_is_the_closed_form():
    logits_fn, dataset, score, norm = line_problem()
    radii = (0.0, 0.02, 0.05, 0.1, 0.3)
    config = EvaluationConfig(
        epsilons=radii, num_steps=60, num_restarts=1, batch_size=7, step_size=0.02
    )
    found = evaluate(logits_fn, dataset, config)
    is_right = np.arange(40) >= 3
    assert found.clean_accuracy == pytest.approx(37 / 40)
    for radius in radii:
        expected = is_right & (np.abs(score) > radius * norm)
        np.testing.assert_array_equal(found.is_robust[radius], expected)
    accuracies = list(found.robust_accuracy.values())
    assert accuracies == sorted(accuracies, reverse=True)
    assert 0 < accuracies[2] < accuracies[0] == found.clean_accuracy


def test_restarts_never_raise_robust_accuracy():
    logits_fn, dataset, *_ = line_problem(2)

    def accuracy(num_restarts):
        config = EvaluationConfig(
            epsilons=(0.05,), num_steps=1, num_restarts=num_restarts, step_size=0.03
        )
        return evaluate(logits_fn, dataset, config).is_robust[0.05]

    one, many = accuracy(1), accuracy(6)
    assert np.all(many <= one) and many.sum() < one.sum()


def test_all_radii_restarts_and_batches_share_one_program():
    logits_fn, dataset, *_ = line_problem(3)
    logits_fn = chex.assert_max_traces(logits_fn, n=3)
    # Once for clean images; once inside the attack's loop and once for its judgement.
    config = EvaluationConfig(
        epsilons=(0.01, 0.02, 0.03), num_steps=2, num_restarts=3, batch_size=6
    )
    evaluate(logits_fn, dataset, config)


def test_the_row_has_radii_as_printed():
    logits_fn, dataset, *_ = line_problem(4)
    config = EvaluationConfig(epsilons=(0.1, 8 / 255), num_steps=1, num_restarts=1)
    told = []
    row = evaluate(logits_fn, dataset, config, report=told.append).as_row()
    assert set(row) == {"clean_accuracy", "robust_accuracy"}
    assert list(row["robust_accuracy"]) == ["0.1", "0.0313725"]
    assert [line.split(":")[0] for line in told] == [
        "epsilon 0.0313725",
        "epsilon 0.1",
    ]
    share = row["robust_accuracy"]["0.1"]
    assert told[1] == f"epsilon 0.1: robust accuracy {share:.2%}"


def apply_line(weights):
    """A linear score under three weights that a list of models can differ in."""
    vector, offset = weights["vector"], weights["offset"]

    def logits_fn(pixels):
        total = pixels.reshape(pixels.shape[0], 4) @ vector + offset
        return jnp.stack([total, jnp.zeros_like(total)], axis=1)

    return logits_fn


def line_models(count=3, size=40, seed=0):
    """Models of one shape and data that each finds more or less hard."""
    rng = np.random.default_rng(seed)
    images = rng.uniform(0.3, 0.7, size=(size, 2, 2, 1))
    labels = rng.integers(0, 2, size)
    weights = []
    for index in range(count):
        vector = rng.normal(size=4)
        side = np.where(labels == 0, 1.0, -1.0)[:, None] * (0.02 + 0.03 * index)
        images = images + (side * np.sign(vector)).reshape(size, 2, 2, 1)
        offset = -np.median(images.reshape(size, 4) @ vector)
        weights.append(
            {"vector": jnp.float32(vector), "offset": jnp.float32(offset)},
        )
    return weights, dataset_of(np.clip(images, 0, 1), labels)


# One weak step, so that the luck of the start and the restarts matter.
WEAK = EvaluationConfig(
    epsilons=(0.12, 0.03, 0.06, 0.2),
    num_steps=1,
    step_size=0.02,
    num_restarts=3,
    batch_size=7,
    seed=5,
)


def assert_same(one, other):
    np.testing.assert_array_equal(one.is_clean_correct, other.is_clean_correct)
    assert list(one.is_robust) == list(other.is_robust)
    for radius, flags in one.is_robust.items():
        np.testing.assert_array_equal(flags, other.is_robust[radius])
    assert one.num_bad_gradients == other.num_bad_gradients


def one_at_a_time(logits_fn, dataset, config):
    """The definition, example by example: radii upwards, restart after restart."""
    flags = {radius: [] for radius in config.epsilons}

    @functools.cache
    def attack_at(radius, num_steps):
        threat = THREATS[config.norm](radius)
        attack = pgd(threat, step_size=config.step_size, num_steps=num_steps)
        return jax.jit(lambda key, *example: attack(key, logits_fn, *example))

    for index, label in enumerate(dataset.labels):
        image = jnp.asarray(dataset.images[index : index + 1])
        label = jnp.asarray([label])
        stands = not bool(judge(logits_fn(image), label)[0])
        for radius in sorted(config.epsilons):
            attack = attack_at(radius, config.num_steps_at(radius))
            for restart in range(config.num_restarts):
                key = jax.random.fold_in(jax.random.key(config.seed), restart)
                key = jax.random.fold_in(key, index)
                found = attack(key, image, label)
                stands = stands and not bool(found.is_adversarial[0])
            flags[radius].append(stands)
    return flags


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"norm": "l2", "epsilons": (0.3, 0.1)},
        {"num_steps": None, "epsilons": (0.03, 0.07)},
    ],
    ids=["linf", "l2", "steps by radius"],
)
def test_flags_are_those_of_attacking_one_example_at_a_time(changes):
    config = dataclasses.replace(WEAK, **changes)
    (weights,), dataset = line_models(count=1, size=12)
    (found,) = evaluate_models(apply_line, [weights], dataset, config)
    expected = one_at_a_time(apply_line(weights), dataset, config)
    assert list(found.is_robust) == list(config.epsilons)
    for radius, flags in expected.items():
        np.testing.assert_array_equal(found.is_robust[radius], flags)
    # Not all the same, or agreement would mean little.
    sums = [sum(flags) for flags in expected.values()]
    assert len(set(sums)) > 1 and 0 < max(sums)


# Few sizes, since each pair is compiled; that all count is tested above.
@settings(max_examples=20)
@given(
    size=st.sampled_from([1, 2, 13, 30]),
    batch_size=st.sampled_from([1, 4, 13, 40]),
    seed=st.integers(0, 99),
)
@pytest.mark.slow
def test_packing_changes_no_answer(size, batch_size, seed):
    weights, dataset = line_models(count=2, size=size, seed=seed)
    config = dataclasses.replace(WEAK, batch_size=batch_size, seed=seed)
    plain = dataclasses.replace(config, batch_size=11)
    packed = evaluate_models(apply_line, weights, dataset, config)
    every = evaluate_models(apply_line, weights, dataset, plain, compact=False)
    for one, other in zip(packed, every, strict=True):
        assert_same(one, other)
        flags = [one.is_clean_correct]
        flags += [one.is_robust[radius] for radius in sorted(config.epsilons)]
        assert all(np.all(more <= less) for less, more in itertools.pairwise(flags))


def test_packing_changes_no_answer_of_a_network():
    # Unlike the linear score, it rounds in matrix products over the whole bucket.
    rng = np.random.default_rng(0)
    weights = {
        "hidden": jnp.float32(rng.normal(size=(36, 24)) / 6),
        "head": jnp.float32(rng.normal(size=(24, 3)) / 5),
    }

    def apply(weights):
        def logits_fn(pixels):
            flat = pixels.reshape(pixels.shape[0], 36)
            return jax.nn.relu(flat @ weights["hidden"]) @ weights["head"]

        return logits_fn

    images = rng.uniform(size=(90, 6, 6, 1))
    labels = np.argmax(apply(weights)(jnp.float32(images)), axis=1)
    dataset = dataset_of(images, labels, 3)
    config = EvaluationConfig(
        epsilons=(0.02, 0.04, 0.06), num_steps=8, num_restarts=2, batch_size=32
    )
    (packed,) = evaluate_models(apply, [weights], dataset, config)
    (every,) = evaluate_models(apply, [weights], dataset, config, compact=False)
    assert_same(packed, every)
    assert 0 < packed.robust_accuracy[0.06] < packed.robust_accuracy[0.02] < 1
    bisecting = dataclasses.replace(config, search="bisect")
    (bisected,) = evaluate_models(apply, [weights], dataset, bisecting)
    assert_same(bisected, every)
    with pytest.raises(ValueError, match="`compact` must be True for a bisection"):
        evaluate_models(apply, [weights], dataset, bisecting, compact=False)


def test_models_in_a_list_give_the_same_as_alone():
    weights, dataset = line_models()
    together = evaluate_models(apply_line, weights, dataset, WEAK)
    for each, found in zip(weights, together, strict=True):
        assert_same(found, evaluate(apply_line(each), dataset, WEAK))
    accuracies = [tuple(found.robust_accuracy.values()) for found in together]
    assert len(set(accuracies)) == 3


def test_all_models_radii_and_restarts_share_one_program():
    weights, dataset = line_models()
    traced = []

    def counted_apply(weights):
        traced.append("apply")
        return apply_line(weights)

    def counted_attack(epsilon, num_steps):
        traced.append("attack")
        return pgd(THREATS["linf"](epsilon), step_size=0.02, num_steps=num_steps)

    evaluate_models(
        counted_apply, weights, dataset, WEAK, attack_for=counted_attack, report=None
    )
    # The model is bound once for clean images and once for the attack.
    assert sorted(traced) == ["apply", "apply", "attack"]


@pytest.fixture
def buckets(monkeypatch):
    """Every bucket sent to the attack, as (example, restart, epsilon) triples."""
    sent = []
    original = packing._programs

    def recorded(*arguments):
        programs = original(*arguments)
        (program,) = programs.attacked

        def attacked(key, weights, data, *items):
            sent.append(list(zip(*items[:3], strict=True)))
            return program(key, weights, data, *items)

        return programs._replace(attacked=(attacked,))

    monkeypatch.setattr(packing, "_programs", recorded)
    return sent


def by_image(epsilon, num_steps):
    """An attack that breaks an example from the radius on that its pixel says."""
    del num_steps

    def attack(key, logits_fn, pixels, labels):
        del key
        falls = (pixels[:, 0, 0, 0] <= epsilon) | judge(logits_fn(pixels), labels)
        return AttackResult(pixels, jnp.zeros(len(labels)), falls, ~falls)

    return attack


def always_right(pixels):
    return jnp.stack([jnp.ones(len(pixels)), jnp.zeros(len(pixels))], axis=1)


def limits_dataset(*limits):
    return dataset_of(np.reshape(limits, (-1, 1, 1, 1)), np.zeros(len(limits)))


def test_broken_examples_are_not_attacked_again(buckets):
    # Two fall at once, one at the second radius, one never.
    dataset = limits_dataset(0.1, 0.1, 0.2, 0.9)
    config = EvaluationConfig(epsilons=(0.3, 0.1, 0.2), num_restarts=2, batch_size=1)
    found = evaluate(always_right, dataset, config, attack_for=by_image)
    assert {radius: flags.tolist() for radius, flags in found.is_robust.items()} == {
        0.3: [False, False, False, True],
        0.1: [False, False, True, True],
        0.2: [False, False, False, True],
    }
    attacked = [(int(i), round(float(epsilon), 6)) for ((i, _, epsilon),) in buckets]
    expected = [(0, 0.1), (1, 0.1), *[(2, 0.1)] * 2, (2, 0.2)]
    expected += [(3, radius) for radius in (0.1, 0.2, 0.3) for _ in range(2)]
    assert sorted(attacked) == expected
    # Each of the three falls was reported once as not finite.
    assert found.num_bad_gradients == 3


@pytest.mark.parametrize("compact", [True, False])
def test_buckets_have_one_size_and_become_fewer_as_examples_break(buckets, compact):
    config = EvaluationConfig(epsilons=(0.1, 0.2), num_restarts=2, batch_size=5)
    counts, results = [], []
    for num_weak in (0, 5, 10, 20):
        buckets.clear()
        dataset = limits_dataset(*[0.1] * num_weak, *[0.9] * (20 - num_weak))
        found, *_ = evaluate_models(
            lambda _: always_right,
            [()],
            dataset,
            config,
            attack_for=by_image,
            compact=compact,
        )
        assert {len(bucket) for bucket in buckets} == {5}
        counts.append(len(buckets))
        results.append((found.robust_accuracy[0.2], found.num_bad_gradients))
    assert counts == ([16, 13, 10, 4] if compact else [16] * 4)
    assert results == [(1.0, 0), (0.75, 5), (0.5, 10), (0.0, 20)]


def test_places_that_would_be_padding_go_to_later_attacks(buckets):
    # One of six examples stands; its five further attacks share a bucket.
    config = EvaluationConfig(epsilons=(0.1, 0.2), num_restarts=3, batch_size=6)
    dataset = limits_dataset(*[0.1] * 5, 0.9)
    evaluate(always_right, dataset, config, attack_for=by_image)
    assert len(buckets) == 2
    assert {int(i) for i, *_ in buckets[1]} == {5}
    assert len(set(buckets[1])) == 5


def test_examples_lost_on_clean_images_are_not_attacked(buckets):
    weights, dataset = line_models(count=1)
    (found,) = evaluate_models(apply_line, weights, dataset, WEAK)
    assert 0 < found.clean_accuracy < 1
    attacked = {int(i) for bucket in buckets for i, *_ in bucket}
    assert attacked == set(np.flatnonzero(found.is_clean_correct))


def test_radii_are_reported_upwards_for_each_model():
    weights, dataset = line_models(count=2)
    told = []
    found = evaluate_models(apply_line, weights, dataset, WEAK, report=told.append)
    expected = [
        f"model {number} of 2, epsilon {radius:g}: robust accuracy "
        f"{each.robust_accuracy[radius]:.2%}"
        for number, each in enumerate(found, start=1)
        for radius in sorted(WEAK.epsilons)
    ]
    assert told == expected


def test_the_configured_random_generator_changes_nothing():
    weights, dataset = line_models(count=1)
    (usual,) = evaluate_models(apply_line, weights, dataset, WEAK)
    with jax.default_prng_impl("rbg"):
        (other,) = evaluate_models(apply_line, weights, dataset, WEAK)
    assert_same(usual, other)


SEVERAL_DEVICES = """
import sys
import jax, numpy as np
sys.path.insert(0, {directory!r})
import test_robustness as tests
assert len(jax.local_devices()) == {num_devices}
weights, dataset = tests.line_models(count=2)
first = jax.local_devices()[0]
weights = [jax.device_put(tree, first) for tree in weights]
found = tests.evaluate_models(tests.apply_line, weights, dataset, tests.WEAK)
alone = tests.evaluate(tests.apply_line(weights[0]), dataset, tests.WEAK)
tests.assert_same(alone, found[0])
def centered(images):
    logits = tests.apply_line(weights[0])(images)
    return logits - logits.mean(axis=0, keepdims=True)
try:
    tests.evaluate(centered, dataset, tests.WEAK)
except ValueError as error:
    assert "answer each image by itself" in str(error)
else:
    raise AssertionError("each device's images are beside others")
flags = [[each.is_clean_correct, *each.is_robust.values()] for each in found]
np.save({output!r}, np.array(flags))
"""


@pytest.mark.slow
def test_several_devices_find_the_same_without_a_collective(tmp_path):
    flags = {}
    for num_devices in (1, 4):
        output, dump = tmp_path / f"{num_devices}.npy", tmp_path / f"hlo{num_devices}"
        script = SEVERAL_DEVICES.format(
            directory=str(Path(__file__).parent),
            num_devices=num_devices,
            output=str(output),
        )
        options = f"--xla_force_host_platform_device_count={num_devices} "
        options += f"--xla_dump_to={dump} --xla_dump_hlo_as_text"
        # Programs from a cache would not be dumped.
        environment = os.environ | {
            "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {options}",
            "JAX_ENABLE_COMPILATION_CACHE": "false",
        }
        command = [sys.executable, "-c", script]
        subprocess.run(command, env=environment, check=True)
        flags[num_devices] = np.load(output)
        programs = [
            path.read_text()
            for path in dump.glob("*jit_attacked*after_optimizations.txt")
        ]
        assert programs
        for text in programs:
            assert ("num_partitions=4" in text) == (num_devices == 4)
            for collective in ("all-", "reduce-scatter", "collective-", "send("):
                assert collective not in text
    np.testing.assert_array_equal(flags[1], flags[4])


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([], r"`weights` must be one model or more, got \[\]"),
        (
            [{"a": np.zeros(2)}, {"a": np.zeros(2)}, {"a": np.zeros(3)}],
            r"got float32\[3\] against float32\[2\] at \['a'\] of number 2; evaluate",
        ),
        (
            [{"a": np.zeros(2)}, {"a": np.zeros(2, np.int32)}],
            r"got int32\[2\] against float32\[2\] at \['a'\] of number 1",
        ),
        (
            [{"a": np.zeros(2)}, {"b": np.zeros(2)}],
            r"got nothing against float32\[2\] at \['a'\] of number 1",
        ),
        ([(np.zeros(2),), [np.zeros(2)]], "must all have the structure of the first"),
    ],
)
def test_models_that_one_program_cannot_serve_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        evaluate_models(
            lambda _: always_right, weights, limits_dataset(0.1), EvaluationConfig()
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epsilons": (-0.1,)}, r"`epsilon` must be in \[0, inf\)"),
        ({"norm": "l7"}, "`norm` must be one of linf, l2"),
        ({"step_size": 0}, r"`step_size` must be in \(0, inf\)"),
        ({"num_steps": 0}, "`num_steps` must be at least 1"),
        ({"num_restarts": 0}, "`num_restarts` must be at least 1"),
        ({"search": "newton"}, "`search` must be one of every, bisect, got 'newton'"),
        ({"batch_size": 0}, "`batch_size` must be at least 1"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        EvaluationConfig(**settings)


def test_steps_follow_the_radius_when_not_given():
    assert EvaluationConfig(num_steps=None).num_steps_at(0.4) == 100
    assert EvaluationConfig().num_steps_at(0.4) == 200
