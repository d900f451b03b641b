"""The ramp loss of a margin, and the slope of the cross-entropy that it stands for."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxrobust.theory.arguments import real, vector

__all__ = ["logistic_loss", "logistic_slopes", "ramp_loss", "ramp_width"]


def ramp_loss(margin: ArrayLike, width: ArrayLike) -> jax.Array:
    r"""A loss that rises from 0 to 1 as the margin is used up, in [0, 1].

    0 for :math:`r < -g`, then :math:`1 + r / g`, and 1 for :math:`r > 0`.

    Args:
        margin: r, positive when misclassified, as `jaxrobust.losses.margin` gives it;
            the negative of the margin u of Wen et al.
        width: g, in (0, inf); the loss is Lipschitz with 1 / g.

    Raises:
        ValueError: for a number out of range.

    References:
        Wen et al., 2020, arXiv:2011.07478, Section 3.

    Differs from the paper: "in full" it prints max(0, 1 - u / g), without the end at 1
    that its definition by cases has; here min(1, max(0, 1 - u / g)).
    """
    margin = real("margin", margin, fix="give a finite margin")
    width = real("width", width, "(0, inf)", fix="give the margin where the loss is 0")
    return jnp.clip(1 + margin / width, 0.0, 1.0)


def _margins(value: ArrayLike) -> jax.Array:
    fix = "give the finite margins of one example, over each of the other classes"
    return vector("margins", value, fix=fix)


def logistic_loss(margins: ArrayLike) -> jax.Array:
    r"""Cross-entropy by margins, :math:`\log(1 + \sum_i e^{-u_i})`, in (0, inf).

    Args:
        margins: `(classes - 1,)`, u, logit of the label minus each of the others.

    Raises:
        ValueError: for margins that are not finite, or not a vector of at least one.

    References:
        Wen et al., 2020, arXiv:2011.07478, Equation 5.
    """
    margins = _margins(margins)
    # As a logsumexp with the label's own margin of 0: no exponential overflows.
    return jax.nn.logsumexp(jnp.append(-margins, 0.0))


def logistic_slopes(margins: ArrayLike) -> jax.Array:
    r"""Derivative of `logistic_loss` with respect to each margin, in (-1, 0).

    :math:`-e^{-u_i} / (1 + \sum_j e^{-u_j})`: minus the probability of that class.

    Args:
        margins: `(classes - 1,)`, logit of the label minus each of the others.

    Raises:
        ValueError: for margins that are not finite, or not a vector of at least one.

    References:
        Wen et al., 2020, arXiv:2011.07478, Equation 5.

    Differs from the paper: the printed expression is the exponential of the loss, which
    is above 1 and not the derivative.
    """
    margins = _margins(margins)
    return -jax.nn.softmax(jnp.append(-margins, 0.0))[:-1]


def ramp_width(margins: ArrayLike) -> jax.Array:
    """Width of the ramp whose slope is that of the cross-entropy, in (1, inf).

    One over the steepest of `logistic_slopes`, that of the smallest margin; the ramp
    loss depends on no other.

    Args:
        margins: `(classes - 1,)`, logit of the label minus each of the others.

    Raises:
        ValueError: for margins that are not finite, or not a vector of at least one.

    References:
        Wen et al., 2020, arXiv:2011.07478, Equation 5.
    """
    return 1 / jnp.max(-logistic_slopes(margins))
