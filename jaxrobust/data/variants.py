"""Variants of a data set that keep its labels and change its pixels.

They serve to ask how far robustness depends on the distribution of the input. Each is a
function of images, and a pytree whose level is a number: applied once to arrays, or
inside a compiled program that serves many levels.

References:
    Ding et al., 2019, "On the sensitivity of adversarial robustness to input data
    distributions", arXiv:1902.08336.
"""

import dataclasses
import importlib.util
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Float

from jaxrobust.arguments import require, require_choice, require_in
from jaxrobust.data.arrays import Dataset, Pixels, as_float, as_images
from jaxrobust.data.naming import (
    Given,
    as_change,
    change_of,
    changes_in,
    spelled,
)
from jaxrobust.pytrees import Pytree, static
from jaxrobust.types import Scalar

__all__ = [
    "VARIANTS",
    "Binarize",
    "ComposedVariant",
    "Edges",
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


@dataclasses.dataclass(frozen=True)
class Edges(Pytree):
    """Edges of objects, by Canny's detector, as Ding et al. make edge-Fashion-MNIST.

    Pixels on an edge become 1, others 0, in each channel. The paper says neither whose
    detector it is nor its thresholds: here scikit-image's `canny` with its defaults
    (0.1 and 0.2). It is no function that JAX traces: it is applied to arrays once, and
    its width cannot be swept in one program.

    Attributes:
        sigma: width of the Gaussian before it, in pixels, positive.

    Raises:
        ValueError: for a width out of range.
        ModuleNotFoundError: without scikit-image.
    """

    sigma: float = static(default=1.0)

    def __post_init__(self):
        require_in("sigma", self.sigma, "(0, 1000]", "Ding et al. take 1")
        if importlib.util.find_spec("skimage") is None:
            raise ModuleNotFoundError(
                "`variant` edges needs scikit-image, which is not installed: "
                "pip install 'jaxrobust[edges]'."
            )

    def __call__(self, images: Pixels) -> Float[Array, "batch height width channels"]:
        """The images, (batch, height, width, channels), as floats."""
        from skimage.feature import canny

        if isinstance(images, Tracer):
            raise TypeError(
                "`variant` edges must be applied to arrays, got images that are traced;"
                " apply it before (`apply_variant`)."
            )
        values = np.asarray(as_float(images))
        found = np.zeros(values.shape, np.float32)
        for place, image in enumerate(values):
            for channel in range(values.shape[-1]):
                found[place, ..., channel] = canny(image[..., channel], self.sigma)
        return jnp.asarray(found)

    @property
    def suffix(self) -> str:
        """What a data set's title says of it."""
        return f" (edges {self.sigma:g})"


@dataclasses.dataclass(frozen=True)
class ComposedVariant(Pytree):
    """Variants one after the other.

    Attributes:
        parts: in the order in which they are applied.
    """

    parts: tuple[Callable[[Pixels], Pixels], ...]

    def __call__(self, images: Pixels) -> Pixels:
        """The images as all parts leave them."""
        for part in self.parts:
            images = part(images)
        return images

    @property
    def suffix(self) -> str:
        """What a data set's title says of them."""
        return "".join(map(_suffix, self.parts))


def _suffix(variant: Callable[[Pixels], Pixels]) -> str:
    return getattr(variant, "suffix", f" ({type(variant).__name__})")


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
    "edges": Edges,
}
"""What makes each variant, by the name that text has for it."""


def variant_of(name: str) -> Callable[[Pixels], Pixels]:
    """The variant that a text names; hashable, and equal for equal names.

    Args:
        name: one of `VARIANTS`, with its level in parentheses or after a colon where it
            has one: "binary", "saturate(4)", "smooth:3"; or a reference to a function
            `(images) -> images` of the caller's own, `path/to/file.py:NAME`, or with
            numbers, `path/to/file.py:NAME(4)`, to what makes one of them; or several
            of them joined by "+", applied from left to right.

    Raises:
        ValueError: if there is no such variant, or not of this level.
        TypeError: if a reference leads to something that cannot be called.
    """
    parts = [
        change_of(each, VARIANTS, what="variant")
        for each in changes_in(spelled(name, VARIANTS))
    ]
    return parts[0] if len(parts) == 1 else ComposedVariant(tuple(parts))


def levels_of(text: str) -> dict[str, float]:
    """The numbers of the variant that a text names, by name; none for a function.

    Of variants that are joined, those of all; a name that occurs twice is left out.
    """
    found = [_levels(each) for each in changes_in(spelled(text, VARIANTS))]
    names = [name for levels in found for name in levels]
    return {
        name: value
        for levels in found
        for name, value in levels.items()
        if names.count(name) == 1
    }


def _levels(text: str) -> dict[str, float]:
    """The numbers of a single variant."""
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
    known = levels_of(text)
    require_choice("number", f"variant.{level}", [f"variant.{name}" for name in known])
    number = int(value) if float(value).is_integer() else float(value)
    parts = []
    for each in changes_in(spelled(text, VARIANTS)):
        levels = _levels(each)
        if level in levels:
            levels[level] = number
            name = each.partition("(")[0].strip()
            inside = ", ".join(f"{key}={its}" for key, its in levels.items())
            each = f"{name}({inside if len(levels) > 1 else number})"
        parts.append(each)
    changed = "+".join(parts)
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
    return dataclasses.replace(
        dataset,
        title=dataset.title + _suffix(change),
        images=as_images(change(dataset.images)),
    )
