"""Projected gradient descent, and the fast gradient sign method as its single step."""

from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.arguments import require_choice, require_count, require_in
from jaxrobust.attacks.base import (
    Attack,
    AttackInfo,
    AttackKernel,
    AttackState,
    Keep,
    iterate,
    judge,
)
from jaxrobust.losses import LOSSES, LossName
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
    """Number of PGD steps that can cross a ball `factor` times: LP-A1.

    `floor(factor * epsilon / step_size + 1e-9)`, in float64 on the host. The small
    term mends quotients such as 2.5 * .18 / .01 = 44.999..., which the authors' code
    truncates to 44 where 45 is meant.

    Args:
        epsilon: radius, in pixels of [0, 1]; one number or an array of them.
        step_size: in the same unit, positive.
        factor: how many radii the steps add up to.

    Raises:
        ValueError: if `step_size` is not positive or `epsilon` is negative.
    """
    require_in("step_size", step_size, "(0, inf)", _REMEDY)
    require_in("epsilon", epsilon, "[0, inf)", "radii are in units of [0, 1] pixels")
    steps = np.floor(factor * np.asarray(epsilon, np.float64) / step_size + 1e-9)
    return steps.astype(np.int32) if steps.ndim else int(steps)


def pgd_kernel(
    threat: ThreatModel,
    *,
    step_size: Scalar,
    direction: Direction = "steepest",
    loss: Loss = "cross_entropy",
    random_start: bool = True,
    start: Images | None = None,
    targeted: bool = False,
) -> AttackKernel:
    """The step of projected gradient descent; see `pgd`."""
    require_choice("direction", direction, get_args(Direction))
    if isinstance(loss, str):
        require_choice("loss", loss, get_args(LossName))
    require_in("step_size", step_size, "(0, inf)", _REMEDY)
    loss_fn = LOSSES[loss] if isinstance(loss, str) else loss
    sign = -1.0 if targeted else 1.0
    climb = {
        "steepest": threat.steepest,
        "sign": jnp.sign,
        "raw": lambda gradient: gradient,
        "l2": l2_normalize,
    }[direction]

    def evaluate(logits: Logits, labels: Labels) -> AttackInfo:
        is_adversarial = judge(logits, labels, targeted=targeted)
        loss = (sign * loss_fn(logits, labels)).astype(jnp.float32)
        return AttackInfo(loss, is_adversarial)

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

        def objective(images: Images) -> tuple[jax.Array, AttackInfo]:
            info = evaluate(logits_fn(images), state.labels)
            return jnp.sum(info.loss), info

        gradient, info = jax.grad(objective, has_aux=True)(state.images)
        axes = tuple(range(1, gradient.ndim))
        is_finite = jnp.all(jnp.isfinite(gradient), axis=axes)
        gradient = jnp.where(jnp.isnan(gradient), 0, gradient)
        moved = state.images + step_size * widened(climb(gradient))
        images = threat.project(moved.astype(state.images.dtype), state.center)
        state = state._replace(
            images=images, is_gradient_finite=state.is_gradient_finite & is_finite
        )
        return state, info

    return AttackKernel(init, step, evaluate, threat)


def pgd(
    threat: ThreatModel,
    *,
    step_size: Scalar,
    num_steps: Scalar,
    direction: Direction = "steepest",
    loss: Loss = "cross_entropy",
    random_start: bool = True,
    start: Images | None = None,
    targeted: bool = False,
    keep: Keep = "last",
) -> Attack:
    """Projected gradient descent (Madry et al., 2018; facts 0.1).

    From a start in the ball, repeat: move by `step_size` along the direction of the
    gradient of the loss, project on the ball, clip to the pixel range. Everything
    numeric (`threat.epsilon`, `step_size`, `num_steps`) may be traced or mapped.

    Args:
        threat: the set to stay in.
        step_size: length of a step, in the threat's norm and units of [0, 1] pixels;
            with `direction="raw"` it multiplies the gradient itself (LP-A2: 5e4).
        num_steps: at least 0; `num_steps_for` gives the paper's number.
        direction: "steepest" climbs fastest in the threat's norm; "sign", "raw" and
            "l2" (each example's gradient divided by its Euclidean length) force one.
        loss: "cross_entropy", "margin", "dlr", or a function `(logits, labels) ->
            (batch,)`.
        random_start: start uniformly in the ball rather than at the clean image.
        start: images of the same shape, to start at in place of both, moved into the
            ball; then the attack is one on these images only.
        targeted: take `labels` as the classes to be mistaken for.
        keep: "last" or "best" iterate.

    Returns:
        An attack `(key, logits_fn, images, labels) -> AttackResult`.

    Raises:
        ValueError: for an unknown choice, a step size that is not positive, or a
            negative number of steps, when these are known to Python.
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
        targeted=targeted,
    )
    return iterate(kernel, num_steps=num_steps, keep=keep)


def fgsm(
    threat: ThreatModel,
    *,
    loss: Loss = "cross_entropy",
    random_start: bool = False,
    targeted: bool = False,
) -> Attack:
    """The fast gradient sign method: one PGD step as long as the radius.

    With an l2 threat the step follows the normalized gradient (fast gradient method).

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
        targeted=targeted,
    )
