"""Bounds: what logits can be at all, for any image that a threat model allows."""

from jaxrobust.bounds.exact import Answer, Exact, exact
from jaxrobust.bounds.intervals import (
    IntervalPass,
    Statistics,
    interval,
    interval_margins,
    interval_pass,
    is_certified,
)
from jaxrobust.bounds.program import UnboundedError
from jaxrobust.bounds.rounding import Bounds, Rounding
from jaxrobust.bounds.smoothing import (
    ABSTAINED,
    SmoothedPrediction,
    Smoothing,
    clopper_pearson,
    smoothed_prediction,
    smoothing,
)
from jaxrobust.bounds.table import PRIMITIVES

__all__ = [
    "ABSTAINED",
    "PRIMITIVES",
    "Answer",
    "Bounds",
    "Exact",
    "IntervalPass",
    "Rounding",
    "SmoothedPrediction",
    "Smoothing",
    "Statistics",
    "UnboundedError",
    "clopper_pearson",
    "exact",
    "interval",
    "interval_margins",
    "interval_pass",
    "is_certified",
    "smoothed_prediction",
    "smoothing",
]
