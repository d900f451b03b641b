"""ZOO and SPSA: gradients estimated from differences of the margin."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxrobust.arguments import require_count, require_in
from jaxrobust.attacks.base import (
    Attack,
    AttackResult,
    better,
    checked,
    per_example,
)
from jaxrobust.attacks.querying import evaluated, evaluated_many, replaced
from jaxrobust.attacks.random_bits import bits, words_for
from jaxrobust.threat import ThreatModel
from jaxrobust.types import Images, Labels, LogitsFn, PRNGKey, Scalar, widened

__all__ = ["spsa", "zoo"]


class _Moments(NamedTuple):
    """Adam's averages, with a count for each pixel: pixels move at different times."""

    mean: jax.Array
    square: jax.Array
    count: jax.Array


def _adam(
    moments: _Moments, gradient: jax.Array, is_moved: jax.Array
) -> tuple[_Moments, jax.Array]:
    """One step of Adam in some of the pixels, of length about 1 in each."""
    count = moments.count + is_moved
    mean = jnp.where(is_moved, 0.9 * moments.mean + 0.1 * gradient, moments.mean)
    square = jnp.where(
        is_moved, 0.999 * moments.square + 0.001 * gradient**2, moments.square
    )
    number = jnp.maximum(count, 1.0)
    unbiased = jnp.sqrt(square / (1 - 0.999**number))
    step = mean / (1 - 0.9**number) / (unbiased + 1e-8)
    return _Moments(mean, square, count), jnp.where(is_moved, step, 0.0)


Query = Callable[[jax.Array], jax.Array]
"""From several images per example to their margins, `(batch, several)`."""
Estimate = Callable[[PRNGKey, Query, Images], tuple[jax.Array, jax.Array]]
"""`(key, query, images)` to a gradient and the pixels in which it is known."""


_Climb = tuple[jax.Array, AttackResult, AttackResult, _Moments]


def _climb(
    threat: ThreatModel,
    estimate: Estimate,
    *,
    num_steps: Scalar,
    learning_rate: Scalar,
) -> Attack:
    """Projected Adam along an estimated gradient, from the clean images.

    An example that fools the model is left alone, and the loop ends when all do, so no
    example's outcome depends on the others of its batch.
    """

    @checked(threat)
    def attack(
        key: PRNGKey, logits_fn: LogitsFn, images: Images, labels: Labels
    ) -> AttackResult:
        def query(points: jax.Array) -> jax.Array:
            return evaluated_many(logits_fn, points.astype(images.dtype), labels)[0]

        def is_open(carry: _Climb) -> jax.Array:
            index, _, best, _ = carry
            return (index < num_steps) & ~jnp.all(best.is_adversarial)

        def body(carry: _Climb) -> _Climb:
            index, now, best, moments = carry
            step_key = jax.random.fold_in(key, index)
            gradient, is_known = estimate(step_key, query, now.images)
            # A model may answer a query by NaN; such an estimate moves nothing.
            gradient = jnp.where(jnp.isfinite(gradient), gradient, 0.0)
            moments, step = _adam(moments, gradient, is_known)
            moved = widened(now.images) + learning_rate * step
            moved = threat.project(moved.astype(images.dtype), images)
            moved = replaced(
                ~best.is_adversarial, evaluated(logits_fn, moved, labels), now
            )
            return index + 1, moved, better(best, moved), moments

        first = evaluated(logits_fn, images, labels)
        zeros = jnp.zeros_like(widened(images))
        carry = (jnp.int32(0), first, first, _Moments(zeros, zeros, zeros))
        return lax.while_loop(is_open, body, carry)[2]

    return attack


def zoo(
    threat: ThreatModel,
    *,
    num_steps: Scalar = 10,
    num_coordinates: int = 128,
    learning_rate: Scalar = 0.01,
    spacing: Scalar = 1e-4,
) -> Attack:
    """Zeroth-order optimization: finite differences in a few pixels at a time.

    A step draws `num_coordinates` pixels without repetition, asks for the margin at
    `+-spacing` in each of them (two queries a pixel), moves these pixels by Adam with
    a count of its own for each pixel, and projects on the ball.

    The defaults are those of `ZooAttack` of the adversarial-robustness-toolbox, which
    Shaeiri et al. (2020) use. They are weak: ten steps of 0.01 move a pixel by 0.1 at
    most.

    Args:
        threat: the set to stay in; the radius may be traced.
        num_steps: at least 1; may be traced.
        num_coordinates: pixels (and channels) of each step; at most all are taken.
        learning_rate: of Adam, in units of [0, 1] pixels; may be traced.
        spacing: of the finite differences, in the same unit. Images in half precision
            need a wider one: where rounding leaves no difference, nothing moves.

    Returns:
        An attack that starts at the clean images; the loss is the margin.

    Raises:
        ValueError: for a number out of range.

    References:
        Chen et al., 2017, arXiv:1708.03999, Algorithms 1 and 2.

    Differs from the paper and the toolbox: these add the squared length of the
    perturbation to the loss, with a constant found by bisection, and have no radius;
    here the ball is the constraint and the margin the whole objective. Queries stay in
    the pixel range, and pixels are drawn uniformly, without resizing of the image.
    """
    require_count("num_steps", num_steps, "the checklist uses 10")
    require_count("num_coordinates", num_coordinates, "the toolbox uses 128")
    require_in("learning_rate", learning_rate, "(0, inf)", "the toolbox uses 0.01")
    require_in("spacing", spacing, "(0, inf)", "the toolbox uses 1e-4")

    def estimate(
        key: PRNGKey, query: Query, images: Images
    ) -> tuple[jax.Array, jax.Array]:
        batch, size = images.shape[0], images[0].size
        count = min(num_coordinates, size)
        drawn = jax.random.uniform(key, (batch, size), jnp.float32)
        _, chosen = lax.top_k(drawn, count)
        is_chosen = chosen[:, :, None] == jnp.arange(size)[None, None]
        wide = widened(images).reshape(batch, 1, size)

        def moved(by: Scalar) -> jax.Array:
            points = threat.clip((wide + by).astype(images.dtype))
            return jnp.where(is_chosen, points, wide.astype(images.dtype))

        ahead, behind = moved(spacing), moved(-spacing)
        # What rounding and the pixel range leave of twice the spacing.
        apart = jnp.sum(widened(ahead - behind), axis=2)
        points = jnp.concatenate([ahead, behind], axis=1)
        losses = query(points.reshape(batch, 2 * count, *images.shape[1:]))
        rise = losses[:, :count] - losses[:, count:]
        slope = jnp.where(apart > 0, rise / jnp.where(apart > 0, apart, 1.0), 0.0)
        # A pixel is chosen once at most, so the sum copies.
        gradient = jnp.sum(jnp.where(is_chosen, slope[:, :, None], 0.0), axis=1)
        is_known = jnp.any(is_chosen, axis=1)
        return gradient.reshape(images.shape), is_known.reshape(images.shape)

    return _climb(threat, estimate, num_steps=num_steps, learning_rate=learning_rate)


def spsa(
    threat: ThreatModel,
    *,
    num_steps: Scalar = 100,
    num_directions: Scalar = 128,
    learning_rate: Scalar = 0.01,
    spacing: Scalar = 0.01,
    batch_size: int = 128,
) -> Attack:
    r"""Simultaneous perturbation stochastic approximation, with Adam.

    The gradient of the margin `f` is estimated by the mean over random signs `v` of
    :math:`v (f(x + \delta v) - f(x - \delta v)) / 2 \delta`, two queries a direction.

    Args:
        threat: the set to stay in; the radius may be traced.
        num_steps: at least 1; may be traced.
        num_directions: for each gradient, at least 1; may be traced.
        learning_rate: of Adam, in units of [0, 1] pixels; may be traced.
        spacing: delta, in the same unit; queries may leave the pixel range by it.
        batch_size: directions tried at once for each image; sets the memory needed, of
            twice as many images.

    Returns:
        An attack that starts at the clean images; the loss is the margin.

    Raises:
        ValueError: for a number out of range.

    References:
        Uesato et al., 2018, arXiv:1802.05666, Section 3.3 and Algorithm 1 (8,192
        directions, 100 steps, delta 0.01, Adam 0.01).
    """
    require_count("num_steps", num_steps, "the paper uses 100")
    require_count("num_directions", num_directions, "the paper uses 8192")
    require_count("batch_size", batch_size, "128 is a good choice")
    require_in("learning_rate", learning_rate, "(0, inf)", "the paper uses 0.01")
    require_in("spacing", spacing, "(0, inf)", "the paper uses 0.01")

    def estimate(
        key: PRNGKey, query: Query, images: Images
    ) -> tuple[jax.Array, jax.Array]:
        batch, size = images.shape[0], images[0].size
        wide = widened(images)[:, None]

        def body(index: jax.Array, total: jax.Array) -> jax.Array:
            shape = (batch, batch_size, words_for(size))
            words = jax.random.bits(jax.random.fold_in(key, index), shape, jnp.uint32)
            signs = jnp.where(bits(words, size), 1.0, -1.0).astype(wide.dtype)
            signs = signs.reshape(batch, batch_size, *images.shape[1:])
            points = [wide + spacing * signs, wide - spacing * signs]
            losses = query(jnp.concatenate(points, axis=1))
            rise = losses[:, :batch_size] - losses[:, batch_size:]
            number = index * batch_size + jnp.arange(batch_size)
            rise = jnp.where((number < num_directions)[None], rise, 0.0)
            return total + jnp.sum(per_example(rise, signs) * signs, axis=1)

        num_turns = (num_directions + batch_size - 1) // batch_size
        zeros = jnp.zeros_like(widened(images))
        total = lax.fori_loop(0, num_turns, body, zeros)
        is_known = jnp.ones(images.shape, bool)
        return total / (2 * spacing * num_directions), is_known

    return _climb(threat, estimate, num_steps=num_steps, learning_rate=learning_rate)
