"""Random changes of a batch that keep its labels, drawn anew at every step.

An augmentation is a function `(key, pixels) -> pixels` of the whole batch, bytes or
floats in [0, 1], which keeps shape, type and range. Those here are pytrees: what is
only a number is a leaf, and one compiled program serves all values of it. Changes that
mix labels, too, such as mixup, belong into an objective.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxrobust.arguments import require, require_count, require_in, require_shape
from jaxrobust.data.arrays import Pixels, as_float
from jaxrobust.data.naming import as_change, change_of, changes_in
from jaxrobust.pytrees import Pytree, static
from jaxrobust.types import PRNGKey, Scalar

__all__ = [
    "AUGMENTATIONS",
    "Augmentation",
    "ColorJitter",
    "Composed",
    "PadCropFlip",
    "RandomResizedCrop",
    "Rotate",
    "augmentation_of",
    "compose",
    "pad_crop_flip",
    "rotated",
    "through_floats",
]

Augmentation = Callable[[PRNGKey, Pixels], Pixels]
"""Keeps shape, type and range of the pixels, and their labels."""


def pad_crop_flip(
    key: PRNGKey, images: Pixels, *, padding: int = 4, flip: bool = True
) -> Pixels:
    """Each image moved by up to `padding` pixels, and mirrored half of the time.

    The image is surrounded by zeros, then a window of its own size is cut out at an
    offset drawn uniformly from the (2 * padding + 1)^2 possible ones. Every example has
    its own draw; the dtype is kept.

    Args:
        key: decides offsets and flips.
        images: (batch, height, width, channels).
        padding: zeros on each side, in pixels. The usual recipe on CIFAR-10 has 4,
            Madry et al.'s training code 2.
        flip: mirror left and right with probability 1/2; not for digits.

    Raises:
        ValueError: if `padding` is negative or the images are not 4-dimensional.
    """
    require_count("padding", padding, "use 0 for no shift", least=0)
    _require_images(images)
    offset_key, flip_key = jax.random.split(key)
    batch_size = images.shape[0]
    border = (padding, padding)
    padded = jnp.pad(images, ((0, 0), border, border, (0, 0)))
    tops, lefts = jax.random.randint(
        offset_key, (2, batch_size), minval=0, maxval=2 * padding + 1
    )

    def crop(image, top, left):
        return lax.dynamic_slice(image, (top, left, 0), images.shape[1:])

    cropped = jax.vmap(crop)(padded, tops, lefts)
    if not flip:
        return cropped
    is_flipped = jax.random.bernoulli(flip_key, shape=(batch_size, 1, 1, 1))
    return jnp.where(is_flipped, cropped[:, :, ::-1], cropped)


@dataclasses.dataclass(frozen=True)
class PadCropFlip(Pytree):
    """`pad_crop_flip` with these settings, which decide shapes.

    Attributes:
        padding: zeros on each side, in pixels.
        flip: whether to mirror left and right with probability 1/2.
    """

    padding: int = static(default=4)
    flip: bool = static(default=True)

    def __post_init__(self):
        require_count("padding", self.padding, "use 0 for no shift", least=0)

    def __call__(self, key: PRNGKey, pixels: Pixels) -> Pixels:
        """The images, (batch, height, width, channels), moved."""
        return pad_crop_flip(key, pixels, padding=self.padding, flip=self.flip)


@dataclasses.dataclass(frozen=True)
class Rotate(Pytree):
    """Each image turned about its center, by an angle uniform in both directions.

    Pixels are interpolated bilinearly; beyond the border all is zero.

    Attributes:
        max_degrees: the largest angle, in [0, 180] degrees; 0 changes nothing. May be
            traced.
    """

    max_degrees: Scalar

    def __post_init__(self):
        require_in("max_degrees", self.max_degrees, "[0, 180]", "0 turns nothing")

    def __call__(self, key: PRNGKey, pixels: Pixels) -> Pixels:
        """The images, (batch, height, width, channels), turned."""
        _require_images(pixels)
        degrees = self.max_degrees * jax.random.uniform(
            key, pixels.shape[:1], minval=-1.0, maxval=1.0
        )
        return through_floats(lambda images: rotated(images, degrees), pixels)


@dataclasses.dataclass(frozen=True)
class ColorJitter(Pytree):
    """Brightness, contrast and saturation of each image times random factors.

    Each factor is uniform in [1 - range, 1 + range] and has its own draw. They come in
    this order: brightness multiplies pixels, contrast their distances to the mean gray
    of the image, saturation their distances to the gray of the pixel; after each of
    them pixels are clipped to [0, 1]. Gray is 0.299 red + 0.587 green + 0.114 blue.

    Attributes:
        brightness: in [0, 1]; 0 changes nothing. May be traced, as the others.
        contrast: likewise.
        saturation: likewise; images in gray have none to change.
    """

    brightness: Scalar = 0.25
    contrast: Scalar = 0.25
    saturation: Scalar = 0.25

    def __post_init__(self):
        for name in ("brightness", "contrast", "saturation"):
            require_in(name, getattr(self, name), "[0, 1]", "0 changes nothing")

    def __call__(self, key: PRNGKey, pixels: Pixels) -> Pixels:
        """The images, (batch, height, width, 1 or 3), in other colors."""
        _require_images(pixels)
        channels = pixels.shape[-1]
        require(
            channels in (1, 3),
            "images",
            "gray or of three colors",
            pixels.shape,
            "leave the change of colors out",
        )
        spread = [self.brightness, self.contrast, self.saturation]
        draws = jax.random.uniform(
            key, (3, len(pixels), 1, 1, 1), minval=-1.0, maxval=1.0
        )
        factors = [1 + each * draw for each, draw in zip(spread, draws, strict=True)]

        def jitter(images: Array) -> Array:
            images = jnp.clip(factors[0] * images, 0, 1)
            mean = _gray(images).mean(axis=(1, 2, 3), keepdims=True)
            images = _blended(images, mean, factors[1])
            if channels == 1:
                return images
            return _blended(images, _gray(images), factors[2])

        return through_floats(jitter, pixels)


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop(Pytree):
    """A random window of each image, enlarged to the size of the image.

    The window has a share of the area that is uniform in [min_area, 1], and a ratio of
    width to height whose logarithm is uniform in between those of 1 / max_ratio and
    max_ratio. A side longer than that of the image is cut to it; the place is uniform.
    Pixels are interpolated bilinearly, at the border of the window from those on its
    other side. (Szegedy et al., 2015, arXiv:1409.4842, with the usual numbers.)

    Attributes:
        min_area: in (0, 1]. May be traced, as `max_ratio`.
        max_ratio: at least 1. If both are 1, nothing changes on square images.
    """

    min_area: Scalar = 0.08
    max_ratio: Scalar = 4 / 3

    def __post_init__(self):
        require_in("min_area", self.min_area, "(0, 1]", "1 keeps all of the image")
        require_in("max_ratio", self.max_ratio, "[1, 100]", "1 takes squares only")

    def __call__(self, key: PRNGKey, pixels: Pixels) -> Pixels:
        """The images, (batch, height, width, channels), each in part."""
        _require_images(pixels)
        shape = pixels.shape[1:]
        draws = jax.random.uniform(key, (4, len(pixels)))
        area = self.min_area + (1 - self.min_area) * draws[0]
        ratio = jnp.exp(jnp.log(self.max_ratio) * (2 * draws[1] - 1))
        # As shares of the sides of the image.
        size = jnp.minimum(
            jnp.stack([jnp.sqrt(area / ratio), jnp.sqrt(area * ratio)], axis=1), 1
        )
        sides = jnp.asarray(shape[:2], jnp.float32)
        start = draws[2:].T * (1 - size) * sides[None]
        scale = 1 / size

        def crop(image: Array, scale: Array, start: Array) -> Array:
            return jax.image.scale_and_translate(
                image, shape, (0, 1), scale, -start * scale, "linear"
            )

        def crops(images: Array) -> Array:
            return jax.vmap(crop)(images, scale, start)

        return through_floats(crops, pixels)


@dataclasses.dataclass(frozen=True)
class Composed(Pytree):
    """Augmentations one after the other, each with a key of its own.

    Attributes:
        parts: in the order in which they are applied.
    """

    parts: tuple[Augmentation, ...] = ()

    def __call__(self, key: PRNGKey, pixels: Pixels) -> Pixels:
        """The images as all parts leave them."""
        for part, part_key in zip(
            self.parts, jax.random.split(key, len(self.parts)), strict=True
        ):
            pixels = part(part_key, pixels)
        return pixels


def compose(*augmentations: Augmentation) -> Augmentation:
    """Augmentations one after the other; none of them changes nothing.

    Args:
        augmentations: functions `(key, pixels) -> pixels`. A single one is returned as
            it is, and is given the whole key.

    Raises:
        TypeError: if one of them cannot be called.
    """
    parts = tuple(as_change(each, what="augmentation") for each in augmentations)
    return parts[0] if len(parts) == 1 else Composed(parts)


AUGMENTATIONS: dict[str, Callable[..., Augmentation]] = {
    "none": Composed,
    "crop-flip": PadCropFlip,
    "rotate": Rotate,
    "color-jitter": ColorJitter,
    "random-resized-crop": RandomResizedCrop,
}
"""What makes each augmentation, by the name that text has for it."""


def augmentation_of(name: str) -> Augmentation:
    """The augmentation that a text names; hashable, and equal for equal names.

    Args:
        name: one of `AUGMENTATIONS`, with numbers in parentheses where others than the
            usual ones are meant, "crop-flip", "crop-flip(2, flip=false)", "rotate(15)";
            or a reference to a function `(key, pixels) -> pixels` of the caller's own,
            `path/to/file.py:NAME`, or with numbers, `path/to/file.py:NAME(4)`, to what
            makes one; or several of them joined by "+", applied from left to right.

    Raises:
        ValueError: if there is no such augmentation, or it takes other numbers.
        TypeError: if a reference leads to something that cannot be called.
    """
    parts = [
        change_of(each, AUGMENTATIONS, what="augmentation") for each in changes_in(name)
    ]
    return compose(*parts)


def through_floats(change: Callable[[Array], Array], pixels: Pixels) -> Array:
    """A change of float32 images in [0, 1], applied to pixels whose type is kept.

    Bytes are rounded to the nearest; what rounding moved out of the range is clipped.
    """
    pixels = jnp.asarray(pixels)
    images = jnp.clip(change(as_float(pixels).astype(jnp.float32)), 0, 1)
    if pixels.dtype == jnp.uint8:
        images = jnp.round(images * 255)
    return images.astype(pixels.dtype)


def rotated(
    images: Float[Array, "batch height width channels"], degrees: Float[Array, " batch"]
) -> Float[Array, "batch height width channels"]:
    """Each image turned counterclockwise about its center, with zeros around it."""
    height, width = images.shape[1:3]
    angle = jnp.deg2rad(degrees)[:, None, None]
    down = jnp.arange(height)[None, :, None] - (height - 1) / 2
    right = jnp.arange(width)[None, None, :] - (width - 1) / 2
    # Where the pixel of each place comes from; rows count downwards.
    rows = jnp.cos(angle) * down + jnp.sin(angle) * right + (height - 1) / 2
    columns = jnp.cos(angle) * right - jnp.sin(angle) * down + (width - 1) / 2
    top, left = jnp.floor(rows), jnp.floor(columns)
    below, beside = (rows - top)[..., None], (columns - left)[..., None]

    def at(row: Array, column: Array) -> Array:
        is_inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        found = jax.vmap(lambda image, i, j: image[i, j])(
            images,
            jnp.clip(row, 0, height - 1).astype(jnp.int32),
            jnp.clip(column, 0, width - 1).astype(jnp.int32),
        )
        return jnp.where(is_inside[..., None], found, 0)

    upper = (1 - beside) * at(top, left) + beside * at(top, left + 1)
    lower = (1 - beside) * at(top + 1, left) + beside * at(top + 1, left + 1)
    return (1 - below) * upper + below * lower


def _gray(images: Array) -> Array:
    """One channel; of images in gray these themselves."""
    if images.shape[-1] == 1:
        return images
    red, green, blue = (images[..., place : place + 1] for place in range(3))
    return 0.299 * red + 0.587 * green + 0.114 * blue


def _blended(images: Array, gray: Array, factor: Array) -> Array:
    # In this form a factor of 1 changes no pixel by a rounding.
    return jnp.clip(factor * images + (1 - factor) * gray, 0, 1)


def _require_images(images: Pixels) -> None:
    shape = ("batch", "height", "width", "channels")
    require_shape("images", images, shape, "reshape the images")
