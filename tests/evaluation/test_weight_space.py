import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import PGD
from jaxrobust.evaluation import weight_space
from jaxrobust.threat import LinfBall

RNG = np.random.default_rng(8)
IMAGES = jnp.asarray(RNG.uniform(0.3, 0.7, size=(6, 2, 2, 1)), jnp.float32)
LABELS = jnp.asarray([0, 1, 0, 1, 1, 0], jnp.int32)


def apply_point(weights):
    """A model whose "logits" are its two weights, whatever the images."""

    def logits_fn(images):
        return jnp.broadcast_to(weights["w"][None], (images.shape[0], 2))

    return logits_fn


def bowl(logits, labels):
    del labels
    return jnp.sum(jnp.square(logits - jnp.array([[1.0, -2.0]])), axis=1)


def point(*values):
    return {"w": jnp.array(values)}


def apply_linear(weights):
    """Two classes, a linear score."""

    def logits_fn(images):
        score = images.reshape(images.shape[0], -1) @ weights["w"] + weights["b"]
        return jnp.stack([jnp.zeros_like(score), score], axis=1)

    return logits_fn


LINEAR_0 = {"w": jnp.asarray(RNG.normal(size=4), jnp.float32), "b": jnp.array(0.1)}
LINEAR_1 = {"w": jnp.asarray(RNG.normal(size=4), jnp.float32), "b": jnp.array(-0.3)}


CLIMB = PGD(step_size=0.05, num_steps=8)


def worst_losses(alpha, epsilon):
    """Mean worst cross-entropy of a linear model, its l_inf ball inside the bounds."""
    w = (1 - alpha) * np.asarray(LINEAR_0["w"]) + alpha * np.asarray(LINEAR_1["w"])
    b = (1 - alpha) * 0.1 - alpha * 0.3
    score = np.asarray(IMAGES, float).reshape(6, 4) @ w + b
    margin = np.where(np.asarray(LABELS) == 1, score, -score)
    margin = margin - epsilon * np.abs(w).sum()
    return np.mean(np.log1p(np.exp(-margin))), np.mean(margin > 0)


def test_a_quadratic_loss_along_a_line_is_the_closed_form():
    found = weight_space.loss_along_line(
        apply_point, point(0.0, 0.0), point(4.0, 1.0), IMAGES, LABELS, loss=bowl
    )
    alphas = np.linspace(0, 1, 200)
    expected = (4 * alphas - 1) ** 2 + (alphas + 2) ** 2
    np.testing.assert_allclose(found.alphas, alphas, atol=1e-6)
    assert found.losses.shape == found.accuracies.shape == (1, 200)
    np.testing.assert_allclose(found.losses[0], expected, rtol=1e-5)
    assert found.batch_norm == "frozen at interpolation"


def test_adversarial_loss_along_a_line_is_that_of_linear_models():
    radii = (0.0, 0.05, 0.2)
    found = weight_space.loss_along_line(
        apply_linear,
        LINEAR_0,
        LINEAR_1,
        IMAGES,
        LABELS,
        alphas=[0.0, 0.3, 1.0],
        epsilons=radii,
        attack=CLIMB,
    )
    for row, epsilon in enumerate(radii):
        for column, alpha in enumerate((0.0, 0.3, 1.0)):
            loss, accuracy = worst_losses(alpha, epsilon)
            assert found.losses[row, column] == pytest.approx(loss, rel=1e-4)
            assert found.accuracies[row, column] == pytest.approx(accuracy)


def test_numbers_of_the_attack_follow_the_radius():
    radii = (0.04, 0.2)
    found = weight_space.loss_along_line(
        apply_linear,
        LINEAR_0,
        LINEAR_1,
        IMAGES,
        LABELS,
        alphas=[0.3],
        epsilons=radii,
        # Ten steps at .2, and two, of half the radius each, at .04.
        attack=PGD(step_size=0.05, random_start=False, direction="sign"),
    )
    # Two steps are not enough from the clean image unless they add up to the radius.
    for row, epsilon in enumerate(radii):
        loss, _ = worst_losses(0.3, epsilon)
        assert found.losses[row, 0] == pytest.approx(loss, rel=1e-4)


def test_another_line_of_the_same_models_compiles_nothing():
    apply = chex.assert_max_traces(apply_linear, n=1)
    for end in (LINEAR_1, LINEAR_0):
        weight_space.loss_along_line(
            apply,
            LINEAR_0,
            end,
            IMAGES,
            LABELS,
            alphas=4,
            epsilons=(0.0, float(end["w"][0]) ** 2),
            attack=CLIMB,
        )


def test_recalibration_is_done_at_every_point_and_stated():
    def recalibrate(weights):
        return {**weights, "b": -jnp.sum(weights["w"]) / 2}

    found = weight_space.loss_along_line(
        apply_linear,
        LINEAR_0,
        LINEAR_1,
        IMAGES,
        LABELS,
        alphas=[0.0, 0.5, 1.0],
        recalibrate=recalibrate,
    )
    assert found.batch_norm == "re-estimated"
    w = (np.asarray(LINEAR_0["w"]) + np.asarray(LINEAR_1["w"])) / 2
    score = np.asarray(IMAGES).reshape(6, 4) @ w - w.sum() / 2
    margin = np.where(np.asarray(LABELS) == 1, score, -score)
    assert found.losses[0, 1] == pytest.approx(np.mean(np.log1p(np.exp(-margin))))


@pytest.mark.exact
def test_the_ends_of_a_path_are_exact_and_its_middle_is_the_formula():
    first, last, control = (
        {"w": jnp.asarray(RNG.normal(size=3), jnp.float32), "count": jnp.array(index)}
        for index in range(3)
    )
    for path in (
        weight_space.line(first, last),
        weight_space.bezier_path(first, last, control),
    ):
        np.testing.assert_array_equal(path.at(0.0)["w"], first["w"])
        np.testing.assert_array_equal(path.at(1.0)["w"], last["w"])
        assert path.at(0.7)["count"] == 0
    # (1-t)^2, 2t(1-t), t^2 at t = 1/4 are 9/16, 6/16 and 1/16.
    middle = weight_space.bezier_path(first, last, control).at(0.25)["w"]
    expected = (9 * first["w"] + 6 * control["w"] + last["w"]) / 16
    np.testing.assert_allclose(middle, expected, rtol=1e-5)
    straight = weight_space.line(first, last).at(0.25)["w"]
    np.testing.assert_allclose(straight, 0.75 * first["w"] + 0.25 * last["w"])


def test_barrier_height_is_the_rise_above_the_chord():
    alphas = np.array([0, 0.25, 0.5, 1])
    losses = [[1, 3, 2, 2], [4, 3, 2, 0]]
    # Chords: 1, 1.25, 1.5, 2 and 4, 3, 2, 0; the second curve is its own chord.
    np.testing.assert_allclose(weight_space.barrier_height(alphas, losses), [1.75, 0])
    with pytest.raises(ValueError, match="`alphas` must be increasing from 0 to 1"):
        weight_space.barrier_height([0.0, 0.5], [1.0, 2.0])


def ridge(logits, labels):
    """Zero on a half circle from (-1, 0) to (1, 0) round by (0, 1), a hill between."""
    del labels
    return jnp.square(jnp.sum(jnp.square(logits), axis=1) - 1)


def test_connect_goes_round_a_barrier():
    # Off the line by a hair, or the hill would be left to neither side.
    ends = point(-1.0, 0.0), point(1.0, 0.02)
    found = weight_space.connect(
        apply_point,
        *ends,
        IMAGES,
        LABELS,
        num_steps=400,
        learning_rate=0.03,
        batch_size=2,
        loss=ridge,
    )

    def barrier(path):
        along = weight_space.loss_along_path(
            apply_point, path, IMAGES, LABELS, alphas=41, loss=ridge
        )
        return weight_space.barrier_height(along.alphas, along.losses)[0]

    before, after = barrier(weight_space.line(*ends)), barrier(found.path)
    assert before == pytest.approx(1.0, abs=0.01) and after < 0.1
    np.testing.assert_array_equal(found.path.at(0.0)["w"], ends[0]["w"])
    np.testing.assert_array_equal(found.path.at(1.0)["w"], ends[1]["w"])
    assert found.losses.shape == (400,)


def test_only_the_chosen_parts_of_the_control_point_move():
    found = weight_space.connect(
        apply_linear,
        LINEAR_0,
        LINEAR_1,
        IMAGES,
        LABELS,
        num_steps=3,
        batch_size=4,
        attack=CLIMB,
        threat=LinfBall(0.1),
        trained={"w": True, "b": False},
    )
    control, half = found.path.points[1], weight_space.line(LINEAR_0, LINEAR_1).at(0.5)
    assert control["b"] == half["b"]
    # Three steps of Adam at rate .01 move every weight, each by at most .01 a step.
    moved = np.abs(control["w"] - half["w"])
    assert moved.min() > 1e-4 and moved.max() < 0.031


def test_the_attack_of_connect_raises_its_losses():
    def losses(**options):
        return weight_space.connect(
            apply_linear,
            LINEAR_0,
            LINEAR_1,
            IMAGES,
            LABELS,
            num_steps=5,
            batch_size=4,
            **options,
        ).losses

    assert np.all(losses(attack=CLIMB, threat=LinfBall(0.2)) > losses())


def test_filters_are_as_long_as_those_of_the_weights():
    weights = {
        "conv": jnp.asarray(RNG.normal(size=(3, 3, 2, 5)), jnp.float32),
        "dense": jnp.asarray(RNG.normal(size=(7, 4)), jnp.float32).at[:, 1].set(0.0),
        "bias": jnp.ones(4),
        "count": jnp.array(3),
    }
    first, second = weight_space.filter_normalized_plane(weights, jax.random.key(2))
    for found in (first, second):
        chex.assert_trees_all_equal_shapes_and_dtypes(found, weights)
        for index in range(5):
            length = np.linalg.norm(np.asarray(found["conv"][..., index]))
            expected = np.linalg.norm(np.asarray(weights["conv"][..., index]))
            assert length == pytest.approx(expected, rel=1e-5)
        lengths = np.linalg.norm(np.asarray(found["dense"]), axis=0)
        expected = np.linalg.norm(np.asarray(weights["dense"]), axis=0)
        np.testing.assert_allclose(lengths, expected, rtol=1e-5)
        assert not np.any(found["bias"]) and found["count"] == 0
    assert np.abs(first["conv"] - second["conv"]).min() > 0
    rows, _ = weight_space.filter_normalized_plane(
        weights, jax.random.key(2), filter_axis=0
    )
    np.testing.assert_allclose(
        np.linalg.norm(np.asarray(rows["dense"]), axis=1),
        np.linalg.norm(np.asarray(weights["dense"]), axis=1),
        rtol=1e-5,
    )


def test_a_quadratic_loss_on_a_plane_is_the_closed_form():
    found = weight_space.loss_plane(
        apply_point,
        point(0.0, 0.0),
        point(1.0, 0.0),
        point(1.0, 2.0),
        IMAGES,
        LABELS,
        extent=2.0,
        num_points=5,
        loss=bowl,
    )
    a, b = np.meshgrid(np.arange(-2, 3), np.arange(-2, 3), indexing="ij")
    np.testing.assert_allclose(found.offsets, np.arange(-2, 3))
    np.testing.assert_allclose(found.losses, (a + b - 1) ** 2 + (2 * b + 2) ** 2)
    # Either class is that of half of the images.
    np.testing.assert_allclose(found.accuracies, 0.5)
    assert found.epsilon == 0 and found.batch_norm == "frozen at interpolation"


def test_the_middle_of_an_attacked_plane_is_the_model():
    zero = jax.tree.map(jnp.zeros_like, LINEAR_0)
    found = weight_space.loss_plane(
        apply_linear,
        LINEAR_0,
        LINEAR_1,
        zero,
        IMAGES,
        LABELS,
        num_points=3,
        epsilon=0.1,
        attack=CLIMB,
    )
    loss, _ = worst_losses(0.0, 0.1)
    np.testing.assert_allclose(found.losses[1], loss, rtol=1e-4)
    assert np.all(np.abs(found.losses[[0, 2]] - loss) > 1e-3)


def test_mistakes_are_refused():
    data = IMAGES, LABELS
    along = weight_space.loss_along_line
    with pytest.raises(ValueError, match=r"`weights_1` must have the arrays .*'w'"):
        weight_space.line(point(0.0, 0.0), point(0.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="`threat` must be given with an attack"):
        weight_space.connect(
            apply_linear, LINEAR_0, LINEAR_1, *data, num_steps=1, attack=CLIMB
        )
    with pytest.raises(ValueError, match="`norm` must be one of linf, l2, l1"):
        along(apply_linear, LINEAR_0, LINEAR_1, *data, norm="l7")
    with pytest.raises(ValueError, match="`attack` must be given"):
        along(apply_linear, LINEAR_0, LINEAR_1, *data, epsilons=(0.1,))
    with pytest.raises(ValueError, match=r"`epsilons` must be in \[0, inf\)"):
        along(apply_linear, LINEAR_0, LINEAR_1, *data, epsilons=(-0.1,))
    with pytest.raises(ValueError, match=r"`alphas` must be in \[0, 1\], got 1\.5"):
        along(apply_linear, LINEAR_0, LINEAR_1, *data, alphas=[0.0, 1.5])
    with pytest.raises(ValueError, match="`loss` must be one of cross_entropy"):
        along(apply_linear, LINEAR_0, LINEAR_1, *data, loss="hinge")
    with pytest.raises(ValueError, match="`batch_size` must be at least 1, got 0"):
        weight_space.connect(
            apply_linear, LINEAR_0, LINEAR_1, *data, num_steps=1, batch_size=0
        )
    with pytest.raises(ValueError, match="`num_points` must be at least 2"):
        weight_space.loss_plane(
            apply_linear, LINEAR_0, LINEAR_1, LINEAR_1, *data, num_points=1
        )
