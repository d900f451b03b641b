import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxrobust.losses import LOSSES, cross_entropy, margin

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
