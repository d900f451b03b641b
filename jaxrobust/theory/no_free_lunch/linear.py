"""Linear classifiers of these features: losses and accuracies in closed form."""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import ndtr
from jax.typing import ArrayLike

from jaxrobust.theory.arguments import count, real
from jaxrobust.theory.no_free_lunch.numbers import (
    as_epsilon,
    as_eta,
    as_reliability,
    as_weights,
)

__all__ = [
    "accuracy",
    "circle_weights",
    "error",
    "hinge_loss",
    "positive_part_mean",
    "size_of",
]


def size_of(weights: jax.Array) -> jax.Array:
    """Largest absolute weight, or 1 if all are 0.

    Squares of weights divided by it neither overflow nor underflow all. It has no
    gradient, so a function that undoes the division, or does not depend on the norm of
    the weights, has the gradient that it had without.
    """
    largest = lax.stop_gradient(jnp.max(jnp.abs(weights)))
    return jnp.where(largest > 0, largest, 1.0)


def positive_part_mean(mean: ArrayLike, sigma: ArrayLike) -> jax.Array:
    r"""Mean of the positive part of a Gaussian, :math:`E \max(0, m + \sigma Z)`.

    It is :math:`m \Phi(m / \sigma) + \sigma \phi(m / \sigma)`, the H of the hinge loss.

    Args:
        mean: m.
        sigma: in [0, inf); at 0 it is the positive part of the mean.

    Raises:
        ValueError: for a number out of range.

    References:
        Tsipras et al., 2018, arXiv:1805.12152v1, Theorem 2.2.
    """
    mean = real("mean", mean, fix="give a finite mean")
    sigma = real("sigma", sigma, "[0, inf)", fix="give a standard deviation")
    # Further out the noise changes no digit, and squares could overflow.
    has_noise = jnp.abs(mean) < 40 * sigma
    scale = jnp.where(has_noise, sigma, 1.0)
    ratio = mean / scale
    density = jnp.exp(-jnp.square(ratio) / 2) / math.sqrt(2 * math.pi)
    # The terms cancel in the lower tail, where rounding could leave less than 0.
    smooth = jnp.maximum(mean * ndtr(ratio) + scale * density, 0.0)
    return jnp.where(has_noise, smooth, jnp.maximum(mean, 0.0))


def circle_weights(angle: ArrayLike, dimension: int) -> jax.Array:
    """The classifier of norm 1 with equal weights for all weak features.

    Args:
        angle: from the first feature: the first weight is its cosine, the norm of the
            others its sine.
        dimension: number of weak features, at least 1; static.

    Returns:
        Weights `(dimension + 1,)`.

    Raises:
        TypeError: if `dimension` is not an integer.
        ValueError: for a number out of range.
    """
    angle = real("angle", angle, fix="give radians")
    dimension = count("dimension", dimension, fix="count the weak features")
    rest = jnp.full(dimension, 1 / math.sqrt(dimension), angle.dtype) * jnp.sin(angle)
    return jnp.concatenate([jnp.cos(angle)[None], rest])


def _margins(
    weights: jax.Array, eta: jax.Array, epsilon: jax.Array, moves_first: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Worst mean margin if the first feature agrees or not, and standard deviation."""
    first, rest = weights[0], weights[1:]
    lowered = jnp.sum(jnp.abs(rest))
    if moves_first:
        lowered += jnp.abs(first)
    common = eta * jnp.sum(rest) - epsilon * lowered
    size = size_of(rest)
    squared = jnp.sum(jnp.square(rest / size))
    is_zero = squared == 0
    # A square root of 0 has no gradient, not even where it is not used.
    length = jnp.where(is_zero, 0.0, size * jnp.sqrt(jnp.where(is_zero, 1.0, squared)))
    return common + first, common - first, length


def hinge_loss(
    weights: ArrayLike,
    *,
    eta: ArrayLike,
    epsilon: ArrayLike = 0.0,
    reliability: ArrayLike = 0.7,
    moves_first: bool = True,
) -> jax.Array:
    r"""Expected hinge loss of a linear classifier under the worst perturbations.

    The mean over points of
    :math:`\max_{\|\delta\|_\infty \le \epsilon} \max(0, 1 - y w \cdot (x + \delta))`,
    in [0, inf). With `positive_part_mean` :math:`H` and, without an adversary,
    weights :math:`w_1` and :math:`v` on the circle and :math:`h = \eta \sqrt d`, it is
    :math:`p H(1 - w_1 - v h, v) + (1 - p) H(1 + w_1 - v h, v)`.

    Args:
        weights: `(dimension + 1,)`, of the first and the weak features.
        eta: mean of a weak feature times the label, in (0, inf).
        epsilon: l_inf radius, in [0, inf).
        reliability: p, probability that the first feature is the label, in [1/2, 1).
        moves_first: whether the adversary moves the first feature too.

    Raises:
        ValueError: for a number out of range, or weights that are not a vector.

    References:
        Tsipras et al., 2018, arXiv:1805.12152v1, Theorem 2.2.

    Differs from the paper: in the adversarial objective the maximum stands outside the
    expectation, which no adversary that sees the point would accept; here inside. The
    norm of the weights is a condition, where the paper tunes a penalty to reach it.
    """
    weights = as_weights(weights)
    agree, disagree, length = _margins(
        weights, as_eta(eta), as_epsilon(epsilon), moves_first
    )
    p = as_reliability(reliability)
    return p * positive_part_mean(1 - agree, length) + (1 - p) * positive_part_mean(
        1 - disagree, length
    )


def _share(
    weights: ArrayLike,
    eta: ArrayLike,
    epsilon: ArrayLike,
    reliability: ArrayLike,
    moves_first: bool,
    *,
    is_right: bool,
) -> jax.Array:
    """Probability of a worst margin above 0, or of one that is not."""
    weights = as_weights(weights)
    *margins, length = _margins(
        weights / size_of(weights), as_eta(eta), as_epsilon(epsilon), moves_first
    )
    scale = jnp.where(length > 0, length, 1.0)
    agree, disagree = (
        jnp.where(
            length > 0,
            ndtr((1 if is_right else -1) * margin / scale),
            ((margin > 0) == is_right).astype(scale.dtype),
        )
        for margin in margins
    )
    p = as_reliability(reliability)
    return p * agree + (1 - p) * disagree


def accuracy(
    weights: ArrayLike,
    *,
    eta: ArrayLike,
    epsilon: ArrayLike = 0.0,
    reliability: ArrayLike = 0.7,
    moves_first: bool = True,
) -> jax.Array:
    r"""Robust accuracy of a linear classifier, in [0, 1].

    The probability that the margin :math:`y w \cdot x` is above 0 after the worst
    perturbation; a margin of 0 is an error.

    Args:
        weights: `(dimension + 1,)`, of the first and the weak features, of any norm.
        eta: mean of a weak feature times the label, in (0, inf).
        epsilon: l_inf radius, in [0, inf).
        reliability: p, probability that the first feature is the label, in [1/2, 1).
        moves_first: whether the adversary moves the first feature too.

    Raises:
        ValueError: for a number out of range, or weights that are not a vector.

    References:
        Tsipras et al., 2018, arXiv:1805.12152v1, Section 2.
    """
    return _share(weights, eta, epsilon, reliability, moves_first, is_right=True)


def error(
    weights: ArrayLike,
    *,
    eta: ArrayLike,
    epsilon: ArrayLike = 0.0,
    reliability: ArrayLike = 0.7,
    moves_first: bool = True,
) -> jax.Array:
    """Robust error of a linear classifier, in [0, 1].

    One less its `accuracy`, with all digits also where that rounds to 1. Arguments and
    refusals are those of `accuracy`.

    References:
        Tsipras et al., 2018, arXiv:1805.12152v1, Section 2.
    """
    return _share(weights, eta, epsilon, reliability, moves_first, is_right=False)
