import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import PGD
from jaxrobust.evaluation import input_space
from jaxrobust.losses import cross_entropy
from jaxrobust.threat import LinfBall

RNG = np.random.default_rng(3)
WEIGHTS = jnp.asarray(RNG.normal(size=(12, 3)), jnp.float32)
IMAGES = jnp.asarray(RNG.uniform(0.2, 0.8, size=(5, 3, 2, 2)), jnp.float32)
LABELS = jnp.asarray([0, 1, 2, 0, 1], jnp.int32)


def bent(images):
    """Three smooth logits."""
    return jnp.tanh(images.reshape(images.shape[0], -1) @ WEIGHTS)


def square(images):
    """One number of which `first` makes a quadratic loss: |image|^2."""
    return jnp.sum(jnp.square(images.reshape(images.shape[0], -1)), 1, keepdims=True)


def first(logits, labels):
    del labels
    return logits[:, 0]


def test_a_quadratic_surface_is_the_closed_form():
    a, b = np.zeros((3, 2, 2)), np.zeros((3, 2, 2))
    a[0, 0, 0], b[1] = 2.0, 1.0
    image = np.asarray(IMAGES[0], float)
    found = input_space.loss_surface(
        square, IMAGES[0], 0, a, b, radius=0.3, num_points=5, bounds=None, loss=first
    )
    offsets = np.array([-0.3, -0.15, 0, 0.15, 0.3])
    expected = [
        [np.sum((image + one * a + other * b) ** 2) for other in offsets]
        for one in offsets
    ]
    np.testing.assert_allclose(found.offsets, offsets, atol=1e-7)
    np.testing.assert_allclose(found.losses, expected, rtol=1e-5)


def test_the_surface_clips_to_the_bounds_and_says_what_is_predicted():
    ones, zeros = np.ones((3, 2, 2)), np.zeros((3, 2, 2))
    found = input_space.loss_surface(
        bent, IMAGES[1], 1, ones, zeros, radius=5.0, num_points=3
    )
    shown = jnp.stack([jnp.zeros_like(IMAGES[1]), IMAGES[1], jnp.ones_like(IMAGES[1])])
    logits = np.asarray(bent(shown))
    expected = np.log(np.sum(np.exp(logits), 1)) - logits[:, 1]
    # The second direction is 0, so columns are alike.
    np.testing.assert_allclose(found.losses, np.tile(expected[:, None], 3), rtol=1e-5)
    np.testing.assert_array_equal(
        found.predictions, np.tile(np.argmax(logits, 1)[:, None], 3)
    )


def test_surfaces_do_not_depend_on_chunks():
    key = jax.random.key(0)
    one = input_space.steepest_directions(bent, IMAGES, LABELS)[0]
    other = input_space.random_directions(key, IMAGES)[0]
    tables = [
        input_space.loss_surface(
            bent, IMAGES[0], 0, one, other, radius=0.2, num_points=7, batch_size=size
        )
        for size in (1, 10, 49, 500)
    ]
    for each in tables[1:]:
        np.testing.assert_allclose(each.losses, tables[0].losses, rtol=1e-6)
        np.testing.assert_array_equal(each.predictions, tables[0].predictions)


def test_one_program_serves_several_models_and_images():
    @jax.jit
    @chex.assert_max_traces(n=1)
    def surface(weights, image, label, direction):
        def logits_fn(images):
            return images.reshape(images.shape[0], -1) @ weights

        return input_space.loss_surface(
            logits_fn, image, label, direction, -direction, radius=0.1, num_points=3
        )

    for index in range(3):
        direction = jnp.ones_like(IMAGES[index])
        found = surface(index * WEIGHTS, IMAGES[index], LABELS[index], direction)
        # The two directions cancel on the diagonal.
        losses = np.diagonal(found.losses)
        np.testing.assert_allclose(losses, losses[0], rtol=1e-5)


def test_input_gradients_are_finite_differences():
    found = np.asarray(input_space.input_gradients(bent, IMAGES, LABELS))
    step = 1e-2
    for place in [(0, 0, 0), (2, 1, 0), (1, 1, 1)]:
        move = np.zeros(IMAGES.shape[1:], np.float32)
        move[place] = step
        up = cross_entropy(bent(IMAGES + move[None]), LABELS)
        down = cross_entropy(bent(IMAGES - move[None]), LABELS)
        slope = np.asarray(up - down) / (2 * step)
        np.testing.assert_allclose(found[:, *place], slope, atol=2e-3)


def test_the_directions_are_signs():
    steepest = np.asarray(input_space.steepest_directions(bent, IMAGES, LABELS))
    slopes = np.asarray(input_space.input_gradients(bent, IMAGES, LABELS))
    np.testing.assert_array_equal(steepest, np.sign(slopes))
    drawn = np.asarray(
        input_space.random_directions(jax.random.key(1), jnp.zeros((50, 8, 8, 1)))
    )
    assert set(np.unique(drawn)) == {-1.0, 1.0}
    # 3,200 fair coins: five standard deviations are 0.09.
    assert abs(drawn.mean()) < 0.09


def test_gradients_for_display():
    gradients = jnp.asarray(RNG.normal(size=(2, 6, 6, 3)), jnp.float32)
    gradients = (
        gradients.at[0, 0, 0, 0].set(-20.0)
        * jnp.array([1.0, 1e-9])[:, None, None, None]
    )
    signed = np.asarray(input_space.scale_for_display(gradients))
    assert signed[0].min() == -1 and np.abs(signed).max(axis=(1, 2, 3)).min() == 1
    np.testing.assert_array_equal(np.sign(signed), np.sign(gradients))
    unit = np.asarray(input_space.scale_for_display(gradients, style="unit"))
    for image, shown in zip(np.asarray(gradients, float), unit, strict=True):
        limit = 3 * image.std()
        expected = (np.clip(image, -limit, limit) + limit) / (2 * limit)
        np.testing.assert_allclose(shown, expected, atol=1e-5)
    flat = np.asarray(
        input_space.scale_for_display(jnp.zeros((1, 2, 2, 1)), style="unit")
    )
    np.testing.assert_array_equal(flat, 0.5)


CLIMB, BALL = PGD(step_size=0.05, num_steps=4), LinfBall(0.1)


def test_saliency_is_the_gradient_where_the_attack_ends():
    clean = input_space.saliency(bent, IMAGES, LABELS)
    np.testing.assert_array_equal(clean.images, IMAGES)
    assert not np.any(clean.perturbations)
    expected = input_space.input_gradients(bent, IMAGES, LABELS)
    np.testing.assert_allclose(clean.gradients, expected, atol=1e-6)

    key = jax.random.key(5)
    found = input_space.saliency(
        bent, IMAGES, LABELS, attack=CLIMB, threat=BALL, key=key
    )
    for index in range(len(IMAGES)):
        pair = IMAGES[index][None], LABELS[index][None]
        alone = CLIMB(BALL)(jax.random.fold_in(key, index), bent, *pair).images
        np.testing.assert_allclose(found.images[index], alone[0], atol=1e-6)
        slope = input_space.input_gradients(bent, alone, pair[1])
        np.testing.assert_allclose(found.gradients[index], slope[0], atol=1e-5)
    moved = np.abs(np.asarray(found.perturbations, float))
    assert moved.max() <= 0.1 and moved.max() > 0.09
    np.testing.assert_allclose(found.perturbations, found.images - IMAGES, atol=1e-7)


def test_saliency_does_not_depend_on_chunks():
    one, other = (
        input_space.saliency(
            bent, IMAGES, LABELS, attack=CLIMB, threat=BALL, batch_size=size
        )
        for size in (2, 64)
    )
    chex.assert_trees_all_close(one, other, atol=1e-6)


def test_interpolation_meets_both_ends_and_is_the_formula_between():
    other = 1 - IMAGES
    found = input_space.interpolate(bent, IMAGES, other, LABELS, num_points=5)
    np.testing.assert_allclose(found.shares, [0, 0.25, 0.5, 0.75, 1])
    for index, share in enumerate((0, 0.25, 0.5, 0.75, 1)):
        logits = bent((1 - share) * IMAGES + share * other)
        np.testing.assert_allclose(found.logits[:, index], logits, atol=1e-6)
        np.testing.assert_allclose(
            found.losses[:, index], cross_entropy(logits, LABELS), atol=1e-6
        )
        np.testing.assert_array_equal(found.predictions[:, index], np.argmax(logits, 1))


def test_mistakes_are_refused():
    image, label = IMAGES[0], 0
    with pytest.raises(ValueError, match="`loss` must be one of cross_entropy"):
        input_space.input_gradients(bent, IMAGES, LABELS, loss="hinge")
    with pytest.raises(ValueError, match="`direction_b` must be of shape"):
        input_space.loss_surface(bent, image, label, image, IMAGES, radius=0.1)
    with pytest.raises(ValueError, match="`num_points` must be at least 2"):
        input_space.loss_surface(
            bent, image, label, image, image, radius=0.1, num_points=1
        )
    with pytest.raises(ValueError, match="`adversarial` must be of shape"):
        input_space.interpolate(bent, IMAGES, image, LABELS)
    with pytest.raises(ValueError, match="`style` must be one of signed, unit"):
        input_space.scale_for_display(IMAGES, style="heat")
    with pytest.raises(ValueError, match="`batch_size` must be at least 1"):
        input_space.saliency(bent, IMAGES, LABELS, batch_size=0)
    with pytest.raises(ValueError, match="`threat` must be given with an attack"):
        input_space.saliency(bent, IMAGES, LABELS, attack=CLIMB)
