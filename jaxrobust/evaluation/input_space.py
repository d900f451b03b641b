"""What a loss looks like over images: surfaces, gradients, lines to an adversarial one.

All functions are pure and compile as one program, whose memory does not grow with the
number of points. The weights inside a `logits_fn` are constants of that program; one
program serves many models and images if it is wrapped from outside, as in
`jax.jit(lambda weights, image: loss_surface(apply(weights), image, ...))`.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxrobust.arguments import require, require_choice, require_count, require_shape
from jaxrobust.attacks import AttackBuilder
from jaxrobust.keys import seeded
from jaxrobust.losses import LOSSES, LossName
from jaxrobust.pytrees import outline
from jaxrobust.threat import ThreatModel
from jaxrobust.types import Images, Labels, Logits, LogitsFn, PerExample, PRNGKey

__all__ = [
    "Interpolation",
    "Saliency",
    "Surface",
    "input_gradients",
    "interpolate",
    "loss_surface",
    "random_directions",
    "saliency",
    "scale_for_display",
    "steepest_directions",
]

Loss = LossName | Callable[[Logits, Labels], PerExample]


class Surface(NamedTuple):
    """A loss over a plane of images through one image.

    Attributes:
        offsets: how far along each direction, `(points,)`; the same for both.
        losses: `[i, j]` is the loss at `offsets[i]` along the first and `offsets[j]`
            along the second direction, in nats for the cross-entropy.
        predictions: likeliest class at the same points.
    """

    offsets: Float[Array, " points"]
    losses: Float[Array, "points points"]
    predictions: Int[Array, "points points"]

    def __repr__(self) -> str:
        return outline(self)


class Saliency(NamedTuple):
    """Gradients of the loss, and the images at which they were taken.

    Attributes:
        images: clean or perturbed images.
        perturbations: these minus the clean images; zeros without an attack.
        gradients: of each example's loss with respect to its image.
    """

    images: Images
    perturbations: Images
    gradients: Images

    def __repr__(self) -> str:
        return outline(self)


class Interpolation(NamedTuple):
    """A model along straight lines between pairs of images.

    Attributes:
        shares: how far along the line, in [0, 1], both ends included, `(points,)`.
        losses: of each example at each share.
        logits: of each example at each share.
        predictions: likeliest class of each example at each share.
    """

    shares: Float[Array, " points"]
    losses: Float[Array, "batch points"]
    logits: Float[Array, "batch points classes"]
    predictions: Int[Array, "batch points"]

    def __repr__(self) -> str:
        return outline(self)


def _loss_fn(loss: Loss) -> Callable[[Logits, Labels], PerExample]:
    if not isinstance(loss, str):
        return loss
    remedy = "choose one of these, or give a function (logits, labels) -> (batch,)"
    require_choice("loss", loss, tuple(LOSSES), remedy)
    return LOSSES[loss]


def input_gradients(
    logits_fn: LogitsFn,
    images: Images,
    labels: Labels,
    *,
    loss: Loss = "cross_entropy",
) -> Images:
    """Gradient of each example's loss with respect to its image.

    Args:
        logits_fn: model in evaluation mode.
        images: where, in [0, 1].
        labels: true classes.
        loss: "cross_entropy", "margin", or a function `(logits, labels) -> (batch,)`.

    Raises:
        ValueError: for an unknown loss.
    """
    loss_fn = _loss_fn(loss)

    @jax.jit
    def gradients(images: Images, labels: Labels) -> Images:
        return jax.grad(lambda moved: jnp.sum(loss_fn(logits_fn(moved), labels)))(
            images
        )

    return gradients(images, labels)


def scale_for_display(
    gradients: Images, *, style: Literal["signed", "unit"] = "signed"
) -> Images:
    """Gradients or perturbations as pictures, each example scaled by itself.

    Args:
        gradients: what to show.
        style: "signed" divides by the largest magnitude of the example, which gives
            [-1, 1] with 0 in the middle, for a diverging color map;
            "unit" clips to three standard deviations round 0 and maps this range to
            [0, 1], with 0 at .5, for color images.

    Raises:
        ValueError: for another style.

    References:
        Tsipras et al., 2019, arXiv:1805.12152, Figures 2 and 8.
    """
    require_choice("style", style, ("signed", "unit"))
    axes = tuple(range(1, gradients.ndim))
    if style == "signed":
        limit = jnp.max(jnp.abs(gradients), axis=axes, keepdims=True)
    else:
        limit = 3 * jnp.std(gradients, axis=axes, keepdims=True)
    scaled = jnp.clip(gradients / jnp.where(limit > 0, limit, 1.0), -1.0, 1.0)
    return scaled if style == "signed" else (scaled + 1) / 2


def steepest_directions(
    logits_fn: LogitsFn,
    images: Images,
    labels: Labels,
    *,
    loss: Loss = "cross_entropy",
) -> Images:
    """The adversarial directions of a loss surface: signs of the input gradients.

    A step of length s along one moves a pixel by s, or by 0 where the gradient is 0.
    Arguments and errors are those of `input_gradients`.
    """
    return jnp.sign(input_gradients(logits_fn, images, labels, loss=loss))


def random_directions(key: PRNGKey, images: Images) -> Images:
    """Random directions of a loss surface: each pixel +1 or -1 with equal chance."""
    return jax.random.rademacher(key, images.shape, images.dtype)


def loss_surface(
    logits_fn: LogitsFn,
    image: Float[Array, "*pixels"],
    label: Int[Array, ""] | int,
    direction_a: Float[Array, "*pixels"],
    direction_b: Float[Array, "*pixels"],
    *,
    radius: float | Float[Array, ""],
    num_points: int = 100,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    loss: Loss = "cross_entropy",
    batch_size: int = 500,
) -> Surface:
    """The loss at the points of a square grid round one image.

    Args:
        logits_fn: model in evaluation mode.
        image: the middle of the grid, without a batch axis.
        label: its class.
        direction_a: where the first offset leads, of the shape of the image.
        direction_b: where the second leads.
        radius: largest offset along each direction, in units of [0, 1] pixels for
            directions of +-1; offsets go from `-radius` to `radius`. Shaeiri et al.,
            2020, take half of epsilon on MNIST and epsilon on CIFAR-10. May be traced.
        num_points: along each side, at least 2; the middle is a point if it is odd.
        bounds: pixels are moved into this range before the model sees them, as every
            attack does; None for the plain plane.
        loss: "cross_entropy", "margin", or a function `(logits, labels) -> (batch,)`.
        batch_size: points evaluated at once; no value depends on it.

    Raises:
        ValueError: for an unknown loss, a direction of another shape than the image,
            or too few points.

    Differs from Shaeiri et al., 2020, arXiv:2003.13370: they do not say which
    directions they take, nor whether pixels are clipped; see `steepest_directions` and
    `random_directions`.
    """
    require_count("num_points", num_points, "2 are the ends only", least=2)
    require_count("batch_size", batch_size, "100 is a good choice")
    for name, direction in (("direction_a", direction_a), ("direction_b", direction_b)):
        remedy = "give one direction like the image, without a batch axis"
        require_shape(name, direction, jnp.shape(image), remedy)
    loss_fn = _loss_fn(loss)

    @jax.jit
    def surface(image, label, direction_a, direction_b, radius) -> Surface:
        offsets = radius * jnp.linspace(-1.0, 1.0, num_points)

        def at(index: jax.Array) -> tuple[jax.Array, jax.Array]:
            along_a = offsets[index // num_points] * direction_a
            along_b = offsets[index % num_points] * direction_b
            moved = image + along_a + along_b
            moved = moved if bounds is None else jnp.clip(moved, *bounds)
            logits = logits_fn(moved[None])
            prediction = jnp.argmax(logits[0]).astype(jnp.int32)
            return loss_fn(logits, label[None])[0], prediction

        points = jnp.arange(num_points**2)
        flat = lax.map(at, points, batch_size=min(batch_size, num_points**2))
        losses, predictions = (
            values.reshape(num_points, num_points) for values in flat
        )
        return Surface(offsets, losses, predictions)

    label = jnp.asarray(label, jnp.int32)
    return surface(jnp.asarray(image), label, direction_a, direction_b, radius)


def saliency(
    logits_fn: LogitsFn,
    images: Images,
    labels: Labels,
    *,
    attack: AttackBuilder | None = None,
    threat: ThreatModel | None = None,
    key: PRNGKey | None = None,
    loss: Loss = "cross_entropy",
    batch_size: int = 64,
) -> Saliency:
    """Gradients of the loss at clean or at perturbed images.

    Args:
        logits_fn: model in evaluation mode.
        images: clean images, in [0, 1].
        labels: true classes.
        attack: builds what perturbs them; None for the clean images. It sees batches of
            one image, mapped.
        threat: what it searches, such as `LinfBall(0.3)`; given with an attack.
        key: of the attack; by default that of seed 0. Each example draws by its
            number in the batch.
        loss: "cross_entropy", "margin", or a function `(logits, labels) -> (batch,)`.
        batch_size: images attacked at once; no value depends on it.

    Raises:
        ValueError: for an unknown loss or a batch size below 1.
    """
    require_count("batch_size", batch_size, "100 is a good choice")
    remedy = "give both, such as `PGD(num_steps=40)` and `LinfBall(0.3)`"
    is_paired = (attack is None) == (threat is None)
    require(is_paired, "threat", "given with an attack", threat, remedy)
    loss_fn = _loss_fn(loss)
    search = None
    if attack is not None and threat is not None:
        search = attack(threat)
    base_key = seeded(0) if key is None else key

    @jax.jit
    def shown(base_key: PRNGKey, images: Images, labels: Labels) -> Saliency:
        def one(item: tuple[jax.Array, jax.Array, jax.Array]) -> Saliency:
            index, image, label = item[0], item[1][None], item[2][None]
            moved = image
            if search is not None:
                example_key = jax.random.fold_in(base_key, index)
                moved = search(example_key, logits_fn, image, label).images
            gradient = jax.grad(lambda x: jnp.sum(loss_fn(logits_fn(x), label)))(moved)
            return Saliency(moved[0], (moved - image)[0], gradient[0])

        indices = jnp.arange(len(images))
        size = min(batch_size, len(images))
        return lax.map(one, (indices, images, labels), batch_size=size)

    return shown(base_key, jnp.asarray(images), jnp.asarray(labels))


def interpolate(
    logits_fn: LogitsFn,
    clean: Images,
    adversarial: Images,
    labels: Labels,
    *,
    num_points: int = 100,
    loss: Loss = "cross_entropy",
) -> Interpolation:
    """The model on the straight line from each clean to its adversarial image.

    Args:
        logits_fn: model in evaluation mode.
        clean: images at share 0.
        adversarial: images at share 1, of the same shape.
        labels: classes the loss is taken at.
        num_points: shares, at least 2; both ends are among them.
        loss: "cross_entropy", "margin", or a function `(logits, labels) -> (batch,)`.

    Raises:
        ValueError: for an unknown loss, images of different shapes, or too few points.
    """
    require_count("num_points", num_points, "2 are the ends only", least=2)
    remedy = "give one adversarial image for each clean one"
    require_shape("adversarial", adversarial, jnp.shape(clean), remedy)
    loss_fn = _loss_fn(loss)

    @jax.jit
    def along(clean: Images, adversarial: Images, labels: Labels) -> Interpolation:
        def at(share: jax.Array) -> tuple[jax.Array, jax.Array]:
            # In this form both ends are exactly the images that were given.
            logits = logits_fn((1 - share) * clean + share * adversarial)
            return loss_fn(logits, labels), logits

        shares = jnp.linspace(0.0, 1.0, num_points)
        losses, logits = lax.map(at, shares)
        logits = jnp.swapaxes(logits, 0, 1)
        predictions = jnp.argmax(logits, axis=-1).astype(jnp.int32)
        return Interpolation(shares, losses.T, logits, predictions)

    return along(jnp.asarray(clean), jnp.asarray(adversarial), jnp.asarray(labels))
