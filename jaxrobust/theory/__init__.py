"""Closed forms of what the papers prove: numbers to test against; no networks."""

from jaxrobust.theory import (
    bernoulli,
    bounds,
    gaussian,
    generalization,
    no_free_lunch,
    ramp,
)

__all__ = [
    "bernoulli",
    "bounds",
    "gaussian",
    "generalization",
    "no_free_lunch",
    "ramp",
]
