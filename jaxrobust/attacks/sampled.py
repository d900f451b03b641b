"""Images drawn at random: corners of the ball by brute force, and plain noise."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer

from jaxrobust.arguments import require_choice, require_count
from jaxrobust.attacks.base import (
    Attack,
    AttackResult,
    better,
    checked,
    nothing_found,
    per_example,
)
from jaxrobust.attacks.loops import repeated
from jaxrobust.attacks.querying import (
    evaluated,
    evaluated_many,
    is_linf,
    replaced,
)
from jaxrobust.attacks.random_bits import bits, words_for
from jaxrobust.threat import ThreatModel, l2_normalize
from jaxrobust.types import Images, Labels, LogitsFn, PRNGKey, Scalar, widened

__all__ = ["NoiseKind", "brute_force", "noise"]

NoiseKind = Literal["uniform", "gaussian"]

# Turns taken, the best so far, and what is to be tried next.
_Turns = tuple[jax.Array, AttackResult, jax.Array]


def brute_force(
    threat: ThreatModel, *, num_samples: Scalar, batch_size: int = 128
) -> Attack:
    """Random corners of the ball, as many as one can afford.

    Under l_inf every pixel moves by `+-epsilon`, by a fair coin, and is clipped to the
    pixel range; under l2 the direction is uniform on the sphere of radius `epsilon`.
    The first sample that fools the model is kept, or the one of highest margin. The
    loop ends when all examples are fooled. Samples are drawn, judged and forgotten, so
    memory does not grow with their number.

    Args:
        threat: an l_inf or l2 ball; the radius may be traced.
        num_samples: of each example, exactly; at least 1; may be traced.
            Shaeiri et al. (2020, checklist item 8) take 1e8, which float32 models on an
            accelerator reach in hours an image.
        batch_size: samples of each image judged at once, which sets the memory needed.

    Returns:
        An attack; the loss is the margin.

    Raises:
        TypeError: for a threat model of another norm.
        ValueError: for a number out of range; the loop counts in 32 bits.
    """
    is_corner = is_linf("brute_force", threat)
    require_count("batch_size", batch_size, "the checklist uses 128", most=2**24)
    remedy = "the checklist uses 100_000_000"
    require_count("num_samples", num_samples, remedy, most=2**31 - 1 - batch_size)

    @checked(threat)
    def attack(
        key: PRNGKey, logits_fn: LogitsFn, images: Images, labels: Labels
    ) -> AttackResult:
        batch, size = images.shape[0], images[0].size
        several = (batch, batch_size, *images.shape[1:])
        lower, upper = threat.corners(images) if is_corner else (images, images)

        def draw(turn_key: PRNGKey) -> jax.Array:
            if is_corner:
                shape = (batch, batch_size, words_for(size))
                words = jax.random.bits(turn_key, shape, jnp.uint32)
                is_up = bits(words, size).reshape(several)
                return jnp.where(is_up, upper[:, None], lower[:, None])
            wide = widened(images)[:, None]
            directions = jax.random.normal(turn_key, several, wide.dtype)
            flat = directions.reshape(batch * batch_size, *images.shape[1:])
            directions = l2_normalize(flat).reshape(several)
            moved = wide + threat.radius(images) * directions
            project = jax.vmap(threat.project, in_axes=(1, None), out_axes=1)
            return project(moved.astype(images.dtype), images)

        def is_open(carry: _Turns) -> jax.Array:
            turn, best, _ = carry
            return (turn * batch_size < num_samples) & ~jnp.all(best.is_adversarial)

        def body(carry: _Turns) -> _Turns:
            turn, best, samples = carry  # made ahead, as in `square`
            losses, is_adversarial = evaluated_many(logits_fn, samples, labels)
            number = turn * batch_size + jnp.arange(batch_size)
            is_wanted = (number < num_samples)[None]
            is_adversarial &= is_wanted
            losses = jnp.where(is_wanted & ~jnp.isnan(losses), losses, -jnp.inf)
            # `argmax` takes the first of the successes, else the highest margin.
            is_any = jnp.any(is_adversarial, axis=1)
            chosen = jnp.where(
                is_any, jnp.argmax(is_adversarial, axis=1), jnp.argmax(losses, axis=1)
            )

            def pick(values: jax.Array) -> jax.Array:
                index = per_example(chosen[:, None], values)
                return jnp.take_along_axis(values, index, axis=1)[:, 0]

            picked = AttackResult(
                pick(samples), pick(losses), is_any, best.is_gradient_finite
            )
            is_new = is_any | (picked.loss > best.loss)
            is_new &= ~best.is_adversarial
            ahead = draw(jax.random.fold_in(key, turn + 1))
            return turn + 1, replaced(is_new, picked, best), ahead

        first = draw(jax.random.fold_in(key, 0))
        carry = (jnp.int32(0), nothing_found(images), first)
        best = lax.while_loop(is_open, body, carry)[1]
        # Once more alone: the margin is that of the returned images, whatever the batch
        # of samples did to its last digits.
        return evaluated(logits_fn, best.images, labels)

    return attack


def noise(
    threat: ThreatModel, *, kind: NoiseKind = "uniform", num_samples: Scalar = 1
) -> Attack:
    """Undirected noise: the weakest attack, and a floor for all others.

    Args:
        threat: the set to stay in; the radius may be traced.
        kind: "uniform" in the ball; or "gaussian", projected on it, with a standard
            deviation in each pixel of `epsilon` (l_inf) or `epsilon / sqrt(d)` (l2),
            where d counts pixels and channels.
        num_samples: of each example, at least 1, of which the strongest is kept: one
            that fools the model if there is any, then by the margin. May be traced.

    Returns:
        An attack; the loss is the margin.

    Raises:
        TypeError: for Gaussian noise and a threat model of another norm.
        ValueError: for an unknown kind or a number of samples below 1.
    """
    require_choice("kind", kind, get_args(NoiseKind))
    require_count("num_samples", num_samples, "1 draws once")
    is_per_pixel = kind == "gaussian" and is_linf("gaussian noise", threat)

    def draw(key: PRNGKey, images: Images) -> Images:
        if kind == "uniform":
            return threat.sample(key, images)
        deviation = threat.radius(images)
        if not is_per_pixel:
            deviation /= images[0].size ** 0.5
        wide = widened(images)
        moved = wide + deviation * jax.random.normal(key, images.shape, wide.dtype)
        return threat.project(moved.astype(images.dtype), images)

    @checked(threat, has_fixed_length=not isinstance(num_samples, Tracer))
    def attack(
        key: PRNGKey, logits_fn: LogitsFn, images: Images, labels: Labels
    ) -> AttackResult:
        def body(index: jax.Array, best: AttackResult) -> AttackResult:
            drawn = draw(jax.random.fold_in(key, index), images)
            return better(best, evaluated(logits_fn, drawn, labels))

        return repeated(num_samples, body, nothing_found(images))

    return attack
