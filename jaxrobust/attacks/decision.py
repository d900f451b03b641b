"""Attacks that see only the class a model decides for, not its logits."""

import math

import jax
import jax.numpy as jnp
from jax import lax

from jaxrobust.arguments import require_count
from jaxrobust.attacks.base import (
    Attack,
    AttackResult,
    checked,
    judge,
    per_example,
)
from jaxrobust.attacks.querying import evaluated, evaluated_many, is_linf
from jaxrobust.threat import ThreatModel, l2_normalize
from jaxrobust.types import Images, Labels, LogitsFn, PRNGKey, Scalar, widened

__all__ = ["hop_skip_jump"]

# A step that has to be halved more often than this would not move a float32 pixel.
_MAX_HALVINGS = 24

_Trials = tuple[jax.Array, jax.Array, jax.Array]  # number, images, which are done


def hop_skip_jump(
    threat: ThreatModel,
    *,
    num_steps: Scalar = 40,
    num_samples: int = 100,
    max_samples: int = 10_000,
    num_trials: Scalar = 1000,
    batch_size: int = 100,
) -> Attack:
    """HopSkipJump: walks along the decision boundary to the closest wrong image.

    Uniform noise is drawn until it is misclassified. Then, repeatedly: bisect between
    the clean image and the present one up to the boundary, estimate the boundary's
    normal there from the decisions on random perturbations, and step along it by the
    present distance over the square root of the step's number, halved until the image
    is wrong. The estimate of step t takes `num_samples * sqrt(t)` perturbations.

    The search for the smallest perturbation does not know the radius. Its result is
    moved into the ball and judged there; with a ball that holds the whole pixel range,
    `threat.norm(found.images - images)` is the smallest perturbation found.

    Args:
        threat: an l_inf or l2 ball; the radius may be traced.
        num_steps: of the walk, at least 1; may be traced.
        num_samples: perturbations of the first estimate.
        max_samples: of any estimate.
        num_trials: images of noise tried for a start, in the pixel range, or in
            [-1, 2] without one; may be traced.
        batch_size: perturbations of each image judged at once, which sets the memory
            needed.

    Returns:
        An attack; its loss is the margin, which the search itself never sees. Examples
        for which no start is found come back clean, as do those that are misclassified
        from the outset.

    Raises:
        TypeError: for a threat model of another norm.
        ValueError: for a number out of range.

    References:
        Chen, Jordan and Wainwright, 2020, arXiv:1904.02144, Algorithm 2, with the
        constants of the authors' code.

    Differs from the paper: the closest of all boundary points is returned, not the
    last; bisections have a fixed length.
    """
    is_max_norm = is_linf("hop_skip_jump", threat)
    require_count("num_steps", num_steps, "40 is a good choice")
    require_count("num_samples", num_samples, "the paper uses 100")
    require_count("max_samples", max_samples, "the paper uses 10,000")
    require_count("num_trials", num_trials, "1000 is a good choice")
    require_count("batch_size", batch_size, "100 is a good choice")
    lowest, highest = (-1.0, 2.0) if threat.bounds is None else threat.bounds
    spread = 1.0 if threat.bounds is None else highest - lowest

    @checked(threat)
    def attack(
        key: PRNGKey, logits_fn: LogitsFn, images: Images, labels: Labels
    ) -> AttackResult:
        batch, size = images.shape[0], images[0].size
        center = widened(images)
        dtype = center.dtype
        start_key, walk_key = jax.random.split(key)
        # The paper's precision of the bisection, in shares of the distance.
        precision = size ** (-2.0 if is_max_norm else -1.5)
        num_bisections = max(12, math.ceil(-math.log2(precision)))

        def is_wrong(points: jax.Array) -> jax.Array:
            return judge(logits_fn(points.astype(images.dtype)), labels)

        def where(flags: jax.Array, one: jax.Array, other: jax.Array) -> jax.Array:
            return jnp.where(per_example(flags, one), one, other)

        def start() -> tuple[jax.Array, jax.Array]:
            def is_open(carry: _Trials) -> jax.Array:
                index, _, is_found = carry
                return (index < num_trials) & ~jnp.all(is_found)

            def body(carry: _Trials) -> _Trials:
                index, points, is_found = carry
                drawn = jax.random.uniform(
                    jax.random.fold_in(start_key, index),
                    images.shape,
                    dtype,
                    minval=lowest,
                    maxval=highest,
                )
                is_new = ~is_found & is_wrong(drawn)
                return index + 1, where(is_new, drawn, points), is_found | is_new

            carry = (jnp.int32(0), center, is_wrong(center))
            return lax.while_loop(is_open, body, carry)[1:]

        def to_boundary(points: jax.Array) -> jax.Array:
            """The wrong end of a bisection between the clean image and a wrong one."""
            apart = points - center
            distance = threat.norm(apart)

            def blend(share: jax.Array) -> jax.Array:
                if is_max_norm:
                    reach = per_example(share * distance, apart)
                    return center + jnp.clip(apart, -reach, reach)
                return center + per_example(share, apart) * apart

            def body(
                _: jax.Array, ends: tuple[jax.Array, jax.Array]
            ) -> tuple[jax.Array, jax.Array]:
                right, wrong = ends
                middle = (right + wrong) / 2
                flags = is_wrong(blend(middle))
                return (
                    jnp.where(flags, right, middle),
                    jnp.where(flags, middle, wrong),
                )

            ends = (jnp.zeros(batch, dtype), jnp.ones(batch, dtype))
            _, wrong = lax.fori_loop(0, num_bisections, body, ends)
            return where(wrong < 1, blend(wrong), points)

        def normal(
            step_key: PRNGKey, points: jax.Array, spacing: jax.Array, count: jax.Array
        ) -> jax.Array:
            """The direction into the wrong side, from `count` decisions."""

            def body(
                index: jax.Array, sums: tuple[jax.Array, jax.Array, jax.Array]
            ) -> tuple[jax.Array, jax.Array, jax.Array]:
                shape = (batch * batch_size, *images.shape[1:])
                draw_key = jax.random.fold_in(step_key, index)
                if is_max_norm:
                    drawn = jax.random.uniform(draw_key, shape, dtype, minval=-1.0)
                else:
                    drawn = jax.random.normal(draw_key, shape, dtype)
                drawn = l2_normalize(drawn)
                drawn = drawn.reshape(batch, batch_size, *images.shape[1:])
                length = per_example(spacing, drawn)
                tried = threat.clip(points[:, None] + length * drawn)
                # What the pixel range leaves of the perturbations.
                drawn = (tried - points[:, None]) / length
                flags = evaluated_many(logits_fn, tried.astype(images.dtype), labels)[1]
                number = index * batch_size + jnp.arange(batch_size)
                is_counted = (number < count)[None]
                votes = jnp.where(flags, 1.0, -1.0).astype(dtype) * is_counted
                weights = jnp.broadcast_to(is_counted, votes.shape)
                of_votes, of_drawn, number_of = sums
                return (
                    of_votes + jnp.sum(per_example(votes, drawn) * drawn, axis=1),
                    of_drawn + jnp.sum(per_example(weights, drawn) * drawn, axis=1),
                    number_of + jnp.sum(votes, axis=1),
                )

            zeros = jnp.zeros_like(center)
            of_votes, of_drawn, vote = lax.fori_loop(
                0,
                (count + batch_size - 1) // batch_size,
                body,
                (zeros, zeros, jnp.zeros(batch, dtype)),
            )
            # The mean vote is taken off, which lowers the variance, unless all agree.
            mean = vote / jnp.maximum(count, 1)
            mean = jnp.where(jnp.abs(mean) < 1, mean, 0.0)
            return of_votes - per_example(mean, of_drawn) * of_drawn

        def advance(
            points: jax.Array, direction: jax.Array, length: jax.Array
        ) -> jax.Array:
            """Along the normal as far as allowed; back where no length is."""

            def is_open(carry: _Trials) -> jax.Array:
                index, _, is_done = carry
                return (index < _MAX_HALVINGS) & ~jnp.all(is_done)

            def body(carry: _Trials) -> _Trials:
                index, ahead, is_done = carry
                shorter = per_example(length / (2.0**index).astype(dtype), points)
                tried = threat.clip(points + shorter * direction)
                is_new = ~is_done & is_wrong(tried)
                return index + 1, where(is_new, tried, ahead), is_done | is_new

            carry = (jnp.int32(0), points, ~is_found)
            return lax.while_loop(is_open, body, carry)[1]

        def step(
            index: jax.Array, carry: tuple[jax.Array, jax.Array]
        ) -> tuple[jax.Array, jax.Array]:
            # Step 0 only bisects, so that the loop holds all there is to compile.
            points, best = carry
            distance = threat.norm(points - center)
            number = jnp.maximum(index, 1).astype(jnp.float32)
            # Both norms' rules of the paper come to the distance over the number of
            # pixels; at a distance of 0 any spacing will do.
            spacing = jnp.where(index == 1, 0.1 * spread, distance / size)
            spacing = jnp.where(distance > 0, spacing, spread)
            count = jnp.minimum(num_samples * jnp.sqrt(number), max_samples)
            count = jnp.where(index == 0, 0, count.astype(jnp.int32))
            direction = normal(
                jax.random.fold_in(walk_key, index), points, spacing, count
            )
            unit = jnp.sign(direction) if is_max_norm else l2_normalize(direction)
            moved = advance(points, unit, distance / jnp.sqrt(number))
            moved = to_boundary(moved)
            is_closer = threat.norm(moved - center) < threat.norm(best - center)
            return moved, where(is_closer, moved, best)

        points, is_found = start()
        _, best = lax.fori_loop(0, num_steps + 1, step, (points, points))
        best = where(is_found, best, center).astype(images.dtype)
        return evaluated(logits_fn, threat.project(best, images), labels)

    return attack
