"""What the papers prove, computed without any network: the oracle of the tests.

Closed forms live in modules (`bernoulli`, `bounds`, `gaussian`, `generalization`,
`no_free_lunch`, `ramp`); exact solvers of finite distributions are functions.
"""

from jaxrobust.theory import (
    bernoulli,
    bounds,
    gaussian,
    generalization,
    no_free_lunch,
    ramp,
)
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
    "bernoulli",
    "bounds",
    "certified_bound",
    "conflicting_pairs",
    "gaussian",
    "generalization",
    "hardness_gadget",
    "independent_set_of_packing",
    "maximum_independent_set",
    "maximum_packing",
    "no_free_lunch",
    "optimal_robust_classifier",
    "packing_graph",
    "packing_of_predictions",
    "predictions_of_packing",
    "ramp",
]
