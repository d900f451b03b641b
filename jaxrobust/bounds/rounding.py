r"""How bounds are rounded, and what is assumed of the arithmetic that they hold for.

With rounding outwards, bounds hold for the function of real numbers that the traced
program says, with its weights as they are stored, and for every evaluation of it in
floating point that keeps to this model, whatever the order of its sums:

* a sum of :math:`n` products, such as an element of a matrix product or a convolution,
  is within :math:`\gamma_n \sum_i |a_i b_i|` of the exact one, with
  :math:`\gamma_n = nu / (1 - nu)` and :math:`u` the unit roundoff of the type, half its
  `eps` (Higham, "Accuracy and Stability of Numerical Algorithms", 2002, Section 3.1).
  Fused multiply-adds and any splitting of the sum keep to it; products of float32
  numbers in TF32 or bfloat16 do not, so bounds are computed at `JUDGED`
  (`precision.py`);
* a single operation, root or quotient is within 2 units, an elementary function (exp,
  log, tanh, logistic, erf) within `ULPS` units of its value;
* what is smaller than the smallest normal number may become 0.

The errors are bounded a priori from the intervals of the values themselves: in the
interval pass the radius of each operand is widened before it is multiplied, which needs
no further product; in a backward pass each substitution costs the bound
:math:`\gamma_n |A| S`, with :math:`A` the coefficients and :math:`S` the sums of
:math:`|a_i| \max |b_i|`, which are computed once. Both count the error of the bound's
own arithmetic and that of the network's. Rounding to nearest leaves all this out:
bounds are then those of the formulas, for training.

A formulation of the network with other arithmetic, such as convolutions by transforms
(`winograd.py`) where the program has them directly, is another evaluation, which the
model does not speak of; the bounds hold for the real function of both.
"""

from typing import Any, Literal, NamedTuple, get_args

import jax.numpy as jnp
from jaxtyping import Array

from jaxrobust.arguments import require_choice

__all__ = ["ULPS", "Bounds", "Rounding", "require_rounding"]

Rounding = Literal["outward", "nearest"]
"""Of bounds: "outward", so that they hold in floating point; "nearest" for training."""

ULPS = 16
"""Units of roundoff by which elementary functions may be wrong."""


class Bounds(NamedTuple):
    """Two arrays of one shape between which values lie; both ends count.

    Attributes:
        lower: not above any value; minus infinity where nothing is known.
        upper: not below any value; infinity where nothing is known.
    """

    lower: Array
    upper: Array

    @property
    def center(self) -> Array:
        """Halfway between both."""
        return (self.lower + self.upper) / 2

    @property
    def radius(self) -> Array:
        """Half the distance of both, at least 0."""
        return (self.upper - self.lower) / 2

    @property
    def magnitude(self) -> Array:
        """The largest absolute value between both."""
        return jnp.maximum(jnp.abs(self.lower), jnp.abs(self.upper))


def require_rounding(value: object) -> None:
    """Refuse a word that is no rounding.

    Raises:
        ValueError: naming those that are.
    """
    remedy = '"outward" holds in floating point, "nearest" is for training'
    require_choice("rounding", value, get_args(Rounding), remedy)


def unit(dtype: Any) -> float:
    """Unit roundoff of a type: the largest relative error of one rounding."""
    return float(jnp.finfo(dtype).eps) / 2


def gamma(terms: int, dtype: Any) -> float:
    """The largest relative error of so many roundings; infinite where there is none."""
    error = terms * unit(dtype)
    return error / (1 - error) if error < 0.5 else float("inf")


def smallest(dtype: Any) -> float:
    """Below this, numbers may become 0."""
    return float(jnp.finfo(dtype).tiny)


def widened(bounds: Bounds, terms: int, magnitude: Array | None = None) -> Bounds:
    """Bounds moved outwards by the error of so many roundings.

    Args:
        bounds: computed to nearest.
        terms: number of roundings; 0 for what is exact, as whole numbers are.
        magnitude: what the error is relative to; the bounds themselves if not given.
    """
    dtype = bounds.lower.dtype
    if not terms or not jnp.issubdtype(dtype, jnp.inexact):
        return bounds
    share = gamma(terms, dtype)
    tiny = 4 * terms * smallest(dtype)
    sizes = bounds if magnitude is None else (magnitude, magnitude)
    below, above = (share * jnp.abs(size) + tiny for size in sizes)
    return Bounds(bounds.lower - below, bounds.upper + above)
