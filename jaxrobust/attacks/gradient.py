"""Projected gradient descent, and the fast gradient sign method as its single step."""

from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.arguments import require, require_choice, require_count, require_in
from jaxrobust.attacks.base import (
    Attack,
    AttackInfo,
    AttackKernel,
    AttackState,
    Keep,
    iterate,
    judge,
)
from jaxrobust.attacks.builders import costs
from jaxrobust.losses import LossName, towards
from jaxrobust.threat import ThreatModel, l2_normalize
from jaxrobust.types import (
    Images,
    Labels,
    Logits,
    LogitsFn,
    PerExample,
    PRNGKey,
    Scalar,
    widened,
)

__all__ = [
    "Direction",
    "Loss",
    "climbed",
    "fgsm",
    "num_steps_for",
    "pgd",
    "pgd_kernel",
]

Direction = Literal["steepest", "sign", "raw", "l2"]
Loss = LossName | Callable[[Logits, Labels], PerExample]

_REMEDY = "it is in units of [0, 1] pixels, such as 0.01"


def num_steps_for(
    epsilon: float | np.ndarray, step_size: float, *, factor: float = 2.5
) -> int | np.ndarray:
    """Number of PGD steps that can cross a ball `factor` times.

    `floor(factor * epsilon / step_size + 1e-9)`, in float64 on the host. The small
    term mends quotients such as 2.5 * .18 / .01 = 44.999..., which the authors' code
    truncates to 44 where 45 is meant.

    Args:
        epsilon: radius, in pixels of [0, 1]; one number or an array of them.
        step_size: in the same unit, positive.
        factor: how many radii the steps add up to.

    Raises:
        ValueError: if `step_size` is not positive or `epsilon` is negative.

    References:
        Shaeiri et al., 2020, arXiv:2003.13370, whose factor is 2.5.
    """
    require_in("step_size", step_size, "(0, inf)", _REMEDY)
    require_in("epsilon", epsilon, "[0, inf)", "radii are in units of [0, 1] pixels")
    steps = np.floor(factor * np.asarray(epsilon, np.float64) / step_size + 1e-9)
    return steps.astype(np.int32) if steps.ndim else int(steps)


def climbed(
    evaluate: Callable[[Logits, Labels], AttackInfo],
    logits_fn: LogitsFn,
    state: AttackState,
) -> tuple[Images, AttackState, AttackInfo]:
    """The gradient of the loss at an iterate, as every kernel that climbs one takes it.

    Args:
        evaluate: of the kernel, whose loss is climbed.
        logits_fn: the model.
        state: whose images are the iterate.

    Returns:
        The gradient, of the shape of the images, with 0 where it is not a number; the
        state, which notes the examples whose gradient is not finite; and what was seen.
    """

    def objective(images: Images) -> tuple[jax.Array, AttackInfo]:
        info = evaluate(logits_fn(images), state.labels)
        return jnp.sum(info.loss), info

    gradient, info = jax.grad(objective, has_aux=True)(state.images)
    axes = tuple(range(1, gradient.ndim))
    is_finite = state.is_gradient_finite & jnp.all(jnp.isfinite(gradient), axis=axes)
    gradient = jnp.where(jnp.isnan(gradient), 0, gradient)
    return gradient, state._replace(is_gradient_finite=is_finite), info


def pgd_kernel(
    threat: ThreatModel,
    *,
    step_size: Scalar,
    direction: Direction = "steepest",
    loss: Loss = "cross_entropy",
    random_start: bool = True,
    start: Images | None = None,
    targets: Labels | None = None,
    must_hit: bool = False,
) -> AttackKernel:
    """The step of projected gradient descent; see `pgd`."""
    require_choice("direction", direction, get_args(Direction))
    if isinstance(loss, str):
        require_choice("loss", loss, get_args(LossName))
    require_in("step_size", step_size, "(0, inf)", _REMEDY)
    remedy = "give `targets`, the classes to be taken for"
    is_aimed = targets is not None or not must_hit
    require(is_aimed, "must_hit", "False without targets", must_hit, remedy)
    loss_fn = towards(loss, targets, must_hit=must_hit)
    forced = {
        "sign": jnp.sign,
        "raw": lambda gradient: gradient,
        "l2": l2_normalize,
    }

    def evaluate(logits: Logits, labels: Labels) -> AttackInfo:
        if must_hit and targets is not None:
            is_adversarial = judge(logits, targets, must_hit=True)
        else:
            is_adversarial = judge(logits, labels)
        return AttackInfo(loss_fn(logits, labels).astype(jnp.float32), is_adversarial)

    def init(
        key: PRNGKey, logits_fn: LogitsFn, images: Images, labels: Labels
    ) -> AttackState:
        del logits_fn
        if start is not None:
            first = threat.project(start, images)
        else:
            first = threat.sample(key, images) if random_start else images
        is_finite = jnp.ones(images.shape[:1], bool)
        return AttackState(first, images, labels, is_finite)

    def step(
        key: PRNGKey, logits_fn: LogitsFn, state: AttackState
    ) -> tuple[AttackState, AttackInfo]:
        del key
        gradient, state, info = climbed(evaluate, logits_fn, state)
        if direction == "steepest":
            moved = threat.ascend(state.images, gradient, step_size)
        else:
            moved = state.images + step_size * widened(forced[direction](gradient))
        images = threat.project(moved.astype(state.images.dtype), state.center)
        return state._replace(images=images), info

    return AttackKernel(init, step, evaluate, threat)


@costs(lambda num_steps, **_: 3 * num_steps + 1)
def pgd(
    threat: ThreatModel,
    *,
    step_size: Scalar,
    num_steps: Scalar,
    direction: Direction = "steepest",
    loss: Loss = "cross_entropy",
    random_start: bool = True,
    start: Images | None = None,
    targets: Labels | None = None,
    must_hit: bool = False,
    keep: Keep = "last",
) -> Attack:
    """Projected gradient descent (Madry et al., 2018, arXiv:1706.06083).

    From a start in the ball, repeat: move by `step_size` along the direction of the
    gradient of the loss, project on the ball, clip to the pixel range. Everything
    numeric (`threat.epsilon`, `step_size`, `num_steps`) may be traced or mapped.

    Args:
        threat: the set to stay in.
        step_size: length of a step, in the threat's norm and units of [0, 1] pixels;
            with `direction="raw"` it multiplies the gradient itself.
        num_steps: at least 0; `num_steps_for` gives the paper's number.
        direction: "steepest" climbs as the threat's norm has it (`ascend`: in l_1 in a
            hundredth of the values, in l_0 along the gradient); "sign", "raw" and "l2"
            (each example's gradient divided by its Euclidean length) force one.
        loss: "cross_entropy", "margin", "dlr", or a function `(logits, labels) ->
            (batch,)`.
        random_start: start uniformly in the ball rather than at the clean image.
        start: images of the same shape, to start at in place of both, moved into the
            ball; then the attack is one on these images only.
        targets: `(batch,)`, classes that the search is steered at; any wrong answer is
            a success all the same.
        must_hit: whether only an answer with the target is a success.
        keep: "last" or "best" iterate.

    Returns:
        An attack `(key, logits_fn, images, labels) -> AttackResult`.

    Raises:
        ValueError: for an unknown choice, a step size that is not positive, or a
            negative number of steps, when these are known to Python; for `must_hit`
            without targets.
    """
    require_choice("keep", keep, get_args(Keep))
    remedy = "`num_steps_for(epsilon, step_size)` gives the paper's choice"
    require_count("num_steps", num_steps, remedy, least=0)
    kernel = pgd_kernel(
        threat,
        step_size=step_size,
        direction=direction,
        loss=loss,
        random_start=random_start,
        start=start,
        targets=targets,
        must_hit=must_hit,
    )
    return iterate(kernel, num_steps=num_steps, keep=keep)


@costs(lambda **_: 4)
def fgsm(
    threat: ThreatModel,
    *,
    loss: Loss = "cross_entropy",
    random_start: bool = False,
    targets: Labels | None = None,
    must_hit: bool = False,
) -> Attack:
    """The fast gradient sign method: one PGD step as long as the radius.

    With an l2 threat the step follows the normalized gradient (fast gradient method).
    Arguments are those of `pgd`.

    References:
        Goodfellow et al., 2015, arXiv:1412.6572.
    """
    # At radius 0 a step of length 0 is right, so the check of `pgd` does not apply.
    return pgd(
        threat,
        step_size=jnp.asarray(threat.epsilon, float),
        num_steps=1,
        loss=loss,
        random_start=random_start,
        targets=targets,
        must_hit=must_hit,
    )
