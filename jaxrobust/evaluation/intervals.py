"""How sure a share of examples is."""

import math
from statistics import NormalDist

from jaxrobust.arguments import require_count, require_in

__all__ = ["Interval", "wilson_interval"]

Interval = tuple[float, float]


def wilson_interval(
    successes: int, trials: int, *, confidence: float = 0.95
) -> Interval:
    r"""The Wilson score interval of a share.

    The shares :math:`p` with :math:`|k/n - p| \le z \sqrt{p (1 - p) / n}`. Unlike the
    usual interval it lies in [0, 1] and has a length even for a share of 0 or 1.

    Args:
        successes: how often it happened, in [0, trials].
        trials: how often it could, at least 1.
        confidence: in (0, 1).

    Returns:
        Lower and upper end, in [0, 1].

    Raises:
        ValueError: for a number out of range.

    References:
        Wilson, 1927, Journal of the American Statistical Association 22.
    """
    require_count("trials", trials, "count one example at least")
    remedy = "count the same examples as in `trials`"
    require_count("successes", successes, remedy, least=0, most=trials)
    require_in("confidence", confidence, "(0, 1)", "0.95 is usual")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, squared = successes / trials, z * z / trials
    center = (share + squared / 2) / (1 + squared)
    half = z * math.sqrt(share * (1 - share) / trials + squared / (4 * trials))
    half /= 1 + squared
    # The ends are exact there, but rounding would miss them.
    lower = 0.0 if successes == 0 else max(center - half, 0.0)
    upper = 1.0 if successes == trials else min(center + half, 1.0)
    return lower, upper
