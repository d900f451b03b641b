"""States as older versions wrote them into checkpoints."""

from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrobust.training.step.trainer import TrainState, Weights

__all__ = ["from_first_form", "in_first_form"]


WEIGHTS = ("weights", "epoch_weights")
"""What in a state has weights."""


class _FirstWeights(NamedTuple):
    """Weights of form 1, which knew no other state than batch statistics."""

    params: Any
    batch_stats: Any
    opt_state: Any


class _FirstState(NamedTuple):
    """States of form 1, which had a radius that nothing read."""

    step: Any
    epoch: Any
    batch: Any
    weights: _FirstWeights
    epoch_weights: _FirstWeights
    key: Any
    epsilon: Any
    metrics: Any


def in_first_form(state: Any) -> Any:
    """The state as older versions wrote it."""

    def old(weights: Weights) -> _FirstWeights:
        stats = weights.state.get("batch_stats", {})
        return _FirstWeights(weights.params, stats, weights.opt_state)

    radius = jax.ShapeDtypeStruct((), np.float32)
    weights = {name: old(getattr(state, name)) for name in WEIGHTS}
    return _FirstState(**state._asdict() | weights, epsilon=radius)


def from_first_form(state: Any) -> Any:
    """The inverse of `in_first_form`."""

    def new(weights: _FirstWeights) -> Weights:
        stats = weights.batch_stats
        kept = {"batch_stats": stats} if stats else {}
        return Weights(weights.params, kept, weights.opt_state)

    fields: dict[str, Any] = {name: getattr(state, name) for name in TrainState._fields}
    fields |= {name: new(fields[name]) for name in WEIGHTS}
    return TrainState(**fields)
