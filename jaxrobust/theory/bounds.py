r"""How large a set of given measure grows: uniform data on the cube and on the ball.

Where the two sides of a decision boundary both grow by `epsilon`, the points in both
are those an adversary can move across; the bounds here hold for every classifier. Radii
are Euclidean unless said otherwise. A bound in l_2 also holds in l_inf, whose balls are
larger.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr, ndtri
from jax.typing import ArrayLike

from jaxrobust.theory.arguments import count, real

__all__ = [
    "BALL_CONSTANT",
    "BEST_BALL_CONSTANT",
    "ball_expansion",
    "ball_expansion_exponential",
    "ball_modulus",
    "ball_vulnerable_fraction",
    "coordinate_robust_error",
    "cube_expansion",
    "cube_expansion_exponential",
    "cube_vulnerable_fraction",
    "facets_bound",
    "log_facets_bound",
    "sum_vulnerable_fraction",
    "sum_vulnerable_fraction_exact",
]

BALL_CONSTANT = (2 - math.sqrt(3)) / 3
"""C of the paper, for which `ball_modulus` is at least C times the squared radius."""

BEST_BALL_CONSTANT = 1 / 8
"""The largest constant for which that holds."""


def _epsilon(value: ArrayLike, interval: str = "[0, inf)") -> jax.Array:
    fix = "give a radius for points of the unit cube or ball"
    return real("epsilon", value, interval, fix=fix)


def _dimension(value: ArrayLike) -> jax.Array:
    return real("dimension", value, "[1, inf)", fix="count the coordinates")


def _measure(value: ArrayLike, interval: str) -> jax.Array:
    return real("measure", value, interval, fix="give the share of the volume")


def _num_classes(value: ArrayLike) -> jax.Array:
    return real("num_classes", value, "[2, inf)", fix="count the classes")


def coordinate_robust_error(epsilon: ArrayLike) -> jax.Array:
    r"""Robust error of a half-space across one axis of the cube, in [0, 1].

    Labels are :math:`x_1 > 1/2`, which is also the classifier; its error without an
    adversary is 0, and :math:`\min(2 \epsilon, 1)` with one.

    Args:
        epsilon: radius in any l_p norm, in [0, inf).

    Raises:
        ValueError: for a number out of range.

    References:
        Ding et al., 2019, arXiv:1902.08336, Example 1.

    Differs from the paper: its text has the hyperplane at x_1 = 0, a face of the cube.
    """
    return jnp.minimum(2 * _epsilon(epsilon), 1.0)


def sum_vulnerable_fraction(
    dimension: ArrayLike, epsilon: ArrayLike, *, variance: ArrayLike = 1 / 12
) -> jax.Array:
    r"""Lower bound of the l_inf-vulnerable share if labels are those of the sum.

    Labels are :math:`\sum_i x_i > d/2` on the cube. By Chebyshev's inequality at least
    :math:`1 - \sigma^2 / (d \epsilon^2)` of the points have a sum within
    :math:`d \epsilon` of :math:`d/2`; 0 where that is less.

    Args:
        dimension: d, in [1, inf).
        epsilon: l_inf radius, in [0, inf).
        variance: :math:`\sigma^2` of a coordinate, at least 1/12, which is that of a
            uniform one; 1/4 gives the printed bound.

    Returns:
        A share in [0, 1).

    Raises:
        ValueError: for a number out of range.

    References:
        Ding et al., 2019, arXiv:1902.08336, Proposition 2.1.

    Differs from the paper: it takes 1/4 for the variance, which is an upper bound of
    it; its bound is true, but weaker. One line of the proof divides by d inside of the
    square instead of by its root.
    """
    fix = "1/12 is that of a uniform coordinate, 1/4 the paper's"
    # Compared in float64, where a caller's 1 / 12 is this 1 / 12.
    variance = real("variance", variance, f"[{1 / 12!r}, inf)", fix=fix)
    moved = _dimension(dimension) * jnp.square(_epsilon(epsilon))
    # Where the bound is 0 it has no slope, and a ratio to 0 would give NaN.
    is_positive = moved > variance
    return jnp.where(
        is_positive, 1 - variance / jnp.where(is_positive, moved, 1.0), 0.0
    )


def _sum_series(dimension: int) -> tuple[float, np.ndarray]:
    """Period and coefficients of a Fourier series for a sum of uniform coordinates.

    Centered, the sum lies within d/2 of 0, so a series with the period d has its law;
    one with the period 8 sqrt(d) has it, too, since the sum is further out than half of
    it with a probability of 3e-14 at most, by Hoeffding's inequality. The coefficients
    are those of the characteristic function, sinc to the power of d.
    """
    if dimension < 64:
        period, terms = dimension, np.arange(1, 513)
        powers = np.sinc(terms / period) ** dimension
    else:
        period, terms = 8 * math.sqrt(dimension), np.arange(1, 33)
        # Viete's product of cosines, which has all digits where sinc is nearly 1.
        halves = math.pi / period * terms[:, None] / 2.0 ** np.arange(1, 30)
        logarithms = np.log1p(-np.square(np.sin(halves))).sum(axis=1) / 2
        powers = np.exp(dimension * logarithms)
    coefficients = 2 / (math.pi * terms) * powers
    # What is left out sums to 1e-9 at most, in three dimensions.
    (large,) = np.nonzero(np.abs(coefficients) > 1e-12)
    return period, coefficients[: large[-1] + 1]


def sum_vulnerable_fraction_exact(dimension: int, epsilon: ArrayLike) -> jax.Array:
    r"""The l_inf-vulnerable share of which `sum_vulnerable_fraction` is a lower bound.

    The probability that the sum of d uniform coordinates lies within
    :math:`d \epsilon` of :math:`d/2`. In one and two dimensions it is
    :math:`1 - (1 - 2 \epsilon)^d` up to the radius 1/2, in more a Fourier series:

    .. math:: \frac{2 d \epsilon}{L} + \sum_{k \ge 1} \frac{2}{\pi k}
        \left(\frac{\sin(\pi k / L)}{\pi k / L}\right)^d
        \sin\frac{2 \pi k d \epsilon}{L}

    with a period :math:`L` that holds the sum. A normal law in its place,
    :math:`2 \Phi(\epsilon \sqrt{12 d}) - 1`, is off by up to .0095 at six coordinates
    and by .0005 at 100.

    Args:
        dimension: d, at least 1; static.
        epsilon: l_inf radius, in [0, inf).

    Returns:
        A share in [0, 1], of the shape of `epsilon`, within :math:`10^{-6}` in float32
        and :math:`10^{-9}` in float64.

    Raises:
        TypeError: if `dimension` is not an integer.
        ValueError: for a number out of range.

    References:
        Ding et al., 2019, arXiv:1902.08336, Proposition 2.1.
    """
    dimension = count("dimension", dimension, fix="count the coordinates")
    epsilon = _epsilon(epsilon)
    if dimension <= 2:
        return 1 - (1 - 2 * jnp.minimum(epsilon, 0.5)) ** dimension
    period, coefficients = _sum_series(dimension)
    # Beyond half of the period there is nothing, and the series would come back.
    reach = jnp.minimum(epsilon * (dimension / period), 0.5)
    waves = 2 * math.pi * np.arange(1, len(coefficients) + 1)
    angles = jnp.multiply.outer(reach, jnp.asarray(waves, reach.dtype))
    heights = jnp.broadcast_to(jnp.asarray(coefficients, reach.dtype), angles.shape)
    total = jnp.sum(heights * jnp.sin(angles), axis=-1)
    return jnp.minimum(2 * reach + total, 1.0)


def cube_expansion(measure: ArrayLike, epsilon: ArrayLike) -> jax.Array:
    r"""Lower bound of the volume within `epsilon` of a set in the unit cube.

    A set of volume :math:`P` grows to at least
    :math:`\Phi(\epsilon \sqrt{2 \pi} + \Phi^{-1}(P))`, in any dimension.

    Args:
        measure: P, in (0, 1).
        epsilon: l_2 radius, in [0, inf); true for l_p with p above 2, too.

    Returns:
        A share in (0, 1].

    Raises:
        ValueError: for a number out of range.

    References:
        Ding et al., 2019, arXiv:1902.08336, Theorem 2.1.

    Differs from the paper: its appendix prints the bound for P = 1/2 as
    Phi(Phi^-1(sqrt(2 pi) epsilon)), which is sqrt(2 pi) epsilon and false; it is
    Phi(sqrt(2 pi) epsilon).
    """
    start = ndtri(_measure(measure, "(0, 1)"))
    return ndtr(start + _epsilon(epsilon) * math.sqrt(2 * math.pi))


def cube_expansion_exponential(epsilon: ArrayLike) -> jax.Array:
    r"""The simpler bound :math:`1 - e^{-\pi \epsilon^2}` for half of the cube or more.

    Args:
        epsilon: l_2 radius, in [0, inf).

    Returns:
        A share in [0, 1], at most `cube_expansion` of any measure of at least 1/2.

    Raises:
        ValueError: for a number out of range.

    References:
        Ding et al., 2019, arXiv:1902.08336, Theorem 2.1.
    """
    return -jnp.expm1(-math.pi * jnp.square(_epsilon(epsilon)))


def ball_modulus(epsilon: ArrayLike) -> jax.Array:
    r"""How deep the middle of a chord lies, :math:`1 - \sqrt{1 - \epsilon^2 / 4}`.

    The modulus of convexity of the Euclidean ball.

    Args:
        epsilon: length of the chord, in [0, 2].

    Returns:
        A depth in [0, 1].

    Raises:
        ValueError: for a number out of range.

    References:
        Ding et al., 2019, arXiv:1902.08336, Theorem 2.1.
    """
    quarter = jnp.square(_epsilon(epsilon, "[0, 2]")) / 4
    # 1 - sqrt(1 - q) without the difference, which loses small radii.
    return quarter / (1 + jnp.sqrt(1 - quarter))


def _ball_outside(epsilon: jax.Array, dimension: jax.Array) -> jax.Array:
    """(1 - modulus)^(2 dimension), with its slope up to a radius of 2."""
    quarter = jnp.square(epsilon) / 4
    # 1 - quarter would round a small radius away, so the power is one of its logarithm;
    # where that is infinite, a finite one keeps the slope from being 0 times infinity.
    is_inside = quarter < 1
    log_left = jnp.log1p(-jnp.where(is_inside, quarter, 0.0))
    log_left = jnp.where(is_inside, log_left, jnp.finfo(quarter.dtype).min)
    return (1 - quarter) * jnp.exp((dimension - 1) * log_left)


def ball_expansion(
    measure: ArrayLike, epsilon: ArrayLike, dimension: ArrayLike
) -> jax.Array:
    r"""Lower bound of the volume within `epsilon` of a set in the unit ball.

    A set with the share :math:`P` of the volume grows to at least
    :math:`1 - \frac1P (1 - \delta(\epsilon))^{2d}`, with the `ball_modulus`
    :math:`\delta`; 0 where that is less.

    Args:
        measure: P, in (0, 1].
        epsilon: l_2 radius, in [0, 2].
        dimension: d, in [1, inf).

    Returns:
        A share in [0, 1].

    Raises:
        ValueError: for a number out of range.

    References:
        Ding et al., 2019, arXiv:1902.08336, Theorem 2.1.
    """
    measure = _measure(measure, "(0, 1]")
    outside = _ball_outside(_epsilon(epsilon, "[0, 2]"), _dimension(dimension))
    return jnp.maximum(1 - outside / measure, 0.0)


def ball_expansion_exponential(
    measure: ArrayLike,
    epsilon: ArrayLike,
    dimension: ArrayLike,
    *,
    constant: ArrayLike = BALL_CONSTANT,
) -> jax.Array:
    r"""The simpler bound :math:`1 - \frac1P e^{-2 d C \epsilon^2}` for the unit ball.

    Args:
        measure: P, in (0, 1].
        epsilon: l_2 radius, in [0, 2].
        dimension: d, in [1, inf).
        constant: C, in (0, 1/8]; `BALL_CONSTANT` is the paper's, `BEST_BALL_CONSTANT`
            the best.

    Returns:
        A share in [0, 1], at most `ball_expansion`.

    Raises:
        ValueError: for a number out of range.

    References:
        Ding et al., 2019, arXiv:1902.08336, Theorem 2.1.

    Differs from the paper: it calls its constant tight; 1/8 is, see
    `BEST_BALL_CONSTANT`.
    """
    measure = _measure(measure, "(0, 1]")
    fix = "use BALL_CONSTANT or BEST_BALL_CONSTANT"
    constant = real("constant", constant, "(0, 0.125]", fix=fix)
    squared = jnp.square(_epsilon(epsilon, "[0, 2]"))
    outside = jnp.exp(-2 * _dimension(dimension) * constant * squared) / measure
    return jnp.maximum(1 - outside, 0.0)


def cube_vulnerable_fraction(num_classes: ArrayLike, epsilon: ArrayLike) -> jax.Array:
    r"""Lower bound of the vulnerable share of the cube, with classes of equal volume.

    A point of a class stands only if it is not within `epsilon` of the other classes,
    which have the volume :math:`1 - 1/k` together. So at most
    :math:`1 - \Phi(\epsilon \sqrt{2 \pi} + \Phi^{-1}(1 - 1/k))` stands of each class,
    whatever the classifier, as long as it gives each class its volume.

    Args:
        num_classes: k, in [2, inf).
        epsilon: l_2 radius, in [0, inf).

    Returns:
        A share in [0, 1]; 0 where the bound says nothing.

    Raises:
        ValueError: for a number out of range.

    References:
        Ding et al., 2019, arXiv:1902.08336, Example 2.
    """
    # 1 - 1/k would round the k of many classes away, hence the quantile of 1/k. It is
    # rounded itself, so what stands is divided by its probability rather than by 1/k.
    # Of more classes than floats can tell, the weaker bound of 1e30 holds.
    start = ndtri(jnp.maximum(1 / _num_classes(num_classes), 1e-30))
    stands = ndtr(start - _epsilon(epsilon) * math.sqrt(2 * math.pi))
    return jnp.maximum(1 - stands / ndtr(start), 0.0)


def ball_vulnerable_fraction(
    num_classes: ArrayLike, epsilon: ArrayLike, dimension: ArrayLike
) -> jax.Array:
    r"""Lower bound of the vulnerable share of the ball, with classes of equal volume.

    As `cube_vulnerable_fraction`, with :math:`\frac{k}{k - 1} (1 - \delta)^{2d}` of
    each class at most standing.

    Args:
        num_classes: k, in [2, inf).
        epsilon: l_2 radius, in [0, 2].
        dimension: d, in [1, inf).

    Returns:
        A share in [0, 1]; 0 where the bound says nothing.

    Raises:
        ValueError: for a number out of range.

    References:
        Ding et al., 2019, arXiv:1902.08336, Example 2.
    """
    classes = _num_classes(num_classes)
    outside = _ball_outside(_epsilon(epsilon, "[0, 2]"), _dimension(dimension))
    return jnp.maximum(1 - classes * outside / (1 - 1 / classes), 0.0)


def log_facets_bound(dimension: ArrayLike, distance: ArrayLike) -> jax.Array:
    """Natural logarithm of `facets_bound`, in [0, inf); overflows nowhere near as soon.

    Arguments, errors and source are those of `facets_bound`.
    """
    fix = "it is the ratio of a ball round the polytope and one inside of it"
    distance = real("distance", distance, "[1, inf)", fix=fix)
    return _dimension(dimension) / (2 * jnp.square(distance))


def facets_bound(dimension: ArrayLike, distance: ArrayLike) -> jax.Array:
    r"""Least number of facets of a symmetric polytope near the ball.

    At least :math:`e^{n / (2 d^2)}` if it lies between a ball and the ball :math:`d`
    times as large: a network of so few linear pieces cannot follow a sphere.

    Args:
        dimension: n, in [1, inf).
        distance: d, in [1, inf).

    Returns:
        A number in [1, inf]; infinite where it overflows, see `log_facets_bound`.

    Raises:
        ValueError: for a number out of range.

    References:
        Ding et al., 2019, arXiv:1902.08336, Theorem D.1.

    Differs from the paper: it goes on to say that 4n facets are enough for a distance
    of 2, which contradicts the bound from n = 41 on; it must be 4^n.
    """
    return jnp.exp(log_facets_bound(dimension, distance))
