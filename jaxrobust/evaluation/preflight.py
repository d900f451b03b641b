"""What can be wrong before the first attack: the model, the images, the units.

Most of it makes an evaluation worthless and is refused; what only makes it doubtful is
flagged. The refusing checks are part of every evaluation, where they cost next to
nothing: they look at what it computes anyway, and at one more batch of clean images.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.arguments import require_count
from jaxrobust.data import Dataset, as_float
from jaxrobust.threat import ThreatModel, require_images, threat_of
from jaxrobust.types import LogitsFn

__all__ = [
    "Flag",
    "among_strangers",
    "check_model",
    "require_classes",
    "require_finite",
    "require_independent",
]


class Flag(NamedTuple):
    """Something that makes an evaluation doubtful.

    Attributes:
        name: "random", "probabilities" or "whole-range".
        message: what was seen, and what to do.
    """

    name: str
    message: str


def require_classes(shape: tuple[int, ...], batch: int, num_classes: int) -> None:
    """Refuse logits that are not one row of classes for each image.

    Raises:
        ValueError: for a shape other than `(batch, num_classes)`.
    """
    if shape != (batch, num_classes):
        raise ValueError(
            "`logits_fn` must return (images, classes), which is "
            f"{(batch, num_classes)!r} for these {batch} images, got {shape!r}; "
            "evaluate the model on the data set that it was made for."
        )


def require_finite(is_finite: np.ndarray, model: str = "") -> None:
    """Refuse a model whose logits on clean images are not all finite.

    Args:
        is_finite: for each image, whether all its logits are.
        model: which one of several, for the message.

    Raises:
        ValueError: if any is not.
    """
    num_bad = int(np.sum(~is_finite))
    if num_bad:
        raise ValueError(
            f"`logits_fn` must return finite logits, got NaN or infinity for {num_bad} "
            f"of {len(is_finite)} clean images{' of ' * bool(model)}"
            f"{model.rstrip(', ')}; its accuracy would mean nothing: train it anew, or "
            "mend what it divides by."
        )


def _differ(one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference, in units of the largest logit."""
    return float(np.max(np.abs(one - other)) / max(float(np.max(np.abs(one))), 1e-30))


_TOLERANCE = 1e-3
"""Change that counts, in units of the largest logit. What is compared was computed by
one program on batches of one shape, where an honest model rounds alike."""


def among_strangers(
    images: jax.Array, is_stranger: np.ndarray | jax.Array, image: jax.Array
) -> jax.Array:
    """A batch, some of whose images are replaced by one that is unlike another.

    Args:
        images: bytes, or floats in [0, 1], `(batch, ...)`.
        is_stranger: which of them to replace, `(batch,)`.
        image: what the strangers are to be unlike, in every pixel by half the range.
    """
    places = jnp.reshape(is_stranger, (-1, *(1 for _ in image.shape)))
    most = 255 if images.dtype == jnp.uint8 else 1
    stranger = jnp.where(image < most / 2, most, 0).astype(images.dtype)
    return jnp.where(places, stranger[None], images)


def require_independent(
    answer: Callable[[np.ndarray], Any], size: int, model: str = ""
) -> None:
    """Refuse a model whose answer to an image depends on the others of its batch.

    Such a model has no accuracy of its own: it differs between the batches of clean
    images and those that an attack sees. One whose answers differ between two calls on
    the same batch is let pass, since what its company does cannot be told then.

    Args:
        answer: `is_stranger -> logits` of a batch of which some images are replaced
            (`among_strangers`), by one program.
        size: of the batch, at least 2.
        model: which one of several, for the message.

    Raises:
        ValueError: if any of the other images gets another answer.
    """
    is_stranger = np.arange(size) % 2 == 1
    alone = np.zeros(size, bool)

    def kept(replaced: np.ndarray) -> np.ndarray:
        return np.asarray(answer(replaced), np.float32)[~is_stranger]

    logits = kept(alone)
    change = _differ(logits, kept(is_stranger))
    if change <= _TOLERANCE or not _differ(logits, kept(alone)) <= _TOLERANCE:
        return
    raise ValueError(
        "`logits_fn` must answer each image by itself, got answers"
        f"{' of ' * bool(model)}{model.rstrip(', ')} that change by {change:.2g} of "
        "the largest logit when the other images of the batch do; put batch norm, and "
        "what else takes statistics over a batch, in evaluation mode."
    )


def check_model(
    logits_fn: LogitsFn,
    dataset: Dataset,
    *,
    norm: str | type[ThreatModel] = "linf",
    epsilons: Sequence[float] = (),
    bounds: tuple[float, float] | None = (0.0, 1.0),
    batch_size: int = 64,
) -> list[Flag]:
    """Look at a model and its data before an attack does.

    Args:
        logits_fn: model in evaluation mode; images in [0, 1] to logits.
        dataset: examples, of which the first ones are shown to the model.
        norm: of the ball: one of `THREATS`, or one of your own (path.py:NAME, or the
            class).
        epsilons: radii to be asked for, in units of [0, 1] pixels.
        bounds: valid pixel range, closed; None for no range.
        batch_size: images to look at, at least 1.

    Returns:
        What makes the evaluation doubtful; empty if nothing does.

    Raises:
        ValueError: for what makes it worthless: logits that are not finite (says how
            many), another number of classes than the data has, answers that depend on
            the other images of the batch, images outside the pixel range, a radius in
            another unit (8 instead of 8/255).
    """
    require_count("batch_size", batch_size, "64 is usual")
    threat, image_shape = threat_of(norm), dataset.images.shape[1:]
    for epsilon in epsilons:
        threat.require_epsilon(epsilon, image_shape)
    require_images(dataset.images, bounds)
    images = as_float(jnp.asarray(dataset.images[:batch_size]))
    shape = jax.eval_shape(logits_fn, images).shape
    require_classes(tuple(shape), len(images), dataset.num_classes)

    answer = jax.jit(lambda batch: logits_fn(batch))
    logits = np.asarray(answer(images), np.float32)
    require_finite(np.all(np.isfinite(logits), axis=1))
    flags = []
    widest = threat.diameter(image_shape)
    if any(epsilon >= widest for epsilon in epsilons):
        flags.append(
            Flag(
                "whole-range",
                f"epsilon {widest:g} lets the adversary show any image; "
                f"{threat.units(widest)}",
            )
        )
    # Traced again too, for randomness that is drawn while a function is traced.
    again = [answer(images), jax.jit(lambda batch: logits_fn(batch))(images)]
    change = max(
        _differ(logits, np.asarray(repeated, np.float32)) for repeated in again
    )
    is_random = change > _TOLERANCE
    if is_random:
        flags.append(
            Flag(
                "random",
                f"two calls on the same images differ by {change:.2g} of the largest "
                "logit; attack the average of many calls (num_samples of auto_pgd), "
                "or fix what is random",
            )
        )
    else:
        # Of a single image there are two, so that one can be in other company.
        batch = jnp.resize(images, (max(len(images), 2), *images.shape[1:]))
        require_independent(
            lambda is_stranger: answer(among_strangers(batch, is_stranger, batch[0])),
            len(batch),
        )
    sums = logits.sum(axis=1)
    if logits.min() >= 0 and np.all(np.abs(sums - 1) < 1e-3):
        flags.append(
            Flag(
                "probabilities",
                "each answer is non-negative and adds up to 1, like probabilities; "
                "return logits, or the gradient of the loss vanishes where the model "
                "is sure",
            )
        )
    return flags
