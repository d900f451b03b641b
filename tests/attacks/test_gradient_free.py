"""Attacks without gradients against closed forms, brute force and published code."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrobust.attacks import brute_force, judge, noise, spsa, square, zoo
from jaxrobust.attacks.squares import (
    _linf_squares,
    _square_stage,
    square_bump,
    square_sides,
)
from jaxrobust.losses import margin
from jaxrobust.threat import THREATS, L2Ball, LinfBall, ThreatModel


def two_classes(weights, offset=0.0):
    """Class 0 where `weights . images + offset` is positive, else class 1."""

    def logits_fn(images):
        score = images.reshape(len(images), -1) @ weights + offset
        return jnp.stack([score, jnp.zeros_like(score)], axis=1)

    return logits_fn


def zeros(count):
    return jnp.zeros(count, jnp.int32)


# --- Square attack: schedule, patterns, optimum, stopping ---


@pytest.mark.parametrize("num_queries", [5000, 10_000, 1000, 37, 1_000_003])
def test_squares_shrink_when_autoattack_shrinks_them(num_queries):
    def stage(index):
        # AutoAttack's `p_selection`, with its quotient taken exactly.
        of_ten_thousand = index * 10_000 // num_queries
        limits = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
        return sum(of_ten_thousand > limit for limit in limits)

    step = max(num_queries // 2000, 1)
    indices = np.arange(0, num_queries, step)
    found = jax.vmap(lambda index: _square_stage(index, jnp.int32(num_queries)))(
        jnp.asarray(indices)
    )
    np.testing.assert_array_equal(found, [stage(int(index)) for index in indices])


def test_squares_have_the_sides_of_autoattack():
    # By hand for 28x28: round(sqrt(0.8 * 784)) = 25, round(sqrt(0.4 * 784)) = 18, ...
    np.testing.assert_array_equal(
        square_sides(28, 28), [25, 18, 13, 9, 6, 4, 3, 2, 2, 1]
    )
    np.testing.assert_array_equal(
        square_sides(28, 28, is_odd=True), [25, 19, 13, 9, 7, 5, 3, 3, 3, 3]
    )


@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    share=st.floats(0.001, 1.0),
    is_odd=st.booleans(),
)
def test_squares_fit_into_the_image_and_never_grow(height, width, share, is_odd):
    sides = square_sides(height, width, initial_share=share, is_odd=is_odd)
    assert sides.min() >= 1 and sides.max() <= min(height, width)
    assert np.all(np.diff(sides) <= 0)


@given(side=st.integers(1, 60))
def test_bumps_are_those_of_autoattack(side):
    def rectangle(rows, columns):
        # Written after the loop over growing rectangles in the authors' code.
        delta = np.zeros((rows, columns))
        row, column = rows // 2, columns // 2
        for count in range(max(rows // 2 + 1, columns // 2 + 1)):
            top, left = max(row - count, 0), max(column - count, 0)
            bottom = max(min(row + count + 1, rows), 0)
            delta[top:bottom, left : min(column + count + 1, columns)] += (
                1 / (count + 1) ** 2
            )
        length = np.linalg.norm(delta)
        return delta / length if length else delta

    expected = np.concatenate(
        [rectangle(side // 2, side), -rectangle(side - side // 2, side)]
    )
    expected /= np.linalg.norm(expected)
    np.testing.assert_allclose(square_bump(side), expected, atol=1e-6)


@pytest.fixture(scope="module")
def linear():
    """A hard one: 8x8x1, all of the ball is needed to see how far a search gets."""
    weights = jax.random.normal(jax.random.key(5), (64,))
    images = jax.random.uniform(
        jax.random.key(6), (4, 8, 8, 1), minval=0.35, maxval=0.65
    )
    # So far from the boundary that no perturbation succeeds, and nothing stops early.
    return two_classes(weights, 1e3), weights, images


@pytest.fixture(scope="module")
def squared(linear):
    logits_fn, _, images = linear
    return {
        kind: jax.jit(
            lambda threat, num_queries, center=images: square(
                threat, num_queries=num_queries
            )(jax.random.key(0), logits_fn, center, zeros(4))
        )
        for kind in ("linf", "l2")
    }


@pytest.mark.parametrize("shape", [(5, 9, 2), (2, 40, 1)])
def test_squares_that_change_nothing_are_told_as_such(shape, key):
    images = jax.random.uniform(key, (3, *shape))
    squares = _linf_squares(LinfBall(0.2), images, 0.3)
    words = jax.random.bits(key, (3, 40, squares.num_words), jnp.uint32)
    stages = jax.random.randint(key, (3, 40), 0, 10)
    propose = jax.jit(squares.propose)
    # Large areas of one color, as a search leaves them.
    best = squares.start(key)
    for number in range(20):
        best = propose(words[:, number], jnp.zeros(3, int), best)
    told = np.asarray(jax.jit(squares.is_idle)(words, stages, best))
    painted = [propose(words[:, k], stages[:, k], best) for k in range(40)]
    same = [np.all(np.asarray(each == best), axis=(1, 2, 3)) for each in painted]
    np.testing.assert_array_equal(told, np.stack(same, axis=1))
    assert told.any() and not told.all()


@pytest.mark.slow
def test_square_leaves_out_only_what_changes_nothing(linear):
    # Every query asked of the model, and the images that a plain loop would ask for.
    logits_fn, _, images = linear
    images, labels, threat = images[:1], zeros(1), LinfBall(0.1)
    asked = []

    def spied(points):
        jax.debug.callback(lambda each: asked.append(np.array(each)), points)
        return logits_fn(points)

    found = square(threat, num_queries=200)(jax.random.key(2), spied, images, labels)
    jax.block_until_ready(found)
    best, loss = asked[0], margin(logits_fn(asked[0]), labels)
    num_idle = 0
    for points in asked[1:]:
        num_idle += np.array_equal(points, best)
        new = margin(logits_fn(points), labels)
        if new[0] > loss[0]:
            best, loss = points, new
    np.testing.assert_array_equal(found.images, best)
    assert 100 < len(asked) < 200
    # Only where several idle ones followed each other.
    assert num_idle < 0.1 * len(asked)


@pytest.mark.parametrize(
    ("kind", "radius", "share"), [("linf", 0.1, 0.97), ("l2", 0.3, 0.5)]
)
def test_square_nears_the_optimum_of_a_linear_classifier(
    kind, radius, share, linear, squared
):
    logits_fn, weights, images = linear
    found = squared[kind](THREATS[kind](jnp.float32(radius)), 3000)
    rise = found.loss - margin(logits_fn(images), zeros(4))
    best = radius * np.linalg.norm(np.asarray(weights), 1 if kind == "linf" else 2)
    assert np.all(rise <= best * (1 + 1e-3))
    # Under l2 a window's pattern is fixed: a search by bumps cannot come as close.
    assert np.all(rise >= share * best)


def test_square_never_loses_what_it_has(squared):
    threat = LinfBall(jnp.float32(0.1))
    losses = [squared["linf"](threat, count).loss for count in (1, 1)]
    np.testing.assert_array_equal(*losses)
    # The queries of a short run are not a prefix of a long one's, whose squares shrink
    # later; so compare means over the images.
    short, long = (np.mean(squared["linf"](threat, count).loss) for count in (10, 800))
    assert long > short


def test_square_paints_corners_of_the_ball_only(squared, linear):
    images = linear[2]
    found = squared["linf"](LinfBall(jnp.float32(0.1)), 50)
    np.testing.assert_allclose(np.abs(found.images - images), 0.1, atol=1e-6)


def test_square_under_l2_uses_the_whole_radius(squared, linear):
    images = linear[2]
    for count in (1, 300):
        found = squared["l2"](L2Ball(jnp.float32(0.2)), count)
        norms = L2Ball(0.2).norm(found.images - images)
        np.testing.assert_allclose(norms, 0.2, rtol=1e-4)


def test_square_leaves_an_example_alone_once_it_is_fooled(linear):
    # The first image is fooled by the stripes it starts from, the second never is; the
    # first must come back as if it had been attacked by no query.
    images = linear[2][:2]

    def logits_fn(points):
        is_second = jnp.arange(2) == 1
        score = jnp.where(is_second, 1e3, -1e3) + points.sum(axis=(1, 2, 3))
        return jnp.stack([score, jnp.zeros(2)], axis=1)

    @jax.jit
    def attack(num_queries):
        found = square(LinfBall(0.1), num_queries=num_queries)
        return found(jax.random.key(1), logits_fn, images, zeros(2))

    one, many = attack(1), attack(100)
    np.testing.assert_array_equal(many.is_adversarial, [True, False])
    np.testing.assert_array_equal(one.images[0], many.images[0])
    assert np.any(np.asarray(one.images[1]) != np.asarray(many.images[1]))


@pytest.mark.slow
def test_square_serves_several_channels_and_unequal_edges(key):
    images = jax.random.uniform(key, (2, 5, 9, 3))
    logits_fn = two_classes(jax.random.normal(key, (135,)), 1e3)
    for kind in ("linf", "l2"):
        threat = THREATS[kind](0.1)
        attack = jax.jit(square(threat, num_queries=40), static_argnums=1)
        found = attack(key, logits_fn, images, zeros(2))
        assert np.all(threat.norm(found.images - images) <= 0.1 + 1e-6)
        assert np.all(found.loss > margin(logits_fn(images), zeros(2)))


# --- Estimated gradients ---


def test_the_mean_of_spsa_gradients_is_the_gradient(key, monkeypatch):
    # On a linear function the estimate is unbiased; its variance in a pixel is the sum
    # of the other weights' squares over the number of directions.
    weights = jax.random.normal(key, (12,))
    num_directions = 5000
    seen = {}

    def first_step(moments, gradient, is_moved):
        seen["gradient"] = gradient
        return moments, gradient * is_moved

    monkeypatch.setattr("jaxrobust.attacks.estimated._adam", first_step)
    images = jnp.full((1, 3, 4, 1), 0.5)
    threat = LinfBall(1.0, None)
    attack = spsa(
        threat,
        num_steps=1,
        num_directions=num_directions,
        learning_rate=1.0,
        batch_size=300,
    )
    # The step is the gradient itself, so what the images moved by is the estimate.
    logits_fn = two_classes(-0.1 * weights, 1e3)
    found = attack(key, logits_fn, images, zeros(1))
    estimate = np.asarray(found.images - images).ravel()
    spread = 0.1 * math.sqrt(np.sum(np.asarray(weights) ** 2) / num_directions)
    np.testing.assert_allclose(estimate, 0.1 * weights, atol=4 * spread + 1e-3)
    assert spread < 0.01


@pytest.mark.parametrize("kind", ("linf", "l2"))
@pytest.mark.parametrize("name", ["zoo", "spsa"])
def test_estimated_gradients_find_the_optimum_of_a_linear_classifier(
    name, kind, linear
):
    logits_fn, weights, images = linear
    attack = {
        "zoo": lambda threat: zoo(
            threat, num_steps=60, num_coordinates=40, spacing=0.02, learning_rate=0.02
        ),
        "spsa": lambda threat: spsa(
            threat, num_steps=60, num_directions=200, batch_size=64
        ),
    }[name]
    # A smaller offset keeps the digits of finite differences.
    logits_fn = two_classes(weights, 30.0)
    attack = jax.jit(attack(THREATS[kind](0.1)), static_argnums=1)
    found = attack(jax.random.key(0), logits_fn, images, zeros(4))
    rise = found.loss - margin(logits_fn(images), zeros(4))
    best = 0.1 * np.linalg.norm(np.asarray(weights), 1 if kind == "linf" else 2)
    assert np.all(rise <= best * (1 + 1e-3))
    # Adam's steps are those of l_inf. Under l2 they go along the signs of the weights,
    # whose cosine with normal weights is sqrt(2 / pi) = 0.8.
    assert np.all(rise >= (0.97 if kind == "linf" else 0.75) * best)


def test_zoo_moves_as_many_pixels_as_it_measures(linear):
    logits_fn, _, images = linear
    attack = zoo(LinfBall(0.5), num_steps=1, num_coordinates=10, spacing=0.1)
    found = attack(jax.random.key(0), logits_fn, images, zeros(4))
    moved = np.abs(np.asarray(found.images - images)).reshape(4, -1)
    np.testing.assert_array_equal(np.sum(moved > 0, axis=1), 10)
    # Adam's first step has the length of the learning rate, whatever the gradient.
    np.testing.assert_allclose(moved[moved > 0], 0.01, rtol=1e-3)


def test_zoo_asks_for_pixels_in_the_range_only():
    def logits_fn(images):
        is_out = jnp.any((images < 0) | (images > 1), axis=(1, 2, 3))
        score = images.sum(axis=(1, 2, 3)) + 100
        score = jnp.where(is_out, jnp.nan, score)
        return jnp.stack([score, jnp.zeros_like(score)], axis=1)

    images = jnp.stack([jnp.zeros((2, 2, 1)), jnp.ones((2, 2, 1))])
    attack = zoo(LinfBall(0.05), num_steps=20, spacing=0.01)
    found = attack(jax.random.key(0), logits_fn, images, zeros(2))
    # The sum falls for the attacker: at 0 there is nowhere to go, at 1 all the way.
    np.testing.assert_allclose(found.images[0], 0.0)
    np.testing.assert_allclose(found.images[1], 0.95, atol=1e-5)


# --- Noise ---


def test_brute_force_finds_the_worst_of_all_corners(key):
    # Not linear, so that the best corner is not that of the signs of some weights.
    mix, out = jax.random.normal(key, (6, 8)), jax.random.normal(key, (8,))

    def logits_fn(images):
        flat = (images - 0.5).reshape(len(images), -1)
        score = jnp.sin(3 * flat @ mix) @ out + 100
        return jnp.stack([score, jnp.zeros_like(score)], axis=1)

    images = jax.random.uniform(key, (3, 2, 3, 1))
    signs = np.array(list(itertools.product([-1, 1], repeat=6)), np.float32)
    corners = np.asarray(images)[:, None] + 0.2 * signs.reshape(1, 64, 2, 3, 1)
    corners = np.clip(corners, 0, 1)
    losses = [margin(logits_fn(jnp.asarray(each)), zeros(64)) for each in corners]

    # The chance that 1,500 samples miss one of 64 corners is below 64 exp(-1500/64).
    attack = jax.jit(
        brute_force(LinfBall(0.2), num_samples=1500, batch_size=100), static_argnums=1
    )
    found = attack(key, logits_fn, images, zeros(3))
    np.testing.assert_allclose(found.loss, np.max(losses, axis=1), rtol=1e-5)


@given(num_samples=st.integers(1, 40))
@settings(max_examples=12)
def test_brute_force_draws_exactly_as_many_samples_as_asked(num_samples, every_draw):
    attack, losses = every_draw
    found = attack(jnp.int32(num_samples))
    expected = max(losses[index] for index in range(num_samples))
    np.testing.assert_allclose(float(found.loss[0]), expected, rtol=1e-6)


@pytest.fixture(scope="module")
def every_draw():
    """A brute force of traced length, and the margin of each of its first 40 draws."""
    weights = jnp.linspace(-1, 2, 45)
    logits_fn = two_classes(weights, 100.0)
    images = jnp.full((1, 5, 9, 1), 0.5)
    key = jax.random.key(8)
    attack = jax.jit(
        lambda num_samples: brute_force(
            LinfBall(0.3), num_samples=num_samples, batch_size=7
        )(key, logits_fn, images, zeros(1))
    )
    losses = []
    for turn in range(6):
        # The bits of the words, lowest first, written out by numpy.
        words = jax.random.bits(jax.random.fold_in(key, turn), (1, 7, 2), jnp.uint32)
        bits = np.unpackbits(
            np.asarray(words)[0].view(np.uint8), axis=1, bitorder="little"
        )
        points = 0.5 + np.where(bits[:, :45], 0.3, -0.3)
        losses.extend(-(points @ np.asarray(weights, np.float64) + 100))
    return attack, losses


def test_brute_force_under_l2_lies_on_the_sphere(key):
    images = jnp.full((3, 4, 4, 1), 0.5)
    attack = brute_force(L2Ball(0.3), num_samples=5, batch_size=2)
    found = jax.jit(attack, static_argnums=1)(
        key, two_classes(jnp.ones(16), 100.0), images, zeros(3)
    )
    norms = L2Ball(0.3).norm(found.images - images)
    np.testing.assert_allclose(norms, 0.3, rtol=1e-4)


def test_brute_force_keeps_the_first_success(every_draw, key):
    # A success is final: later samples of a higher margin change nothing.
    weights = jnp.linspace(-1, 2, 45)
    losses = np.array(every_draw[1])
    # The offset that makes the third best of forty draws the worst success.
    offset = 100 + (np.sort(losses)[-3] + np.sort(losses)[-4]) / 2
    attack = brute_force(LinfBall(0.3), num_samples=40, batch_size=7)
    found = jax.jit(attack, static_argnums=1)(
        jax.random.key(8),
        two_classes(weights, float(offset)),
        jnp.full((1, 5, 9, 1), 0.5),
        zeros(1),
    )
    shifted = losses + 100 - offset
    first = shifted[np.flatnonzero(shifted > 0)[0]]
    assert found.is_adversarial[0]
    np.testing.assert_allclose(float(found.loss[0]), first, atol=1e-4)


def normal_cdf(value):
    return 0.5 * (1 + math.erf(value / math.sqrt(2)))


@pytest.mark.parametrize("noise_kind", ["uniform", "gaussian"])
@pytest.mark.parametrize("kind", ("linf", "l2"))
def test_noise_succeeds_as_often_as_expected(kind, noise_kind, key):
    # Weights of length 1 with entries +-1/sqrt(d): the score of the noise is nearly
    # normal, and one deviation from the boundary it succeeds with the chance Phi(-1).
    size, epsilon, count = 400, 0.1, 4000
    weights = jax.random.rademacher(key, (size,), jnp.float32) / math.sqrt(size)
    density = math.exp(-0.5) / math.sqrt(2 * math.pi)
    # Half of the Gaussian draws under l2 are pulled back to the radius; to first order
    # the others have a length of 1 + z / sqrt(2 d).
    z = np.random.default_rng(0).normal(size=10**6)
    variance = {
        ("linf", "uniform"): 1 / 3,
        # A normal number moved to +-1 where it is outside: its second moment inside,
        # and the chance to be outside.
        ("linf", "gaussian"): (1 - 2 * normal_cdf(-1) - 2 * density)
        + 2 * normal_cdf(-1),
        ("l2", "uniform"): 1 / (size + 2),
        ("l2", "gaussian"): np.mean(np.minimum(1 + z / math.sqrt(2 * size), 1) ** 2)
        / size,
    }[kind, noise_kind]
    images = jnp.full((count, size), 0.5)
    offset = epsilon * math.sqrt(variance) - float(0.5 * weights.sum())
    attack = noise(THREATS[kind](epsilon), kind=noise_kind)
    found = attack(key, two_classes(weights, offset), images, zeros(count))
    expected = normal_cdf(-1)
    error = math.sqrt(expected * (1 - expected) / count)
    assert abs(np.mean(found.is_adversarial) - expected) < 4 * error


def test_more_noise_is_never_weaker(key):
    weights = jax.random.normal(key, (20,))
    images = jax.random.uniform(key, (50, 20))
    logits_fn = two_classes(weights)
    labels = jnp.argmax(logits_fn(images), axis=1)
    losses = [
        noise(LinfBall(0.1), num_samples=count)(key, logits_fn, images, labels).loss
        for count in (1, 2, 8)
    ]
    is_won = judge(logits_fn(images), labels)
    assert not np.any(is_won)
    # Each number of samples has a program of its own, which may round differently.
    assert np.all(np.diff(np.stack(losses), axis=0) >= -1e-5)


# --- All of them ---


def _builders(count):
    return {
        "square": lambda threat: square(threat, num_queries=count),
        "zoo": lambda threat: zoo(threat, num_steps=count, num_coordinates=4),
        "spsa": lambda threat: spsa(threat, num_steps=count, num_directions=4),
        "brute_force": lambda threat: brute_force(
            threat, num_samples=count, batch_size=4
        ),
        "noise": lambda threat: noise(threat, num_samples=count),
    }


@pytest.mark.parametrize(
    ("name", "kind"), [*((name, "linf") for name in _builders(1)), ("square", "l2")]
)
@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_queries(name, kind, linear):
    logits_fn, _, images = linear

    def peak(count):
        attack = _builders(count)[name](THREATS[kind](0.3))
        compiled = (
            jax.jit(attack, static_argnums=1)
            .lower(jax.random.key(0), logits_fn, images, zeros(4))
            .compile()
        )
        return compiled.memory_analysis().temp_size_in_bytes

    assert peak(10) == peak(1000)


@pytest.mark.parametrize(
    ("name", "kind"), [*((name, "linf") for name in _builders(1)), ("square", "l2")]
)
@pytest.mark.slow
def test_mapped_over_batches_of_one_and_radii(name, kind):
    # As evaluations run attacks: an item's outcome depends on its own key only.
    images = jax.random.uniform(jax.random.key(7), (3, 5, 5, 1))
    logits_fn = two_classes(jnp.linspace(-1, 2, 25), 100.0)

    def one(key, image, epsilon):
        attack = _builders(4)[name](THREATS[kind](epsilon))
        return attack(key, logits_fn, image[None], zeros(1)).images[0]

    keys = jax.random.split(jax.random.key(0), 3)
    radii = jnp.array([0.0, 0.1, 0.5])
    mapped = jax.jit(jax.vmap(one))
    together = mapped(keys, images, radii)
    norms = THREATS[kind](0.0).norm(together - images)
    assert np.all(norms <= radii)
    assert norms[0] == 0 and norms[1] > 0
    # Order does not matter.
    back = mapped(keys[::-1], images[::-1], radii[::-1])[::-1]
    np.testing.assert_array_equal(together, back)


LINF = LinfBall(0.1)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: square(LINF, num_queries=0), "`num_queries` must be at least 1"),
        (lambda: square(LINF, num_queries=1.5), "`num_queries` must be a whole number"),
        (lambda: square(LINF, initial_share=0.0), r"`initial_share` must be in \(0, 1"),
        (lambda: zoo(LINF, num_steps=0), "`num_steps` must be at least 1"),
        (lambda: zoo(LINF, num_coordinates=0), "`num_coordinates` must be at least 1"),
        (
            lambda: zoo(LINF, learning_rate=0.0),
            r"`learning_rate` must be in \(0, inf\)",
        ),
        (lambda: zoo(LINF, spacing=-1.0), r"`spacing` must be in \(0, inf\)"),
        (lambda: spsa(LINF, num_steps=0), "`num_steps` must be at least 1"),
        (lambda: spsa(LINF, num_directions=0), "`num_directions` must be at least 1"),
        (lambda: spsa(LINF, batch_size=0), "`batch_size` must be at least 1"),
        (
            lambda: spsa(LINF, learning_rate=0.0),
            r"`learning_rate` must be in \(0, inf\)",
        ),
        (lambda: spsa(LINF, spacing=0.0), r"`spacing` must be in \(0, inf\)"),
        (lambda: brute_force(LINF, num_samples=0), "`num_samples` must be in"),
        (lambda: brute_force(LINF, num_samples=2**31), r"in \[1, 2147483519\]"),
        (lambda: brute_force(LINF, num_samples=1, batch_size=0), "`batch_size` must"),
        (lambda: noise(LINF, kind="pink"), "`kind` must be one of uniform, gaussian"),
        (lambda: noise(LINF, num_samples=0), "`num_samples` must be at least 1"),
    ],
)
def test_refuses_settings_out_of_range(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    "build",
    [
        square,
        lambda threat: brute_force(threat, num_samples=1),
        lambda threat: noise(threat, kind="gaussian"),
    ],
)
def test_refuses_other_norms(build):
    with pytest.raises(TypeError, match="`threat` must be a LinfBall or an L2Ball"):
        build(ThreatModel(0.1))


def test_square_refuses_what_is_not_an_image(key):
    with pytest.raises(ValueError, match=r"must be of shape \(batch, height"):
        square(LINF)(key, two_classes(jnp.ones(9)), jnp.ones((2, 9)), zeros(2))
