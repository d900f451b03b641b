"""Minimum-norm attacks against exact distances, and what all of them promise."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import (
    carlini_wagner,
    ddn,
    fmn,
    over_targets,
    pdpgd,
    sigma_zero,
)
from jaxrobust.attacks.primal_dual import proximal
from jaxrobust.threat import THREATS, L0Ball, L2Ball, LinfBall

BUILDERS = {
    "fmn": partial(fmn, num_steps=100),
    "ddn": partial(ddn, num_steps=100),
    "pdpgd": partial(pdpgd, num_steps=300),
    "sigma-zero": partial(sigma_zero, num_steps=300),
    # From the ends of the range it is a long way for small steps.
    "carlini-wagner": partial(
        carlini_wagner,
        num_steps=100,
        num_searches=8,
        initial_constant=1.0,
        learning_rate=0.1,
    ),
}
KINDS = {
    "fmn": ("linf", "l2", "l1", "l0"),
    "ddn": ("l2",),
    "pdpgd": ("linf", "l2", "l1", "l0"),
    "sigma-zero": ("l0",),
    "carlini-wagner": ("l2",),
}
FAST = {("fmn", "linf"), ("ddn", "l2"), ("sigma-zero", "l0")}
each_attack = pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param(
            name,
            kind,
            id=f"{name}-{kind}",
            marks=() if (name, kind) in FAST else pytest.mark.slow,
        )
        for name in KINDS
        for kind in KINDS[name]
    ],
)


def root(function, wanted, largest):
    """Where an increasing function reaches a value, by bisection."""
    lower, upper = 0.0, largest
    for _ in range(80):
        middle = (lower + upper) / 2
        lower, upper = (middle, upper) if function(middle) < wanted else (lower, middle)
    return upper


def exact_distance(kind, image, normal, gap, bounds):
    """Norm of the smallest change within the range that gains `gap` along `normal`."""
    size = np.abs(normal)
    room = np.full(image.shape, np.inf)
    if bounds is not None:
        room = np.where(normal > 0, bounds[1] - image, image - bounds[0])
    room = np.minimum(room, 1e6)
    if (size * room).sum() < gap:
        return np.inf
    if kind == "linf":
        return root(lambda reach: size @ np.minimum(reach, room), gap, 1e6)
    if kind == "l2":
        scale = root(lambda scale: size @ np.minimum(scale * size, room), gap, 1e6)
        return np.linalg.norm(np.minimum(scale * size, room))
    if kind == "l1":
        length = 0.0
        for pixel in np.argsort(-size):
            if size[pixel] * room[pixel] >= gap:
                return length + gap / size[pixel]
            gap -= size[pixel] * room[pixel]
            length += room[pixel]
    return 1 + int(np.sum(np.cumsum(np.sort(size * room)[::-1]) < gap))


class Linear:
    """A linear classifier and images that are some way from its boundaries."""

    def __init__(self, shape, num_classes, seed=0, count=12):
        rng = np.random.default_rng(seed)
        size = int(np.prod(shape))
        self.weights = rng.normal(size=(size, num_classes)).astype("float32")
        apart = np.linalg.norm(self.weights - self.weights[:, :1], axis=0)
        shift = -0.5 * self.weights.sum(axis=0) - rng.uniform(0.3, 0.8) * apart
        self.shift = shift.astype("float32")
        images = rng.uniform(0.2, 0.8, size=(40 * count, size))
        # Every third is at the ends of the range in each pixel.
        images[::3] = np.round(images[::3])
        self._take(images.reshape(-1, *shape))
        # What steps of a hundredth can measure, as most images are from a network's.
        is_far = nearest_of(self.distances("l2", None)) > 0.3
        self._take(np.asarray(self.images)[is_far][:count])
        assert len(self.images) == count

    def _take(self, images):
        self.images = jnp.asarray(images, jnp.float32)
        self.labels = jnp.argmax(self.logits_fn(self.images), axis=1)

    def logits_fn(self, images):
        return images.reshape(len(images), -1) @ self.weights + self.shift[None]

    def distances(self, kind, bounds):
        """The exact distance of each image to each class; 0 to its own."""
        flat = np.asarray(self.images, float).reshape(len(self.images), -1)
        logits = flat @ self.weights + self.shift[None]
        found = np.zeros(logits.shape)
        for index, label in enumerate(np.asarray(self.labels)):
            for other in set(range(logits.shape[1])) - {int(label)}:
                normal = (self.weights[:, other] - self.weights[:, label]).astype(float)
                gap = logits[index, label] - logits[index, other]
                found[index, other] = exact_distance(
                    kind, flat[index], normal, gap, bounds
                )
        return found


def nearest_of(distances):
    return np.where(distances > 0, distances, np.inf).min(axis=1)


def attacked(build, threat, problem, key):
    search = jax.jit(build(threat), static_argnums=1)
    return search(key, problem.logits_fn, problem.images, problem.labels)


@pytest.fixture(scope="module")
def two_classes():
    return Linear((4, 4, 1), 2)


@pytest.fixture(scope="module")
def run(two_classes):
    """Every attack under every norm on two classes, compiled once for all radii."""
    compiled = {}

    def search(name, kind, epsilon, slope, labels):
        def logits_fn(images):
            flat = images.reshape(len(images), -1)
            return slope * (flat @ two_classes.weights) + two_classes.shift[None]

        attack = BUILDERS[name](THREATS[kind](epsilon))
        return attack(jax.random.key(0), logits_fn, two_classes.images, labels)

    def run(name, kind, epsilon=100.0, slope=1.0, labels=two_classes.labels):
        if (name, kind) not in compiled:
            compiled[name, kind] = jax.jit(partial(search, name, kind))
        return compiled[name, kind](jnp.float32(epsilon), jnp.float32(slope), labels)

    return run


def typical(kind, ratios):
    """The largest; in l_0 the median, since one value more than two is half as far."""
    return np.median(ratios) if kind == "l0" else np.max(ratios)


def assert_near(found, problem, threat, exact):
    norm = np.asarray(threat.norm(found.images - problem.images))
    assert np.all(found.is_adversarial)
    np.testing.assert_allclose(-found.loss, norm, rtol=1e-5)
    # Nothing is nearer than what is exact, up to rounding.
    assert np.all(norm >= exact * (1 - 1e-4))
    assert typical(threat.name, norm / exact) <= 1.25


@each_attack
def test_is_near_the_exact_distance_of_two_classes(name, kind, run, two_classes):
    exact = nearest_of(two_classes.distances(kind, (0.0, 1.0)))
    assert_near(run(name, kind), two_classes, THREATS[kind](100.0), exact)


@each_attack
@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "bounds"),
    [
        ((7,), None),
        ((2, 3), (-1.0, 2.0)),
        ((8, 8, 3), (0.0, 1.0)),
        ((28, 28, 1), (0.0, 1.0)),
    ],
    ids=str,
)
def test_is_near_the_exact_distance_whatever_the_shape(name, kind, bounds, shape, key):
    problem = Linear(shape, 2, seed=len(shape))
    threat, build = THREATS[kind](1e4, bounds), BUILDERS[name]
    if name == "pdpgd":
        build = partial(pdpgd, num_steps=500)
    found = attacked(build, threat, problem, key)
    assert_near(found, problem, threat, nearest_of(problem.distances(kind, bounds)))


@each_attack
@pytest.mark.slow
@pytest.mark.parametrize("shape", [(9,), (5, 5, 2)], ids=str)
def test_over_all_targets_is_near_the_exact_distance_of_many_classes(
    name, kind, shape, key
):
    problem = Linear(shape, 5, seed=1)
    threat = THREATS[kind](1e3)
    found = attacked(over_targets(BUILDERS[name], 4), threat, problem, key)
    exact = nearest_of(problem.distances(kind, (0.0, 1.0)))
    assert_near(found, problem, threat, exact)


@each_attack
@pytest.mark.slow
def test_targets_steer(name, kind, key):
    # Towards the farthest class an attack that is not steered would hardly go.
    problem = Linear((12,), 3, seed=2)
    targets = jnp.where(problem.labels == 2, 1, 2)
    build = partial(BUILDERS[name], num_steps=20)
    free = attacked(build, THREATS[kind](100.0), problem, key)
    aimed = attacked(
        partial(build, targets=targets), THREATS[kind](100.0), problem, key
    )
    logits = np.asarray(problem.logits_fn(aimed.images))
    unaimed = np.asarray(problem.logits_fn(free.images))
    rows, aim = np.arange(len(logits)), np.asarray(targets)
    assert np.mean(logits[rows, aim]) > np.mean(unaimed[rows, aim])
    # Success is any wrong answer.
    is_wrong = logits.argmax(axis=1) != np.asarray(problem.labels)
    np.testing.assert_array_equal(aimed.is_adversarial, is_wrong)


@each_attack
@pytest.mark.slow
def test_returns_the_nearest_adversarial_image_that_it_saw(name, kind, key):
    problem = Linear((3, 4), 3, seed=3, count=6)
    threat, seen = THREATS[kind](100.0), []

    def logits_fn(images):
        logits = problem.logits_fn(images)
        jax.debug.callback(lambda *pair: seen.append(pair), images, logits)
        return logits

    attack = partial(BUILDERS[name], num_steps=15)(threat)
    found = attack(key, logits_fn, problem.images, problem.labels)
    jax.effects_barrier()
    assert len(seen) > 15
    # The last one is the result itself.
    images, logits = (np.stack(part) for part in zip(*seen[:-1], strict=True))
    ranked = np.sort(logits, axis=2)
    is_clear = ranked[..., -1] - ranked[..., -2] > 1e-4 * np.abs(logits).max(axis=2)
    is_wrong = logits.argmax(axis=2) != np.asarray(problem.labels)
    norms = np.stack([threat.norm(jnp.asarray(row) - problem.images) for row in images])
    nearest = np.where(is_wrong & is_clear, norms, np.inf).min(axis=0)
    assert np.all(-np.asarray(found.loss) <= nearest * (1 + 1e-6))
    any_wrong = np.where(is_wrong, norms, np.inf).min(axis=0)
    assert np.all(-np.asarray(found.loss) >= any_wrong * (1 - 1e-6))
    assert np.isfinite(nearest).any()


@each_attack
def test_where_nothing_is_found_the_clean_image_comes_back(
    name, kind, run, two_classes
):
    # Without a slope the shift decides for all images.
    label = int(np.argmax(two_classes.shift))
    labels = jnp.full(len(two_classes.images), label, jnp.int32)
    found = run(name, kind, slope=0.0, labels=labels)
    assert not np.any(found.is_adversarial)
    np.testing.assert_array_equal(found.images, two_classes.images)
    assert np.all(np.isneginf(found.loss))


@each_attack
def test_an_image_that_is_wrong_as_it_is_needs_no_perturbation(
    name, kind, run, two_classes
):
    found = run(name, kind, labels=1 - two_classes.labels)
    np.testing.assert_array_equal(found.images, two_classes.images)
    assert np.all(found.is_adversarial) and np.all(found.loss == 0)


@each_attack
def test_beyond_the_ball_the_distance_is_told_and_the_image_is_inside(
    name, kind, run, two_classes
):
    exact = nearest_of(two_classes.distances(kind, (0.0, 1.0)))
    # In l_0 between the smallest distance and the largest one, which is 3.
    radius = 2.0 if kind == "l0" else np.median(exact)
    threat = THREATS[kind](radius)
    found = run(name, kind, epsilon=radius)
    # Where a factor of 1.25 does not decide.
    is_far, is_near = exact > radius, exact < radius / 1.25
    assert is_far.any() and is_near.any()
    assert not np.any(found.is_adversarial[is_far])
    assert typical(kind, 1.0 * ~np.asarray(found.is_adversarial[is_near])) == 0
    norm = threat.norm(found.images - two_classes.images)
    assert np.all(norm <= radius * (1 + 1e-6))
    ratio = -np.asarray(found.loss) / exact
    assert ratio.min() >= 1 - 1e-4 and typical(kind, ratio) <= 1.25


@each_attack
@pytest.mark.slow
def test_mapped_radii_and_examples_get_what_they_get_alone(name, kind, key):
    problem = Linear((3, 3), 3, count=4)
    build = partial(BUILDERS[name], num_steps=12)

    def alone(epsilon, image, label):
        attack = build(THREATS[kind](epsilon))
        found = attack(key, problem.logits_fn, image[None], label[None])
        return jax.tree.map(lambda leaf: leaf[0], found)

    radii = jnp.asarray([0.2, 1.0, 4.0, 100.0])
    mapped = jax.jit(jax.vmap(alone))(radii, problem.images, problem.labels)
    single = jax.jit(alone)
    rows = [
        single(*row) for row in zip(radii, problem.images, problem.labels, strict=True)
    ]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)
    np.testing.assert_array_equal(mapped.is_adversarial, stacked.is_adversarial)
    # Rounding decides which of two pixels comes first.
    np.testing.assert_allclose(mapped.loss, stacked.loss, rtol=1e-2)


@pytest.mark.slow
def test_more_constants_never_lead_farther(key):
    problem = Linear((4, 4, 1), 2)

    def distance(num_searches):
        build = partial(
            carlini_wagner,
            num_steps=40,
            num_searches=num_searches,
            learning_rate=0.1,
        )
        return -np.asarray(attacked(build, L2Ball(100.0), problem, key).loss)

    found = [distance(count) for count in (1, 4, 6, 8)]
    assert all(np.all(more <= less) for less, more in itertools.pairwise(found))
    assert np.any(found[-1] < found[1])


@pytest.mark.parametrize("kind", ["linf", "l2", "l1"])
def test_the_proximal_operator_is_that_of_the_norm(kind):
    # By its optimality: `(change - z) / weight` is a subgradient of the norm at z.
    rng = np.random.default_rng(0)
    change = rng.normal(size=(20, 7)).astype("float32")
    weight = rng.uniform(0.05, 8.0, size=20).astype("float32")
    found = np.asarray(proximal(THREATS[kind](1.0), jnp.asarray(change), weight))
    slope = (change - found) / weight[:, None]
    order, dual = {"linf": (np.inf, 1), "l2": (2, 2), "l1": (1, np.inf)}[kind]
    assert np.all(np.linalg.norm(slope, dual, axis=1) <= 1 + 1e-4)
    norm = np.linalg.norm(found, order, axis=1)
    np.testing.assert_allclose((slope * found).sum(axis=1), norm, atol=1e-4)
    assert np.any(norm == 0) and np.any(norm > 0.1)


def test_the_proximal_operator_for_few_pixels_is_that_of_a_grid():
    grid = np.linspace(-4, 4, 80_001)
    change = np.array([-3.1, -1.0, -0.4, 0.0, 0.2, 0.7, 1.3, 2.6])
    for weight in (0.05, 0.3, 1.0, 2.0):
        cost = weight * np.abs(grid) ** (2 / 3) + (grid - change[:, None]) ** 2 / 2
        expected = grid[cost.argmin(axis=1)]
        found = proximal(
            L0Ball(1.0),
            jnp.asarray(change[None], jnp.float32),
            jnp.asarray([weight], jnp.float32),
        )
        np.testing.assert_allclose(found[0], expected, atol=2e-4)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (ddn, r"`threat` must be a L2Ball for ddn, got LinfBall"),
        (carlini_wagner, r"`threat` must be a L2Ball for carlini_wagner, got LinfBall"),
        (sigma_zero, r"`threat` must be a L0Ball for sigma_zero, got LinfBall"),
    ],
)
def test_other_norms_are_refused(build, message):
    with pytest.raises(TypeError, match=message):
        build(LinfBall(0.1))


@pytest.mark.parametrize(
    ("build", "settings", "message"),
    [
        (partial(fmn, LinfBall(0.1)), {"num_steps": 0}, "`num_steps` must be at least"),
        (partial(fmn, LinfBall(0.1)), {"step_size": 0}, "`step_size` must be in"),
        (partial(fmn, LinfBall(0.1)), {"final_step_size": -1}, "`final_step_size` mus"),
        (partial(fmn, LinfBall(0.1)), {"gamma": 1}, "`gamma` must be in"),
        (partial(fmn, LinfBall(0.1)), {"final_gamma": 0.1}, "`final_gamma` must be at"),
        (partial(ddn, L2Ball(0.1)), {"num_steps": 1.5}, "`num_steps` must be a whole"),
        (partial(ddn, L2Ball(0.1)), {"init_norm": 0}, "`init_norm` must be in"),
        (partial(ddn, L2Ball(0.1)), {"gamma": 0}, "`gamma` must be in"),
        (partial(pdpgd, L2Ball(0.1)), {"step_size": 0}, "`step_size` must be in"),
        (partial(pdpgd, L2Ball(0.1)), {"memory": 1.0}, "`memory` must be in"),
        (partial(pdpgd, L2Ball(0.1)), {"num_proximal": 0}, "`num_proximal` must be at"),
        (partial(sigma_zero, L0Ball(3)), {"sigma": 0}, "`sigma` must be in"),
        (partial(sigma_zero, L0Ball(3)), {"threshold": 2}, "`threshold` must be in"),
        (
            partial(carlini_wagner, L2Ball(0.1)),
            {"num_searches": 0},
            "`num_searches` must be at least 1",
        ),
        (
            partial(carlini_wagner, L2Ball(0.1)),
            {"initial_constant": 0},
            "`initial_constant` must be in",
        ),
    ],
)
def test_wrong_settings_are_refused(build, settings, message):
    with pytest.raises(ValueError, match=message):
        build(**settings)
