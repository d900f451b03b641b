r"""What theory says of concentration: an oracle, and how well samples stand for it."""

import math
from typing import Any, NamedTuple

from scipy import special

__all__ = [
    "Guarantee",
    "equal_volume_epsilon",
    "gaussian_concentration",
    "generalization_guarantee",
]


def equal_volume_epsilon(
    epsilon: float, num_dimensions: int, *, exact: bool = False
) -> float:
    r"""The l2 radius that is compared with an linf radius.

    The rule is :math:`\epsilon_2 = \sqrt{n / \pi}\, \epsilon_\infty`.

    Args:
        epsilon: linf radius, in units of [0, 1] pixels.
        num_dimensions: n, pixels times channels.
        exact: instead of the rule, the ball that has the volume of the cube:
            :math:`2 \epsilon_\infty \Gamma(n/2 + 1)^{1/n} / \sqrt{\pi}`.

    References:
        Mahloujifar et al., 2019, arXiv:1905.12202, Section 5.2.

    Differs from the paper: nothing by default. The rule is said there to make the
    volumes equal; it is the larger radius, by 16 % at 784 dimensions.
    """
    if exact:
        log_gamma = math.lgamma(num_dimensions / 2 + 1) / num_dimensions
        return 2 * epsilon * math.exp(log_gamma) / math.sqrt(math.pi)
    return math.sqrt(num_dimensions / math.pi) * epsilon


def gaussian_concentration(alpha: float, epsilon: float) -> float:
    r"""Least measure of an expanded set of measure `alpha` under a standard Gaussian.

    :math:`h(\mu, \alpha, \epsilon) = \Phi(\Phi^{-1}(\alpha) + \epsilon)` for l2, in any
    number of dimensions; half-spaces attain it.

    Args:
        alpha: measure of the set, in (0, 1).
        epsilon: l2 radius, non-negative.

    References:
        Borell, 1975; Sudakov & Tsirelson, 1974.
    """
    return float(special.ndtr(special.ndtri(alpha) + epsilon))


class Guarantee(NamedTuple):
    r"""How likely the minimum on a sample is near that of the distribution.

    Let :math:`h(\mu, \alpha)` be the least measure of an expanded set among those of a
    collection whose measure is at least alpha: here, the unions of T rectangles or
    balls. With some probability the one of the sample is bracketed by those of the
    distribution, :math:`h(\mu, \alpha - \delta) - \delta` and
    :math:`h(\mu, \alpha + \delta) + \delta`.

    That is about minima over the collection. A set that a search found need not be the
    minimum, and the collection need not hold the set that grows least of all, so an
    estimate remains an upper bound on both.

    Attributes:
        log_phi: natural logarithm of the bound phi on the chance that the measure of
            any set of the collection is off by more than `delta`; not capped.
        phi: the same, capped at 1.
        probability: of the bracket, at least; 0 if vacuous.
        delta: deviation of the measure that is allowed.
        num_regions: T of the collection.
        num_samples: training examples, m.
        min_samples: the theorem asks for, T^4.
    """

    log_phi: float
    phi: float
    probability: float
    delta: float
    num_regions: int
    num_samples: int
    min_samples: int

    @property
    def is_applicable(self) -> bool:
        """Whether there are as many samples as the theorem asks for."""
        return self.num_samples >= self.min_samples

    @property
    def is_vacuous(self) -> bool:
        """Whether the theorem says nothing."""
        return not self.is_applicable or self.probability <= 0

    def describe(self) -> str:
        """What the theorem says, in a sentence."""
        if not self.is_applicable:
            return (
                f"vacuous: the theorem asks for T^4 = {self.min_samples:,} samples, "
                f"and there are {self.num_samples:,}"
            )
        if self.is_vacuous:
            return (
                "vacuous: the theorem's probability that the training points stand for "
                f"the distribution up to {self.delta:g} is 0 (log phi = "
                f"{self.log_phi:,.1f})"
            )
        return (
            f"with probability at least {self.probability:.6g} the minimum over unions "
            f"of {self.num_regions} on the training points lies between "
            f"h(alpha - {self.delta:g}) - {self.delta:g} and h(alpha + {self.delta:g}) "
            f"+ {self.delta:g}, where h is that of the distribution over the same "
            "unions; what a search found need not be the minimum"
        )

    def as_row(self) -> dict[str, Any]:
        """The fields, and whether the theorem says anything."""
        return {**self._asdict(), "is_vacuous": self.is_vacuous}


def generalization_guarantee(
    num_dimensions: int, num_regions: int, num_samples: int, *, delta: float = 0.01
) -> Guarantee:
    r"""The guarantee for unions of rectangles or of balls.

    :math:`P \ge 1 - 2 (\phi + \phi_\epsilon)` (Theorem 3.3), where both are
    :math:`\phi(m, \delta) = 8 \exp(n T \ln T \ln m - m \delta^2 / 128)` (Theorems 3.8
    and 3.10), since expanded rectangles and balls are such again. It is computed from
    the logarithm: at the size of images the exponent is some hundred thousands.

    Of one region ln T = 0, and the formula would not depend on the dimensions, which
    is false: in as many dimensions as points, boxes fit any of them. It is therefore
    that of unions of two, among which single regions are.

    Args:
        num_dimensions: n, pixels times channels.
        num_regions: T, rectangles or balls; the largest that was to choose from.
        num_samples: m, training examples; the theorem asks for at least T^4.
        delta: deviation of the measure, positive.

    References:
        Mahloujifar et al., 2019, arXiv:1905.12202.

    Differs from the paper: T = 1 counts as 2.
    """
    num_regions = max(num_regions, 2)
    complexity = num_dimensions * num_regions * math.log(num_regions)
    exponent = complexity * math.log(num_samples) - num_samples * delta**2 / 128
    log_phi = math.log(8) + exponent
    phi = math.exp(min(log_phi, 0.0))
    is_applicable = num_samples >= num_regions**4
    return Guarantee(
        log_phi=log_phi,
        phi=phi,
        probability=max(0.0, 1 - 4 * phi) if is_applicable else 0.0,
        delta=delta,
        num_regions=num_regions,
        num_samples=num_samples,
        min_samples=num_regions**4,
    )
