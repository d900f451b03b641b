"""HopSkipJump against the closed form of a linear classifier."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import hop_skip_jump
from jaxrobust.threat import THREATS, ThreatModel

WHOLE = {"linf": 1.0, "l2": 10.0}  # radii of balls that hold every 6x6 image


@pytest.fixture(scope="module")
def problem():
    """Two classes, and images so gray that the pixel range is out of the way."""
    weights = jax.random.normal(jax.random.key(3), (36,))

    def score(images):
        return (images - 0.5).reshape(len(images), -1) @ weights

    def logits_fn(images):
        return jnp.stack([score(images), jnp.zeros(len(images))], axis=1)

    images = jax.random.uniform(jax.random.key(4), (6, 6, 6, 1), minval=0.4, maxval=0.6)
    images = jnp.where(score(images)[:, None, None, None] > 0, images, 1 - images)
    return logits_fn, score, weights, images


@pytest.fixture(scope="module")
def attacked(problem):
    logits_fn, _, _, images = problem
    compiled = {
        kind: jax.jit(
            lambda threat: hop_skip_jump(threat, num_steps=15)(
                jax.random.key(0), logits_fn, images, jnp.zeros(6, jnp.int32)
            )
        )
        for kind in ("linf", "l2")
    }
    return lambda kind, epsilon: compiled[kind](THREATS[kind](jnp.float32(epsilon)))


@pytest.mark.parametrize("kind", ("linf", "l2"))
class TestSmallestPerturbation:
    def test_is_within_a_tenth_of_the_closed_form(self, kind, problem, attacked):
        _, score, weights, images = problem
        found = attacked(kind, WHOLE[kind])
        assert np.all(found.is_adversarial)
        dual = np.linalg.norm(np.asarray(weights), 1 if kind == "linf" else 2)
        smallest = np.asarray(score(images)) / dual
        norms = np.asarray(THREATS[kind](1.0).norm(found.images - images))
        assert np.all(norms >= smallest * (1 - 1e-4))
        assert np.all(norms <= smallest * 1.1)

    def test_decides_where_the_ball_is_wide_enough(self, kind, problem, attacked):
        images = problem[3]
        norms = THREATS[kind](1.0).norm(attacked(kind, WHOLE[kind]).images - images)
        radius = float(np.median(norms))
        found = attacked(kind, radius)
        # A hair, since an image on the very boundary may fall to either side.
        far = np.asarray(norms) > radius * 1.001
        near = np.asarray(norms) < radius * 0.999
        assert not np.any(np.asarray(found.is_adversarial)[far])
        assert np.all(np.asarray(found.is_adversarial)[near])


def test_sees_decisions_only(problem):
    # The loss may be shown at the end; nothing else may depend on more than the class.
    logits_fn, _, _, images = problem

    def run(scale):
        def scaled(points):
            return jnp.sign(logits_fn(points)) * scale

        attack = hop_skip_jump(THREATS["l2"](1.0), num_steps=2)
        labels = jnp.zeros(6, jnp.int32)
        return attack(jax.random.key(0), scaled, images, labels).images

    both = jax.jit(jax.vmap(run))(jnp.array([1.0, 7.0]))
    np.testing.assert_allclose(both[0], both[1], atol=1e-6)


def test_reports_no_success_when_nothing_is_misclassified(key):
    def logits_fn(images):
        mean = images.mean(axis=(1, 2, 3))
        return jnp.stack([jnp.ones_like(mean), 0.5 * mean], axis=1)

    images = jnp.full((2, 3, 3, 1), 0.5)
    attack = jax.jit(
        hop_skip_jump(THREATS["linf"](0.5), num_steps=2, num_trials=5),
        static_argnums=1,
    )
    found = attack(key, logits_fn, images, jnp.zeros(2, jnp.int32))
    assert not np.any(found.is_adversarial)
    np.testing.assert_array_equal(found.images, images)
    # An image that is wrong from the outset needs no perturbation.
    found = attack(key, logits_fn, images, jnp.ones(2, jnp.int32))
    assert np.all(found.is_adversarial)
    np.testing.assert_array_equal(found.images, images)


@pytest.mark.parametrize(
    "name", ["num_steps", "num_samples", "max_samples", "num_trials", "batch_size"]
)
def test_refuses_counts_below_one(name):
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1"):
        hop_skip_jump(THREATS["linf"](0.1), **{name: 0})


def test_refuses_other_norms():
    with pytest.raises(TypeError, match="`threat` must be a LinfBall or an L2Ball"):
        hop_skip_jump(ThreatModel(0.1))
