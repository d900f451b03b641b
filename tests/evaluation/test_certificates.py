"""What is certified is what bounds prove, and no attack breaks it."""

import dataclasses
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrobust.attacks import PGD
from jaxrobust.bounds import interval_margins, interval_pass, is_certified
from jaxrobust.data import Dataset, as_float, load_arrays, subset
from jaxrobust.data.parts import subset_rows
from jaxrobust.evaluation import (
    METHODS,
    Certification,
    ChecklistConfig,
    JournalError,
    broken_certificates,
    certify,
    certify_models,
    checklist,
    evaluate,
    evaluate_models,
    wilson_interval,
)
from jaxrobust.evaluation.certificates.programs import operations_in, peak_bytes
from jaxrobust.evaluation.checklist import QUESTIONS
from jaxrobust.threat import LinfBall, threat_of


def data_of(images, labels=None, num_classes=2):
    labels = np.zeros(len(images), np.int32) if labels is None else labels
    return Dataset(
        name="own",
        title="own",
        images=np.asarray(images, np.float32),
        labels=np.asarray(labels, np.int32),
        num_classes=num_classes,
    )


LINEAR = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)


def linear(images):
    return images.reshape(len(images), -1) @ LINEAR


def linear_data(count=40):
    rng = np.random.default_rng(1)
    images = rng.uniform(size=(count, 3, 3, 1)).astype(np.float32)
    labels = np.argmax(np.asarray(linear(images)), axis=1)
    labels[::7] = (labels[::7] + 1) % 3
    return data_of(images, labels, 3)


@pytest.mark.parametrize("epsilons", [(0.01, 0.05, 0.2), (0.2, 0.0, 0.05), (0.1,)])
def test_of_a_linear_classifier_all_that_can_be_proven_is(epsilons):
    data = linear_data()
    images, weights = np.float64(data.images).reshape(len(data), -1), np.float64(LINEAR)
    apart = weights.T[data.labels][:, None] - weights.T[None]
    found = certify(linear, data, epsilons, batch_size=7)
    for epsilon, flags in zip(epsilons, found.is_certified, strict=True):
        ends = (np.maximum(images - epsilon, 0), np.minimum(images + epsilon, 1))
        low, high = (apart * end[:, None] for end in ends)
        margins = np.minimum(low, high).sum(axis=2)
        margins[np.arange(len(data)), data.labels] = np.inf
        # No margin is so small that rounding decides.
        assert np.abs(margins).min() > 1e-4
        np.testing.assert_array_equal(flags, (margins > 0).all(axis=1))
        np.testing.assert_array_equal(found.at(epsilon), flags)
    row = found.row()
    assert row.certified_accuracy[f"{epsilons[0]:g}"] == found.is_certified[0].mean()
    count = int(found.is_certified[0].sum())
    expected = wilson_interval(count, len(data))
    assert row.certified_interval[f"{epsilons[0]:g}"] == expected
    assert row.methods[0].num_certified[f"{epsilons[0]:g}"] == count
    assert found.certified_by[0].tolist().count(-2) == np.sum(~found.is_clean_correct)


# Images whose two pixels are the radii up to which the methods prove something.


def right(images):
    """Right on every image of the label 0."""
    score = images[:, 0, 0] + images[:, 0, 1] + 1.0
    return score * jnp.array([[1.0, -1.0]])


def by_pixel(place, logits_fn, threat, images, labels):
    del logits_fn, labels
    margin = images[:, 0, place, 0] - threat.epsilon
    return jnp.stack([jnp.full_like(margin, jnp.nan), margin], axis=1)


FIRST, SECOND = partial(by_pixel, 0), partial(by_pixel, 1)
RADII = (0.1, 0.2, 0.3, 0.4)


def pixels(rows):
    return np.array(rows, np.float32).reshape(len(rows), 1, 2, 1)


def test_the_first_method_that_proves_counts_and_proofs_hold_below():
    rows = [(0.45, 0.0), (0.25, 0.35), (0.0, 0.15), (0.35, 0.25), (0.0, 0.0)]
    labels = [0, 0, 0, 0, 0]
    data = data_of(pixels([*rows, (0.9, 0.9)]), [*labels, 1])
    found = certify(right, data, RADII, methods={"a": FIRST, "b": SECOND}, batch_size=2)
    expected = [
        [0, 0, 1, 0, -1, -2],
        [0, 0, -1, 0, -1, -2],
        [0, 1, -1, 0, -1, -2],
        [0, -1, -1, -1, -1, -2],
    ]
    np.testing.assert_array_equal(found.certified_by, expected)
    np.testing.assert_array_equal(found.is_certified, np.array(expected) >= 0)
    none = -np.inf
    proven = [[0.4, 0.2, none, 0.3, none, none], [none, 0.3, 0.1, none, none, none]]
    np.testing.assert_array_equal(found.proven_epsilon, proven)
    # From the largest radius down to the first that is proven, and by the second method
    # no further than to what the first one proved.
    assert found.num_bounds == (1 + 3 + 4 + 2 + 4, 2 + 4 + 1 + 4)
    assert [row.num_certified["0.1"] for row in found.row().methods] == [3, 1]
    assert "0.1: 66.67%" in repr(found) and "in linf; a, b" in repr(found)


@settings(max_examples=6)
@given(
    values=st.lists(st.tuples(*[st.floats(0, 0.5, width=16)] * 2), min_size=1),
    batch_size=st.integers(1, 9),
    radii=st.permutations(RADII),
)
def test_every_example_is_proven_as_by_itself(values, batch_size, radii):
    data = data_of(pixels(values))
    found = certify_models(
        lambda _: right, [()], data, radii, methods=[FIRST], batch_size=batch_size
    )[0]
    stored = data.images[:, 0, 0, 0]
    expected = stored[None] - np.float32(radii)[:, None] > 0
    np.testing.assert_array_equal(found.is_certified, expected)
    assert found.methods == ("by_pixel",) and found.num_examples == len(values)


def test_what_is_proven_at_a_radius_only_is_proven_below_and_not_above():
    def at_one_radius(logits_fn, threat, images, labels):
        margins = jnp.where(jnp.abs(threat.epsilon - 0.2) < 0.01, 1.0, -1.0)
        return jnp.full((len(images), 2), margins)

    found = certify(right, data_of(pixels([(0, 0)])), RADII, methods=at_one_radius)
    assert found.is_certified[:, 0].tolist() == [True, True, False, False]
    assert found.proven_epsilon.tolist() == [[0.2]]
    assert found.methods == ("at_one_radius",)


@pytest.fixture(scope="module")
def trained():
    """Weights of a small network of digits: trained plainly, and on its bounds."""
    train, test = (load_arrays("digits", split) for split in ("train", "test"))
    images, labels = as_float(jnp.asarray(train.images)), jnp.asarray(train.labels)
    keys = jax.random.split(jax.random.key(0))
    start = {
        "first": jax.random.normal(keys[0], (64, 24)) / 8,
        "last": jax.random.normal(keys[1], (24, 10)) / 5,
        "bias": jnp.zeros(24),
    }
    optimizer = optax.adam(1e-2)

    @jax.jit
    def fit(epsilon):
        def loss(weights, epsilon):
            threat = LinfBall(epsilon)
            found = interval_pass(apply(weights), threat, images, labels)
            return jnp.mean(jax.nn.logsumexp(-found.margins, axis=1))

        def step(carry, share):
            weights, state = carry
            gradient = jax.grad(loss)(weights, epsilon * share)
            updates, state = optimizer.update(gradient, state)
            return (optax.apply_updates(weights, updates), state), None

        carry = (start, optimizer.init(start))
        (weights, _), _ = jax.lax.scan(step, carry, jnp.linspace(0, 1, 150))
        return weights

    return [fit(0.0), fit(0.1)], subset(test, 120)


def apply(weights):
    def logits_fn(images):
        hidden = images.reshape(len(images), -1) @ weights["first"]
        return jax.nn.relu(hidden + weights["bias"][None]) @ weights["last"]

    return logits_fn


@pytest.mark.parametrize(
    ("norm", "epsilons"),
    [
        ("linf", (0.01, 0.04, 0.1)),
        pytest.param("l2", (0.05, 0.2, 0.5), marks=pytest.mark.slow),
    ],
)
def test_no_attack_breaks_what_is_certified(trained, norm, epsilons):
    weights, data = trained
    proofs = certify_models(apply, weights, data, epsilons, norm=norm, batch_size=32)
    attack = PGD(num_steps=20, step_size=0.2 * epsilons[-1])
    attacks = evaluate_models(apply, weights, data, attack, epsilons, norm=norm)
    threat = threat_of(norm)(epsilons[1])
    images, labels = as_float(jnp.asarray(data.images)), jnp.asarray(data.labels)

    @jax.jit
    def alone(weights):
        """As asked about one radius, without the program."""
        margins = interval_margins(apply(weights), threat, images, labels)
        return is_certified(margins, labels)

    for tree, proof, attacked in zip(weights, proofs, attacks, strict=True):
        assert not broken_certificates(proof, attacked).any()
        assert (proof.certified_accuracy <= attacked.robust_accuracy).all()
        assert proof.clean_accuracy == attacked.clean_accuracy > 0.8
        # In the order of the radii less and less, and never what is wrong anyway.
        assert (np.diff(proof.is_certified.astype(int), axis=0) <= 0).all()
        assert not proof.is_certified[:, ~proof.is_clean_correct].any()
        assert proof.certified_accuracy[0] > 0.3
        expected = np.asarray(alone(tree)) & proof.is_clean_correct
        np.testing.assert_array_equal(proof.at(epsilons[1]), expected)
    # Training on bounds is what makes them tight.
    assert proofs[1].certified_accuracy[1] > proofs[0].certified_accuracy[1] + 0.3


@pytest.mark.slow
def test_no_attack_breaks_what_any_method_certifies(trained):
    weights, data = trained
    few, radii = subset(data, 30), (0.03, 0.08)
    attack = PGD(num_steps=20, step_size=0.02)
    attacks = evaluate_models(apply, weights, few, attack, radii)
    interval, *others = METHODS
    (first,) = certify_models(apply, weights[:1], few, radii, methods=interval)
    for name in others:
        proofs = certify_models(apply, weights, few, radii, methods=[interval, name])
        for proof, attacked in zip(proofs, attacks, strict=True):
            assert not broken_certificates(proof, attacked).any()
        gained = proofs[0].is_certified & ~first.is_certified
        np.testing.assert_array_equal(gained, proofs[0].certified_by == 1)
        assert gained.any() and not (first.is_certified & ~proofs[0].is_certified).any()


def test_a_lie_is_found_out():
    def lie(logits_fn, threat, images, labels):
        return jnp.ones_like(logits_fn(images))

    data, radii, attack = linear_data(), (0.05, 0.2), PGD(step_size=0.2, num_steps=1)
    proof = certify(linear, data, radii, methods=[lie])
    attacked = evaluate(linear, data, attack, radii)
    found = broken_certificates(proof, attacked)
    broken = attacked.is_clean_correct & ~attacked.is_robust
    np.testing.assert_array_equal(found, broken)
    assert found[1].sum() > found[0].sum() > 0
    elsewhere = evaluate(linear, subset(data, 20), attack, radii)
    with pytest.raises(ValueError, match="`evaluation` must be of the same model"):
        broken_certificates(proof, elsewhere)
    with pytest.raises(ValueError, match=r"must be one of 0\.05, 0\.2, got 0\.3"):
        proof.at(0.3)


CHECK = ChecklistConfig(
    epsilon=0.05,
    attack=PGD(step_size=0.05, num_steps=1, random_start=False),
    num_images=20,
    batch_size=20,
)


def test_the_checklist_asks_whether_a_certified_image_is_broken():
    def lie(logits_fn, threat, images, labels):
        return jnp.ones_like(logits_fn(images))

    data = linear_data()
    proof = certify(linear, data, (0.06, 0.2))
    asked = {"only": ["certified", "single_step"]}
    found = checklist(linear, data, CHECK, certification=proof, **asked)
    check = found["certified"]
    assert (check.verdict, found.verdict) == ("pass", "pass")
    # The largest radius counts: what is proven at .06 is proven at .05.
    rows = subset_rows(data, 20)
    share = proof.at(0.06)[rows].mean()
    assert check.measured["accuracy, certified"] == share > 0
    assert share <= check.measured["accuracy, all attacks here"] < 1
    assert check.measured["attacks"] == 2
    lying = certify(linear, data, (0.05,), methods=lie)
    found = checklist(linear, data, CHECK, certification=lying, **asked)
    check = found["certificates"]
    assert (check.verdict, found.verdict) == ("fail", "fail")
    right = lying.is_clean_correct[rows].mean()
    broken = right - check.measured["accuracy, all attacks here"]
    assert check.measured["certified and broken"] == round(20 * broken) > 0
    # A larger ball may well break what is certified in the smaller one.
    wide = dataclasses.replace(CHECK, epsilon=0.2)
    found = checklist(linear, data, wide, certification=lying, only=["certified"])
    assert found["certified"].measured["accuracy, certified"] == 0.0
    assert found.verdict == "pass"


def test_without_certificates_it_is_not_asked():
    found = checklist(linear, linear_data(), CHECK, only=["certified", "logits"])
    assert found["certified"].verdict == "inconclusive" and found.verdict == "pass"
    assert {each.name for each in QUESTIONS}.isdisjoint({"certified"})
    proof = certify(linear, linear_data(), (0.05,), norm="l2")
    with pytest.raises(ValueError, match="`norm` must be l2, as certified, got 'linf'"):
        checklist(linear, linear_data(), CHECK, certification=proof)
    proof = certify(linear, linear_data(9), (0.05,))
    with pytest.raises(ValueError, match="`certification` must be of the 40 examples"):
        checklist(linear, linear_data(), CHECK, certification=proof)


def test_what_is_no_number_proves_nothing():
    def unsure(logits_fn, threat, images, labels):
        return jnp.full_like(logits_fn(images), jnp.nan)

    data = data_of(pixels([(0.5, 0.5), (0.2, 0.9)]))
    assert not certify(right, data, RADII, methods=unsure).is_certified.any()

    def rooted(images):
        """No number where a pixel is below a half, in the ball of one image only."""
        score = 1 + jnp.sqrt(images[:, 0, 0] - 0.5)
        return score * jnp.array([[1.0, -1.0]])

    data = data_of(pixels([(0.55, 0.5), (0.9, 0.9)]))
    found = certify(rooted, data, (0.1,))
    assert found.is_clean_correct.all()
    assert found.is_certified[0].tolist() == [False, True]
    with pytest.raises(ValueError, match="got NaN or infinity for 1 of 1 clean images"):
        certify(rooted, data_of(pixels([(0.2, 0.9)])), (0.1,))


def sorted_by(images):
    return jnp.sort(images.reshape(len(images), -1), axis=1)


def failing(logits_fn, threat, images, labels):
    raise TypeError("this method is not finished.")


def narrow(logits_fn, threat, images, labels):
    return logits_fn(images)[:, :1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"methods": ("intervall",)},
            "`methods` must be one of interval.* or path/to/file.py:NAME, got "
            "'intervall'; did you mean 'interval'",
        ),
        ({"methods": ()}, "`methods` must be one method or more"),
        (
            {"methods": ("interval", "interval")},
            "`methods` must be different methods, got 'interval'",
        ),
        ({"methods": {"own": 3}}, "`methods` must be functions .*got 3"),
        ({"methods": failing}, "got 'failing', which says: this method is not fin"),
        (
            {"methods": narrow},
            r"return margins \(images, classes\), \[1, 2\] here, got 'narrow, "
            r"which returns float32\[1, 1\]'",
        ),
        (
            {"logits_fn": sorted_by},
            "must be able to bound this model in linf, got 'interval', which says: "
            ".*sort.*test_certificates.py",
        ),
        (
            {"norm": "l0", "epsilons": (1,)},
            "bound this model in l0, got 'interval', which says: `threat` must be",
        ),
        ({"norm": "l7"}, "`norm` must be one of"),
        ({"epsilons": (8,)}, "so 8/255 rather than 8"),
        ({"epsilons": ()}, "`epsilons` must be one radius or more"),
        ({"batch_size": 0}, "`batch_size` must be"),
    ],
)
def test_what_cannot_be_certified_is_refused_before_anything_is(changes, message):
    asked = {"logits_fn": right, "epsilons": RADII} | changes
    logits_fn, epsilons = asked.pop("logits_fn"), asked.pop("epsilons")
    with pytest.raises(ValueError, match=f"(?s){message}"):
        certify(logits_fn, data_of(pixels([(0.5, 0.5)])), epsilons, **asked)


# Journals.

SCALES = [{"scale": np.float32(1)}, {"scale": np.float32(2)}]
MANY = data_of(np.random.default_rng(1).uniform(0, 0.5, size=(23, 1, 2, 1)))


def scaled(weights):
    return lambda images: weights["scale"] * right(images)


def run(journal=None, **changes):
    asked = {
        "dataset": MANY,
        "epsilons": RADII,
        "methods": {"a": FIRST, "b": SECOND},
        "batch_size": 4,
    }
    return certify_models(scaled, SCALES, journal=journal, **(asked | changes))


def assert_same(one, other):
    for left, right in zip(one, other, strict=True):
        assert isinstance(left, Certification)
        for name in ("is_clean_correct", "proven_epsilon", "num_bounds", "epsilons"):
            np.testing.assert_array_equal(getattr(left, name), getattr(right, name))


@pytest.fixture(scope="module")
def undisturbed():
    seen = []
    return run(progress=seen.append), seen


@settings(max_examples=6)
@given(period=st.integers(1, 20))
def test_interrupted_after_every_few_buckets(period, undisturbed, tmp_path_factory):
    expected, buckets = undisturbed
    journal = tmp_path_factory.mktemp("journal") / "progress.npz"
    done, found = 0, None
    while found is None:
        seen = []

        def stop(progress, seen=seen):
            seen.append(progress)
            if len(seen) == period:
                raise KeyboardInterrupt

        try:
            found = run(journal, progress=stop)
        except KeyboardInterrupt:
            assert len(seen) == period
        done += len(seen)
    assert_same(found, expected)
    # None is lost and none is done twice.
    assert done == len(buckets)
    # Finished, it is only read.
    again = run(journal, progress=lambda _: pytest.fail("bounded again"))
    assert_same(again, found)
    assert again[0].seconds == found[0].seconds and min(found[0].seconds) > 0


def test_what_is_told_rises_to_what_is_found(undisturbed):
    found, buckets = undisturbed
    last = [each for each in buckets if each.model == 0][-1]
    assert last.certified_accuracy == tuple(found[0].certified_accuracy)
    shares = [each.certified_accuracy for each in buckets if each.model == 0]
    assert (np.diff(shares, axis=0) >= 0).all()
    assert {each.method for each in buckets} == {"a", "b"}


KILLED = """
import importlib, sys, time

sys.path.insert(0, {root!r})
tests = importlib.import_module({name!r})

seen = []

def progress(told):
    seen.append(told)
    if len(seen) == 5:
        print("going", flush=True)
        time.sleep(60)

from jaxrobust.evaluation.engine.journal import Journal
begin = Journal.__init__
Journal.__init__ = lambda *args, **named: begin(*args, **named, every=0.0)
tests.run({path!r}, progress=progress)
"""


def test_killed_it_goes_on(tmp_path, undisturbed):
    expected, buckets = undisturbed
    path = tmp_path / "journal.npz"
    root = str(Path(__file__).parents[2])
    # By the same name, which is that of the methods in the journal, too.
    script = KILLED.format(root=root, name=__name__, path=str(path))
    command = [sys.executable, "-c", script]
    other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None and other.stdout.readline() == "going\n"
    finally:
        os.kill(other.pid, signal.SIGKILL)
        other.communicate()
    seen = []
    assert_same(run(path, progress=seen.append), expected)
    # The fifth bucket was there, but not yet written.
    assert len(seen) == len(buckets) - 4


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"epsilons": RADII[:3]}, "epsilons: 4 entries, now 3"),
        ({"norm": "l2"}, "norm: 'linf', now 'l2'"),
        ({"batch_size": 5}, r"methods\[0\].bucket: 4, now 5"),
        ({"methods": {"a": FIRST, "b": FIRST}}, r"methods\[1\].settings"),
        ({"methods": {"a": FIRST}}, "methods: 2 entries, now 1"),
        ({"dataset": subset(MANY, 9)}, "data: '"),
    ],
)
def test_the_journal_of_something_else_is_refused(changes, place, tmp_path):
    path = tmp_path / "journal.npz"
    run(path)
    with pytest.raises(JournalError, match=f"differs in .*{place}"):
        run(path, **changes)


def test_the_journal_of_attacks_is_none_of_certificates(tmp_path):
    path, data = tmp_path / "journal.npz", data_of(pixels([(0.5, 0.5)]))
    attack = PGD(step_size=0.1, num_steps=1)
    evaluate(right, data, attack, (0.1,), journal=path)
    with pytest.raises(JournalError, match="must be that of the same evaluation"):
        certify(right, data, (0.1,), journal=path)


def test_memory_is_that_of_the_arrays_that_are_there_at_once():
    def program(weights, image):
        wide = jnp.tile(image, 100)  # 400 floats
        twice = wide * 2.0
        weighed = jnp.sum(jnp.exp(weights)) * jnp.sum(twice)  # those of weights: no
        return jnp.sum(jnp.tile(image * weighed, 25))

    traced = jax.make_jaxpr(program)(jnp.ones(5000), jnp.ones(4))
    found = peak_bytes(traced.jaxpr, [False, True])
    assert 2 * 400 * 4 <= found <= 2 * 400 * 4 + 200
    inner = jax.make_jaxpr(jax.jit(program))(jnp.ones(5000), jnp.ones(4))
    assert peak_bytes(inner.jaxpr, [False, True]) >= found


def test_work_is_that_of_the_products_in_every_turn_of_a_loop():
    kernel = jnp.ones((3, 3, 2, 5))

    def program(images, weights):
        def turn(total, row):
            return total + jnp.sum(row @ weights), None

        total, _ = jax.lax.scan(turn, 0.0, jnp.ones((7, 20, 30)))
        dimensions = ("NHWC", "HWIO", "NHWC")
        moved = jax.lax.conv_general_dilated(
            images, kernel, (1, 1), "VALID", dimension_numbers=dimensions
        )
        return total + jnp.sum(moved)

    traced = jax.make_jaxpr(program)(jnp.ones((4, 8, 8, 2)), jnp.ones((30, 40)))
    products = 7 * (2 * 20 * 30 * 40) + 2 * (4 * 6 * 6 * 5) * (3 * 3 * 2)
    assert products < operations_in(traced.jaxpr) < 1.05 * products
