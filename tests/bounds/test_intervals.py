"""Interval bounds against hand-worked cases, brute force and finite differences."""

import itertools
import operator
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxrobust.bounds import (
    UnboundedError,
    interval,
    interval_margins,
    interval_pass,
    is_certified,
)
from jaxrobust.networks import LeNet, resnet18
from jaxrobust.threat import L0Ball, L1Ball, L2Ball, LinfBall
from tests.bounds.networks import Normed, dense, random_dense

FREE = {"bounds": None}


@pytest.mark.parametrize(
    "ball, reach",
    [
        (LinfBall, np.array([3.0, 0.5])),
        (L2Ball, np.array([5**0.5, 0.5])),
        (L1Ball, np.array([2.0, 0.5])),
    ],
)
def test_a_linear_layer_moves_by_the_dual_norm_of_its_rows(ball, reach):
    layer = np.array([[1.0, 0.5], [-2.0, 0.0]]), np.array([0.0, 1.0])
    image = np.array([[0.5, 0.25]], np.float32)
    found = interval(dense(layer), ball(0.1, **FREE), image, rounding="nearest")
    np.testing.assert_allclose(found.lower, [[0, 1.25] - 0.1 * reach], atol=1e-6)
    np.testing.assert_allclose(found.upper, [[0, 1.25] + 0.1 * reach], atol=1e-6)


def test_the_pixel_range_cuts_the_ball():
    layer = np.eye(2), np.zeros(2)
    image = np.array([[0.9, 0.05]], np.float32)
    for ball in (LinfBall, L2Ball, L1Ball):
        found = interval(dense(layer), ball(0.2), image, rounding="nearest")
        np.testing.assert_allclose(found.lower, [[0.7, 0]], atol=1e-6)
        np.testing.assert_allclose(found.upper, [[1, 0.25]], atol=1e-6)


def test_margins_of_a_linear_layer_are_exact():
    # The case worked out in Wong & Kolter's notation: .8 - .2 - 2 * .1 = .4.
    image = np.array([[0.8, 0.2]], np.float32)
    logits_fn = dense((np.eye(2), np.zeros(2)))
    found = interval_margins(
        logits_fn, LinfBall(0.1), image, np.array([0]), rounding="nearest"
    )
    np.testing.assert_allclose(found, [[0, 0.4]], atol=1e-6)


def test_what_logits_share_cancels_in_margins():
    # Both logits have 100 times the same unit: apart, their intervals overlap.
    layers = [
        (np.eye(2), np.zeros(2)),
        (np.array([[100.0, 100.0], [1, 0]]), np.zeros(2)),
    ]
    image = np.array([[0.5, 0.5]], np.float32)
    logits_fn, threat = dense(*layers), LinfBall(0.1)
    found = interval(logits_fn, threat, image, rounding="nearest")
    assert found.lower[0, 0] < found.upper[0, 1]
    margins = interval_margins(
        logits_fn, threat, image, np.array([0]), rounding="nearest"
    )
    np.testing.assert_allclose(margins, [[0, 0.4]], atol=1e-5)


def by_hand(layers, image, epsilon, label):
    """Interval bounds in NumPy, after Gowal et al., in float64."""
    center, radius = np.float64(image), np.full_like(image, epsilon, np.float64)
    hidden = []
    for index, (weights, bias) in enumerate(layers):
        if index:
            low, high = (np.maximum(center + sign * radius, 0) for sign in (-1, 1))
            center, radius = (low + high) / 2, (high - low) / 2
        if index + 1 == len(layers):
            weights, bias = (each[..., label, None] - each for each in (weights, bias))
        center, radius = center @ weights + bias, radius @ np.abs(weights)
        hidden.append((center - radius, center + radius))
    return hidden


def test_a_network_of_relus_agrees_with_numpy():
    layers = random_dense(0, 4, 7, 5, 3)
    images = np.random.default_rng(1).uniform(size=(6, 4)).astype(np.float32)
    labels = np.array([0, 1, 2, 2, 1, 0])
    compute = jax.jit(partial(interval_pass, dense(*layers)))
    found = compute(LinfBall(0.1, **FREE), images, labels)
    for index, label in enumerate(labels):
        *hidden, (margins, _) = by_hand(layers, images[index], 0.1, label)
        np.testing.assert_allclose(found.margins[index], margins, atol=1e-5)
        assert len(found.relus) == len(hidden) == 2
        for bounds, (low, high) in zip(found.relus, hidden, strict=True):
            np.testing.assert_allclose(bounds.lower[index], low, atol=1e-5)
            np.testing.assert_allclose(bounds.upper[index], high, atol=1e-5)
    np.testing.assert_allclose(found.inputs.lower, images - 0.1, atol=1e-6)
    np.testing.assert_allclose(found.logits, dense(*layers)(images), atol=1e-5)


def test_one_hidden_layer_is_bounded_by_its_corners():
    # With one unit of each sign of input the interval of a hidden unit is attained.
    layers = random_dense(2, 3, 4)
    image = np.full((1, 3), 0.5, np.float32)
    corners = 0.5 + 0.2 * np.array([*itertools.product((-1, 1), repeat=3)])
    values = jax.nn.relu(dense(*layers)(np.float32(corners)))
    found = interval(
        lambda images: jax.nn.relu(dense(*layers)(images)),
        LinfBall(0.2),
        image,
        rounding="nearest",
    )
    np.testing.assert_allclose(found.lower[0], values.min(0), atol=1e-6)
    np.testing.assert_allclose(found.upper[0], values.max(0), atol=1e-6)


def test_rounding_outwards_is_wider_by_a_little():
    layers = random_dense(0, 4, 30, 3)
    images = np.random.default_rng(1).uniform(size=(2, 4)).astype(np.float32)
    inner, outer = (
        jax.jit(partial(interval, dense(*layers), rounding=rounding))(
            LinfBall(0.1), images
        )
        for rounding in ("nearest", "outward")
    )
    assert (outer.lower < inner.lower).all() and (outer.upper > inner.upper).all()
    chex.assert_trees_all_close(inner, outer, rtol=1e-3, atol=1e-3)


def test_rounding_outwards_holds_for_real_numbers():
    # Sums that cancel: 1 + 1e-8 - 1 is 0 in float32, and 1e-8 in real numbers.
    weights = np.array([[1.0], [1e-8], [-1.0]], np.float32)
    image = np.ones((1, 3), np.float32)
    found = interval(dense((weights, np.zeros(1))), LinfBall(0.0), image)
    exact = float(np.float64(weights).sum())
    assert found.lower[0, 0] <= exact <= found.upper[0, 0]


def test_gradients_in_the_weights_are_those_of_finite_differences():
    layers = random_dense(3, 4, 6, 3)
    images = np.random.default_rng(1).uniform(size=(3, 4)).astype(np.float32)
    labels = jnp.array([0, 2, 1])

    @jax.jit
    def loss(layers, epsilon):
        def logits_fn(images):
            return dense(*layers)(images)

        found = interval_pass(logits_fn, LinfBall(epsilon), images, labels)
        return jnp.mean(jax.nn.logsumexp(-found.margins, axis=1)) + jnp.mean(
            found.relus[0].radius
        )

    gradient, by_epsilon = jax.jit(jax.grad(loss, (0, 1)))(layers, 0.1)
    step = 1e-3
    for layer, part in itertools.product(range(2), range(2)):
        place = (1,) * layers[layer][part].ndim
        moved = [
            [[np.array(each) for each in pair] for pair in layers] for _ in range(2)
        ]
        moved[0][layer][part][place] += step
        moved[1][layer][part][place] -= step
        slope = (loss(moved[0], 0.1) - loss(moved[1], 0.1)) / (2 * step)
        assert abs(gradient[layer][part][place] - slope) < 1e-3
    slope = (loss(layers, 0.1 + step) - loss(layers, 0.1 - step)) / (2 * step)
    assert abs(by_epsilon - slope) < 1e-2 * abs(slope)


def test_members_of_a_sweep_may_be_mapped():
    stacked = jax.tree.map(
        lambda *each: jnp.stack(each),
        random_dense(0, 4, 5, 3),
        random_dense(1, 4, 5, 3),
    )
    images = np.random.default_rng(1).uniform(size=(2, 4)).astype(np.float32)

    @chex.assert_max_traces(n=2)
    def margins(layers, epsilon):
        return interval_margins(
            dense(*layers), LinfBall(epsilon), images, jnp.array([0, 1])
        )

    epsilons = jnp.array([0.1, 0.2])
    mapped = jax.jit(jax.vmap(margins))(stacked, epsilons)
    for index in range(2):
        member = jax.tree.map(operator.itemgetter(index), stacked)
        alone = jax.jit(margins)(member, epsilons[index])
        chex.assert_trees_all_close(mapped[index], alone, rtol=1e-5)
        if not index:
            chex.clear_trace_counter()


def test_statistics_of_the_batch_are_those_of_the_clean_images(key):
    module = Normed()
    images = jax.random.uniform(key, (6, 4, 4, 1))
    variables = module.init(key, images, train=False)

    def training(images):
        return module.apply(variables, images, train=True, mutable=["batch_stats"])[0]

    threat, labels = LinfBall(0.05), jnp.arange(6) % 3
    compute = jax.jit(partial(interval_pass, training, statistics="clean"))
    found = compute(threat, images, labels)
    chex.assert_trees_all_close(found.logits, training(images), atol=1e-5)

    def statistics(images):
        """Mean and variance of what each normalization sees, in NumPy."""
        params = variables["params"]
        maps = nn.Conv(4, (3, 3)).apply({"params": params["conv"]}, images)
        first = np.mean(maps, (0, 1, 2)), np.var(maps, (0, 1, 2))
        maps = jax.nn.relu((maps - first[0]) / np.sqrt(first[1] + 1e-5))
        flat = maps.reshape(6, -1) @ params["Dense_0"]["kernel"]
        flat = flat + params["Dense_0"]["bias"]
        return first, (np.mean(flat, 0), np.var(flat, 0))

    with jax.numpy_rank_promotion("allow"):
        both = statistics(images)
    frozen = {
        "params": variables["params"],
        "batch_stats": {
            f"BatchNorm_{index}": {"mean": mean, "var": variance}
            for index, (mean, variance) in enumerate(both)
        },
    }
    evaluation = partial(module.apply, frozen, train=False)
    same = jax.jit(partial(interval_pass, evaluation))(threat, images, labels)
    chex.assert_trees_all_close(found, same, rtol=2e-3, atol=2e-3)
    with pytest.raises(
        UnboundedError, match=r"reduce_sum .*whole batch; use evaluation"
    ):
        interval(training, threat, images)


@pytest.mark.slow
def test_a_residual_network_has_bounds_in_evaluation(key):
    module = resnet18(num_classes=3, widen_factor=1 / 16)
    images = jax.random.uniform(key, (2, 8, 8, 1))
    variables = module.init(key, images)
    logits_fn = partial(module.apply, variables)
    found = jax.jit(partial(interval, logits_fn))(LinfBall(1e-4), images)
    logits = logits_fn(images)
    assert ((found.lower <= logits) & (logits <= found.upper)).all()


@pytest.mark.slow
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_formulations_of_a_network_have_the_same_bounds(padding, key):
    images = jax.random.uniform(key, (2, 28, 28, 1))
    labels = jnp.array([3, 7])
    found = {}
    variables = None
    for formulation in ("direct", "patches", "phases", "auto"):
        module = LeNet(widen_factor=1 / 8, padding=padding, formulation=formulation)
        variables = variables or module.init(key, images)
        compute = jax.jit(partial(interval_pass, partial(module.apply, variables)))
        found[formulation] = compute(LinfBall(0.1), images, labels)
    for formulation in ("patches", "phases", "auto"):
        chex.assert_trees_all_close(
            found[formulation].margins, found["direct"].margins, rtol=1e-4
        )


def test_joined_stretches_are_bounded_as_one_product(key):
    # Means of a linear layer's outputs, and what is added and taken away again.
    layers = random_dense(0, 4, 6)

    def apart(images):
        values = dense(*layers)(images)
        return (values + values[:, ::-1])[:, :3] - values[:, 3:]

    ones = np.eye(6, dtype=np.float32)
    weights, bias = layers[0]
    mixing = (ones + ones[::-1])[:, :3] - ones[:, 3:]
    whole = dense((weights @ mixing, bias @ mixing))
    images = np.random.default_rng(1).uniform(size=(2, 4)).astype(np.float32)

    def bounded(function, joined):
        compute = partial(interval, function, joined=joined, rounding="nearest")
        return jax.jit(compute)(LinfBall(0.1), images)

    chex.assert_trees_all_close(bounded(apart, True), bounded(whole, False), atol=1e-5)
    assert (bounded(apart, False).lower < bounded(apart, True).lower - 0.1).any()


@pytest.mark.slow
def test_transforms_have_the_bounds_of_the_convolution_when_joined(key):
    images, labels = jax.random.uniform(key, (2, 16, 16, 1)), jnp.array([3, 7])
    module = LeNet(widen_factor=1 / 16, padding="SAME", formulation="direct")
    variables = module.init(key, images)
    found = []
    for formulation, joined in (("direct", False), ("winograd", True)):
        logits_fn = partial(module.clone(formulation=formulation).apply, variables)
        compute = partial(interval_pass, logits_fn, joined=joined)
        found.append(jax.jit(compute)(LinfBall(0.1), images, labels).margins)
    chex.assert_trees_all_close(*found, rtol=1e-3)


def test_a_margin_that_is_no_number_proves_nothing():
    margins = np.array([[0, 1], [0, np.nan], [0, np.inf], [0, 0], [0, -1]], np.float32)
    labels = np.zeros(5, int)
    expected = [True, False, True, False, False]
    assert is_certified(jnp.asarray(margins), labels).tolist() == expected
    assert not is_certified(jnp.ones((1, 2)), np.array([5])).any()


def test_overflow_is_never_a_certificate():
    logits_fn = dense((np.array([[3e38, 0.0]]), np.zeros(2)))
    image = np.full((1, 1), 0.9, np.float32)
    squared = lambda images: logits_fn(images) ** 2  # noqa: E731
    for function in (squared, lambda images: squared(images) - squared(images)):
        margins = interval_margins(function, LinfBall(0.1), image, np.array([0]))
        assert not np.isnan(margins).any()
        assert not is_certified(margins, np.array([0])).any()


def sorts(images):
    return jnp.sort(images, axis=1)


def loops(images):
    return jax.lax.fori_loop(0, 3, lambda _, each: each * 2, images)


def branches(images):
    return jax.lax.cond(images[0, 0] > 0, jnp.sin, jnp.cos, images)


@pytest.mark.parametrize(
    "function, message",
    [
        (sorts, r"got sort \(.*test_intervals.py, line \d+\), which has no rule"),
        (loops, r"got (scan|while) \(.*test_intervals.py, line \d+\)"),
        (branches, r"got cond .* whose branch is not known while tracing; choose"),
        (lambda images: images[images[0, 0].astype(int)][None], r"places that depend"),
        (lambda images: jnp.ones((1, 3)), "logits depend on the images"),
        (lambda images: images[0], "function to logits"),
    ],
)
def test_what_has_no_bounds_is_refused_by_name_and_line(function, message):
    with pytest.raises((UnboundedError, ValueError), match=message):
        interval(function, LinfBall(0.1), np.full((1, 3), 0.5, np.float32))


def test_arguments_are_refused():
    logits_fn = dense(*random_dense(0, 2, 3))
    image = np.full((1, 2), 0.5, np.float32)
    with pytest.raises(TypeError, match="one of LinfBall, L2Ball, L1Ball"):
        interval(logits_fn, L0Ball(1), image)
    with pytest.raises(ValueError, match="`rounding` must be one of outward, nearest"):
        interval(logits_fn, LinfBall(0.1), image, rounding="up")
    with pytest.raises(ValueError, match="`statistics` must be one of none, clean"):
        interval(logits_fn, LinfBall(0.1), image, statistics="batch")
    with pytest.raises(ValueError, match="`labels` must be classes of the model"):
        interval_margins(logits_fn, LinfBall(0.1), image, np.array([3]))
    with pytest.raises(ValueError, match=r"`images` must be in \[0, 1\]"):
        interval(logits_fn, LinfBall(0.1), image + 1)
