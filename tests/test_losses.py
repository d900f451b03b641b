import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxrobust.losses import (
    LOSSES,
    cross_entropy,
    dlr,
    margin,
    targeted_cross_entropy,
    targeted_dlr,
    targeted_margin,
)

LOGITS = jnp.asarray([[2.0, 1.0, -1.0], [0.0, 0.0, 3.0]])
LABELS = jnp.asarray([0, 1])


def test_cross_entropy_is_minus_the_log_of_the_softmax():
    logits = np.asarray(LOGITS, np.float64)
    share = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = -np.log(share[[0, 1], [0, 1]])
    np.testing.assert_allclose(cross_entropy(LOGITS, LABELS), expected, rtol=1e-6)


def test_margin_is_the_best_other_logit_minus_the_label():
    np.testing.assert_allclose(margin(LOGITS, LABELS), [-1.0, 3.0])


def test_cross_entropy_does_not_overflow():
    logits = jnp.asarray([[1e4, -1e4]])
    assert cross_entropy(logits, jnp.asarray([1]))[0] == pytest.approx(2e4)


@given(st.floats(-120, 120), st.integers(0, 3), st.integers(0, 2**16))
def test_the_gradient_of_the_cross_entropy_is_exact_however_sure_the_model_is(
    lead, label, seed
):
    draw = np.random.default_rng(seed)
    weights = draw.normal(size=(6, 4)).astype(np.float32)
    image = draw.normal(size=(1, 6)).astype(np.float32)
    offset = np.float32(lead) * (np.arange(4) == label)[None].astype(np.float32)
    logits, gradient = map(np.asarray, _seen(weights, image, offset, np.array([label])))
    # In float64, from the logits as the loss saw them.
    away = logits.astype(np.float64) - logits.max()
    share = np.exp(away) / np.exp(away).sum()
    steps = weights.T.astype(np.float64) - weights.T[label]
    # Of logits of 100, rounding alone is 1e-5 of each share.
    allowed = share @ np.abs(steps) * 1e-4 + 1e-37
    assert np.all(np.abs(gradient - share @ steps) <= allowed)


@jax.jit
def _seen(weights, image, offset, labels):
    def loss(image):
        logits = image @ weights + offset
        return cross_entropy(logits, labels)[0], logits[0]

    gradient, logits = jax.grad(loss, has_aux=True)(image)
    return logits, gradient[0]


@pytest.mark.parametrize("name", LOSSES)
def test_bfloat16_logits_give_a_float32_loss(name):
    loss = LOSSES[name](LOGITS.astype(jnp.bfloat16), LABELS)
    assert loss.dtype == jnp.float32


@given(
    st.lists(st.floats(-20, 20, width=32), min_size=3, max_size=3), st.integers(0, 2)
)
def test_margin_is_positive_exactly_when_misclassified(row, label):
    logits = jnp.asarray([row], jnp.float32)
    value = float(margin(logits, jnp.asarray([label]))[0])
    if value > 0:
        assert int(jnp.argmax(logits)) != label
    if value < 0:
        assert int(jnp.argmax(logits)) == label


def test_the_margin_has_a_gradient_where_the_softmax_is_saturated():
    logits, labels = jnp.asarray([[200.0, 0.0]]), jnp.asarray([0])
    assert np.all(jax.grad(lambda z: cross_entropy(z, labels)[0])(logits) == 0)
    np.testing.assert_array_equal(
        jax.grad(lambda z: margin(z, labels)[0])(logits), [[-1.0, 1.0]]
    )


def numpy_dlr(row, label):
    others = max(value for index, value in enumerate(row) if index != label)
    ranked = sorted(row, reverse=True)
    return (others - row[label]) / (ranked[0] - ranked[2])


def numpy_targeted_dlr(row, label, target):
    ranked = sorted(row, reverse=True)
    return (row[target] - row[label]) / (ranked[0] - (ranked[2] + ranked[3]) / 2)


RANDOM = np.random.default_rng(0).normal(scale=4, size=(20, 6))
RANDOM_LABELS = np.random.default_rng(1).integers(0, 6, size=20)
RANDOM_TARGETS = (RANDOM_LABELS + 2) % 6


@pytest.mark.parametrize(("shift", "scale"), [(0, 1), (7, 1), (0, 1e4)])
def test_dlr_is_the_papers_ratio_however_logits_are_shifted_or_scaled(shift, scale):
    rows = zip(RANDOM, RANDOM_LABELS, strict=True)
    expected = [numpy_dlr(row, label) for row, label in rows]
    logits = jnp.asarray(scale * (RANDOM + shift), jnp.float32)
    found = dlr(logits, jnp.asarray(RANDOM_LABELS))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_targeted_losses_are_those_of_their_formulas():
    labels, targets = jnp.asarray(RANDOM_LABELS), jnp.asarray(RANDOM_TARGETS)
    logits = jnp.asarray(RANDOM, jnp.float32)
    rows = list(zip(RANDOM, RANDOM_LABELS, RANDOM_TARGETS, strict=True))
    expected = [numpy_targeted_dlr(*row) for row in rows]
    np.testing.assert_allclose(targeted_dlr(targets)(logits, labels), expected, 1e-4)
    expected = [row[target] - row[label] for row, label, target in rows]
    found = targeted_margin(targets)(logits, labels)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    expected = [
        row[target] - np.log(np.sum(np.exp(row))) for row, label, target in rows
    ]
    found = targeted_cross_entropy(targets)(logits, labels)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_with_few_classes_the_ratios_are_margins(num_classes):
    logits = jnp.asarray(RANDOM[:, :num_classes], jnp.float32)
    labels = jnp.asarray(RANDOM_LABELS % num_classes)
    targets = (labels + 1) % num_classes
    if num_classes == 2:
        np.testing.assert_array_equal(dlr(logits, labels), margin(logits, labels))
    np.testing.assert_array_equal(
        targeted_dlr(targets)(logits, labels), targeted_margin(targets)(logits, labels)
    )


TIES = [[0.0] * 5, [3.0, 3.0, 3.0, 3.0, -1e4], [0.0, 1e-30, 0.0, 0.0, 0.0]]


@pytest.mark.parametrize("label", [0, 4])
@pytest.mark.parametrize("name", [*LOSSES, "targeted_dlr"])
def test_tied_logits_give_finite_losses_and_gradients(name, label):
    labels = jnp.full(3, label)
    losses = LOSSES | {"targeted_dlr": targeted_dlr(jnp.ones(3, int))}
    values, pull = jax.vjp(lambda rows: losses[name](rows, labels), jnp.asarray(TIES))
    (gradient,) = pull(jnp.ones(3))
    assert np.all(np.isfinite(values)) and np.all(np.isfinite(gradient))


TARGETED = [targeted_cross_entropy, targeted_margin, targeted_dlr]


def aimed_at(build):
    """A targeted loss as a function of its targets; every label is class 0."""
    return lambda logits, targets: build(targets)(
        logits, jnp.zeros(len(logits), jnp.int32)
    )


# Each of these takes the classes under test as its second argument.
EVERY_LOSS = [
    *(pytest.param(loss, id=name) for name, loss in LOSSES.items()),
    *(pytest.param(aimed_at(build), id=build.__name__) for build in TARGETED),
    *(
        pytest.param(
            lambda logits, labels, build=build: build(jnp.ones(20, int))(
                logits, labels
            ),
            id=f"labels of {build.__name__}",
        )
        for build in TARGETED[1:]
    ),
]


@pytest.mark.parametrize("loss", EVERY_LOSS)
class TestClassesThatAreNone:
    logits = jnp.asarray(RANDOM, jnp.float32)

    @pytest.mark.parametrize("shape", [(20, 1), (1,), (20, 6), (), (19,)], ids=str)
    def test_another_shape_than_one_for_each_row_is_refused(self, loss, shape):
        with pytest.raises(ValueError, match=r"must be one class for each image, in"):
            jax.eval_shape(loss, self.logits, jax.ShapeDtypeStruct(shape, jnp.int32))

    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.bool_])
    def test_other_kinds_than_integers_are_refused(self, loss, dtype):
        with pytest.raises(TypeError, match="must be integers, got"):
            loss(self.logits, jnp.ones(20, dtype))

    @pytest.mark.parametrize("wrong", [-1, 6, 2**32 + 3])
    def test_known_ones_are_refused_inside_jit_too(self, loss, wrong):
        classes = np.ones(20, np.int64)
        classes[7] = wrong
        with pytest.raises(ValueError, match=f"from 0 to 5, got {wrong};"):
            loss(self.logits, classes)
        with pytest.raises(ValueError, match=f"from 0 to 5, got {wrong};"):
            jax.eval_shape(lambda logits: loss(logits, classes), self.logits)

    def test_traced_ones_make_loss_and_gradient_no_numbers(self, loss):
        @jax.jit
        def both(logits, classes):
            value, pull = jax.vjp(lambda logits: loss(logits, classes), logits)
            return value, pull(jnp.ones_like(value))[0]

        right = jnp.asarray(RANDOM_TARGETS)
        wrong = right.at[3].set(-1).at[8].set(6)
        value, gradient = both(self.logits, wrong)
        expected, expected_gradient = both(self.logits, right)
        is_bad = np.isin(np.arange(20), [3, 8])
        np.testing.assert_array_equal(np.isnan(value), is_bad)
        assert np.all(np.isnan(gradient).any(axis=1) == is_bad)
        np.testing.assert_array_equal(value[~is_bad], expected[~is_bad])
        np.testing.assert_array_equal(gradient[~is_bad], expected_gradient[~is_bad])

    def test_bytes_serve_for_any_number_of_classes(self, loss):
        logits = jnp.tile(self.logits, (1, 100))
        classes = jnp.asarray(RANDOM_TARGETS)
        np.testing.assert_array_equal(
            loss(logits, classes.astype(jnp.uint8)), loss(logits, classes)
        )


def test_labels_beyond_32_bits_do_not_become_other_classes():
    with jax.enable_x64(True):
        logits = jnp.asarray(RANDOM[:2], jnp.float32)
        labels = jnp.asarray([2**32 + 1, -(2**32) + 1])
        assert np.all(np.isnan(jax.jit(margin)(logits, labels)))


@pytest.mark.parametrize("build", TARGETED)
def test_targeted_losses_are_float32_for_bfloat16_logits(build):
    logits = jnp.asarray(RANDOM, jnp.bfloat16)
    loss = build(jnp.asarray(RANDOM_TARGETS))(logits, jnp.asarray(RANDOM_LABELS))
    assert loss.dtype == jnp.float32
