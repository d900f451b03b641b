"""MI-FGSM: signed steps along a running sum of the gradients."""

from typing import get_args

import jax.numpy as jnp

from jaxrobust.arguments import require_choice, require_count, require_in
from jaxrobust.attacks.base import (
    Attack,
    AttackInfo,
    AttackKernel,
    AttackState,
    Keep,
    iterate,
    per_example,
)
from jaxrobust.attacks.builders import costs
from jaxrobust.attacks.gradient import Loss, climbed, pgd_kernel
from jaxrobust.threat import ThreatModel
from jaxrobust.types import Images, Labels, LogitsFn, PRNGKey, Scalar, widened

__all__ = ["mi_fgsm"]


def _shortened(gradient: Images) -> Images:
    """Gradients divided by their l_1 norm, widened; 0 where that is 0 or infinite."""
    wide = widened(gradient)
    axes = tuple(range(1, wide.ndim))
    # By the largest value first, or the sum would lose tiny and huge gradients.
    largest = jnp.max(jnp.abs(wide), axis=axes, initial=0.0)
    is_usable = (largest > 0) & jnp.isfinite(largest)
    scaled = wide / per_example(jnp.where(is_usable, largest, 1.0), wide)
    total = jnp.where(is_usable, jnp.sum(jnp.abs(scaled), axis=axes), 1.0)
    return jnp.where(per_example(is_usable, wide), scaled / per_example(total, wide), 0)


def _kernel(
    climbing: AttackKernel,
    threat: ThreatModel,
    *,
    step_size: Scalar,
    momentum: Scalar,
) -> AttackKernel:
    """That of PGD, with steps along the sum of the gradients so far."""

    def init(
        key: PRNGKey, logits_fn: LogitsFn, images: Images, labels: Labels
    ) -> AttackState:
        state = climbing.init(key, logits_fn, images, labels)
        return state._replace(memory=jnp.zeros_like(widened(images)))

    def step(
        key: PRNGKey, logits_fn: LogitsFn, state: AttackState
    ) -> tuple[AttackState, AttackInfo]:
        del key
        gradient, state, info = climbed(climbing.evaluate, logits_fn, state)
        memory = momentum * state.memory + _shortened(gradient)
        memory = memory.astype(state.memory.dtype)
        moved = threat.ascend(state.images, memory, step_size)
        images = threat.project(moved.astype(state.images.dtype), state.center)
        return state._replace(images=images, memory=memory), info

    return climbing._replace(init=init, step=step)


@costs(lambda num_steps, **_: 3 * num_steps + 1)
def mi_fgsm(
    threat: ThreatModel,
    *,
    num_steps: Scalar = 10,
    momentum: Scalar = 1.0,
    step_size: Scalar | None = None,
    loss: Loss = "cross_entropy",
    random_start: bool = False,
    targets: Labels | None = None,
    must_hit: bool = False,
    keep: Keep = "last",
) -> Attack:
    r"""The momentum iterative fast gradient sign method (MI-FGSM, Dong et al., 2018).

    From the clean image, :math:`x_{t+1} = x_t + \alpha\, \mathrm{sign}(g_{t+1})` with
    :math:`g_{t+1} = \mu g_t + \nabla L(x_t) / \|\nabla L(x_t)\|_1`; in l_2 the step is
    :math:`\alpha g_{t+1} / \|g_{t+1}\|_2`. It was made for examples that fool other
    models, too (`transferred_from`); to judge a model by its own gradients, Auto-PGD is
    the better choice.

    Args:
        threat: the set to stay in; the radius may be traced.
        num_steps: at least 1; may be traced.
        momentum: :math:`\mu`, at least 0, what a step keeps of the sum before it; 0 is
            the iterative FGSM (Kurakin et al., 2017, arXiv:1607.02533). May be traced.
        step_size: :math:`\alpha`, in the threat's norm and units of [0, 1] pixels; may
            be traced. None takes `epsilon / num_steps`.
        loss: "cross_entropy", "margin", "dlr", or a function `(logits, labels) ->
            (batch,)`.
        random_start: start uniformly in the ball rather than at the clean image.
        targets: `(batch,)`, classes that the search is steered at.
        must_hit: whether only an answer with the target is a success.
        keep: "last" or "best" iterate.

    Returns:
        An attack `(key, logits_fn, images, labels) -> AttackResult`.

    Raises:
        ValueError: for an unknown word or a number out of range, when it is known to
            Python; for `must_hit` without targets.

    References:
        Dong et al., 2018, arXiv:1710.06081, Algorithm 1 and Section 3.3.

    Differs from the paper: iterates are projected after every step, which with
    `step_size=None` only the pixel range needs. In other norms than l_inf and l_2 the
    step is that of PGD.
    """
    require_choice("keep", keep, get_args(Keep))
    require_count("num_steps", num_steps, "the paper's number is 10")
    require_in("momentum", momentum, "[0, inf)", "the paper's decay factor is 1")
    if step_size is None:
        # At radius 0 a step of length 0 is right, so it is not checked as one given is.
        step_size = jnp.asarray(threat.epsilon, float) / num_steps
    climbing = pgd_kernel(
        threat,
        step_size=step_size,
        loss=loss,
        random_start=random_start,
        targets=targets,
        must_hit=must_hit,
    )
    kernel = _kernel(climbing, threat, step_size=step_size, momentum=momentum)
    return iterate(kernel, num_steps=num_steps, keep=keep)
