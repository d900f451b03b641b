"""Certificates: what no perturbation inside a ball can change."""

from jaxrobust.bounds.smoothing import (
    ABSTAINED,
    SmoothedPrediction,
    Smoothing,
    clopper_pearson,
    smoothed_prediction,
    smoothing,
)

__all__ = [
    "ABSTAINED",
    "SmoothedPrediction",
    "Smoothing",
    "clopper_pearson",
    "smoothed_prediction",
    "smoothing",
]
