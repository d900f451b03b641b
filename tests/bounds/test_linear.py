"""Linear bounds against the dual in NumPy, brute force, and what must be tighter."""

import itertools
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import pgd
from jaxrobust.bounds import (
    UnboundedError,
    best_margins,
    dual_objective,
    interval_margins,
    linear,
    linear_margins,
)
from jaxrobust.bounds.blocks import block_size
from jaxrobust.bounds.program import trace
from jaxrobust.networks import LeNet
from jaxrobust.threat import L1Ball, L2Ball, LinfBall
from tests.bounds.networks import Normed, dense, random_dense

FREE = {"bounds": None}
NEAREST = {"rounding": "nearest"}


def images_of(count, pixels, seed=1):
    rng = np.random.default_rng(seed)
    return rng.uniform(size=(count, pixels)).astype(np.float32)


def dual_in_numpy(layers, image, epsilon, objectives):
    """The bounds of rows of c by Wong & Kolter's recursion, in float64."""
    layers = [(np.float64(weights).T, np.float64(bias)) for weights, bias in layers]
    lows, highs = [], []

    def objective(c, depth):
        nu, total = -c, 0.0
        for place in range(depth, -1, -1):
            weights, bias = layers[place]
            total -= nu @ bias
            nu = weights.T @ nu
            if place:
                low, high = lows[place - 1], highs[place - 1]
                on, off = low >= 0, high <= 0
                slope = np.where(on, 1, np.where(off, 0, high / (high - low)))
                nu = slope * nu
                total += np.sum(np.where(on | off, 0, low * np.maximum(nu, 0)))
        return total - image @ nu - epsilon * np.abs(nu).sum()

    for depth in range(len(layers) - 1):
        units = np.eye(len(layers[depth][1]))
        low = [objective(unit, depth) for unit in units]
        high = [-objective(-unit, depth) for unit in units]
        lows.append(np.array(low))
        highs.append(np.array(high))
    return np.array([objective(c, len(layers) - 1) for c in objectives])


def test_the_dual_is_that_of_the_paper_and_of_linear_bounds():
    layers = random_dense(0, 5, 8, 6, 3)
    images, labels = images_of(4, 5), np.array([0, 1, 2, 1])
    threat = LinfBall(0.1, **FREE)
    dual = jax.jit(partial(dual_objective, dense(*layers)))(threat, images, labels)
    compute = partial(linear_margins, dense(*layers), slopes="dual", **NEAREST)
    same = jax.jit(partial(compute, intermediate="linear"))(threat, images, labels)
    chex.assert_trees_all_close(dual, same, atol=2e-5, rtol=1e-5)
    for index, label in enumerate(labels):
        rows = np.eye(3)[label] - np.eye(3)
        expected = dual_in_numpy(layers, images[index], 0.1, rows)
        np.testing.assert_allclose(dual[index], expected, atol=2e-5, rtol=1e-5)


def test_the_dual_of_one_layer_is_that_worked_out_by_hand():
    layers = [(np.eye(2, dtype=np.float32), np.zeros(2, np.float32))]
    image = np.array([[0.8, 0.2]], np.float32)
    found = dual_objective(dense(*layers), LinfBall(0.1, **FREE), image, np.array([0]))
    np.testing.assert_allclose(found, [[0, 0.4]], atol=1e-6)


def test_a_relu_between_its_lines_by_hand():
    # z = x - .5 in [-.25, .25]: relu(z) lies below z / 2 + .125, and above 0 or z / 2.
    layers = [
        (np.array([[1.0]]), np.array([-0.5])),
        (np.array([[1.0, -1.0]]), np.zeros(2)),
    ]
    image, threat = np.full((1, 1), 0.5, np.float32), LinfBall(0.25)
    expected = {"zero": [0, -0.25], "dual": [-0.125, -0.25], "optimized": [0, -0.25]}
    for slopes, lowest in expected.items():
        compute = partial(linear, dense(*layers), slopes=slopes, **NEAREST)
        found = jax.jit(compute)(threat, image)
        np.testing.assert_allclose(found.lower, [lowest], atol=1e-6)
    np.testing.assert_allclose(found.upper, [[0.25, 0]], atol=1e-6)


@pytest.mark.parametrize("ball", [LinfBall, L2Ball, L1Ball])
@pytest.mark.parametrize("bounds", [(0.0, 1.0), None])
def test_an_affine_network_is_bounded_exactly(ball, bounds):
    layers = random_dense(4, 3, 5, 2)

    def logits_fn(images):
        for weights, bias in layers:
            images = images @ weights + bias[None]
        return images

    image, threat = np.array([[0.05, 0.5, 0.9]], np.float32), ball(0.3, bounds=bounds)
    found = jax.jit(partial(linear, logits_fn, **NEAREST))(threat, image)
    # A grid of the cube that holds the ball, of what is inside.
    axes = np.linspace(-0.3, 0.3, 81)
    moves = np.stack(np.meshgrid(axes, axes, axes), axis=-1).reshape(-1, 3)
    order = {LinfBall: np.inf, L2Ball: 2, L1Ball: 1}[ball]
    moves = moves[np.linalg.norm(moves, order, axis=1) <= 0.3 + 1e-9]
    points = image + moves
    if bounds is not None:
        points = points[((points >= -1e-6) & (points <= 1 + 1e-6)).all(axis=1)]
    values = np.asarray(logits_fn(points.astype(np.float32)))
    found = jax.device_get(found)
    assert (found.lower <= values.min(0) + 1e-5).all()
    assert (found.upper >= values.max(0) - 1e-5).all()
    # The grid misses the least point of a round ball by little.
    scale = np.abs(values).max()
    np.testing.assert_allclose(found.lower[0], values.min(0), atol=0.01 * scale)
    np.testing.assert_allclose(found.upper[0], values.max(0), atol=0.01 * scale)


SLOPES = ("dual", "zero", "adaptive", "optimized")
INTERMEDIATES = ("interval", "linear", "tightest")


@pytest.fixture(scope="module")
def compared():
    """Margins of one network by every method, and the exact ones by a fine grid."""
    layers = random_dense(7, 2, 8, 6, 3)
    images, labels = images_of(3, 2), np.array([0, 1, 2])
    threat = LinfBall(0.25)

    @jax.jit
    def computed(threat, images, labels):
        arguments = dense(*layers), threat, images, labels
        found = {
            (slopes, intermediate): linear_margins(
                *arguments, slopes=slopes, intermediate=intermediate, **NEAREST
            )
            for slopes, intermediate in itertools.product(SLOPES, INTERMEDIATES)
        }
        return found | {("interval", ""): interval_margins(*arguments, **NEAREST)}

    found = jax.device_get(computed(threat, images, labels))
    axes = np.linspace(-0.25, 0.25, 301)
    moves = np.stack(np.meshgrid(axes, axes), axis=-1).reshape(-1, 2)
    exact = []
    for image, label in zip(images, labels, strict=True):
        points = np.clip(image + moves, 0, 1).astype(np.float32)
        logits = np.asarray(dense(*layers)(points))
        exact.append((logits[:, label, None] - logits).min(0))
    return found, np.array(exact)


@pytest.mark.slow
def test_no_bound_is_above_the_exact_margin(compared):
    found, exact = compared
    for margins in found.values():
        assert (margins <= exact + 1e-5).all()
    best = best_margins(*found.values())
    assert (best <= exact + 1e-5).all()
    assert (exact - best)[exact != 0].mean() < 0.1 * np.abs(exact).mean()


def test_optimized_slopes_are_never_worse_than_their_start(compared):
    found, _ = compared
    for intermediate in INTERMEDIATES:
        start = found["adaptive", intermediate]
        optimized = found["optimized", intermediate]
        assert (optimized >= start).all()
    assert (found["optimized", "interval"] > found["adaptive", "interval"]).any()


def test_tighter_intermediate_bounds_give_tighter_optima(compared):
    # The chord above a relu is lower on a smaller interval; slopes below are free.
    found, _ = compared
    tightest = found["optimized", "tightest"]
    for intermediate in ("interval", "linear"):
        assert (tightest >= found["optimized", intermediate] - 0.02).all()


def test_the_best_is_at_least_each(compared):
    found, _ = compared
    best = best_margins(*found.values())
    assert all((best >= margins).all() for margins in found.values())
    bad = np.full_like(best, np.nan)
    assert (best_margins(bad, best, bad) == best).all()
    assert (best_margins(bad) == -np.inf).all()


def test_blocks_of_any_size_give_the_same_bounds():
    layers = random_dense(0, 4, 7, 5, 3)
    images, labels = images_of(2, 4), np.array([0, 2])
    logits_fn = dense(*layers)
    compute = partial(linear_margins, logits_fn, **NEAREST)
    arguments = LinfBall(0.1), images, labels
    whole = jax.jit(compute)(*arguments)
    program = trace(logits_fn, images)
    sizes = {
        memory: block_size(program, 3, 2, memory) for memory in (1, 2 * 6 * 2 * 7 * 4)
    }
    assert list(sizes.values()) == [1, 2]
    for memory in sizes:
        parts = jax.jit(partial(compute, memory=memory))(*arguments)
        chex.assert_trees_all_close(whole, parts, rtol=1e-5, atol=1e-5)


def test_gradients_in_the_weights_are_those_of_finite_differences():
    layers = random_dense(3, 4, 6, 3)
    images, labels = images_of(3, 4), jnp.array([0, 2, 1])

    @jax.jit
    def loss(layers, epsilon):
        found = linear_margins(
            dense(*layers), LinfBall(epsilon), images, labels, slopes="zero", **NEAREST
        )
        return jnp.mean(jax.nn.logsumexp(-found, axis=1))

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


def test_statistics_are_those_of_the_clean_batch(key):
    module = Normed()
    images = jax.random.uniform(key, (4, 4, 4, 1))
    variables = module.init(key, images, train=False)
    labels, threat = jnp.arange(4) % 3, LinfBall(0.01)

    def training(images):
        return module.apply(variables, images, train=True, mutable=["batch_stats"])[0]

    compute = partial(linear_margins, training, intermediate="interval", **NEAREST)
    found = jax.jit(partial(compute, statistics="clean"))(threat, images, labels)
    logits = training(images)
    exact = jnp.take_along_axis(logits, labels[:, None], 1) - logits
    assert (found <= exact + 1e-5).all()
    # At radius 0 nothing is lost.
    point = jax.jit(partial(compute, statistics="clean"))(LinfBall(0.0), images, labels)
    chex.assert_trees_all_close(point, exact, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("formulation", ["patches", "phases", "winograd"])
def test_formulations_have_the_same_linear_bounds(formulation, key):
    images, labels = jax.random.uniform(key, (2, 16, 16, 1)), jnp.array([3, 7])
    found = []
    variables = None
    for each in ("direct", formulation):
        module = LeNet(widen_factor=1 / 16, padding="SAME", formulation=each)
        variables = variables or module.init(key, images)
        logits_fn = partial(module.apply, variables)
        compute = partial(linear_margins, logits_fn, intermediate="linear", **NEAREST)
        found.append(jax.jit(compute)(LinfBall(0.02), images, labels))
    chex.assert_trees_all_close(*found, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_attacks_never_leave_the_bounds_of_a_trained_kind_of_network(key):
    images, labels = jax.random.uniform(key, (8, 16, 16, 1)), jnp.arange(8)
    module = LeNet(widen_factor=1 / 16, padding="SAME")
    variables = module.init(key, images)
    logits_fn = partial(module.apply, variables)
    for threat in (LinfBall(0.02), L2Ball(0.3), L1Ball(0.5)):
        compute = partial(linear_margins, logits_fn, intermediate="tightest")
        lower = jax.jit(compute)(threat, images, labels)
        for loss in ("margin", "cross_entropy"):
            attack = pgd(threat, step_size=0.01, num_steps=30, loss=loss)
            found = jax.jit(attack, static_argnums=1)(key, logits_fn, images, labels)
            logits = logits_fn(found.images)
            margins = jnp.take_along_axis(logits, labels[:, None], 1) - logits
            assert (margins >= lower).all()


def test_other_networks_have_no_dual():
    image, threat = np.full((1, 2), 0.5, np.float32), LinfBall(0.1)
    weights = jnp.ones((2, 2))

    def residual(images):
        hidden = jax.nn.relu(images @ weights)
        return hidden + jax.nn.relu(hidden @ weights)

    for function, name in ((jnp.tanh, "tanh"), (residual, "add")):
        with pytest.raises(UnboundedError, match=f"got {name} .*use `linear`"):
            dual_objective(function, threat, image, np.array([0]))


def test_arguments_are_refused():
    image, label = np.full((1, 2), 0.5, np.float32), np.array([0])
    compute = partial(
        linear_margins, dense(*random_dense(0, 2, 3)), LinfBall(0.1), image, label
    )
    with pytest.raises(ValueError, match="`slopes` must be one of dual, zero"):
        compute(slopes="steep")
    with pytest.raises(ValueError, match="`intermediate` must be one of interval"):
        compute(intermediate="exact")
    with pytest.raises(ValueError, match="`num_steps` must be at least 0"):
        compute(num_steps=-1)
    with pytest.raises(ValueError, match="`memory` must be at least 1"):
        compute(memory=0)
