r"""Randomized smoothing: certificates in l_2 for the vote of a model under noise.

The smoothed classifier answers with the class that the model gives most often to an
image under Gaussian noise of deviation :math:`\sigma`. If one class has a share of at
least :math:`p > 1/2`, then no perturbation shorter than :math:`\sigma \Phi^{-1}(p)` in
l_2 changes the answer, whatever the model is. The share is bounded from draws, so that
a certificate may be wrong, with a probability that is asked for. It holds for the
smoothed classifier, not for the model without noise.

References:
    Cohen, Rosenfeld and Kolter, 2019, arXiv:1902.02918.
"""

import zlib
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int
from scipy import stats

from jaxrobust.arguments import require, require_count, require_in, require_shape
from jaxrobust.data import as_float
from jaxrobust.keys import seeded
from jaxrobust.losses import as_labels, require_classes_below
from jaxrobust.precision import JUDGED, at_precision
from jaxrobust.pytrees import outline
from jaxrobust.types import Images, Labels, LogitsFn, PRNGKey, Scalar, widened

__all__ = [
    "ABSTAINED",
    "SmoothedPrediction",
    "Smoothing",
    "clopper_pearson",
    "smoothed_prediction",
    "smoothing",
]

ABSTAINED = -1
"""In place of a class: the draws do not tell which one it is."""

Votes = Int[np.ndarray, "batch classes"]


class Smoothing(NamedTuple):
    """What randomized smoothing certifies of each example.

    Attributes:
        classes: that are certified, `(batch,)`; `ABSTAINED` where none is.
        is_correct: whether a class is certified and is the label, `(batch,)`.
        radius: no perturbation that is shorter in l_2 changes the class, in units of
            [0, 1] pixels; 0 where there is none, `(batch,)`.
        lowest_share: lower confidence bound of the share of noise under which the
            class is given that was selected, in [0, 1], `(batch,)`.
        votes: how often each class was given to the draws that certify,
            `(batch, classes)`. Answers with something not finite are votes for none.
        selecting_votes: the same of the draws that selected the class.
    """

    classes: Int[np.ndarray, " batch"]
    is_correct: np.ndarray
    radius: Float[np.ndarray, " batch"]
    lowest_share: Float[np.ndarray, " batch"]
    votes: Votes
    selecting_votes: Votes

    def __repr__(self) -> str:
        return outline(self)

    def certified_accuracy(self, radii: Sequence[float]) -> Float[np.ndarray, " radii"]:
        """Share of all examples with the right class certified beyond each radius.

        Args:
            radii: of closed l_2 balls, in units of [0, 1] pixels, at least 0. At 0 it
                is the share that is certified at all, and right.

        Raises:
            ValueError: for a radius below 0.
        """
        lengths = np.asarray(radii, np.float64)
        require_in("radii", lengths, "[0, inf)", "they are lengths of perturbations")
        # Shorter perturbations are what is certified, so that the ball must lie within.
        is_certified = self.is_correct & (self.radius > lengths[:, None])
        return is_certified.mean(axis=1)

    @property
    def average_radius(self) -> float:
        """Average certified radius, where examples that are not right count as 0.

        References:
            Zhai et al., 2020, arXiv:2001.02378.
        """
        return float(np.mean(self.radius * self.is_correct))


class SmoothedPrediction(NamedTuple):
    """What the smoothed classifier answers to each example.

    Attributes:
        classes: `(batch,)`; `ABSTAINED` where the two most frequent classes cannot be
            told apart.
        votes: how often each class was given, `(batch, classes)`.
    """

    classes: Int[np.ndarray, " batch"]
    votes: Votes

    def __repr__(self) -> str:
        return outline(self)


def clopper_pearson(
    successes: Int[np.ndarray, "*shape"] | int, trials: int, alpha: float
) -> Float[np.ndarray, "*shape"]:
    """The one-sided lower confidence bound of a share by Clopper and Pearson.

    The share under which as many successes, or more, have the probability alpha; 0 for
    no success. Whatever the true share, the bound exceeds it with probability alpha at
    most.

    Args:
        successes: how often it happened, in [0, trials].
        trials: how often it could, at least 1.
        alpha: probability of a bound that is too high, in (0, 1).

    Returns:
        Bounds in [0, 1), float64.

    Raises:
        ValueError: for a number out of range.

    References:
        Clopper and Pearson, 1934, Biometrika 26.
    """
    require_count("trials", trials, "count one draw at least")
    remedy = "count the same draws as in `trials`"
    require_count("successes", successes, remedy, least=0, most=trials)
    require_in("alpha", alpha, "(0, 1)", "0.001 is usual")
    successes = np.asarray(successes)
    least = np.maximum(successes, 1)
    bound = stats.beta.ppf(alpha, least, trials - least + 1)
    return np.where(successes == 0, 0.0, bound)


def smoothing(
    logits_fn: LogitsFn,
    images: Images | np.ndarray,
    labels: Labels | np.ndarray,
    sigma: Scalar,
    *,
    num_selection: int = 100,
    num_samples: int = 10_000,
    alpha: float = 0.001,
    batch_size: int = 250,
    seed: int = 0,
    indices: Int[np.ndarray, " batch"] | None = None,
) -> Smoothing:
    """Certify the smoothed classifier at each example (CERTIFY of Cohen et al., 2019).

    One program draws the noise and counts the answers of all examples. What is drawn
    for an example depends on the seed and on its number alone, so that votes are
    independent of `batch_size` and of the other examples, up to the rounding of the
    device's matrix products. Noise is not cut to the pixel range.

    The guarantee is for exact arithmetic. That noise and logits are rounded is left
    out, as usual; models can be made up that abuse it (Voracek and Hein, 2023).

    Args:
        logits_fn: model in evaluation mode; images in [0, 1] to logits, each image by
            itself. It is asked at the precision `JUDGED`. Calls with a
            `jax.tree_util.Partial` of the same function share the compiled program,
            whatever its arrays; any other function is compiled for each call.
        images: `(batch, *pixels)`, floats in [0, 1] or bytes.
        labels: `(batch,)`.
        sigma: deviation of the noise, above 0, in units of [0, 1] pixels; traced.
        num_selection: draws that select the class, of which a certificate is sought.
        num_samples: further draws, which certify. No share is certified that exceeds
            alpha^(1/num_samples), so that radii are below 3.2 sigma with 10,000.
        alpha: probability that a certificate is wrong, in (0, 1), for each example.
        batch_size: noisy images that the model sees at once.
        seed: of everything random.
        indices: numbers of the examples, which decide what is drawn for them; by
            default they are counted from 0. For calls with parts of a data set.

    Returns:
        Classes, certified radii and votes, one for each example.

    Raises:
        TypeError: for labels, indices or images of another kind.
        ValueError: for a number out of range, labels that are no classes of the model,
            no image at all, or a model that answers in another shape.

    References:
        Cohen et al., 2019, arXiv:1902.02918, Section 3.2.
        Voracek and Hein, 2023, arXiv:2207.07209.
    """
    require_count("num_selection", num_selection, "100 is usual")
    require_count("num_samples", num_samples, "10,000 and more are usual")
    # Before the work, which may take long.
    require_in("alpha", alpha, "(0, 1)", "0.001 is usual")
    given: Any = labels
    classes = as_labels(given, np.shape(images)[0] if np.ndim(images) else 0)
    drawn = _drawn(
        "smoothing",
        logits_fn,
        images,
        sigma,
        (num_selection, num_samples),
        batch_size=batch_size,
        seed=seed,
        indices=indices,
        labels=classes,
    )
    selecting, votes = drawn.votes
    selected = selecting.argmax(axis=1)
    successes = np.take_along_axis(votes, selected[:, None], axis=1)[:, 0]
    share = clopper_pearson(successes, num_samples, alpha)
    is_certified = share > 0.5
    radius = drawn.sigma * stats.norm.ppf(np.where(is_certified, share, 0.5))
    certified = np.where(is_certified, selected, ABSTAINED)
    return Smoothing(
        classes=certified,
        is_correct=certified == np.asarray(classes),
        radius=np.where(is_certified, radius, 0.0),
        lowest_share=share,
        votes=votes,
        selecting_votes=selecting,
    )


def smoothed_prediction(
    logits_fn: LogitsFn,
    images: Images | np.ndarray,
    sigma: Scalar,
    *,
    num_samples: int = 1000,
    alpha: float = 0.001,
    batch_size: int = 250,
    seed: int = 0,
    indices: Int[np.ndarray, " batch"] | None = None,
) -> SmoothedPrediction:
    """What the smoothed classifier answers (PREDICT of Cohen et al., 2019).

    The class that was given most often, unless a fair coin would favor one of the first
    two as much with a probability above alpha. Other noise is drawn than by `smoothing`
    with the same seed.

    Args:
        logits_fn: model in evaluation mode, see `smoothing`.
        images: `(batch, *pixels)`, floats in [0, 1] or bytes.
        sigma: deviation of the noise, above 0, in units of [0, 1] pixels; traced.
        num_samples: draws for each example.
        alpha: probability of another class than that of the smoothed classifier, in
            (0, 1), for each example.
        batch_size: noisy images that the model sees at once.
        seed: of everything random.
        indices: numbers of the examples; by default they are counted from 0.

    Returns:
        Classes and votes, one for each example.

    Raises:
        TypeError: for indices or images of another kind.
        ValueError: for a number out of range, no image at all, or a model that answers
            in another shape.

    References:
        Cohen et al., 2019, arXiv:1902.02918, Section 3.2.
    """
    require_count("num_samples", num_samples, "1,000 and more are usual")
    require_in("alpha", alpha, "(0, 1)", "0.001 is usual")
    drawn = _drawn(
        "prediction",
        logits_fn,
        images,
        sigma,
        (num_samples,),
        batch_size=batch_size,
        seed=seed,
        indices=indices,
    )
    (votes,) = drawn.votes
    ordered = np.sort(votes, axis=1)
    first = ordered[:, -1]
    both = first + (ordered[:, -2] if votes.shape[1] > 1 else 0)
    # Both tails of the binomial distribution are alike at 1/2.
    chance = np.minimum(2 * stats.binom.sf(first - 1, both, 0.5), 1.0)
    classes = np.where(chance <= alpha, votes.argmax(axis=1), ABSTAINED)
    return SmoothedPrediction(classes, votes)


class _Drawn(NamedTuple):
    """Votes of each group of draws, and the deviation that the noise had."""

    votes: list[Votes]
    sigma: float


def _drawn(
    name: str,
    logits_fn: LogitsFn,
    images: Images | np.ndarray,
    sigma: Scalar,
    groups: tuple[int, ...],
    *,
    batch_size: int,
    seed: int,
    indices: Int[np.ndarray, " batch"] | None,
    labels: Labels | None = None,
) -> _Drawn:
    """Refuse what is wrong, draw, and count.

    Args:
        name: of what is done, which decides what is drawn.
        logits_fn: the model.
        images: of the examples.
        sigma: deviation of the noise.
        groups: numbers of draws that are counted apart.
        batch_size: draws at once.
        seed: of everything random.
        indices: of the examples.
        labels: to be classes of the model.
    """
    require_count("batch_size", batch_size, "250 is usual")
    require_shape("sigma", sigma, (), "give one deviation for each call")
    require_in("sigma", sigma, "(0, inf)", "it is in [0, 1] pixel units, such as 0.5")
    given: Any = images
    pixels = as_float(given)
    if not jnp.issubdtype(pixels.dtype, jnp.floating):
        raise TypeError(
            f"`images` must be floats in [0, 1] or bytes, got {pixels.dtype}; divide "
            "by the largest value."
        )
    pixels = widened(pixels)
    is_there = pixels.ndim > 1 and len(pixels) > 0
    remedy = "give a batch of one image or more"
    require(is_there, "images", "of shape (batch, *pixels)", pixels.shape, remedy)
    numbers: Any = np.arange(len(pixels)) if indices is None else indices
    numbers = as_labels(numbers, len(pixels), name="indices")
    answers = jax.eval_shape(logits_fn, pixels)
    shape = [*getattr(answers, "shape", ())]
    require(
        len(shape) == 2 and shape[0] == len(pixels),
        "logits_fn",
        "a function from images (batch, *pixels) to logits (batch, classes)",
        shape,
        "give the model in evaluation mode",
    )
    num_classes = shape[-1]
    if labels is not None:
        require_classes_below(num_classes, labels)
    deviation = jnp.asarray(sigma, pixels.dtype)
    settings = {
        "groups": groups,
        "batch_size": min(batch_size, sum(groups)),
        "num_classes": num_classes,
    }
    key = jax.random.fold_in(seeded(seed), zlib.crc32(name.encode()))
    if isinstance(logits_fn, Partial):
        votes = _shared(logits_fn, key, pixels, numbers, deviation, **settings)
    else:
        # Not kept: what the function closes over may change until the next call.
        count = jax.jit(partial(_votes, logits_fn, **settings))
        votes = count(key, pixels, numbers, deviation)
    return _Drawn([np.asarray(each, np.int64) for each in votes], float(deviation))


@partial(at_precision, JUDGED)
def _votes(
    logits_fn: LogitsFn,
    key: PRNGKey,
    images: Images,
    indices: Int[Array, " batch"],
    sigma: Float[Array, ""],
    *,
    groups: tuple[int, ...],
    batch_size: int,
    num_classes: int,
) -> list[Int[Array, "batch classes"]]:
    """How often each class is given to each image under noise, for each group of draws.

    Draws are numbered through all groups; each has a key of its own.
    """
    ends = np.cumsum(groups)
    starts = ends - np.asarray(groups)
    num_batches = -(-int(ends[-1]) // batch_size)

    def of_example(example: tuple[Array, Array]) -> Any:
        image, index = example
        base = jax.random.fold_in(key, index)

        def noise(draw: Array) -> Array:
            return jax.random.normal(
                jax.random.fold_in(base, draw), image.shape, image.dtype
            )

        def add(batch: Array, votes: list[Array]) -> list[Array]:
            draws = batch * batch_size + jnp.arange(batch_size)
            logits = logits_fn(image[None] + sigma * jax.vmap(noise)(draws))
            is_finite = jnp.all(jnp.isfinite(logits), axis=1)
            given = jnp.argmax(logits, axis=1)[:, None] == jnp.arange(num_classes)[None]
            given &= is_finite[:, None]
            return [
                count + jnp.sum(given & ((draws >= low) & (draws < high))[:, None], 0)
                for count, low, high in zip(votes, starts, ends, strict=True)
            ]

        none = [jnp.zeros(num_classes, jnp.int32) for _ in groups]
        return lax.fori_loop(0, num_batches, add, none)

    return lax.map(of_example, (images, indices))


_shared = jax.jit(_votes, static_argnames=("groups", "batch_size", "num_classes"))
