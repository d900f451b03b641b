"""What was possible: bounds, exact optima and concentration beside trained models.

`formulas` evaluates what `jaxrobust.theory` knows in closed form along an axis;
`comparison` lays the errors of a model beside what concentration of measure allows on
the same data, and beside the best any function could do on a finite part of it.
"""

from jaxrobust.limits.comparison import Comparison, best_possible, compare
from jaxrobust.limits.formulas import FormulaTable

__all__ = [
    "Comparison",
    "FormulaTable",
    "best_possible",
    "compare",
]
