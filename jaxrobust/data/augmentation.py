"""Random changes of a batch that keep its labels, drawn anew at every step."""

import jax
import jax.numpy as jnp
from jax import lax

from jaxrobust.data.arrays import Pixels
from jaxrobust.types import PRNGKey

__all__ = ["pad_crop_flip"]


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
    if padding < 0:
        raise ValueError(
            f"`padding` must be non-negative, got {padding!r}; use 0 for no shift."
        )
    if images.ndim != 4:
        raise ValueError(
            "`images` must be (batch, height, width, channels), got shape "
            f"{images.shape!r}; reshape the images."
        )
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
