"""How good an attack is: how near it comes to the best of all on every image."""

from collections.abc import Mapping

import numpy as np

from jaxrobust.arguments import require, require_in

__all__ = ["area_under_accuracy", "optimality"]


def area_under_accuracy(distances: np.ndarray, *, widest: float) -> float:
    """Area under the robust accuracy against the distance, from 0 to the widest one.

    Args:
        distances: `(examples,)`, to the nearest image that an attack found; 0 where the
            clean image is lost, inf where nothing was found.
        widest: end of the axis, positive, in the unit of the distances.

    Returns:
        The area, in [0, widest]. The curve is a staircase that falls by one example at
        its distance, so the area is the mean of the distances, cut at the widest.

    Raises:
        ValueError: for a distance below 0, NaN, or an end that is not positive.
    """
    values = np.asarray(distances, float)
    remedy = "give 0 for lost images and inf where nothing was found"
    require(bool(values.size), "distances", "one or more", values.tolist(), remedy)
    require_in("distances", values, "[0, inf]", remedy)
    require_in("widest", widest, "(0, inf)", "the diameter of the range is usual")
    return float(np.mean(np.minimum(values, widest)))


def optimality(
    distances: Mapping[str, np.ndarray], *, widest: float
) -> dict[str, float]:
    r"""How near each attack comes to the best of all on every image.

    With :math:`A` the area under the accuracy of an attack against the distance,
    :math:`A^*` that of the best of all attacks on each example, and the clean accuracy
    :math:`c`, it is :math:`1 - (A - A^*) / (c d_{max} - A^*)`: 1 for an attack that is
    the best on every image, 0 for one that finds nothing.

    Args:
        distances: by attack, `(examples,)` of the same examples; 0 where the clean
            image is lost, inf where nothing was found.
        widest: end of the axis, positive; what lies beyond counts as not found.

    Returns:
        By attack, in [0, 1]; 1 for all if none finds anything.

    Raises:
        ValueError: for no attack, for different numbers of examples, or if attacks
            disagree on which clean images are lost.

    References:
        Cinà et al., 2025, arXiv:2404.19460 (AttackBench), "optimality".
    """
    remedy = "give what each attack found on the same images"
    require(bool(distances), "distances", "those of one attack or more", {}, remedy)
    shapes = {name: np.shape(values) for name, values in distances.items()}
    rule = "of the same examples"
    require(len(set(shapes.values())) == 1, "distances", rule, shapes, remedy)
    table = np.stack([np.asarray(values, float) for values in distances.values()])
    is_lost = table == 0
    is_agreed = bool(np.all(is_lost == is_lost[0]))
    require(is_agreed, "distances", "0 for the same lost images", shapes, remedy)
    best = area_under_accuracy(table.min(axis=0), widest=widest)
    room = float(np.mean(~is_lost[0])) * widest - best
    return {
        name: 1.0
        if room <= 0
        else 1 - (area_under_accuracy(values, widest=widest) - best) / room
        for name, values in distances.items()
    }
