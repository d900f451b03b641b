"""Attacks in l_1 and l_0 against optima that are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import auto_pgd, fab, hop_skip_jump, pgd, square
from jaxrobust.threat import L0Ball, L1Ball

WEIGHTS = jax.random.normal(jax.random.key(1), (20,))
IMAGES = jax.random.uniform(jax.random.key(2), (6, 20))
LABELS = jnp.zeros(6, jnp.int32)


def linear(images):
    score = images @ WEIGHTS
    return jnp.stack([score, jnp.zeros_like(score)], axis=1)


def falls(found):
    return np.asarray(IMAGES @ WEIGHTS - found.images @ WEIGHTS)


def gains():
    """By how much each value can lower the score, and the room that it has."""
    weights, images = np.asarray(WEIGHTS), np.asarray(IMAGES)
    return np.abs(weights), np.where(weights > 0, images, 1 - images)


def most_in_l1(epsilon):
    """Values in the order of their weights, each as far as the range lets it."""
    slopes, rooms = gains()
    order = np.argsort(-slopes)
    found = []
    for room in rooms[:, order]:
        taken = np.diff(np.minimum(np.cumsum([0, *room]), epsilon))
        found.append(np.sum(taken * slopes[order]))
    return np.array(found)


def most_in_l0(epsilon):
    slopes, rooms = gains()
    return np.sort(slopes * rooms, axis=1)[:, -int(epsilon) :].sum(1)


def attacked(attack):
    return jax.jit(attack, static_argnums=1)(jax.random.key(0), linear, IMAGES, LABELS)


@pytest.mark.parametrize("epsilon", [1.0, 3.0])
def test_auto_pgd_finds_the_optimum_of_a_linear_model_in_l1(epsilon):
    found = attacked(auto_pgd(L1Ball(epsilon), num_steps=100))
    np.testing.assert_allclose(falls(found), most_in_l1(epsilon), rtol=3e-2)


def test_pgd_finds_the_optimum_of_a_linear_model_in_l1():
    attack = pgd(
        L1Ball(3.0), step_size=0.1, num_steps=100, random_start=False, keep="best"
    )
    np.testing.assert_allclose(falls(attacked(attack)), most_in_l1(3.0), rtol=2e-2)


@pytest.mark.parametrize("epsilon", [1.0, 3.0])
def test_pgd_finds_the_optimum_of_a_linear_model_in_l0(epsilon):
    # Long steps, so that the range and not their lengths decides which values count.
    attack = pgd(L0Ball(epsilon), step_size=1e4, num_steps=3)
    np.testing.assert_allclose(falls(attacked(attack)), most_in_l0(epsilon), rtol=1e-3)


def bumpy(images):
    """Neither linear nor monotone in any of three values."""
    first, second, third = images.T
    score = first * second - 0.7 * third**2 + 0.4 * second + 0.3 * jnp.sin(5 * first)
    return jnp.stack([-score, jnp.zeros_like(score)], axis=1)


GRID = np.stack(np.meshgrid(*[np.linspace(0, 1, 41)] * 3, indexing="ij"), -1)
SCORES = np.asarray(bumpy(jnp.asarray(GRID.reshape(-1, 3))))[:, 0].reshape(41, 41, 41)


def worst(image, is_inside):
    return np.min(np.where(is_inside(np.abs(GRID - image)), SCORES, np.inf))


def searched(attack, images):
    run = jax.jit(attack, static_argnums=1)
    labels = jnp.zeros(len(images), jnp.int32)
    keys = jax.random.split(jax.random.key(0), 5)
    found = [np.asarray(bumpy(run(key, bumpy, images, labels).images)) for key in keys]
    return np.min(found, axis=0)[:, 0]


def three_pixels():
    # On the grid, so that what does not change is there.
    draws = jax.random.randint(jax.random.key(3), (6, 3), 0, 41)
    return draws / 40.0


def test_brute_force_in_three_pixels_finds_no_more_than_auto_pgd_in_l1():
    images = three_pixels()
    found = searched(auto_pgd(L1Ball(0.6), num_steps=50), images)
    for image, score in zip(np.asarray(images), found, strict=True):
        assert score <= worst(image, lambda d: d.sum(-1) <= 0.6 + 1e-6) + 0.01


def test_brute_force_in_three_pixels_finds_no_more_than_pgd_in_l0():
    images = three_pixels()
    attack = pgd(L0Ball(2.0), step_size=1.0, num_steps=60, keep="best")
    found = searched(attack, images)
    for image, score in zip(np.asarray(images), found, strict=True):
        assert score <= worst(image, lambda d: (d > 1e-6).sum(-1) <= 2) + 0.02


@pytest.mark.slow
def test_auto_pgd_is_no_weaker_than_sparse_pgd_on_a_small_network():
    first, second = (
        jax.random.normal(jax.random.key(seed), shape)
        for seed, shape in ((4, (20, 16)), (5, (16, 4)))
    )

    def network(images):
        return 3 * jnp.tanh(images @ first / 4) @ second

    images = jax.random.uniform(jax.random.key(6), (100, 20))
    labels = jnp.argmax(network(images), axis=1)
    threat = L1Ball(1.0)
    attacks = [auto_pgd(threat, num_steps=50)]
    attacks += [
        pgd(threat, step_size=step, num_steps=50, keep="best") for step in (0.05, 0.5)
    ]
    losses = [
        jax.jit(attack, static_argnums=1)(jax.random.key(0), network, images, labels)
        for attack in attacks
    ]
    auto, *plain = (float(jnp.mean(found.is_adversarial)) for found in losses)
    assert 0.1 < auto < 1
    assert auto >= max(plain)


@pytest.mark.parametrize(
    ("attack", "threat", "message"),
    [
        (auto_pgd, L0Ball(3.0), "another norm than l0 for auto_pgd, got L0Ball"),
        (fab, L1Ball(3.0), "another norm than l1, l0 for fab, got L1Ball"),
        (fab, L0Ball(3.0), "another norm than l1, l0 for fab, got L0Ball"),
        (square, L1Ball(3.0), "a LinfBall or an L2Ball for square, got L1Ball"),
        (hop_skip_jump, L0Ball(3.0), "a LinfBall or an L2Ball for hop_skip_jump"),
    ],
)
def test_attacks_say_which_norms_they_take(attack, threat, message):
    with pytest.raises(TypeError, match=f"`threat` must be .*{message}"):
        attack(threat)
