r"""One robust feature and many weak ones: accuracy against robustness.

The labels :math:`y` -1 and +1 are equally likely. The first feature equals the label
with probability :math:`p` (.7 in the paper), and its negative otherwise; the other
:math:`d` are :math:`N(\eta y, 1)`. An adversary with l_inf radius above :math:`\eta`
turns every weak feature against the label, while the first one stands.

A linear classifier :math:`\mathrm{sign}(w \cdot x)` is a vector of `dimension` + 1
weights, here of norm 1; the worst perturbation of it lowers the margin by `epsilon`
times the l1 norm, so that all is known in closed form. Classifiers with equal weights
for all weak features lie on a circle, and the best one without an adversary is there.
"""

from jaxrobust.theory.no_free_lunch.features import (
    adversarial_accuracy_bound,
    averaging_accuracy,
    sample,
)
from jaxrobust.theory.no_free_lunch.linear import (
    accuracy,
    circle_weights,
    error,
    hinge_loss,
    positive_part_mean,
)
from jaxrobust.theory.no_free_lunch.optimum import descend, optimal_weights

__all__ = [
    "accuracy",
    "adversarial_accuracy_bound",
    "averaging_accuracy",
    "circle_weights",
    "descend",
    "error",
    "hinge_loss",
    "optimal_weights",
    "positive_part_mean",
    "sample",
]
