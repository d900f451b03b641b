"""The distribution, and what its two kinds of features give by themselves."""

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr
from jax.typing import ArrayLike

from jaxrobust.theory.arguments import count, real
from jaxrobust.theory.no_free_lunch.numbers import as_epsilon, as_eta, as_reliability
from jaxrobust.types import PRNGKey

__all__ = ["adversarial_accuracy_bound", "averaging_accuracy", "sample"]


def sample(
    key: PRNGKey,
    num_examples: int,
    *,
    dimension: int,
    eta: ArrayLike,
    reliability: ArrayLike = 0.7,
) -> tuple[jax.Array, jax.Array]:
    """Random points and their labels.

    Args:
        key: of everything random.
        num_examples: at least 1.
        dimension: d, number of weak features, at least 1.
        eta: mean of a weak feature times the label, in (0, inf).
        reliability: p, probability that the first feature is the label, in [1/2, 1).

    Returns:
        Points `(num_examples, dimension + 1)` and labels `(num_examples,)`, -1 or 1.

    Raises:
        TypeError: if a count is not an integer.
        ValueError: for a number out of range.

    References:
        Tsipras et al., 2018, arXiv:1805.12152v1, Section 2.
    """
    num_examples = count("num_examples", num_examples, fix="draw at least one")
    dimension = count("dimension", dimension, fix="count the weak features")
    eta, reliability = as_eta(eta), as_reliability(reliability)
    label_key, first_key, rest_key = jax.random.split(key, 3)
    labels = jax.random.rademacher(label_key, (num_examples,), dtype=jnp.int32)
    agrees = jax.random.bernoulli(first_key, reliability, (num_examples,))
    first = labels * jnp.where(agrees, 1.0, -1.0)
    noise = jax.random.normal(rest_key, (num_examples, dimension), eta.dtype)
    rest = eta * labels[:, None] + noise
    return jnp.concatenate([first[:, None], rest], axis=1), labels


def averaging_accuracy(
    dimension: ArrayLike, eta: ArrayLike, epsilon: ArrayLike = 0.0
) -> jax.Array:
    r"""Robust accuracy of the sign of the mean of the weak features, in [0, 1].

    It is :math:`\Phi((\eta - \epsilon) \sqrt d)`: near 1 for a large d, 1/2 at the
    radius :math:`\eta`, and near 0 at :math:`2 \eta`.

    Args:
        dimension: d, number of weak features, in [1, inf).
        eta: mean of a weak feature times the label, in (0, inf).
        epsilon: l_inf radius, in [0, inf).

    Raises:
        ValueError: for a number out of range.

    References:
        Tsipras et al., 2018, arXiv:1805.12152v1, Section 2.

    Differs from the paper: the mean of d features has the law N(eta, 1/d), printed as
    N(eta, 1); the accuracies there are those of 1/d.
    """
    dimension = real("dimension", dimension, "[1, inf)", fix="count the weak features")
    return ndtr((as_eta(eta) - as_epsilon(epsilon)) * jnp.sqrt(dimension))


def adversarial_accuracy_bound(
    standard_error: ArrayLike, reliability: ArrayLike = 0.7, *, sharp: bool = False
) -> jax.Array:
    r"""Most adversarial accuracy of any classifier with a standard error, in [0, 1].

    It is :math:`\frac{p}{1 - p} \delta`, but at most 1, for any l_inf radius of at
    least :math:`2 \eta` and any classifier, linear or not: an adversary can show the
    weak features of the other class.

    Args:
        standard_error: :math:`\delta`, error without an adversary, in [0, 1].
        reliability: p, probability that the first feature is the label, in [1/2, 1).
        sharp: from :math:`\delta = 1 - p` on the same argument gives less, namely
            :math:`p + \frac{1 - p}{p} (\delta - (1 - p))`.

    Raises:
        ValueError: for a number out of range.

    References:
        Tsipras et al., 2018, arXiv:1805.12152v1, Theorem 2.1.

    Differs from the paper: the last line of its proof has 7/2 for .7 / .3; the
    statement's 7/3 is right.
    """
    fix = "it is the share of errors without an adversary"
    error = real("standard_error", standard_error, "[0, 1]", fix=fix)
    p = as_reliability(reliability)
    bound = jnp.minimum(p / (1 - p) * error, 1.0)
    if sharp:
        bound = jnp.minimum(bound, p + (1 - p) / p * (error - (1 - p)))
    return bound
