"""What models answer to clean images: which they get right, and who they are."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxrobust.data import Dataset, as_float
from jaxrobust.evaluation.preflight import require_finite, require_independent
from jaxrobust.keeping import fingerprint
from jaxrobust.precision import JUDGED, at_precision
from jaxrobust.types import LogitsFn, Params

__all__ = ["clean_flags", "weights_or_answers"]


def clean_flags(
    program: Callable[..., Any], size: int, weights: Params, data: Any, model: str
) -> np.ndarray:
    """Which clean images a model classifies rightly, `(examples,)`.

    Args:
        program: see `clean_program`.
        size: images in a bucket, at least two for each device.
        weights: of the model, in their place.
        data: images and labels of all examples, in their place.
        model: which one of several, for messages.

    Raises:
        ValueError: for a model with another number of classes than the data, or which
            answers with something not finite, or by what else is in a batch.
    """
    count = len(data[1])
    is_correct, is_finite = np.zeros(count, bool), np.zeros(count, bool)
    nobody = np.zeros(size, bool)
    for start in range(0, count, size):
        group = np.arange(start, min(start + size, count))
        answers = program(weights, data, np.resize(group, size), nobody)
        for flags, part in zip((is_correct, is_finite), answers, strict=False):
            flags[group] = np.asarray(part)[: len(group)]
    require_finite(is_finite, model)
    first = np.resize(np.arange(min(size, count)), size)
    require_independent(
        lambda is_stranger: program(weights, data, first, is_stranger)[2], size, model
    )
    return is_correct


def weights_or_answers(
    apply: Callable[[Any], LogitsFn], weights: Params, dataset: Dataset
) -> str:
    """What tells a model from another one: its weights, or what it answers."""
    if jax.tree.leaves(weights):
        return fingerprint(weights)
    logits = jax.jit(
        at_precision(JUDGED, lambda images: apply(weights)(as_float(images)))
    )
    return fingerprint(np.asarray(logits(dataset.images[:32])))
