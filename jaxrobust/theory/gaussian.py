r"""Two Gaussian classes: the error of the best classifier and of linear ones.

The labels -1 and +1 are equally likely, and the points of class :math:`y` are
:math:`N(y\mu, \sigma^2 I)`. The adversary moves a point by at most `epsilon`.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import ndtr
from jax.typing import ArrayLike

from jaxrobust.arguments import require_choice
from jaxrobust.theory.arguments import count, real, vector
from jaxrobust.types import PRNGKey

__all__ = ["linear_error", "optimal_error", "sample"]


def _sigma(value: ArrayLike) -> jax.Array:
    return real("sigma", value, "(0, inf)", fix="give the standard deviation")


def _epsilon(value: ArrayLike) -> jax.Array:
    return real(
        "epsilon", value, "[0, inf)", fix="give a radius in the units of the points"
    )


def optimal_error(
    distance: ArrayLike, sigma: ArrayLike, epsilon: ArrayLike = 0.0
) -> jax.Array:
    r"""Smallest l2-robust error that any classifier has, in [0, 1/2].

    It is :math:`\Phi((2\epsilon - D) / (2\sigma))` as long as
    :math:`\epsilon \le D / 2`, and 1/2 from there on; at `epsilon` 0 it is the Bayes
    error. The hyperplane halfway between the means attains it, and so does a constant
    classifier where it is 1/2.

    Args:
        distance: :math:`D = \|\mu_1 - \mu_{-1}\|_2`, in [0, inf).
        sigma: standard deviation along every axis, in (0, inf).
        epsilon: l2 radius in the units of the points, in [0, inf).

    Raises:
        ValueError: for a number out of range.

    References:
        Shaeiri et al., 2020, arXiv:2003.13370, Theorem 2.

    Differs from the paper: it prints the formula for every radius, though from D/2 on
    a constant classifier is better; here it ends at 1/2. In the proof, the means under
    attack are :math:`\mu_i - i \epsilon E`, printed without the index of the mean.
    """
    distance = real(
        "distance", distance, "[0, inf)", fix="give the norm of mu_1 - mu_-1"
    )
    sigma = _sigma(sigma)
    argument = jnp.minimum((2 * _epsilon(epsilon) - distance) / (2 * sigma), 0.0)
    return ndtr(argument)


def linear_error(
    weights: ArrayLike,
    bias: ArrayLike = 0.0,
    *,
    mean: ArrayLike,
    sigma: ArrayLike,
    epsilon: ArrayLike = 0.0,
    norm: Literal["l2", "linf"] = "l2",
) -> jax.Array:
    r"""Robust error of the classifier :math:`\mathrm{sign}(w \cdot x + b)`, in [0, 1].

    The adversary lowers the margin by `epsilon` times the dual norm of the weights, so
    class :math:`y` is lost with probability
    :math:`\Phi((\epsilon \|w\|_* - w \cdot \mu - y b) / (\sigma \|w\|_2))`.

    Args:
        weights: `(dimension,)`; with weights of 0 the classifier is constant and
            its error 1/2.
        bias: one number.
        mean: `(dimension,)`, of class +1; that of class -1 is its negative.
        sigma: standard deviation along every axis, in (0, inf).
        epsilon: radius in the units of the points, in [0, inf).
        norm: of the adversary, l2 or linf.

    Raises:
        ValueError: for a number out of range, another norm, or weights and a mean
            that are not vectors of one length.

    References:
        Shaeiri et al., 2020, arXiv:2003.13370, proof of Theorem 2, for any hyperplane.
    """
    require_choice("norm", norm, ("l2", "linf"))
    weights = vector("weights", weights, fix="give a finite weight of each axis")
    fix = "give as many finite numbers as weights"
    mean = vector("mean", mean, length=weights.size, fix=fix)
    bias = real("bias", bias, fix="give a finite bias")
    # The largest weight becomes 1, or squares would over- or underflow. The error does
    # not depend on the factor, so that needs no gradient.
    largest = lax.stop_gradient(jnp.max(jnp.abs(weights)))
    is_constant = largest == 0
    size = jnp.where(is_constant, 1.0, largest)
    weights, bias = weights / size, bias / size
    squared = jnp.sum(jnp.square(weights))
    # A square root of 0 has no gradient, not even where it is not used.
    length = jnp.sqrt(jnp.where(is_constant, 1.0, squared))
    dual = length if norm == "l2" else jnp.sum(jnp.abs(weights))
    lost = _epsilon(epsilon) * dual - jnp.sum(weights * mean)
    scale = _sigma(sigma) * length
    error = (ndtr((lost - bias) / scale) + ndtr((lost + bias) / scale)) / 2
    return jnp.where(is_constant, 0.5, error)


def sample(
    key: PRNGKey, num_examples: int, *, mean: ArrayLike, sigma: ArrayLike
) -> tuple[jax.Array, jax.Array]:
    """Random points and their labels.

    Args:
        key: of everything random.
        num_examples: at least 1.
        mean: `(dimension,)`, of class +1; that of class -1 is its negative.
        sigma: standard deviation along every axis, in (0, inf).

    Returns:
        Points `(num_examples, dimension)` and labels `(num_examples,)`, -1 or 1.

    Raises:
        TypeError: if `num_examples` is not an integer.
        ValueError: for a number out of range, or a mean that is not a vector.
    """
    num_examples = count("num_examples", num_examples, fix="draw at least one")
    mean = vector("mean", mean, fix="give a finite number of each axis")
    sigma = _sigma(sigma)
    label_key, noise_key = jax.random.split(key)
    labels = jax.random.rademacher(label_key, (num_examples,), dtype=jnp.int32)
    noise = jax.random.normal(noise_key, (num_examples, *mean.shape), mean.dtype)
    return labels[:, None] * mean[None] + sigma * noise, labels
