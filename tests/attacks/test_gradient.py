"""PGD against an independent one in numpy, and its pieces against hand values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import (
    fgsm,
    iterate,
    mi_fgsm,
    num_steps_for,
    pgd,
    pgd_kernel,
)
from jaxrobust.threat import L2Ball, LinfBall


def softmax(logits):
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


class LinearNet:
    """Softmax regression, with the gradient of the loss by hand."""

    def __init__(self, rng):
        self.weights = rng.normal(size=(36, 4))

    def logits_fn(self, images):
        return images.reshape(images.shape[0], -1) @ jnp.asarray(
            self.weights, "float32"
        )

    def gradient(self, flat, labels):
        error = softmax(flat @ self.weights) - np.eye(4)[labels]
        return error @ self.weights.T


class TanhNet:
    """One hidden layer, with the gradient of the loss by hand."""

    def __init__(self, rng):
        self.first = rng.normal(size=(36, 8)) / 3
        self.second = rng.normal(size=(8, 4))

    def logits_fn(self, images):
        flat = images.reshape(images.shape[0], -1)
        hidden = jnp.tanh(flat @ jnp.asarray(self.first, "float32"))
        return hidden @ jnp.asarray(self.second, "float32")

    def gradient(self, flat, labels):
        hidden = np.tanh(flat @ self.first)
        error = softmax(hidden @ self.second) - np.eye(4)[labels]
        return ((error @ self.second.T) * (1 - hidden**2)) @ self.first.T


def numpy_pgd(net, start, center, labels, *, norm, epsilon, step_size, num_steps):
    """Facts 0.1, in float64."""
    images = start.astype(np.float64)
    for _ in range(num_steps):
        gradient = net.gradient(images, labels)
        if norm == "linf":
            images = images + step_size * np.sign(gradient)
            images = np.clip(images, center - epsilon, center + epsilon)
        else:
            length = np.linalg.norm(gradient, axis=1, keepdims=True)
            images = images + step_size * gradient / length
            moved = images - center
            length = np.linalg.norm(moved, axis=1, keepdims=True)
            images = center + moved * np.minimum(1, epsilon / length)
        images = np.clip(images, 0, 1)
    return images


@pytest.mark.parametrize("random_start", [False, True])
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("net_class", [LinearNet, TanhNet])
def test_pgd_agrees_with_an_independent_pgd_in_numpy(net_class, norm, random_start):
    rng = np.random.default_rng(0)
    net = net_class(rng)
    center = rng.uniform(size=(12, 36))
    labels = rng.integers(0, 4, size=12)
    images = jnp.asarray(center.reshape(12, 6, 6, 1), "float32")
    threat = {"linf": LinfBall, "l2": L2Ball}[norm](0.2)
    settings = {"step_size": 0.03, "num_steps": 15}
    attack = pgd(threat, random_start=random_start, **settings)
    found = attack(jax.random.key(3), net.logits_fn, images, jnp.asarray(labels))
    kernel = pgd_kernel(threat, step_size=0.03, random_start=random_start)
    init_key, _ = jax.random.split(jax.random.key(3))
    start = kernel.init(init_key, net.logits_fn, images, jnp.asarray(labels)).images
    expected = numpy_pgd(
        net,
        np.asarray(start).reshape(12, 36),
        center,
        labels,
        norm=norm,
        epsilon=0.2,
        **settings,
    )
    np.testing.assert_allclose(
        np.asarray(found.images).reshape(12, 36), expected, atol=1e-5
    )


def numpy_mi_fgsm(net, center, labels, *, norm, epsilon, momentum, num_steps):
    """Algorithm 1 of Dong et al., 2018, in float64, with the pixel range."""
    images, memory = center, np.zeros_like(center)
    step_size = epsilon / num_steps
    for _ in range(num_steps):
        gradient = net.gradient(images, labels)
        length = np.abs(gradient).sum(axis=1, keepdims=True)
        memory = momentum * memory + gradient / length
        if norm == "linf":
            images = images + step_size * np.sign(memory)
        else:
            length = np.linalg.norm(memory, axis=1, keepdims=True)
            images = images + step_size * memory / length
        images = np.clip(images, 0, 1)
    return images


@pytest.mark.parametrize(("norm", "momentum"), [("linf", 1.0), ("l2", 0.5)])
def test_mi_fgsm_agrees_with_an_independent_one_in_numpy(norm, momentum):
    rng = np.random.default_rng(7)
    net = TanhNet(rng)
    center, labels = rng.uniform(size=(12, 36)), rng.integers(0, 4, size=12)
    images = jnp.asarray(center.reshape(12, 6, 6, 1), "float32")
    epsilon = {"linf": 0.3, "l2": 2.0}[norm]
    threat = {"linf": LinfBall, "l2": L2Ball}[norm](epsilon)
    settings = {"momentum": momentum, "num_steps": 8}
    attack = mi_fgsm(threat, **settings)
    found = attack(jax.random.key(0), net.logits_fn, images, jnp.asarray(labels))
    settings |= {"norm": norm, "epsilon": epsilon}
    expected = numpy_mi_fgsm(net, center, labels, **settings)
    moved = np.asarray(found.images).reshape(12, 36)
    # The radius is kept a hair free in l_2.
    np.testing.assert_allclose(moved, expected, atol=2e-5)
    # Without the sum of gradients it goes elsewhere.
    other = numpy_mi_fgsm(net, center, labels, **settings | {"momentum": 0.0})
    assert np.abs(moved - other).max() > 0.01


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_mi_fgsm_weighs_gradients_of_any_size_alike(scale, linear_problem, key):
    logits_fn, _, images, labels = linear_problem

    def scaled(weight):
        def loss(logits, labels):
            return weight * logits[jnp.arange(16), labels]

        attack = mi_fgsm(L2Ball(0.3), num_steps=3, loss=loss)
        return attack(key, logits_fn, images, labels)

    found = scaled(scale)
    np.testing.assert_allclose(found.images, scaled(1.0).images, atol=1e-5)
    assert np.all(np.asarray(found.is_gradient_finite))
    assert np.abs(found.images - images).max() > 0.01


def test_fgsm_is_one_signed_step_of_the_radius():
    rng = np.random.default_rng(1)
    net = LinearNet(rng)
    center, labels = rng.uniform(size=(5, 36)), rng.integers(0, 4, size=5)
    images = jnp.asarray(center.reshape(5, 6, 6, 1), "float32")
    found = fgsm(LinfBall(0.1))(
        jax.random.key(0), net.logits_fn, images, jnp.asarray(labels)
    )
    expected = np.clip(center + 0.1 * np.sign(net.gradient(center, labels)), 0, 1)
    np.testing.assert_allclose(
        np.asarray(found.images).reshape(5, 36), expected, atol=1e-6
    )


def test_raw_gradient_moves_by_the_gradient_itself():
    rng = np.random.default_rng(2)
    net = LinearNet(rng)
    center, labels = rng.uniform(0.4, 0.6, size=(5, 36)), rng.integers(0, 4, size=5)
    images = jnp.asarray(center.reshape(5, 6, 6, 1), "float32")
    attack = pgd(
        LinfBall(1.0), step_size=0.01, num_steps=1, direction="raw", random_start=False
    )
    found = attack(jax.random.key(0), net.logits_fn, images, jnp.asarray(labels))
    expected = center + 0.01 * net.gradient(center, labels)
    np.testing.assert_allclose(
        np.asarray(found.images).reshape(5, 36), expected, atol=1e-6
    )


def test_the_unsigned_gradient_of_the_paper_crosses_the_ball_at_once():
    # LP-A2: with step 5e4 every derivative above epsilon / 5e4 reaches the bound.
    rng = np.random.default_rng(4)
    net = TanhNet(rng)
    center, labels = rng.uniform(0.4, 0.6, size=(5, 36)), rng.integers(0, 4, size=5)
    images = jnp.asarray(center.reshape(5, 6, 6, 1), "float32")
    attack = pgd(
        LinfBall(0.1), step_size=5e4, num_steps=1, direction="raw", random_start=False
    )
    found = attack(jax.random.key(0), net.logits_fn, images, jnp.asarray(labels))
    gradient = net.gradient(center, labels)
    expected = center + np.clip(5e4 * gradient, -0.1, 0.1)
    np.testing.assert_allclose(
        np.asarray(found.images).reshape(5, 36), expected, atol=1e-6
    )
    assert np.mean(np.abs(5e4 * gradient) > 0.1) > 0.9


def test_the_margin_is_climbed_along_the_difference_of_two_logits():
    rng = np.random.default_rng(5)
    net = LinearNet(rng)
    # Far from saturation the softmax mixes all classes, and the margin two of them.
    center, labels = rng.uniform(0.4, 0.6, size=(5, 36)), rng.integers(0, 4, size=5)
    images = jnp.asarray(center.reshape(5, 6, 6, 1), "float32")
    attack = pgd(
        L2Ball(9.0), step_size=0.01, num_steps=1, loss="margin", random_start=False
    )
    found = attack(jax.random.key(0), net.logits_fn, images, jnp.asarray(labels))
    logits = center @ net.weights
    logits[np.arange(5), labels] = -np.inf
    ascent = (net.weights[:, np.argmax(logits, axis=1)] - net.weights[:, labels]).T
    ascent /= np.linalg.norm(ascent, axis=1, keepdims=True)
    np.testing.assert_allclose(
        np.asarray(found.images).reshape(5, 36), center + 0.01 * ascent, atol=1e-6
    )


def test_a_targeted_attack_raises_the_targets_probability(linear_problem, key):
    targets = (linear_problem.labels + 1) % 3
    attack = pgd(
        LinfBall(0.3), step_size=0.05, num_steps=20, targets=targets, must_hit=True
    )
    found = attack(key, linear_problem.logits_fn, *linear_problem[2:])
    rows = np.arange(16)

    def probability(images):
        return softmax(np.asarray(linear_problem.logits_fn(images)))[rows, targets]

    assert np.all(probability(found.images) > probability(linear_problem.images))
    assert np.mean(np.asarray(found.is_adversarial)) > 0.5


def test_the_best_iterate_is_never_weaker_than_the_last(linear_problem, key):
    # Steps far too long make the last iterate a poor one.
    settings = {"step_size": 0.5, "num_steps": 7, "direction": "l2"}
    last, best = (
        pgd(LinfBall(0.3), keep=keep, **settings)(
            key, linear_problem.logits_fn, *linear_problem[2:]
        )
        for keep in ("last", "best")
    )
    assert np.all(best.is_adversarial >= last.is_adversarial)
    same = np.asarray(best.is_adversarial == last.is_adversarial)
    assert np.all(np.asarray(best.loss >= last.loss)[same])


# LP-A1; .18 and .36 are those that the authors' code truncates to 44 and 89.
IAT_STEPS = [
    2,
    5,
    7,
    10,
    12,
    15,
    17,
    20,
    22,
    25,
    27,
    30,
    32,
    35,
    37,
    40,
    42,
    45,
    47,
    50,
]


@pytest.mark.parametrize(
    ("epsilon", "step_size", "expected"),
    [
        *((0.01 * (e + 1), 0.01, steps) for e, steps in enumerate(IAT_STEPS)),
        *((0.36, 0.01, 90), (0.4, 0.01, 100), (0.4, 0.005, 200), (0.0, 0.01, 0)),
        *((0.1, 0.05, 5), (0.2, 0.05, 10), (0.25, 0.05, 12), (0.3, 0.05, 15)),
        *((0.35, 0.05, 17), (0.4, 0.05, 20), (0.45, 0.05, 22), (0.5, 0.05, 25)),
        *((4 / 255, 2 / 255, 5), (64 / 255, 2 / 255, 80)),
    ],
)
def test_number_of_steps_of_the_paper(epsilon, step_size, expected):
    assert num_steps_for(epsilon, step_size) == expected


def test_number_of_steps_of_many_radii():
    steps = num_steps_for(np.asarray([0.1, 0.18]), 0.01)
    assert isinstance(steps, np.ndarray) and list(steps) == [25, 45]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"step_size": 0.0}, r"`step_size` must be in \(0, inf\)"),
        ({"step_size": -1}, r"`step_size` must be in \(0, inf\)"),
        ({"num_steps": -1}, "`num_steps` must be at least 0, got -1"),
        ({"num_steps": 2.5}, "`num_steps` must be a whole number"),
        ({"direction": "up"}, "`direction` must be one of steepest, sign, raw, l2"),
        ({"loss": "hinge"}, "`loss` must be one of cross_entropy, margin"),
        ({"keep": "first"}, "`keep` must be one of last, best"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        pgd(LinfBall(0.1), **{"step_size": 0.1, "num_steps": 3} | settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_steps": 0}, "`num_steps` must be at least 1, got 0"),
        ({"momentum": -0.1}, r"`momentum` must be in \[0, inf\), got -0.1"),
        ({"step_size": 0.0}, r"`step_size` must be in \(0, inf\)"),
        ({"keep": "first"}, "`keep` must be one of last, best"),
        ({"must_hit": True}, "`must_hit` must be False without targets"),
    ],
)
def test_wrong_settings_of_mi_fgsm_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        mi_fgsm(LinfBall(0.1), **settings)


@pytest.mark.parametrize(("epsilon", "step_size"), [(-0.1, 0.1), (0.1, 0.0)])
def test_number_of_steps_refuses_what_is_no_radius_or_step(epsilon, step_size):
    with pytest.raises(ValueError, match="must be"):
        num_steps_for(epsilon, step_size)


class TestTargetsThatAreNoClass:
    """Traced, so that no error can be raised: the example must not read as robust."""

    # The second and the third are none.
    targets = jnp.asarray([1, -1, 3, 2])

    @pytest.fixture
    def attacked(self, linear_problem, key):
        logits_fn, _, images, labels = linear_problem

        def attacked(attack_for, classes=labels[:4]):
            @jax.jit
            def run(targets, classes):
                return attack_for(targets)(key, logits_fn, images[:4], classes)

            return run(self.targets, classes)

        return attacked

    @pytest.mark.parametrize("loss", ["cross_entropy", "margin", "dlr"])
    def test_where_a_search_is_steered_the_gradient_tells(self, loss, attacked):
        found = attacked(
            lambda targets: pgd(
                LinfBall(0.01), step_size=0.01, num_steps=2, loss=loss, targets=targets
            )
        )
        np.testing.assert_array_equal(found.is_gradient_finite, [1, 0, 0, 1])
        np.testing.assert_array_equal(np.isnan(found.loss), [0, 1, 1, 0])

    @pytest.mark.parametrize("num_steps", [0, 2])
    def test_where_they_must_be_hit_they_count_as_hit(self, num_steps, attacked):
        found = attacked(
            lambda targets: pgd(
                LinfBall(0.01),
                step_size=0.01,
                num_steps=num_steps,
                targets=targets,
                must_hit=True,
            )
        )
        np.testing.assert_array_equal(found.is_adversarial, [0, 1, 1, 0])
        np.testing.assert_array_equal(np.isnan(found.loss), [0, 1, 1, 0])


def test_a_kernel_of_ones_own_is_checked_too(linear_problem, key):
    kernel = pgd_kernel(LinfBall(0.1), step_size=0.1, loss="margin")
    bare = kernel._replace(threat=None)
    for search in (iterate(kernel, num_steps=1), iterate(bare, num_steps=1)):
        with pytest.raises(ValueError, match=r"got \(16, 1\)"):
            search(
                key,
                linear_problem.logits_fn,
                linear_problem.images,
                linear_problem.labels[:, None],
            )
    with pytest.raises(ValueError, match="divided by 255"):
        iterate(kernel, num_steps=1)(
            key,
            linear_problem.logits_fn,
            255 * linear_problem.images,
            linear_problem.labels,
        )


@pytest.mark.parametrize("kind", [LinfBall, L2Ball])
@pytest.mark.parametrize("epsilon", [0.1, 0.3, 8 / 255])
def test_an_auditor_in_float64_finds_no_image_outside(
    kind, epsilon, linear_problem, key
):
    attack = fgsm(kind(epsilon, None))
    found = attack(key, linear_problem.logits_fn, *linear_problem[2:])
    difference = np.asarray(found.images, np.float64) - np.asarray(
        linear_problem.images, np.float64
    )
    order = np.inf if kind is LinfBall else 2
    norm = np.linalg.norm(difference.reshape(16, -1), order, axis=1)
    assert np.all(norm <= epsilon)
    np.testing.assert_allclose(norm, epsilon, rtol=1e-5)


@pytest.mark.parametrize("threat", [LinfBall(0.1), L2Ball(0.1)])
def test_an_attack_starts_at_given_images_moved_into_the_ball(threat):
    rng = np.random.default_rng(0)
    net = LinearNet(rng)
    center = jnp.asarray(rng.uniform(size=(5, 6, 6, 1)), "float32")
    labels = jnp.asarray(rng.integers(0, 4, 5))
    near, far = center.at[:, 0].set(center[:, 0] * 0.99), 1 - center
    for start, expected in ((near, near), (far, threat.project(far, center))):
        attack = pgd(threat, step_size=0.1, num_steps=0, start=start)
        found = attack(jax.random.key(0), net.logits_fn, center, labels)
        np.testing.assert_allclose(found.images, expected, atol=1e-6)
        moved = pgd(threat, step_size=0.01, num_steps=1, start=start)
        found = moved(jax.random.key(0), net.logits_fn, center, labels)
        assert not np.allclose(found.images, expected, atol=1e-4)
