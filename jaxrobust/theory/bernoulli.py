r"""Two product-Bernoulli classes: the error of the best classifier, robust or not.

The labels -1 and +1 are equally likely. A point has coordinates -1 and 1; each agrees
with the label with probability :math:`p = 1/2 + t`, independently, where :math:`t` is
the `advantage`. Only the `num_features` coordinates in which the classes differ count;
others carry no information.

Sums of binomial probabilities are taken of their logarithms: with 10,000 features and
an advantage of .3 the Bayes error is about exp(-2236), below any float. In float32 the
logarithms are right to 5e-6 of their size, with up to 10,000 features and an advantage
up to .499. Closer to 1/2 the rounding of the advantage itself weighs more: 2e-5 at
.4999.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import logsumexp
from jax.typing import ArrayLike
from scipy import special

from jaxrobust.theory.arguments import count, real, whole
from jaxrobust.types import PRNGKey

__all__ = [
    "bayes_error",
    "l0_error",
    "l0_threshold_errors",
    "linf_error",
    "log_bayes_error",
    "log_l0_error",
    "log_l0_threshold_errors",
    "log_linf_error",
    "sample",
]

LOG_HALF = float(np.log(0.5))


def _num_features(value: int) -> int:
    return count("num_features", value, fix="count the coordinates that differ")


def _advantage(value: ArrayLike) -> jax.Array:
    fix = "it is p - 1/2, where p is the probability that a coordinate agrees"
    return real("advantage", value, "(0, 0.5)", fix=fix)


def _radius(value: ArrayLike) -> jax.Array:
    fix = "give a radius for coordinates -1 and 1"
    return real("epsilon", value, "[0, inf)", fix=fix)


def _log_probabilities(num_features: int, advantage: jax.Array) -> jax.Array:
    r"""Logarithm of the probability that i coordinates agree, for i = 0 to k.

    As :math:`\log b(i) = c_i - k D(i/k \| p)` with the divergence :math:`D` of two
    coins, and :math:`c_i` free of :math:`p`: binomial coefficients and powers would
    both be huge, and their difference lost in float32.
    """
    agree = np.arange(num_features + 1)
    share = agree / num_features
    log_coefficients = (
        special.gammaln(num_features + 1)
        - special.gammaln(agree + 1)
        - special.gammaln(num_features - agree + 1)
        - num_features * (special.entr(share) + special.entr(1 - share))
    )
    # Both logarithms come from one difference, whose rounding then cancels in the sum.
    excess = jnp.asarray(share - 0.5, advantage.dtype) - advantage
    # At a share of 0 or 1 the other coin's logarithm is infinite, times 0.
    more = jnp.where(share > 0, excess / (0.5 + advantage), 0.0)
    less = jnp.where(share < 1, -excess / (0.5 - advantage), 0.0)
    divergence = jnp.asarray(share, excess.dtype) * jnp.log1p(more)
    divergence += jnp.asarray(1 - share, excess.dtype) * jnp.log1p(less)
    return jnp.asarray(log_coefficients, excess.dtype) - num_features * divergence


def log_bayes_error(num_features: int, advantage: ArrayLike) -> jax.Array:
    """Natural logarithm of `bayes_error`, in (-inf, log(1/2)); never underflows.

    Arguments, errors and source are those of `bayes_error`.
    """
    num_features, advantage = _num_features(num_features), _advantage(advantage)
    middle = num_features // 2
    weights = np.zeros(middle + 1)
    if num_features % 2 == 0:
        weights[middle] = LOG_HALF

    def one(advantage: jax.Array) -> jax.Array:
        lost = _log_probabilities(num_features, advantage)[: middle + 1]
        return logsumexp(lost + jnp.asarray(weights, lost.dtype))

    return jnp.vectorize(one)(advantage)


def bayes_error(num_features: int, advantage: ArrayLike) -> jax.Array:
    r"""Smallest error of any classifier without an adversary, in (0, 1/2).

    The majority of the coordinates attains it:
    :math:`\sum_{i < k/2} b(i)` plus half of :math:`b(k/2)` if that is whole, with
    :math:`b(i) = \binom{k}{i} p^i (1 - p)^{k - i}`.

    Args:
        num_features: coordinates in which the classes differ, at least 1; static.
        advantage: :math:`t`, in (0, 1/2).

    Raises:
        TypeError: if `num_features` is not an integer.
        ValueError: for a number out of range.

    References:
        Shaeiri et al., 2020, arXiv:2003.13370, Theorem 3.

    Differs from the paper: it takes t from the positive reals; from 1/2 on it would be
    no probability.
    """
    return jnp.exp(log_bayes_error(num_features, advantage))


def log_linf_error(
    num_features: int, advantage: ArrayLike, epsilon: ArrayLike
) -> jax.Array:
    """Natural logarithm of `linf_error`, in (-inf, log(1/2)]; never underflows.

    Arguments, errors and source are those of `linf_error`.
    """
    log_bayes = log_bayes_error(num_features, advantage)
    return jnp.where(_radius(epsilon) < 1, log_bayes, LOG_HALF)


def linf_error(
    num_features: int, advantage: ArrayLike, epsilon: ArrayLike
) -> jax.Array:
    """Smallest l_inf-robust error of any classifier, in (0, 1/2].

    The Bayes error below radius 1, and 1/2 from there on: an adversary that reaches 0
    from both sides makes all points alike. Where coordinates are 0 and 1, it needs a
    radius of 1/2: give twice the radius.

    Args:
        num_features: coordinates in which the classes differ, at least 1; static.
        advantage: :math:`t`, in (0, 1/2).
        epsilon: radius, in [0, inf), for coordinates -1 and 1.

    Raises:
        TypeError: if `num_features` is not an integer.
        ValueError: for a number out of range.

    References:
        Shaeiri et al., 2020, arXiv:2003.13370, Theorem 5.

    Differs from the paper: its classifiers know only the corners, while the attack is
    real-valued; here a classifier sees any real point, by the signs of its coordinates
    for instance.
    """
    return jnp.where(_radius(epsilon) < 1, bayes_error(num_features, advantage), 0.5)


def log_l0_threshold_errors(
    num_features: int, advantage: ArrayLike, budget: ArrayLike
) -> jax.Array:
    """Natural logarithm of `l0_threshold_errors`, in (-inf, 0]; never underflows.

    Arguments, errors and source are those of `l0_threshold_errors`.
    """
    num_features, advantage = _num_features(num_features), _advantage(advantage)
    fix = "it counts the coordinates that are flipped"
    budget = whole("budget", budget, "[0, inf)", fix=fix, most=num_features)
    thresholds = np.arange(num_features + 1)

    def add(total: jax.Array, each: jax.Array) -> tuple[jax.Array, jax.Array]:
        total = jnp.logaddexp(total, each)
        return total, total

    def one(advantage: jax.Array, budget: jax.Array) -> jax.Array:
        logs = _log_probabilities(num_features, advantage)
        # One after the other: `lax.cumlogsumexp` takes seconds to compile.
        _, rest = lax.scan(add, logs[0], logs[1:])
        log_at_most = jnp.append(logs[0], rest)
        up = jnp.minimum(thresholds + budget, num_features)
        down = jnp.minimum(num_features - thresholds + budget - 1, num_features)
        # The last threshold never answers +1, so class -1 is safe there.
        is_last = thresholds == num_features
        below = jnp.where(is_last, -jnp.inf, log_at_most[jnp.maximum(down, 0)])
        return LOG_HALF + jnp.logaddexp(log_at_most[up], below)

    return jnp.vectorize(one, signature="(),()->(s)")(advantage, budget)


def l0_threshold_errors(
    num_features: int, advantage: ArrayLike, budget: ArrayLike
) -> jax.Array:
    r"""Robust error of each threshold rule when `budget` coordinates may be flipped.

    Rule :math:`s` answers -1 if at most :math:`s` coordinates are 1, and +1 otherwise:

    .. math::
        F(s, \epsilon) = \frac12 \sum_{i=0}^{s + \epsilon} b(i)
            + \frac12 \sum_{i=0}^{k - s + \epsilon - 1} b(i)

    with sums that end at k, and for :math:`s = k`, which answers -1 only, without the
    second one.

    Args:
        num_features: k, coordinates in which the classes differ, at least 1; static.
        advantage: :math:`t`, in (0, 1/2).
        budget: :math:`\epsilon`, flipped coordinates, a whole number in [0, inf).

    Returns:
        Errors in [0, 1], for the thresholds 0 to k along the last axis.

    Raises:
        TypeError: if `num_features` or `budget` is not an integer.
        ValueError: for a number out of range.

    References:
        Shaeiri et al., 2020, arXiv:2003.13370, Theorem 4.

    Differs from the paper: its formula has the second sum for s = k too, and is above
    1/2 there, though a constant classifier is wrong half of the time, whatever the
    attack.
    """
    return jnp.exp(log_l0_threshold_errors(num_features, advantage, budget))


def log_l0_error(
    num_features: int, advantage: ArrayLike, budget: ArrayLike
) -> jax.Array:
    """Natural logarithm of `l0_error`, in (-inf, log(1/2)]; never underflows.

    Arguments, errors and source are those of `l0_error`.
    """
    errors = log_l0_threshold_errors(num_features, advantage, budget)
    # Of the two constant classifiers the thresholds have one; rounding may not show.
    return jnp.minimum(jnp.min(errors, axis=-1), LOG_HALF)


def l0_error(num_features: int, advantage: ArrayLike, budget: ArrayLike) -> jax.Array:
    r"""Smallest robust error of any classifier under flips, in (0, 1/2].

    The minimum of `l0_threshold_errors` over the thresholds, and of the constant
    classifiers' 1/2. No other classifier does better.

    Args:
        num_features: k, coordinates in which the classes differ, at least 1; static.
        advantage: :math:`t`, in (0, 1/2).
        budget: flipped coordinates, a whole number in [0, inf); never refused for
            being above k, where all can be flipped.

    Raises:
        TypeError: if `num_features` or `budget` is not an integer.
        ValueError: for a number out of range.

    References:
        Shaeiri et al., 2020, arXiv:2003.13370, Theorem 4.

    Differs from the paper: the constant classifiers count, see `l0_threshold_errors`;
    without them the printed minimum exceeds 1/2 when the budget is large.
    """
    return jnp.exp(log_l0_error(num_features, advantage, budget))


def sample(
    key: PRNGKey, num_examples: int, *, num_features: int, advantage: ArrayLike
) -> tuple[jax.Array, jax.Array]:
    """Random points and their labels.

    Args:
        key: of everything random.
        num_examples: at least 1.
        num_features: coordinates, at least 1; all of them differ.
        advantage: :math:`t`, in (0, 1/2).

    Returns:
        Points `(num_examples, num_features)`, of -1.0 and 1.0, and labels
        `(num_examples,)`, -1 or 1.

    Raises:
        TypeError: if a count is not an integer.
        ValueError: for a number out of range.
    """
    num_examples = count("num_examples", num_examples, fix="draw at least one")
    num_features, advantage = _num_features(num_features), _advantage(advantage)
    label_key, agree_key = jax.random.split(key)
    labels = jax.random.rademacher(label_key, (num_examples,), dtype=jnp.int32)
    shape = (num_examples, num_features)
    agrees = jax.random.bernoulli(agree_key, 0.5 + advantage, shape)
    signs = jnp.where(agrees, 1.0, -1.0)
    return labels[:, None] * signs, labels
