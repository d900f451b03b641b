"""Auto-PGD: projected gradient descent that chooses its own step sizes."""

import dataclasses
from typing import NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer

from jaxrobust.arguments import require_choice, require_count, require_in
from jaxrobust.attacks.autopgd_l1 import climb_sparsely
from jaxrobust.attacks.base import (
    Attack,
    AttackResult,
    better,
    checked,
    judge,
    nothing_found,
    refuse_threat,
)
from jaxrobust.attacks.builders import costs
from jaxrobust.attacks.gradient import Loss
from jaxrobust.attacks.loops import repeated
from jaxrobust.losses import LossName, towards
from jaxrobust.threat import L0Ball, L1Ball, ThreatModel
from jaxrobust.types import (
    Images,
    Labels,
    LogitsFn,
    PerExample,
    PerExampleFlag,
    PRNGKey,
    Scalar,
    widened,
)

__all__ = ["auto_pgd", "sample_sphere"]


class _Search(NamedTuple):
    """Where the search stands; everything but the two counters is per example.

    Attributes:
        images: iterate, not yet evaluated.
        previous: the iterate before it.
        best_images: evaluated iterate of the highest loss, to start again from.
        best_gradient: of the loss there.
        best_loss: the loss there.
        checked_loss: the best loss at the last checkpoint.
        last_loss: of the last iterate evaluated.
        num_rises: steps since the last checkpoint that raised the loss.
        step_size: length of the next step.
        is_halved: the last checkpoint halved the step size.
        num_since: steps since the last checkpoint.
        window: how many there are between this checkpoint and the next.
    """

    images: Images
    previous: Images
    best_images: Images
    best_gradient: Images
    best_loss: PerExample
    checked_loss: PerExample
    last_loss: PerExample
    num_rises: PerExample
    step_size: PerExample
    is_halved: PerExampleFlag
    num_since: jax.Array
    window: jax.Array


def _spread(values: jax.Array, images: Images) -> jax.Array:
    return values.reshape(values.shape + (1,) * (images.ndim - 1))


def _choose(flag: PerExampleFlag, one: Images, other: Images) -> Images:
    return jnp.where(_spread(flag, one), one, other)


def sample_sphere(
    threat: ThreatModel, key: PRNGKey, center: Images, radius: Scalar
) -> Images:
    """Images at exactly `radius` from the clean ones, before the pixel range cuts.

    A draw from the unit ball is divided by its norm: for l_inf the noise is uniform,
    for l_2 its direction is.
    """
    unit = dataclasses.replace(threat, epsilon=1.0, bounds=None)
    wide = widened(center)
    noise = unit.sample(key, jnp.zeros_like(wide))
    noise = noise / _spread(jnp.maximum(threat.norm(noise), 1e-12), noise)
    moved = wide + radius * noise
    return threat.project(moved.astype(center.dtype), center)


@costs(lambda num_steps, num_samples, **_: (3 * num_steps + 1) * num_samples)
def auto_pgd(
    threat: ThreatModel,
    *,
    num_steps: Scalar = 100,
    loss: Loss = "cross_entropy",
    targets: Labels | None = None,
    momentum: float = 0.75,
    rho: float = 0.75,
    random_start: bool = True,
    num_samples: int = 1,
) -> Attack:
    """Auto-PGD (Croce & Hein, 2020): each example halves its own step size.

    Steps with momentum start at length `2 * epsilon`. At checkpoints, which come closer
    to each other from .22 to .06 of the steps, an example whose loss rose in no more
    than `rho` of the steps since the last one, or whose best loss did not rise although
    the step size stayed, halves its step size and starts again from its best iterate.
    The result is the strongest iterate of all: success first, then the loss.

    In l_1 steps are sparse (Croce & Hein, 2021): see `climb_sparsely`; momentum and
    `rho` play no part.

    Costs `num_steps * num_samples` backward and `(num_steps + 1) * num_samples` forward
    passes. Memory does not depend on the number of steps.

    Args:
        threat: the set to stay in: linf, l2, l1, or a norm of your own; not l0, whose
            ball is not convex.
        num_steps: at least 1; may be traced.
        loss: "cross_entropy", "margin", "dlr" or a function `(logits, labels) ->
            (batch,)`.
        targets: `(batch,)`, classes that the search is steered at: it climbs the
            targeted form of the loss. Success is any wrong answer.
        momentum: share of the new direction in a step, in (0, 1].
        rho: share of steps that have to raise the loss, in [0, 1].
        random_start: start on a random point of the sphere, rather than at the clean
            image.
        num_samples: evaluations over which gradient and loss are averaged at each
            iterate, for models that answer at random (EOT; see `randomized`). The
            mean of the logits decides on success.

    Returns:
        An attack `(key, logits_fn, images, labels) -> AttackResult`.

    Raises:
        TypeError: for an l0 ball.
        ValueError: for an unknown loss or a number out of range.

    References:
        Croce & Hein, 2020, arXiv:2003.01690, Algorithm 1; the authors' code for what
        the text leaves open (checkpoints, momentum after a restart). In l_1 Croce &
        Hein, 2021, arXiv:2103.01208, Algorithm 1.

    Differs from the authors' code: its first checkpoint compares the first loss with 0,
    here, as in the text, with the loss at the start. In l_1 the radius is the same
    throughout; theirs may begin at three times as much.
    """
    remedy = "its ball is not convex; take pgd with keep='best'"
    refuse_threat("auto_pgd", threat, (L0Ball,), remedy)
    if isinstance(loss, str):
        require_choice("loss", loss, get_args(LossName))
    remedy = "leave it out for the paper's choice"
    require_count("num_steps", num_steps, remedy)
    require_in("momentum", momentum, "(0, 1]", remedy)
    require_in("rho", rho, "[0, 1]", remedy)
    require_count("num_samples", num_samples, remedy)
    loss_fn = towards(loss, targets)
    steps = jnp.asarray(num_steps, jnp.int32)
    is_known = not isinstance(num_steps, Tracer)
    # In whole numbers, since .06 * 50 is only just 3 in floating point.
    first, shortest, decrement = (
        jnp.maximum(percent * steps // 100, 1) for percent in (22, 6, 3)
    )

    def averaged(evaluate, images: Images):
        """The mean of an evaluation over as many draws as were asked for."""
        if num_samples == 1:
            return evaluate(images)
        shapes = jax.eval_shape(evaluate, images)
        total = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        total = lax.fori_loop(
            0,
            num_samples,
            lambda _, total: jax.tree.map(jnp.add, total, evaluate(images)),
            total,
        )
        return jax.tree.map(lambda leaf: leaf / num_samples, total)

    @checked(threat)
    def attack(
        key: PRNGKey, logits_fn: LogitsFn, images: Images, labels: Labels
    ) -> AttackResult:
        batch = images.shape[0]

        def losses(images: Images) -> tuple[PerExample, jax.Array]:
            logits = logits_fn(images).astype(jnp.float32)
            return loss_fn(logits, labels).astype(jnp.float32), logits

        def with_gradient(images: Images) -> tuple[PerExample, jax.Array, Images]:
            # By the vector of ones: a sum over the batch could overflow.
            loss, pull, logits = jax.vjp(losses, images, has_aux=True)
            return loss, logits, widened(pull(jnp.ones_like(loss))[0])

        def look(images: Images) -> tuple[AttackResult, Images]:
            loss, logits, gradient = averaged(with_gradient, images)
            axes = tuple(range(1, gradient.ndim))
            is_finite = jnp.all(jnp.isfinite(gradient), axis=axes)
            found = AttackResult(images, loss, judge(logits, labels), is_finite)
            return found, jnp.where(jnp.isnan(gradient), 0, gradient)

        def project(moved: jax.Array) -> Images:
            return threat.project(moved.astype(images.dtype), images)

        def body(
            index: jax.Array, carry: tuple[_Search, AttackResult]
        ) -> tuple[_Search, AttackResult]:
            search, kept = carry
            found, gradient = look(search.images)
            loss = found.loss

            is_best = loss > search.best_loss
            best_loss = jnp.where(is_best, loss, search.best_loss)
            best_images = _choose(is_best, search.images, search.best_images)
            best_gradient = _choose(is_best, gradient, search.best_gradient)
            num_rises = search.num_rises + (loss > search.last_loss)

            is_check = search.num_since == search.window
            is_stuck = ~search.is_halved & (search.checked_loss >= best_loss)
            is_poor = num_rises <= rho * search.window.astype(jnp.float32)
            is_halved = is_check & (is_poor | is_stuck)
            step_size = search.step_size * jnp.where(is_halved, 0.5, 1.0)
            here = _choose(is_halved, best_images, search.images)
            gradient = _choose(is_halved, best_gradient, gradient)

            wide = widened(here)
            aim = project(wide + _spread(step_size, wide) * threat.steepest(gradient))
            share = jnp.where(index == 0, 1.0, momentum)
            moved = wide + share * (widened(aim) - wide)
            moved += (1 - share) * (wide - widened(search.previous))

            window = jnp.where(
                is_check,
                jnp.maximum(search.window - decrement, shortest),
                search.window,
            )
            search = _Search(
                images=project(moved),
                previous=here,
                best_images=best_images,
                best_gradient=best_gradient,
                best_loss=best_loss,
                checked_loss=jnp.where(is_check, best_loss, search.checked_loss),
                last_loss=loss,
                num_rises=jnp.where(is_check, 0.0, num_rises),
                step_size=step_size,
                is_halved=jnp.where(is_check, is_halved, search.is_halved),
                num_since=jnp.where(is_check, 0, search.num_since) + 1,
                window=window,
            )
            return search, better(kept, found)

        def climb(start: Images) -> tuple[Images, AttackResult]:
            low = jnp.full(batch, -jnp.inf, jnp.float32)
            search = _Search(
                images=start,
                previous=start,
                best_images=start,
                best_gradient=jnp.zeros_like(widened(images)),
                best_loss=low,
                checked_loss=low,
                last_loss=-low,  # nothing rises above it
                num_rises=jnp.zeros(batch, jnp.float32),
                step_size=jnp.full(batch, 2 * threat.radius(images)),
                is_halved=jnp.ones(batch, bool),
                num_since=jnp.asarray(0, jnp.int32),
                window=first,
            )
            carry = search, nothing_found(images)
            search, kept = repeated(steps, body, carry, is_known=is_known)
            return search.images, kept

        start = images
        if random_start:
            start = sample_sphere(threat, key, images, threat.epsilon)
        if isinstance(threat, L1Ball):
            moved, kept = climb_sparsely(
                threat, look, start, images, steps, is_known=is_known
            )
        else:
            moved, kept = climb(start)
        loss, logits = averaged(losses, moved)
        last = AttackResult(moved, loss, judge(logits, labels), jnp.ones(batch, bool))
        return better(kept, last)

    return attack
