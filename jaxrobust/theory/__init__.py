"""What theory says of robust classification, computed without any network."""

from jaxrobust.theory.finite import (
    NearestPointClassifier,
    Norm,
    Reach,
    RobustOptimum,
    conflicting_pairs,
    optimal_robust_classifier,
)
from jaxrobust.theory.hardness import (
    Gadget,
    hardness_gadget,
    independent_set_of_packing,
    maximum_packing,
    packing_graph,
    packing_of_predictions,
    predictions_of_packing,
)
from jaxrobust.theory.independent_sets import (
    CliqueCover,
    IndependentSet,
    certified_bound,
    maximum_independent_set,
)

__all__ = [
    "CliqueCover",
    "Gadget",
    "IndependentSet",
    "NearestPointClassifier",
    "Norm",
    "Reach",
    "RobustOptimum",
    "certified_bound",
    "conflicting_pairs",
    "hardness_gadget",
    "independent_set_of_packing",
    "maximum_independent_set",
    "maximum_packing",
    "optimal_robust_classifier",
    "packing_graph",
    "packing_of_predictions",
    "predictions_of_packing",
]
