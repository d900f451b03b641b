"""States as older versions wrote them into checkpoints."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrobust.training.step.trainer import TrainState, Weights

__all__ = ["FORM", "from_form", "in_form"]

FORM = 3
"""Of the arrays in a checkpoint; those of form 1 did not write it down."""


WEIGHTS = ("weights", "epoch_weights")
"""What in a state has weights."""


class _SecondWeights(NamedTuple):
    """Weights of form 2, of which no average was kept."""

    params: Any
    state: Any
    opt_state: Any


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


def in_form(form: int, state: TrainState) -> Any:
    """The state as it was written in a form."""
    if form == FORM:
        return state
    if form == 2:
        return _with_weights(state, lambda weights: _SecondWeights(*weights[:3]))

    def first(weights: Weights) -> _FirstWeights:
        stats = weights.state.get("batch_stats", {})
        return _FirstWeights(weights.params, stats, weights.opt_state)

    fields = _with_weights(state, first)._asdict()
    radius = jax.ShapeDtypeStruct((), np.float32)
    return _FirstState(**fields, epsilon=radius)


def from_form(form: int, state: Any) -> TrainState:
    """The inverse of `in_form`."""
    if form == FORM:
        return state
    if form == 2:
        return _with_weights(state, lambda weights: Weights(*weights))

    def of_today(weights: _FirstWeights) -> Weights:
        stats = weights.batch_stats
        kept = {"batch_stats": stats} if stats else {}
        return Weights(weights.params, kept, weights.opt_state)

    fields: dict[str, Any] = {name: getattr(state, name) for name in TrainState._fields}
    return _with_weights(TrainState(**fields), of_today)


def _with_weights(state: TrainState, change: Callable[[Any], Any]) -> TrainState:
    changed = {name: change(getattr(state, name)) for name in WEIGHTS}
    return state._replace(**changed)
