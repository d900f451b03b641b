import dataclasses
import functools
import itertools
import json
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

from jaxrobust.attacks import (
    PGD,
    AttackResult,
    judge,
    pgd,
    square,
    with_restarts,
)
from jaxrobust.data import Dataset
from jaxrobust.evaluation import (
    AdversarialImagesWarning,
    evaluate,
    evaluate_models,
    standard_ensemble,
)
from jaxrobust.evaluation.engine import run
from jaxrobust.evaluation.ensemble import STAGES
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

    def breaking(threat):
        # Breaks an example if its second pixel says so.
        def attack(key, logits_fn, pixels, labels):
            del key
            falls = (pixels[:, 0, 0, 1] > 0) | judge(logits_fn(pixels), labels)
            return AttackResult(pixels, jnp.zeros(len(labels)), falls, ~falls)

        return attack

    found = evaluate(
        logits_fn,
        dataset_of(images, labels),
        with_restarts(breaking, 2),
        [0.1],
        batch_size=batch_size,
    )
    is_right = images[:, 0, 0, 0] == 0
    stays = is_right & (images[:, 0, 0, 1] == 0)
    np.testing.assert_array_equal(found.is_clean_correct, is_right)
    np.testing.assert_array_equal(found.is_robust, stays[None])
    assert found.clean_accuracy == is_right.mean()
    assert found.robust_accuracy.tolist() == [stays.mean()]
    assert found.num_examples == size
    # Examples that the clean image loses are not attacked; each fall counts once.
    assert found.num_bad_gradients == (np.sum(is_right & ~stays),)


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
    attack = PGD(num_steps=60, step_size=0.02)
    found = evaluate(logits_fn, dataset, attack, radii, batch_size=7)
    is_right = np.arange(40) >= 3
    assert found.clean_accuracy == pytest.approx(37 / 40)
    for radius in radii:
        expected = is_right & (np.abs(score) > radius * norm)
        np.testing.assert_array_equal(found.at(radius), expected)
    accuracies = list(found.robust_accuracy)
    assert accuracies == sorted(accuracies, reverse=True)
    assert 0 < accuracies[2] < accuracies[0] == found.clean_accuracy


def test_restarts_never_raise_robust_accuracy():
    logits_fn, dataset, *_ = line_problem(2)

    def accuracy(num_restarts):
        attack = with_restarts(PGD(num_steps=1, step_size=0.03), num_restarts)
        return evaluate(logits_fn, dataset, attack, [0.05]).is_robust[0]

    one, many = accuracy(1), accuracy(6)
    assert np.all(many <= one) and many.sum() < one.sum()


def test_all_radii_restarts_and_batches_share_one_program():
    logits_fn, dataset, *_ = line_problem(3)
    logits_fn = chex.assert_max_traces(logits_fn, n=3)
    # Once for clean images; once inside the attack's loop and once for its judgement.
    attack = with_restarts(PGD(num_steps=2), 3)
    evaluate(logits_fn, dataset, attack, (0.01, 0.02, 0.03), batch_size=6)


def test_the_row_has_radii_as_printed():
    logits_fn, dataset, *_ = line_problem(4)
    told = []
    attack, radii = PGD(num_steps=1), (0.1, 8 / 255)
    row = evaluate(logits_fn, dataset, attack, radii, report=told.append).row()
    assert list(row.robust_accuracy) == ["0.1", "0.0313725"]
    assert [line.split(":")[0] for line in told] == [
        "epsilon 0.0313725",
        "epsilon 0.1",
    ]
    share = row.robust_accuracy["0.1"]
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
WEAK = {
    "attacks": with_restarts(PGD(num_steps=1, step_size=0.02), 3),
    "epsilons": (0.12, 0.03, 0.06, 0.2),
    "batch_size": 7,
    "seed": 5,
}


def assert_same(one, other):
    np.testing.assert_array_equal(one.is_clean_correct, other.is_clean_correct)
    assert one.epsilons == other.epsilons
    np.testing.assert_array_equal(one.is_robust, other.is_robust)
    np.testing.assert_array_equal(one.broken_by, other.broken_by)
    assert one.num_bad_gradients == other.num_bad_gradients


def one_at_a_time(logits_fn, dataset, attack, epsilons, norm="linf"):
    """The definition, example by example: radii upwards, restart after restart."""
    flags = {radius: [] for radius in epsilons}

    @functools.cache
    def attack_at(radius):
        search = attack.at(radius)(THREATS[norm](radius))
        return jax.jit(lambda key, *example: search(key, logits_fn, *example))

    for index, label in enumerate(dataset.labels):
        image = jnp.asarray(dataset.images[index : index + 1])
        label = jnp.asarray([label])
        stands = not bool(judge(logits_fn(image), label)[0])
        for radius in sorted(epsilons):
            for restart in range(3):
                key = jax.random.fold_in(jax.random.key(5), restart)
                key = jax.random.fold_in(key, index)
                found = attack_at(radius)(key, image, label)
                stands = stands and not bool(found.is_adversarial[0])
            flags[radius].append(stands)
    return flags


@pytest.mark.parametrize(
    ("num_steps", "changes"),
    [
        (1, {"epsilons": WEAK["epsilons"]}),
        pytest.param(
            *(1, {"norm": "l2", "epsilons": (0.3, 0.1)}), marks=pytest.mark.slow
        ),
        (None, {"epsilons": (0.03, 0.07)}),
    ],
    ids=["linf", "l2", "steps by radius"],
)
def test_flags_are_those_of_attacking_one_example_at_a_time(num_steps, changes):
    attack = PGD(num_steps=num_steps, step_size=0.02)
    (weights,), dataset = line_models(count=1, size=12)
    options = WEAK | changes | {"attacks": with_restarts(attack, 3)}
    (found,) = evaluate_models(apply_line, [weights], dataset, **options)
    expected = one_at_a_time(apply_line(weights), dataset, attack, **changes)
    assert found.epsilons == changes["epsilons"]
    for radius, flags in expected.items():
        np.testing.assert_array_equal(found.at(radius), flags)
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
    config = WEAK | {"batch_size": batch_size, "seed": seed}
    plain = config | {"batch_size": 11}
    packed = evaluate_models(apply_line, weights, dataset, **config)
    every = evaluate_models(apply_line, weights, dataset, **plain, compact=False)
    for one, other in zip(packed, every, strict=True):
        assert_same(one, other)
        flags = [one.is_clean_correct]
        flags += [one.at(radius) for radius in sorted(one.epsilons)]
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
    attack = with_restarts(PGD(num_steps=8), 2)

    def judged(**options):
        radii = (0.02, 0.04, 0.06)
        options |= {"batch_size": 32}
        (found,) = evaluate_models(apply, [weights], dataset, attack, radii, **options)
        return found

    packed, every = judged(), judged(compact=False)
    assert_same(packed, every)
    assert 0 < packed.robust_accuracy[2] < packed.robust_accuracy[0] < 1
    assert_same(judged(search="bisect"), every)
    with pytest.raises(ValueError, match="`compact` must be True for a bisection"):
        judged(search="bisect", compact=False)


@pytest.mark.exact
def test_square_finds_the_same_images_packed_and_alone():
    # Small numbers in quarters: all sums are exact, in whatever order they are made.
    rng = np.random.default_rng(0)
    hidden, head = (
        jnp.float32(rng.integers(-4, 5, shape) / 4) for shape in ((36, 8), (8, 3))
    )

    def logits_fn(pixels):
        return jax.nn.relu(pixels.reshape(len(pixels), 36) @ hidden) @ head

    images = np.float32(rng.integers(0, 5, (17, 6, 6, 1)) / 4)
    labels = np.argmax(logits_fn(jnp.asarray(images)), axis=1)
    dataset, radius = dataset_of(images, labels, 3), 0.125
    attack = functools.partial(square, num_queries=30)
    found = evaluate(
        logits_fn,
        dataset,
        {"square": attack},
        [radius],
        seed=5,
        batch_size=4,
        keep_images=True,
    )
    alone = jax.jit(
        lambda key, *example: attack(THREATS["linf"](radius))(key, logits_fn, *example)
    )
    # Square's number, the turn and the example.
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(5), 4), 0)
    is_broken = []
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        result = alone(jax.random.fold_in(key, index), image[None], label[None])
        is_broken.append(bool(result.is_adversarial[0]))
        if is_broken[-1]:
            np.testing.assert_array_equal(found.images[index], result.images[0])
    np.testing.assert_array_equal(found.at(radius), ~np.array(is_broken))
    assert 3 < sum(is_broken) < 14


@pytest.mark.slow
def test_models_in_a_list_give_the_same_as_alone():
    weights, dataset = line_models()
    together = evaluate_models(apply_line, weights, dataset, **WEAK)
    for each, found in zip(weights, together, strict=True):
        assert_same(found, evaluate(apply_line(each), dataset, **WEAK))
    accuracies = [tuple(found.robust_accuracy) for found in together]
    assert len(set(accuracies)) == 3


def test_all_models_radii_and_restarts_share_one_program():
    weights, dataset = line_models()
    traced = []

    def counted_apply(weights):
        traced.append("apply")
        return apply_line(weights)

    def counted_attack(threat):
        traced.append("attack")
        return pgd(threat, step_size=0.02, num_steps=1)

    options = WEAK | {"attacks": with_restarts(counted_attack, 3)}
    evaluate_models(counted_apply, weights, dataset, **options)
    # The model is bound once for clean images and once for the attack, which is asked
    # before whether the norm has it.
    assert sorted(traced) == ["apply", "apply", "attack", "attack"]


@pytest.fixture
def buckets(monkeypatch):
    """Every bucket sent to the attack, as (example, restart, epsilon) triples."""
    sent = []
    original = run._programs

    def recorded(*arguments):
        programs = original(*arguments)
        (attack,) = programs.attacks

        def attacked(key, weights, data, *items):
            sent.append(list(zip(*items[:3], strict=True)))
            return attack.program(key, weights, data, *items)

        return programs._replace(attacks=(attack._replace(program=attacked),))

    monkeypatch.setattr(run, "_programs", recorded)
    return sent


def by_image(threat):
    """An attack that breaks an example from the radius on that its pixel says."""

    def attack(key, logits_fn, pixels, labels):
        del key
        is_near = pixels[:, 0, 0, 0] <= threat.epsilon
        falls = is_near | judge(logits_fn(pixels), labels)
        return AttackResult(pixels, jnp.zeros(len(labels)), falls, ~falls)

    return attack


def always_right(pixels):
    return jnp.stack([jnp.ones(len(pixels)), jnp.zeros(len(pixels))], axis=1)


def limits_dataset(*limits):
    return dataset_of(np.reshape(limits, (-1, 1, 1, 1)), np.zeros(len(limits)))


def test_broken_examples_are_not_attacked_again(buckets):
    # Two fall at once, one at the second radius, one never.
    dataset = limits_dataset(0.1, 0.1, 0.2, 0.9)
    attack = with_restarts(by_image, 2)
    found = evaluate(always_right, dataset, attack, (0.3, 0.1, 0.2), batch_size=1)
    assert found.is_robust.tolist() == [
        [False, False, False, True],
        [False, False, True, True],
        [False, False, False, True],
    ]
    attacked = [(int(i), round(float(epsilon), 6)) for ((i, _, epsilon),) in buckets]
    expected = [(0, 0.1), (1, 0.1), *[(2, 0.1)] * 2, (2, 0.2)]
    expected += [(3, radius) for radius in (0.1, 0.2, 0.3) for _ in range(2)]
    assert sorted(attacked) == expected
    # Each of the three falls was reported once as not finite.
    assert found.num_bad_gradients == (3,)


@pytest.mark.parametrize("compact", [True, False])
def test_buckets_have_one_size_and_become_fewer_as_examples_break(buckets, compact):
    counts, results = [], []
    for num_weak in (0, 5, 10, 20):
        buckets.clear()
        dataset = limits_dataset(*[0.1] * num_weak, *[0.9] * (20 - num_weak))
        found = evaluate(
            always_right,
            dataset,
            with_restarts(by_image, 2),
            (0.1, 0.2),
            batch_size=5,
            compact=compact,
        )
        assert {len(bucket) for bucket in buckets} == {5}
        counts.append(len(buckets))
        results.append((found.robust_accuracy[1], *found.num_bad_gradients))
    assert counts == ([16, 13, 10, 4] if compact else [16] * 4)
    assert results == [(1.0, 0), (0.75, 5), (0.5, 10), (0.0, 20)]


def test_places_that_would_be_padding_go_to_later_attacks(buckets):
    # One of six examples stands; its five further attacks share a bucket.
    dataset = limits_dataset(*[0.1] * 5, 0.9)
    attack = with_restarts(by_image, 3)
    evaluate(always_right, dataset, attack, (0.1, 0.2), batch_size=6)
    assert len(buckets) == 2
    assert {int(i) for i, *_ in buckets[1]} == {5}
    assert len(set(buckets[1])) == 5


def test_examples_lost_on_clean_images_are_not_attacked(buckets):
    weights, dataset = line_models(count=1)
    (found,) = evaluate_models(apply_line, weights, dataset, **WEAK)
    assert 0 < found.clean_accuracy < 1
    attacked = {int(i) for bucket in buckets for i, *_ in bucket}
    assert attacked == set(np.flatnonzero(found.is_clean_correct))


def test_radii_are_reported_upwards_for_each_model():
    weights, dataset = line_models(count=2)
    told = []
    found = evaluate_models(apply_line, weights, dataset, **WEAK, report=told.append)
    expected = [
        f"model {number} of 2, epsilon {radius:g}: robust accuracy "
        f"{each.at(radius).mean():.2%}"
        for number, each in enumerate(found, start=1)
        for radius in sorted(WEAK["epsilons"])
    ]
    assert told == expected


def test_the_configured_random_generator_changes_nothing():
    weights, dataset = line_models(count=1)
    (usual,) = evaluate_models(apply_line, weights, dataset, **WEAK)
    with jax.default_prng_impl("rbg"):
        (other,) = evaluate_models(apply_line, weights, dataset, **WEAK)
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
found = tests.evaluate_models(tests.apply_line, weights, dataset, **tests.WEAK)
alone = tests.evaluate(tests.apply_line(weights[0]), dataset, **tests.WEAK)
tests.assert_same(alone, found[0])
def centered(images):
    logits = tests.apply_line(weights[0])(images)
    return logits - logits.mean(axis=0, keepdims=True)
try:
    tests.evaluate(centered, dataset, **tests.WEAK)
except ValueError as error:
    assert "answer each image by itself" in str(error)
else:
    raise AssertionError("each device's images are beside others")
flags = [[each.is_clean_correct, *each.is_robust] for each in found]
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
            lambda _: always_right, weights, limits_dataset(0.1), PGD, [0.3]
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epsilons": (-0.1,)}, r"`epsilon` must be in \[0, inf\)"),
        ({"epsilons": (8.0,)}, "8/255 rather than 8"),
        ({"epsilons": ()}, r"`epsilons` must be one radius or more, got \(\)"),
        ({"norm": "l7"}, "`norm` must be one of linf, l2"),
        ({"search": "newton"}, "`search` must be one of every, bisect, got 'newton'"),
        ({"batch_size": 0}, "`batch_size` must be at least 1"),
        ({"attacks": []}, r"`attacks` must be one builder or more, got \[\]"),
        ({"attacks": {"own": 3}}, "`attacks` must be a builder, .*, got 3; give"),
    ],
)
def test_wrong_settings_are_refused(changes, message):
    dataset = limits_dataset(0.1)
    with pytest.raises(ValueError, match=message):
        evaluate(
            always_right, dataset, **{"attacks": by_image, "epsilons": [0.1]} | changes
        )


def test_names_are_made_of_builders_and_never_twice_the_same():
    dataset = limits_dataset(0.1, 0.9)
    attacks = [by_image, with_restarts(by_image, 2), lambda threat: by_image(threat)]
    found = evaluate(always_right, dataset, attacks, [0.2])
    assert found.attacks == ("by-image", "by-image-2", "attack")
    named = evaluate(always_right, dataset, {"mine": by_image}, [0.2])
    assert named.attacks == ("mine",)


def test_radii_are_found_as_they_are_written():
    dataset = limits_dataset(0.1, 0.25, 0.9)
    found = evaluate(always_right, dataset, by_image, (0.1 + 0.2, 0.2))
    assert found.at(0.3).tolist() == [False, False, True]
    assert found.at(0.2).tolist() == [False, True, True]
    with pytest.raises(
        ValueError, match=r"`epsilon` must be one of 0\.3, 0\.2, got 0\.1"
    ):
        found.at(0.1)
    shown = repr(found)
    assert "3 examples: clean 100.00%, 0.3: 33.33%, 0.2: 66.67%; by-image" in shown
    assert "\n" not in shown


def test_a_row_is_json_and_counts_what_the_flags_say():
    dataset = limits_dataset(0.1, 0.15, 0.25, 0.9)
    half = with_restarts(lambda threat: by_image(threat.with_epsilon(0.12)), 2)
    found = evaluate(always_right, dataset, {"weak": half, "own": by_image}, (0.2, 0.3))
    row = json.loads(json.dumps(dataclasses.asdict(found.row())))
    assert row["robust_accuracy"] == {"0.2": 0.5, "0.3": 0.25}
    assert row["num_images"] == 4 and row["clean_accuracy"] == 1
    low, high = row["robust_interval"]["0.2"]
    assert low < 0.5 < high
    weak, own = row["attacks"]
    assert (weak["name"], own["name"]) == ("weak", "own")
    assert weak["robust_accuracy"] == {"0.2": 0.75, "0.3": 0.75}
    assert own["robust_accuracy"] == row["robust_accuracy"]
    assert found.broken_by.tolist() == [[0, 1, -1, -1], [0, 1, 1, -1]]
    # Three stand at both radii against both starts of the first; one falls at once.
    assert weak["num_attacks"] in (13, 14) and row["num_bad_gradients"] == 3


def nudging(threat):
    """Moves the first pixel by the radius, and is right where that breaks it."""

    def attack(key, logits_fn, pixels, labels):
        moved = pixels.at[:, 0, 0, 0].add(-threat.epsilon)
        falls = judge(logits_fn(moved), labels)
        return AttackResult(moved, jnp.zeros(len(labels)), falls, jnp.ones_like(falls))

    return attack


def above(level):
    def logits_fn(pixels):
        score = pixels[:, 0, 0, 0] - level
        return jnp.stack([score, -score], axis=1)

    return logits_fn


def test_images_that_broke_each_example_are_kept_and_judged():
    dataset = limits_dataset(0.45, 0.55, 0.65, 0.85)
    attacks = {
        "nothing": lambda threat: nudging(threat.with_epsilon(0)),
        "own": nudging,
    }
    options = {"attacks": attacks, "epsilons": (0.3, 0.1, 0.2)}
    found = evaluate(above(0.5), dataset, **options, keep_images=True)
    assert found.image_epsilon.tolist() == [0, 0.1, 0.2, np.inf]
    assert found.image_attack.tolist() == [-2, 1, 1, -1]
    expected = np.float32([0.45, 0.45, 0.45, 0.85])
    np.testing.assert_allclose(found.images[:, 0, 0, 0], expected, atol=1e-6)
    assert found.images.dtype == np.float32
    plain = evaluate(above(0.5), dataset, **options)
    assert plain.images is plain.image_epsilon is plain.image_attack is None
    np.testing.assert_array_equal(plain.broken_by, found.broken_by)


def test_images_outside_the_ball_are_refused():
    dataset = limits_dataset(0.65, 0.15)

    def leaping(threat):
        return nudging(threat.with_epsilon(2 * threat.epsilon))

    def judged(epsilon, dataset):
        evaluate(above(0.1), dataset, leaping, [epsilon])

    outside = r"the pixel range, got 'leaping'; which leaves them in 1 of 2 runs, .* "
    with pytest.raises(ValueError, match=outside + r"example 0 at epsilon 0\.3"):
        judged(0.3, limits_dataset(0.65, 0.9))
    with pytest.raises(ValueError, match=outside + "example 1"):
        judged(0.1, dataset)


def test_images_that_do_not_break_the_model_again_are_told():
    def lying(threat):
        def attack(key, logits_fn, pixels, labels):
            always = jnp.ones(len(labels), bool)
            return AttackResult(pixels, jnp.zeros(len(labels)), always, always)

        return attack

    dataset = limits_dataset(0.65, 0.7)
    with pytest.warns(AdversarialImagesWarning, match="2 of 2 images that broke"):
        evaluate(above(0.5), dataset, lying, [0.1], keep_images=True)


RECORDED = json.loads(
    (Path(__file__).parents[1] / "golden/evaluation.json").read_text()
)
"""Outcomes of these attacks before builders had turns and numbers of their own."""


def bits(flags):
    return "".join(str(int(flag)) for flag in flags)


def test_draws_are_what_they_were():
    weights, dataset = line_models()
    found = evaluate_models(apply_line, weights, dataset, **WEAK)
    assert RECORDED["line"] == [
        {
            "clean": bits(each.is_clean_correct),
            "robust": list(map(bits, each.is_robust)),
        }
        for each in found
    ]


def recorded_network():
    rng = np.random.default_rng(0)
    weights = {
        "hidden": jnp.float32(rng.normal(size=(36, 24)) / 6),
        "head": jnp.float32(rng.normal(size=(24, 5)) / 5),
    }

    def apply(weights):
        def logits_fn(pixels):
            flat = pixels.reshape(pixels.shape[0], 36)
            return jax.nn.relu(flat @ weights["hidden"]) @ weights["head"]

        return logits_fn

    images = rng.uniform(size=(40, 6, 6, 1))
    labels = np.array(np.argmax(apply(weights)(jnp.float32(images)), axis=1))
    labels[::9] = (labels[::9] + 1) % 5
    return apply, weights, dataset_of(images, labels, 5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["all", *STAGES])
def test_outcomes_of_the_ensemble_are_what_they_were(name):
    apply, weights, dataset = recorded_network()
    attacks = standard_ensemble(
        num_steps=2,
        num_targets=2,
        num_queries=3,
        num_restarts=2,
        stages=STAGES[:4] if name == "all" else (name,),
    )
    radii = (0.02, 0.06, 0.04)
    (found,) = evaluate_models(
        apply, [weights], dataset, attacks, radii, batch_size=16, seed=1
    )
    recorded = RECORDED[f"ensemble-{name}"]
    # Another processor may round an example over the boundary, another key many.
    assert np.sum(found.broken_by != np.array(recorded["broken_by"])) <= 2
    np.testing.assert_allclose(found.num_attacks, recorded["num_attacks"], atol=6)
    ratio = np.divide(recorded["num_passes"], recorded["num_attacks"])
    np.testing.assert_allclose(np.divide(found.num_passes, found.num_attacks), ratio)


@pytest.mark.parametrize(
    ("name", "attack", "options"),
    [
        ("pgd", PGD(num_steps=3), {"seed": 3}),
        ("pgd-bisect", PGD(num_steps=3), {"seed": 3, "search": "bisect"}),
        (
            "pgd-best-margin-l2",
            PGD(step_size=0.1, loss="margin", keep="best"),
            {"norm": "l2", "epsilons": (0.1, 0.2, 0.4)},
        ),
    ],
)
def test_outcomes_of_pgd_are_what_they_were(name, attack, options):
    apply, weights, dataset = recorded_network()
    options = {"epsilons": (0.02, 0.06, 0.04), "batch_size": 16} | options
    attacks = with_restarts(attack, 2)
    (found,) = evaluate_models(apply, [weights], dataset, attacks, **options)
    recorded = RECORDED[name]
    assert bits(found.is_clean_correct) == recorded["clean"]
    flags = np.array([list(map(int, row)) for row in recorded["robust"]])
    assert np.sum(found.is_robust != flags) <= 2
