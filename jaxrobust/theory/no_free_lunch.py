r"""One robust feature and many weak ones: accuracy against robustness.

The labels :math:`y` -1 and +1 are equally likely. The first feature equals the label
with probability :math:`p` (.7 in the paper), and its negative otherwise; the other
:math:`d` are :math:`N(\eta y, 1)`. An adversary with l_inf radius above :math:`\eta`
turns every weak feature against the label, while the first one stands.

A linear classifier :math:`\mathrm{sign}(w \cdot x)` is a vector of `dimension` + 1
weights, here of norm 1; the worst perturbation of it lowers the margin by `epsilon`
times the l1 norm, so that all is known in closed form. Classifiers with equal weights
for all weak features lie on a circle, and the best one without an adversary is there.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import log_ndtr, ndtr
from jax.typing import ArrayLike

from jaxrobust.theory.arguments import count, real, vector
from jaxrobust.types import PRNGKey, Scalar

__all__ = [
    "accuracy",
    "adversarial_accuracy_bound",
    "averaging_accuracy",
    "circle_weights",
    "descend",
    "error",
    "hinge_loss",
    "optimal_weights",
    "positive_part_mean",
    "sample",
]


def _reliability(value: ArrayLike) -> jax.Array:
    fix = "it is the probability that the first feature is the label, .7 in the paper"
    return real("reliability", value, "[0.5, 1)", fix=fix)


def _eta(value: ArrayLike) -> jax.Array:
    return real("eta", value, "(0, inf)", fix="it is the mean of the weak features")


def _epsilon(value: ArrayLike) -> jax.Array:
    fix = "give a radius in the units of the features"
    return real("epsilon", value, "[0, inf)", fix=fix)


def _weights(value: ArrayLike) -> jax.Array:
    fix = "give finite weights, of the first feature and at least one weak one"
    return vector("weights", value, at_least=2, fix=fix)


def _size(weights: jax.Array) -> jax.Array:
    """Largest absolute weight, or 1 if all are 0.

    Squares of weights divided by it neither overflow nor underflow all. It has no
    gradient, so a function that undoes the division, or does not depend on the norm of
    the weights, has the gradient that it had without.
    """
    largest = lax.stop_gradient(jnp.max(jnp.abs(weights)))
    return jnp.where(largest > 0, largest, 1.0)


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
        NF-V1 (NF, Section 2).
    """
    num_examples = count("num_examples", num_examples, fix="draw at least one")
    dimension = count("dimension", dimension, fix="count the weak features")
    eta, reliability = _eta(eta), _reliability(reliability)
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
        NF-V1 (NF, Section 2).

    Differs from the paper: the mean of d features has the law N(eta, 1/d), printed as
    N(eta, 1); the accuracies there are those of 1/d.
    """
    dimension = real("dimension", dimension, "[1, inf)", fix="count the weak features")
    return ndtr((_eta(eta) - _epsilon(epsilon)) * jnp.sqrt(dimension))


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
        NF-V2 (NF, Theorem 2.1).

    Differs from the paper: the last line of its proof has 7/2 for .7 / .3; the
    statement's 7/3 is right.
    """
    fix = "it is the share of errors without an adversary"
    error = real("standard_error", standard_error, "[0, 1]", fix=fix)
    p = _reliability(reliability)
    bound = jnp.minimum(p / (1 - p) * error, 1.0)
    if sharp:
        bound = jnp.minimum(bound, p + (1 - p) / p * (error - (1 - p)))
    return bound


def positive_part_mean(mean: ArrayLike, sigma: ArrayLike) -> jax.Array:
    r"""Mean of the positive part of a Gaussian, :math:`E \max(0, m + \sigma Z)`.

    It is :math:`m \Phi(m / \sigma) + \sigma \phi(m / \sigma)`, the H of the hinge loss.

    Args:
        mean: m.
        sigma: in [0, inf); at 0 it is the positive part of the mean.

    Raises:
        ValueError: for a number out of range.

    References:
        NF-V3 (NF, Theorem 2.2).
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
    size = _size(rest)
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
        NF-V3 (NF, Theorem 2.2).

    Differs from the paper: in the adversarial objective the maximum stands outside the
    expectation, which no adversary that sees the point would accept; here inside. The
    norm of the weights is a condition, where the paper tunes a penalty to reach it.
    """
    weights = _weights(weights)
    agree, disagree, length = _margins(
        weights, _eta(eta), _epsilon(epsilon), moves_first
    )
    p = _reliability(reliability)
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
    weights = _weights(weights)
    *margins, length = _margins(
        weights / _size(weights), _eta(eta), _epsilon(epsilon), moves_first
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
    p = _reliability(reliability)
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
        NF-V1, NF-V3 (NF, Section 2).
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
        NF-V1, NF-V3 (NF, Section 2).
    """
    return _share(weights, eta, epsilon, reliability, moves_first, is_right=False)


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
        NF-V3 (NF, Theorem 2.2, Lemmas C.4 and C.5).

    Differs from the paper: at an adversary of radius epsilon a weak weight adds
    w_i (epsilon - eta) to the loss, at least 0, printed as 2 eta - epsilon, at most 0;
    the conclusion, the first feature alone at any radius of 2 eta or more, is the same
    for an adversary that leaves this feature in place.
    """
    dimension = count("dimension", dimension, fix="count the weak features")
    p, radius = _reliability(reliability), _epsilon(epsilon)
    gain = (_eta(eta) - radius) * math.sqrt(dimension)
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

    return lax.fori_loop(0, num_steps, step, normalize(weights / _size(weights)))
