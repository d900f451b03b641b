"""FAB against closed forms, and its projection against general solvers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from jaxrobust.attacks import fab, with_restarts
from jaxrobust.attacks.boundary import project_on_hyperplane
from jaxrobust.threat import THREATS, L2Ball, LinfBall

PIXELS = 9


def solve(kind, image, normal, offset, bounds):
    """Smallest change in range with `<normal, change> = offset`, by scipy."""
    rooms = [(bounds[0] - pixel, bounds[1] - pixel) for pixel in image]
    if kind == "linf":
        size = len(image)
        eye, ones = np.eye(size), np.ones((size, 1))
        found = optimize.linprog(
            np.r_[np.zeros(size), 1],
            A_ub=np.block([[eye, -ones], [-eye, -ones]]),
            b_ub=np.zeros(2 * size),
            A_eq=np.r_[normal, 0][None],
            b_eq=[offset],
            bounds=[*rooms, (0, None)],
        )
        assert found.success
        return found.fun
    found = optimize.minimize(
        lambda change: change @ change,
        offset * normal / (normal @ normal),
        jac=lambda change: 2 * change,
        bounds=rooms,
        constraints={"type": "eq", "fun": lambda change: normal @ change - offset},
        method="SLSQP",
        options={"ftol": 1e-9, "maxiter": 200},
    )
    assert found.success
    return np.sqrt(found.fun)


@pytest.mark.parametrize("kind", ("linf", "l2"))
def test_the_projection_is_that_of_a_general_solver(kind):
    rng = np.random.default_rng(3)
    images = rng.uniform(size=(12, PIXELS)).astype("float32")
    images[:6] = np.round(images[:6])  # every pixel at a bound
    normal = rng.normal(size=(12, PIXELS)).astype("float32")
    reach = np.where(normal > 0, normal * (1 - images), -normal * images).sum(axis=1)
    offset = (reach * np.linspace(0.05, 0.95, 12)).astype("float32")
    # As much as there is room in the other direction, too.
    normal[::2], offset[::2] = -normal[::2], -offset[::2]
    threat = THREATS[kind](0.1)
    found = np.asarray(project_on_hyperplane(threat, images, normal, offset))
    np.testing.assert_allclose((found * normal).sum(axis=1), offset, rtol=1e-4)
    assert (images + found).min() > -1e-6 and (images + found).max() < 1 + 1e-6
    wide = [array.astype(float) for array in (images, normal, offset)]
    expected = [solve(kind, *row, (0, 1)) for row in zip(*wide, strict=True)]
    np.testing.assert_allclose(threat.norm(found), expected, rtol=1e-4)
    alone = jax.vmap(
        lambda *row: project_on_hyperplane(threat, *(part[None] for part in row))[0]
    )(images, normal, offset)
    np.testing.assert_allclose(alone, found, atol=1e-6)


@pytest.mark.parametrize("kind", ("linf", "l2"))
def test_a_hyperplane_out_of_reach_gives_the_nearest_corner(kind):
    images = jnp.full((3, 2), 0.25)
    normal = jnp.asarray([[1.0, -1.0], [1.0, 0.0], [0.0, 0.0]])
    found = project_on_hyperplane(THREATS[kind](1.0), images, normal, jnp.full(3, 9.0))
    np.testing.assert_allclose(found, [[0.75, -0.25], [0.75, 0.0], [0.0, 0.0]])


@pytest.mark.parametrize("kind", ("linf", "l2"))
def test_without_a_pixel_range_the_projection_is_the_closed_form(kind):
    rng = np.random.default_rng(4)
    normal = rng.normal(size=(5, PIXELS)).astype("float32")
    offset = rng.normal(size=5).astype("float32")
    threat = THREATS[kind](1.0, None)
    found = project_on_hyperplane(threat, jnp.zeros((5, PIXELS)), normal, offset)
    dual = np.linalg.norm(normal, 1 if kind == "linf" else 2, axis=1)
    np.testing.assert_allclose(threat.norm(found), np.abs(offset) / dual, rtol=1e-4)


class Linear:
    """Four classes, right on all images, which lie far from the pixels' bounds."""

    def __init__(self):
        rng = np.random.default_rng(5)
        self.weights = rng.normal(size=(16, 4))
        flat = rng.uniform(0.4, 0.6, size=(10, 16))
        self.images = jnp.asarray(flat.reshape(10, 4, 4, 1), "float32")
        logits = flat @ self.weights
        self.labels = jnp.asarray(np.argmax(logits, axis=1))
        label = np.asarray(self.labels)
        gaps = logits[np.arange(10), label][:, None] - logits
        normals = self.weights.T[label][:, None] - self.weights.T[None]
        self.distances = {}
        for kind, order in (("linf", 1), ("l2", 2)):
            dual = np.linalg.norm(normals, order, axis=2)
            with np.errstate(invalid="ignore"):
                each = np.where(gaps > 0, gaps / dual, np.inf)
            self.distances[kind] = each

    def logits_fn(self, images):
        flat = images.reshape(images.shape[0], -1)
        return flat @ jnp.asarray(self.weights, "float32")


@pytest.fixture(scope="module")
def linear():
    return Linear()


@pytest.mark.parametrize("is_aimed", [False, True])
@pytest.mark.parametrize("kind", ("linf", "l2"))
def test_finds_the_distance_to_the_boundary_of_a_linear_classifier(
    linear, kind, is_aimed, key
):
    each = linear.distances[kind]
    targets = jnp.asarray(np.argmin(each, axis=1)) if is_aimed else None
    # All images lie in the ball.
    threat = THREATS[kind](10.0)
    attack = fab(threat, num_steps=10, targets=targets)
    found = attack(key, linear.logits_fn, linear.images, linear.labels)
    assert np.all(found.is_adversarial)
    norm = np.asarray(threat.norm(found.images - linear.images))
    np.testing.assert_allclose(norm, each.min(axis=1), rtol=1e-3)
    np.testing.assert_allclose(-found.loss, norm, rtol=1e-6)
    # So the pixel range does not bind.
    assert each.min(axis=1).max() < 0.4


@pytest.mark.parametrize("kind", ("linf", "l2"))
def test_finds_the_distance_where_the_pixel_range_cuts(kind, key):
    rng = np.random.default_rng(6)
    weights = rng.normal(size=PIXELS)
    flat = np.round(rng.uniform(size=(8, PIXELS)))
    images = jnp.asarray(flat, "float32")
    score = flat @ weights

    def logits_fn(images):
        value = images @ jnp.asarray(weights, "float32")
        return jnp.stack([value, jnp.full_like(value, 0.7)], axis=1)

    labels = jnp.asarray((score < 0.7).astype(int))
    threat = THREATS[kind](10.0)
    found = fab(threat, num_steps=25)(key, logits_fn, images, labels)
    expected = [
        solve(kind, image, weights, 0.7 - value, (0, 1))
        for image, value in zip(flat, score, strict=True)
    ]
    assert np.all(found.is_adversarial)
    np.testing.assert_allclose(-found.loss, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ("linf", "l2"))
def test_beyond_the_ball_the_distance_is_told_and_the_image_is_inside(
    linear, kind, key
):
    each = linear.distances[kind].min(axis=1)
    radius = float(np.median(each))
    threat = THREATS[kind](radius)
    found = fab(threat, num_steps=10)(
        key, linear.logits_fn, linear.images, linear.labels
    )
    np.testing.assert_array_equal(found.is_adversarial, each < radius)
    np.testing.assert_allclose(-found.loss, each, rtol=1e-3)
    norm = np.asarray(threat.norm(found.images - linear.images))
    assert norm.max() <= np.float32(radius) * (1 + 1e-6)


def test_an_image_that_is_wrong_as_it_is_needs_no_perturbation(linear, key):
    wrong = (linear.labels + 1) % 4
    for random_start in (False, True):
        attack = fab(L2Ball(1.0), num_steps=3, random_start=random_start)
        found = attack(key, linear.logits_fn, linear.images, wrong)
        np.testing.assert_array_equal(found.images, linear.images)
        assert np.all(found.is_adversarial) and np.all(found.loss == 0)


def tanh_net(scale=1.0):
    rng = np.random.default_rng(7)
    first = (scale * rng.normal(size=(16, 12))).astype("float32")
    second = rng.normal(size=(12, 4)).astype("float32")

    def logits_fn(images):
        hidden = jnp.tanh((images - 0.5).reshape(images.shape[0], -1) @ first)
        return hidden @ second

    images = rng.uniform(size=(24, 4, 4, 1)).astype("float32")
    return first, second, logits_fn, jnp.asarray(images)


def test_restarts_keep_the_smallest_perturbation(key):
    *_, logits_fn, images = tanh_net()
    labels = jnp.argmax(logits_fn(images), axis=1)
    threat = LinfBall(1.0)
    build = partial(fab, num_steps=6, random_start=True)
    attack = build(threat)
    found = with_restarts(build, 3)(threat)(key, logits_fn, images, labels)
    once = jax.jit(lambda key: attack(key, logits_fn, images, labels).loss)
    runs = [once(jax.random.fold_in(key, index)) for index in range(3)]
    np.testing.assert_allclose(found.loss, np.max(runs, axis=0), rtol=1e-4)
    assert np.std(runs, axis=0).max() > 0


def test_peak_memory_does_not_grow_with_the_number_of_steps(linear, key):
    def peak(num_steps, targets):
        def attack(images):
            found = fab(LinfBall(0.3), num_steps=num_steps, targets=targets)
            return found(key, linear.logits_fn, images, linear.labels)

        compiled = jax.jit(attack).lower(linear.images).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert peak(300, None) == peak(3, None)


@pytest.mark.parametrize("kind", ("linf", "l2"))
def test_successes_hold_in_double_precision(kind, key):
    rng = np.random.default_rng(7)
    first = (0.1 * rng.normal(size=(64, 32))).astype("float32")
    second = rng.normal(size=(32, 4)).astype("float32")

    def logits_fn(images):
        hidden = jax.nn.relu((images - 0.5).reshape(images.shape[0], -1) @ first)
        return hidden @ second + 1000  # so rounding is coarse

    images = jnp.asarray(rng.uniform(size=(100, 8, 8, 1)).astype("float32"))
    labels = jnp.argmax(logits_fn(images), axis=1)
    attack = jax.jit(fab(THREATS[kind](64.0), num_steps=60), static_argnums=1)
    found = attack(key, logits_fn, images, labels)
    wide = np.asarray(found.images, np.float64).reshape(len(images), -1) - 0.5
    exact = np.maximum(wide @ first.astype(float), 0) @ second.astype(float)
    is_broken = exact.argmax(axis=1) != np.asarray(labels)
    assert np.mean(found.is_adversarial) > 0.95
    assert np.all(is_broken[np.asarray(found.is_adversarial)])


@pytest.mark.parametrize("kind", ("linf", "l2"))
def test_perturbations_are_as_small_as_those_of_torchattacks(kind, key):
    torch = pytest.importorskip("torch")
    torchattacks = pytest.importorskip("torchattacks")
    first, second, logits_fn, images = tanh_net(0.5)
    labels = jnp.argmax(logits_fn(images), axis=1)

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.unused = torch.nn.Parameter(torch.zeros(1))

        def forward(self, images):
            flat = images.reshape(len(images), -1) - 0.5
            return torch.tanh(flat @ torch.tensor(first)) @ torch.tensor(second)

    norm = {"linf": "Linf", "l2": "L2"}[kind]
    attack = torchattacks.FAB(Model().eval(), norm=norm, eps=4.0, steps=20)
    given = torch.tensor(np.asarray(images).reshape(-1, 1, 4, 4))
    theirs = attack.attack_single_run(given, torch.tensor(np.asarray(labels)))
    theirs = np.asarray(theirs).reshape(images.shape)
    threat = THREATS[kind](4.0)
    ours = fab(threat, num_steps=20)(key, logits_fn, images, labels)
    assert np.all(ours.is_adversarial)
    norms = np.asarray(threat.norm(jnp.asarray(theirs) - images))
    ratio = -np.asarray(ours.loss) / norms
    assert 0.97 < np.median(ratio) < 1.005 and ratio.max() < 1.05


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_steps": 0}, "`num_steps` must be at least 1"),
        ({"num_steps": 1.5}, "`num_steps` must be a whole number"),
        ({"alpha_max": 2.0}, "`alpha_max` must be in"),
        ({"eta": 0.9}, r"`eta` must be in \[1, inf\)"),
        ({"beta": 1.0}, "`beta` must be in"),
        ({"num_searches": -1}, "`num_searches` must be at least 0"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        fab(LinfBall(0.1), **settings)
