"""Variants of a data set that keep its labels and change its pixels.

They serve to ask how far robustness depends on the distribution of the input. Each is a
function of images, and a pytree whose level is a number: applied once to arrays, or
inside a compiled program that serves many levels.

References:
    Ding et al., 2019, "On the sensitivity of adversarial robustness to input data
    distributions", arXiv:1902.08336.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxrobust.arguments import require, require_choice, require_in
from jaxrobust.data.arrays import Dataset, Pixels, as_float, as_images
from jaxrobust.data.naming import Given, as_change, change_of
from jaxrobust.pytrees import Pytree
from jaxrobust.types import Scalar

__all__ = [
    "VARIANTS",
    "Binarize",
    "Gamma",
    "Original",
    "Saturate",
    "Scale",
    "Smooth",
    "apply_variant",
    "levels_of",
    "variant_of",
    "with_level",
]


@dataclasses.dataclass(frozen=True)
class Original(Pytree):
    """The images as they are."""

    def __call__(self, images: Pixels) -> Pixels:
        """The images."""
        return images

    @property
    def suffix(self) -> str:
        """What a data set's title says of it: nothing."""
        return ""


@dataclasses.dataclass(frozen=True)
class Binarize(Pytree):
    """Each pixel becomes 0 or 1: 1 from the threshold on.

    At the usual threshold, a byte becomes 1 from 128 on, a float from 0.5 on, which is
    the same rule: 127/255 < 0.5 < 128/255, so bytes never tie. Sixteenths do, as in
    "digits": 8/16 becomes 1. So are the binarized MNIST of Ding et al.

    Attributes:
        threshold: in (0, 1]; may be traced.
    """

    threshold: Scalar = 0.5

    def __post_init__(self):
        require_in("threshold", self.threshold, "(0, 1]", "0.5 is usual")

    def __call__(self, images: Pixels) -> Float[Array, "*shape"]:
        """The images as floats."""
        return (as_float(images) >= self.threshold).astype(jnp.float32)

    @property
    def suffix(self) -> str:
        """What a data set's title says of it."""
        level = "" if self.threshold == 0.5 else f" at {self.threshold:g}"
        return f" (binarized{level})"


@dataclasses.dataclass(frozen=True)
class Saturate(Pytree):
    r"""Pixels pushed to black and white, or to gray, as Ding et al. saturate CIFAR-10.

    A pixel `v` becomes :math:`\mathrm{sign}(z) |z|^{2/p} / 2 + 1/2` where
    :math:`z = 2v - 1`; the results are floats and are not rounded to bytes.

    Attributes:
        p: in (0, inf]; 2 changes nothing, above 2 pixels move to 0 and 1, below to 1/2.
            At inf they are binarized, but for those of 1/2, which stay. May be traced.
    """

    p: Scalar

    def __post_init__(self):
        require_in("p", self.p, "(0, inf]", "2 changes nothing")

    def __call__(self, images: Pixels) -> Float[Array, "*shape"]:
        """The images as floats."""
        values = as_float(images)
        p = jnp.asarray(self.p, values.dtype)
        centered = 2 * values - 1
        changed = jnp.sign(centered) * jnp.abs(centered) ** (2 / p) / 2 + 0.5
        return _unless(p == 2, changed, values)

    @property
    def suffix(self) -> str:
        """What a data set's title says of it."""
        return f" (saturated {self.p:g})"


@dataclasses.dataclass(frozen=True)
class Smooth(Pytree):
    """Each pixel at least the mean of those around it, as Ding et al. smooth MNIST.

    The result is the larger of the pixel and of the mean over a square of `size` x
    `size` pixels in its own channel. Ding et al. do not say what lies beyond the
    border, nor where an even square lies: here zeros, and half a pixel up and left, as
    in `scipy.ndimage.uniform_filter`.

    Attributes:
        size: of the square, a whole number, at least 1, which changes nothing. May be
            traced.
    """

    size: Scalar

    def __post_init__(self):
        require_in("size", self.size, "[1, 65536]", "1 changes nothing")
        if isinstance(self.size, float | np.floating):
            is_whole = self.size % 1 == 0
            require(is_whole, "size", "a whole number", self.size, "round it")

    def __call__(self, images: Pixels) -> Float[Array, "batch height width channels"]:
        """The images, (batch, height, width, channels), as floats."""
        values = as_float(images)
        size = jnp.asarray(self.size, jnp.int32)
        rows, columns = (
            _band(count, size, values.dtype) for count in images.shape[1:3]
        )
        sums = jnp.einsum(
            "ih,jw,bhwc->bijc", rows, columns, values, precision=lax.Precision.HIGHEST
        )
        mean = sums / (size * size).astype(values.dtype)
        return _unless(size == 1, jnp.maximum(values, mean), values)

    @property
    def suffix(self) -> str:
        """What a data set's title says of it."""
        return f" (smoothed {self.size:g})"


@dataclasses.dataclass(frozen=True)
class Gamma(Pytree):
    """Each pixel to a power, which changes the brightness, as in Ding et al.

    Attributes:
        exponent: positive; 1 changes nothing, above 1 images get darker, below
            brighter. May be traced.
    """

    exponent: Scalar

    def __post_init__(self):
        # Beyond, it would be infinite in float32.
        require_in("exponent", self.exponent, "(0, 3.4e38]", "1 changes nothing")

    def __call__(self, images: Pixels) -> Float[Array, "*shape"]:
        """The images as floats."""
        values = as_float(images)
        exponent = jnp.asarray(self.exponent, values.dtype)
        return _unless(exponent == 1, values**exponent, values)

    @property
    def suffix(self) -> str:
        """What a data set's title says of it."""
        return f" (gamma {self.exponent:g})"


@dataclasses.dataclass(frozen=True)
class Scale(Pytree):
    """Distances to gray times a factor, which scales those between images, too.

    A pixel `v` becomes `factor * (v - 1/2) + 1/2`, as Ding et al. scale MNIST.

    Attributes:
        factor: in [0, 1]; 1 changes nothing. May be traced.
    """

    factor: Scalar

    def __post_init__(self):
        require_in("factor", self.factor, "[0, 1]", "1 changes nothing")

    def __call__(self, images: Pixels) -> Float[Array, "*shape"]:
        """The images as floats."""
        values = as_float(images)
        factor = jnp.asarray(self.factor, values.dtype)
        return _unless(factor == 1, factor * (values - 0.5) + 0.5, values)

    @property
    def suffix(self) -> str:
        """What a data set's title says of it."""
        return f" (scaled {self.factor:g})"


def _unless(is_identity: Array, changed: Array, values: Array) -> Array:
    """The changed pixels, without their roundings where nothing is to change."""
    return jnp.where(is_identity, values, jnp.clip(changed, 0, 1))


def _band(count: int, size: Array, dtype: Any) -> Array:
    """The matrix that sums, for each of `count` places, the `size` ones around it."""
    places = jnp.arange(count)
    offsets = places[None, :] - places[:, None]
    first = -(size // 2)
    return ((offsets >= first) & (offsets < first + size)).astype(dtype)


VARIANTS: dict[str, Callable[..., Callable[[Pixels], Pixels]]] = {
    "original": Original,
    "binary": Binarize,
    "saturate": Saturate,
    "smooth": Smooth,
    "gamma": Gamma,
    "scale": Scale,
}
"""What makes each variant, by the name that text has for it."""


def variant_of(name: str) -> Callable[[Pixels], Pixels]:
    """The variant that a text names; hashable, and equal for equal names.

    Args:
        name: one of `VARIANTS`, with its level in parentheses where it has one:
            "binary", "saturate(4)", "smooth(3)"; or a reference to a function
            `(images) -> images` of the caller's own, `path/to/file.py:NAME`, or with
            numbers, `path/to/file.py:NAME(4)`, to what makes one of them.

    Raises:
        ValueError: if there is no such variant, or not of this level.
        TypeError: if a reference leads to something that cannot be called.
    """
    return change_of(name, VARIANTS, what="variant")


def levels_of(text: str) -> dict[str, float]:
    """The numbers of the variant that a text names, by name; none for a function."""
    variant = variant_of(text)
    if not isinstance(variant, Pytree) or isinstance(variant, Given):
        return {}
    return {
        field.name: getattr(variant, field.name)
        for field in dataclasses.fields(variant)  # type: ignore
        if not field.metadata.get("static", False)
    }


def with_level(text: str, level: str, value: float) -> str:
    """The text of the same variant with another number.

    Args:
        text: as `variant_of` reads it.
        level: name of the number, such as `p` of "saturate(2)".
        value: in its place.

    Raises:
        ValueError: if there is no such number, or the variant refuses the value.
    """
    levels = levels_of(text)
    require_choice("number", f"variant.{level}", [f"variant.{name}" for name in levels])
    levels[level] = int(value) if float(value).is_integer() else float(value)
    name = text.partition("(")[0].strip()
    inside = ", ".join(f"{key}={each}" for key, each in levels.items())
    changed = f"{name}({inside if len(levels) > 1 else levels[level]})"
    variant_of(changed)
    return changed


def apply_variant(
    dataset: Dataset, variant: str | Callable[[Pixels], Pixels]
) -> Dataset:
    """The data set with every image changed, and a title that says so.

    Args:
        dataset: the data set to change; its name and labels are kept.
        variant: as `variant_of` reads it, or a function `(images) -> images`. Its
            results are bytes, or floats in [0, 1].

    Raises:
        DataError: if the results are something else.
        ValueError: if there is no such variant.
        TypeError: if it cannot be called.
    """
    change = (
        variant_of(variant)
        if isinstance(variant, str)
        else as_change(variant, what="variant")
    )
    suffix = getattr(change, "suffix", f" ({type(change).__name__})")
    return dataclasses.replace(
        dataset,
        title=dataset.title + suffix,
        images=as_images(change(dataset.images)),
    )
