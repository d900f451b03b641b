"""The steps of Auto-PGD in l_1: as many values at a time as the best image changed."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust.attacks.base import AttackResult, better, nothing_found, per_example
from jaxrobust.attacks.loops import repeated
from jaxrobust.threat import L1Ball
from jaxrobust.types import Images, PerExample, Scalar, widened

__all__ = ["Look", "climb_sparsely"]

Look = Callable[[Images], tuple[AttackResult, Images]]
"""What an attack sees of images: the result that they would be, and the gradient."""

FIRST_SHARE = 0.2
"""Of the values, that the first steps move."""

DENSER = 1.5
"""Steps move this many times fewer values than the best image has changed; and step
sizes shrink by it."""

LEAST = 0.1
"""Of the first step size, below which none shrinks."""


class _Search(NamedTuple):
    """Where the search stands; everything but the counter is per example.

    Attributes:
        images: iterate, not yet evaluated.
        best: evaluated iterate of the highest loss, to start again from.
        best_gradient: of the loss there.
        num_changed: values in which the best iterate differed at the last checkpoint.
        share: of the values that a step moves.
        step_size: length of the next step.
        num_since: steps since the last checkpoint.
    """

    images: Images
    best: AttackResult
    best_gradient: Images
    num_changed: PerExample
    share: PerExample
    step_size: PerExample
    num_since: jax.Array


def _steepest_share(gradient: Images, share: PerExample) -> Images:
    """Signs of the steepest values, a share of all, divided by their number."""
    flat = jnp.abs(gradient).reshape(gradient.shape[0], -1)
    size = flat.shape[1]
    # Down, or two values that alone are left would move alike for ever.
    count = jnp.clip(jnp.floor(share * size + 1e-3).astype(jnp.int32), 1, size)
    ordered = jnp.sort(flat, axis=1)
    least = jnp.take_along_axis(ordered, size - count[:, None], axis=1)[:, 0]
    is_steep = jnp.abs(gradient) >= per_example(least, gradient)
    signs = jnp.where(is_steep, jnp.sign(gradient), 0)
    number = jnp.sum(jnp.abs(signs), axis=tuple(range(1, signs.ndim)))
    return signs / per_example(jnp.maximum(number, 1), signs)


def _num_moved(perturbation: Images) -> PerExample:
    """How many values of each example are moved."""
    axes = tuple(range(1, perturbation.ndim))
    return jnp.sum(perturbation != 0, axis=axes, dtype=jnp.float32)


def climb_sparsely(
    threat: L1Ball,
    look: Look,
    start: Images,
    images: Images,
    num_steps: Scalar,
    *,
    is_known: bool,
) -> tuple[Images, AttackResult]:
    """Climb from a start by sparse steps with an adaptive number of values.

    Steps begin at the length of the radius, in a fifth of the values. At each
    checkpoint, after .04 of the steps, they move as many values as the best image has
    changed, over 1.5. Where these are fewer than at the checkpoint before by a
    twentieth, the search starts again from the best image at the full length; else the
    length shrinks by 1.5, to no less than a tenth.

    Args:
        threat: an l_1 ball.
        look: see `Look`; gradients without NaN.
        start: where the search begins, inside.
        images: clean ones.
        num_steps: of the search; may be traced.
        is_known: whether Python knows the number, though it is an array by now.

    Returns:
        The last iterate, which is not yet evaluated, and the strongest before it.

    References:
        Croce & Hein, 2021, arXiv:2103.01208, Algorithm 1.

    Differs from the authors' code: values that the pixel range stops are passed over,
    and the number of values is rounded down.
    """
    batch, size = images.shape[0], images[0].size
    center = widened(images)
    longest = jnp.full(batch, threat.radius(images))
    period = jnp.maximum(num_steps * 4 // 100, 1)

    def body(
        _: jax.Array, carry: tuple[_Search, AttackResult]
    ) -> tuple[_Search, AttackResult]:
        search, kept = carry
        found, gradient = look(search.images)
        is_best = found.loss > search.best.loss

        def choose(flag: jax.Array, one: jax.Array, other: jax.Array) -> jax.Array:
            return jnp.where(per_example(flag, one), one, other)

        best = jax.tree.map(
            lambda one, other: choose(is_best, one, other), found, search.best
        )
        best_gradient = choose(is_best, gradient, search.best_gradient)

        is_check = search.num_since == period
        num_changed = _num_moved(widened(best.images) - center)
        is_sparser = num_changed < 0.95 * search.num_changed
        shorter = jnp.where(is_sparser, longest, search.step_size / DENSER)
        shorter = jnp.maximum(shorter, LEAST * longest)
        step_size = jnp.where(is_check, shorter, search.step_size)
        share = jnp.where(is_check, num_changed / size / DENSER, search.share)
        is_back = is_check & is_sparser
        here = choose(is_back, best.images, search.images)
        gradient = choose(is_back, best_gradient, gradient)

        free = threat.free_gradient(here, gradient)
        step = per_example(step_size, free) * _steepest_share(free, share)
        moved = threat.project((widened(here) + step).astype(images.dtype), images)
        search = _Search(
            images=moved,
            best=best,
            best_gradient=best_gradient,
            num_changed=jnp.where(is_check, num_changed, search.num_changed),
            share=share,
            step_size=step_size,
            num_since=jnp.where(is_check, 0, search.num_since) + 1,
        )
        return search, better(kept, found)

    search = _Search(
        images=start,
        best=nothing_found(start),
        best_gradient=jnp.zeros_like(center),
        num_changed=jnp.full(batch, size, jnp.float32),
        share=jnp.full(batch, FIRST_SHARE, jnp.float32),
        step_size=longest,
        num_since=jnp.asarray(0, jnp.int32),
    )
    carry = search, nothing_found(images)
    search, kept = repeated(num_steps, body, carry, is_known=is_known)
    return search.images, kept
