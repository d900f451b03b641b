"""Bounds: what logits can be at all, for any image that a threat model allows."""

from jaxrobust.bounds.dual import dual_objective
from jaxrobust.bounds.exact import Answer, Exact, exact
from jaxrobust.bounds.intervals import (
    IntervalPass,
    Statistics,
    interval,
    interval_margins,
    interval_pass,
    is_certified,
)
from jaxrobust.bounds.linear import (
    Intermediate,
    Slopes,
    best_margins,
    linear,
    linear_margins,
)
from jaxrobust.bounds.program import UnboundedError
from jaxrobust.bounds.projected import projected_margins
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
    "Intermediate",
    "IntervalPass",
    "Rounding",
    "Slopes",
    "SmoothedPrediction",
    "Smoothing",
    "Statistics",
    "UnboundedError",
    "best_margins",
    "clopper_pearson",
    "dual_objective",
    "exact",
    "interval",
    "interval_margins",
    "interval_pass",
    "is_certified",
    "linear",
    "linear_margins",
    "projected_margins",
    "smoothed_prediction",
    "smoothing",
]
