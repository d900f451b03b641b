"""Empirical concentration: how little can a set of given measure grow?

    estimate = estimate_linf(train, test, epsilon=0.3, alpha=0.01, num_rectangles=10)
    estimate.mean("test").adversarial_risk

Whatever a classifier gets wrong is a set; if every set of that measure grows to most of
the space when it is expanded by epsilon, no classifier is robust. An estimate exhibits
a set that grows little, so at the measure of that set it bounds from above how much
concentration of measure can explain. Labels play no part.
"""

from jaxrobust.concentration.balls import (
    Candidates,
    candidate_balls,
    estimate_l2,
    greedy_balls,
)
from jaxrobust.concentration.estimates import Estimate, Visit
from jaxrobust.concentration.guarantee import (
    Guarantee,
    equal_volume_epsilon,
    gaussian_concentration,
    generalization_guarantee,
)
from jaxrobust.concentration.half_spaces import estimate_half_space, half_space
from jaxrobust.concentration.hyperrectangles import (
    Rule,
    SortedPoints,
    cover,
    estimate_linf,
    search_quantile,
    sort_by_density,
    visit,
)
from jaxrobust.concentration.neighbors import kth_neighbor_distances, neighbor_lists
from jaxrobust.concentration.regions import (
    Balls,
    HalfSpace,
    Hyperrectangles,
    Region,
    Risks,
)
from jaxrobust.data.distances import NeighborLists

__all__ = [
    "Balls",
    "Candidates",
    "Estimate",
    "Guarantee",
    "HalfSpace",
    "Hyperrectangles",
    "NeighborLists",
    "Region",
    "Risks",
    "Rule",
    "SortedPoints",
    "Visit",
    "candidate_balls",
    "cover",
    "equal_volume_epsilon",
    "estimate_half_space",
    "estimate_l2",
    "estimate_linf",
    "gaussian_concentration",
    "generalization_guarantee",
    "greedy_balls",
    "half_space",
    "kth_neighbor_distances",
    "neighbor_lists",
    "search_quantile",
    "sort_by_density",
    "visit",
]
