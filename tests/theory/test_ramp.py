import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from jaxrobust.losses import cross_entropy, margin
from jaxrobust.theory import ramp

ramp_loss, ramp_width = jax.jit(ramp.ramp_loss), jax.jit(ramp.ramp_width)
logistic_loss, logistic_slopes = (
    jax.jit(function) for function in (ramp.logistic_loss, ramp.logistic_slopes)
)

LOGITS = jnp.asarray([[3.0, 1.0, -1.0], [0.0, 0.5, 3.0], [2.0, 2.5, 0.0]])
LABELS = jnp.asarray([0, 0, 1])


def by_cases(r, g):
    return 0.0 if r < -g else 1 + r / g if r <= 0 else 1.0


@given(r=st.floats(-4, 4), g=st.floats(0.125, 4))
def test_the_ramp_is_that_of_its_three_cases(r, g):
    r, g = np.float32(r), np.float32(g)
    assert float(ramp_loss(r, g)) == pytest.approx(by_cases(r, g), abs=1e-6)


def test_the_ramp_lies_above_the_zero_one_loss_and_has_slope_one_over_the_width():
    margins = np.linspace(-3, 3, 41)
    values = np.asarray(ramp_loss(margins, 2.0))
    assert np.all(values >= (margins > 0))
    steps = np.diff(values) / np.diff(margins)
    assert steps.max() == pytest.approx(1 / 2, rel=1e-3) and steps.min() == 0


def test_the_form_printed_in_full_lacks_the_end_at_one():
    u, g = -0.3, 1.0
    printed = max(0, 1 - u / g)
    assert printed == 1.3 and by_cases(-u, g) == 1
    assert float(ramp_loss(-u, g)) == 1


def test_it_takes_the_margin_of_the_library():
    found = ramp_loss(margin(LOGITS, LABELS), 4.0)
    np.testing.assert_allclose(found, [0.5, 1.0, 0.875])


def test_the_loss_of_margins_is_the_cross_entropy():
    expected = cross_entropy(LOGITS, LABELS)
    rows = zip(np.asarray(LOGITS), np.asarray(LABELS), expected, strict=True)
    for logits, label, value in rows:
        margins = np.delete(logits[label] - logits, label)
        np.testing.assert_allclose(logistic_loss(margins), value, rtol=1e-5)


@given(nps.arrays(np.float32, 3, elements=st.floats(-8, 8, width=32)))
def test_slopes_are_the_derivative_and_the_printed_expression_is_not(margins):
    slopes = np.asarray(logistic_slopes(margins))
    np.testing.assert_allclose(slopes, GRADIENT(margins), rtol=1e-4, atol=1e-7)
    # Central differences in float64, of the loss by NumPy.
    step = 1e-5 * np.eye(3)
    wide = margins.astype(np.float64)
    up, down = (np.log1p(np.exp(-(wide + sign * step)).sum(axis=1)) for sign in (1, -1))
    np.testing.assert_allclose(slopes, (up - down) / 2e-5, rtol=1e-3, atol=1e-6)
    printed = np.exp(np.log1p(np.exp(-wide).sum()))
    assert np.all(np.abs(slopes) < 1) and printed > 1


GRADIENT = jax.jit(jax.grad(ramp.logistic_loss))


def test_the_printed_slope_is_the_exponential_of_the_loss():
    margins = np.array([1.0, 2.0])
    assert float(np.exp(logistic_loss(margins))) == pytest.approx(1.503215, rel=1e-6)


def test_the_width_is_one_over_the_slope_in_the_smallest_margin():
    margins = np.array([2.0, 0.5, 1.0])
    found = float(ramp_width(margins))
    assert 1 / found == pytest.approx(-float(logistic_slopes(margins)[1]), rel=1e-6)
    # Of two classes: the sigmoid.
    assert float(ramp_width(np.array([0.0]))) == pytest.approx(2)


def test_large_margins_do_not_overflow():
    margins = np.array([-1e4, 1e4])
    assert float(logistic_loss(margins)) == pytest.approx(1e4)
    np.testing.assert_allclose(logistic_slopes(margins), [-1.0, 0.0], atol=1e-30)
