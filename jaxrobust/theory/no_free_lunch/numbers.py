"""The numbers of the distribution, refused out of range."""

import jax
from jax.typing import ArrayLike

from jaxrobust.theory.arguments import real, vector

__all__ = ["as_epsilon", "as_eta", "as_reliability", "as_weights"]


def as_reliability(value: ArrayLike) -> jax.Array:
    """The probability that the first feature is the label."""
    fix = "it is the probability that the first feature is the label, .7 in the paper"
    return real("reliability", value, "[0.5, 1)", fix=fix)


def as_eta(value: ArrayLike) -> jax.Array:
    """The mean of a weak feature times the label."""
    return real("eta", value, "(0, inf)", fix="it is the mean of the weak features")


def as_epsilon(value: ArrayLike) -> jax.Array:
    """The radius of the adversary."""
    fix = "give a radius in the units of the features"
    return real("epsilon", value, "[0, inf)", fix=fix)


def as_weights(value: ArrayLike) -> jax.Array:
    """The weights of a linear classifier."""
    fix = "give finite weights, of the first feature and at least one weak one"
    return vector("weights", value, at_least=2, fix=fix)
