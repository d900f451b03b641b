"""Variants of a data set that keep its labels and change its pixels.

They serve to ask how far robustness depends on the distribution of the input (SN).
"""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from jaxrobust.data.arrays import Dataset, Pixels, as_float

__all__ = ["VARIANTS", "apply_variant", "binarize", "original"]


def original(images: Pixels) -> Pixels:
    """The images as they are."""
    return images


def binarize(images: Pixels) -> Float32[Array, "*shape"]:
    """Each pixel rounded to 0 or 1; the middle rounds up.

    A byte becomes 1 from 128 on, a float from 0.5 on, which is the same rule: 127/255 <
    0.5 < 128/255, so bytes never tie. Sixteenths do, as in "digits": 8/16 becomes 1.

    References:
        Ding et al., 2019, "On the sensitivity of adversarial robustness to input data
        distributions", the binarized MNIST (SN-D1).
    """
    return (as_float(images) >= 0.5).astype(jnp.float32)


VARIANTS: dict[str, Callable[[Pixels], Pixels | Float[Array, "*shape"]]] = {
    "original": original,
    "binary": binarize,
}

_TITLE_SUFFIXES = {"original": "", "binary": " (binarized)"}


def apply_variant(dataset: Dataset, variant: str) -> Dataset:
    """The data set with every image changed, and a title that says so.

    Args:
        dataset: the data set to change; its name and labels are kept.
        variant: a name in `VARIANTS`.

    Raises:
        ValueError: if there is no such variant.
    """
    if variant not in VARIANTS:
        raise ValueError(
            f"`variant` must be one of {', '.join(VARIANTS)}, got {variant!r}; "
            "use one of these."
        )
    return dataclasses.replace(
        dataset,
        title=dataset.title + _TITLE_SUFFIXES[variant],
        images=np.asarray(VARIANTS[variant](dataset.images)),
    )
