"""Adversarial images that an evaluation kept, looked at once more by the library."""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxrobust.attacks import judge
from jaxrobust.data import Dataset
from jaxrobust.precision import JUDGED, at_precision
from jaxrobust.types import Images, Labels, LogitsFn, Params, PerExampleFlag

__all__ = ["AdversarialImagesWarning", "check_adversarial"]

_BATCH = 250


class AdversarialImagesWarning(UserWarning):
    """Images that broke a model do not break it when it is asked again."""


def check_adversarial(
    apply: Callable[[Any], LogitsFn],
    weights: Params,
    dataset: Dataset,
    images: np.ndarray,
    epsilons: np.ndarray,
) -> None:
    """Judge images that are said to break a model.

    Args:
        apply: from the weights to the model in evaluation mode.
        weights: of the model.
        dataset: the clean examples.
        images: `(examples, *pixels)`.
        epsilons: radius of each, `(examples,)`; only finite positive ones are looked
            at.

    Warns:
        AdversarialImagesWarning: for an image that the model now classifies rightly.
    """
    chosen = np.flatnonzero(np.isfinite(epsilons) & (epsilons > 0))
    if not len(chosen):
        return

    def judged(weights: Params, images: Images, labels: Labels) -> PerExampleFlag:
        return judge(apply(weights)(images), labels)

    broken = jax.jit(at_precision(JUDGED, judged))
    stays = []
    size = min(_BATCH, len(chosen))
    for start in range(0, len(chosen), size):
        part = chosen[start : start + size]
        padded = np.resize(part, size)
        is_broken = broken(weights, images[padded], dataset.labels[padded])
        stays.append(np.asarray(is_broken)[: len(part)])
    num_restored = int(np.sum(~np.concatenate(stays)))
    if num_restored:
        warnings.warn(
            f"{num_restored} of {len(chosen)} images that broke the model are "
            "classified rightly when it is asked again; they lie so close to the "
            "boundary that the rounding of another batch decides, or the model "
            "answers at random.",
            AdversarialImagesWarning,
            stacklevel=2,
        )
