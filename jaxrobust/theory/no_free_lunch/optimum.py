"""The linear classifier of the least loss, exactly and by gradient descent."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import log_ndtr
from jax.typing import ArrayLike

from jaxrobust.theory.arguments import count, real, vector
from jaxrobust.theory.no_free_lunch.linear import (
    circle_weights,
    positive_part_mean,
    size_of,
)
from jaxrobust.theory.no_free_lunch.numbers import as_epsilon, as_eta, as_reliability
from jaxrobust.types import Scalar

__all__ = ["descend", "optimal_weights"]

_NUM_PIECES = 64
"""Of the quarter circle, in which minima are searched."""


def _mean_above_zero(mean: jax.Array) -> jax.Array:
    """Mean of a Gaussian of deviation 1 where it is above 0."""
    # The sum cancels in the lower tail, where a series takes over.
    is_far = mean < -10
    far, near = jnp.where(is_far, mean, -10.0), jnp.where(is_far, 0.0, mean)
    density = jnp.exp(-jnp.square(near) / 2 - log_ndtr(near)) / math.sqrt(2 * math.pi)
    series = (1 - 2 / far**2 + 10 / far**4) / -far
    return jnp.where(is_far, series, near + density)


def optimal_weights(
    dimension: int,
    eta: ArrayLike,
    epsilon: ArrayLike = 0.0,
    *,
    reliability: ArrayLike = 0.7,
    moves_first: bool = True,
) -> jax.Array:
    r"""The classifier on the circle with the smallest expected hinge loss.

    Without an adversary no other weights of norm 1 are better, and for a large
    :math:`\eta \sqrt d` nearly all weight is on the weak features.

    From the radius `eta` on, the first feature alone is the best of all weights of norm
    1, if the adversary leaves it in place or the radius is at most 2p - 1. Its accuracy
    is then p, with and without an adversary. If the adversary moves it by more than
    2p - 1, it costs more than it gains: the best on the circle may be the weak features
    alone, and weights that are not on the circle, as all on one weak feature, may have
    a smaller loss.

    Args:
        dimension: number of weak features, at least 1; static.
        eta: mean of a weak feature times the label, in (0, inf); a single number.
        epsilon: l_inf radius, in [0, inf); a single number.
        reliability: probability that the first feature is the label, in [1/2, 1).
        moves_first: whether the adversary moves the first feature too.

    Returns:
        Weights `(dimension + 1,)`, of norm 1 and none below 0. Without an adversary,
        float32 moves the first by up to about :math:`4 \cdot 10^{-7}`, or
        :math:`10^{-7} h` where :math:`h = \eta \sqrt d` is above 10.

    Raises:
        TypeError: if `dimension` is not an integer.
        ValueError: for a number out of range.

    References:
        Tsipras et al., 2018, arXiv:1805.12152v1, Theorem 2.2, Lemmas C.4 and C.5.

    Differs from the paper: at an adversary of radius epsilon a weak weight adds
    w_i (epsilon - eta) to the loss, at least 0, printed as 2 eta - epsilon, at most 0;
    the conclusion, the first feature alone at any radius of 2 eta or more, is the same
    for an adversary that leaves this feature in place.
    """
    dimension = count("dimension", dimension, fix="count the weak features")
    p, radius = as_reliability(reliability), as_epsilon(epsilon)
    gain = (as_eta(eta) - radius) * math.sqrt(dimension)
    moved = radius if moves_first else jnp.zeros_like(radius)

    def place(angle: jax.Array) -> tuple[jax.Array, jax.Array, list[jax.Array]]:
        """Both norms, and the means of 1 - margin if the first feature is right or not.

        In the first mean, 1 - `first` is written so that nothing cancels.
        """
        first, rest = jnp.cos(angle), jnp.sin(angle)
        common = moved * first - gain * rest
        return first, rest, [rest**2 / (1 + first) + common, 1 + first + common]

    def loss(angle: jax.Array) -> jax.Array:
        _, rest, means = place(angle)
        parts = [positive_part_mean(mean, rest) for mean in means]
        return p * parts[0] + (1 - p) * parts[1]

    def falls(angle: jax.Array) -> jax.Array:
        """Whether the loss falls with the angle, also where it underflows.

        With r the mean over the norm of the others, the derivative of H is Phi(r) times
        the sum below. Only the sign counts, so the larger Phi(r) is taken as 1.
        """
        first, rest, means = place(angle)
        ratios = [mean / rest for mean in means]
        logs = [log_ndtr(ratio) for ratio in ratios]
        top = jnp.maximum(*logs)
        # Norm of the others times the derivative of r.
        changes = [rest / (1 + first), -(1 + first) / rest]
        agree, disagree = (
            jnp.exp(log - top)
            * (first * _mean_above_zero(ratio) + change - moved / rest)
            for log, ratio, change in zip(logs, ratios, changes, strict=True)
        )
        return p * agree + (1 - p) * disagree < 0

    def halve(_, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = (low + high) / 2
        is_down = falls(middle)
        return jnp.where(is_down, middle, low), jnp.where(is_down, high, middle)

    # There may be a minimum at either end and others between. Each piece that starts
    # downhill and ends uphill is searched, as if the circle ended in walls.
    angles = jnp.linspace(0, math.pi / 2, _NUM_PIECES + 1, dtype=float)
    inner, wall = falls(angles[1:-1]), jnp.ones(1, bool)
    has_minimum = jnp.append(wall, inner) & ~jnp.append(inner, ~wall)
    found, _ = lax.fori_loop(0, 40, halve, (angles[:-1], angles[1:]))
    best = found[jnp.argmin(jnp.where(has_minimum, loss(found), jnp.inf))]
    # At the right angle the cosine may round to less than 0.
    return jnp.maximum(circle_weights(best, dimension), 0.0)


def descend(
    loss: Callable[[jax.Array], jax.Array],
    weights: ArrayLike,
    *,
    num_steps: int = 400,
    step_size: Scalar = 0.1,
) -> jax.Array:
    """Train a linear classifier of norm 1 by plain gradient steps.

    Each step goes down the logarithm of the loss and back to the sphere. The logarithm
    has the same minimum, and a slope also where the loss is small. At a loss of 0,
    which a sample may have, nothing moves.

    Steps shrink to 0 with the cube of the share of steps that are left. At a kink, such
    as an adversarial loss has at every weak weight of 0, weights jump to and fro by
    about the last steps. Steps that shrink linearly are still so large at the end that
    rounding decides how far off the weights stop.

    Args:
        loss: from weights to a number of at least 0, such as `hinge_loss` or the mean
            loss of a sample.
        weights: to start from, not 0.
        num_steps: gradient steps, at least 1.
        step_size: of the first step, above 0.

    Returns:
        Weights of norm 1.

    Raises:
        TypeError: if `num_steps` is not an integer.
        ValueError: for a number out of range.
    """
    num_steps = count("num_steps", num_steps, fix="400 is usual")
    step_size = real("step_size", step_size, "(0, inf)", fix="0.1 is usual")
    weights = vector("weights", weights, fix="give finite weights")

    def normalize(weights: jax.Array) -> jax.Array:
        return weights / jnp.linalg.norm(weights)

    def step(index: jax.Array, weights: jax.Array) -> jax.Array:
        value, gradient = jax.value_and_grad(loss)(weights)
        gradient = gradient / jnp.where(value > 0, value, 1.0)
        along = gradient - jnp.sum(gradient * weights) * weights
        rate = step_size * (1 - index / num_steps) ** 3
        return normalize(weights - rate * along)

    return lax.fori_loop(0, num_steps, step, normalize(weights / size_of(weights)))
