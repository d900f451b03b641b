"""What attacks that only look at logits share: margins and judgements of images.

Such attacks find what gradients hide. A model that withstands PGD and falls to one of
them has masked its gradients; it is not robust. They climb the margin loss, count a
success by `judge`, and never take a derivative of the model.
"""

import jax
import jax.numpy as jnp

from jaxrobust.attacks.base import AttackResult, judge, per_example
from jaxrobust.losses import margin
from jaxrobust.threat import L2Ball, LinfBall, ThreatModel
from jaxrobust.types import Images, Labels, LogitsFn

__all__ = [
    "evaluated",
    "evaluated_many",
    "is_linf",
    "replaced",
]


def is_linf(name: str, threat: ThreatModel) -> bool:
    """Whether a threat is the l_inf rather than the l_2 ball.

    Raises:
        TypeError: for any other threat model.
    """
    if isinstance(threat, LinfBall):
        return True
    if isinstance(threat, L2Ball):
        return False
    raise TypeError(
        f"`threat` must be a LinfBall or an L2Ball for {name}, got "
        f"{type(threat).__name__}; {name} is only defined for these two norms."
    )


def evaluated(logits_fn: LogitsFn, images: Images, labels: Labels) -> AttackResult:
    """What an attack without gradients reports of its images: margin and judgement."""
    logits = logits_fn(images)
    is_finite = jnp.ones(images.shape[:1], bool)
    is_adversarial = judge(logits, labels)
    return AttackResult(images, margin(logits, labels), is_adversarial, is_finite)


def evaluated_many(
    logits_fn: LogitsFn, images: jax.Array, labels: Labels
) -> tuple[jax.Array, jax.Array]:
    """Margin and judgement of several images per example, both `(batch, several)`."""
    batch, count = images.shape[:2]
    found = evaluated(
        logits_fn,
        images.reshape(batch * count, *images.shape[2:]),
        jnp.repeat(labels, count),
    )
    shape = (batch, count)
    return found.loss.reshape(shape), found.is_adversarial.reshape(shape)


def replaced(
    is_replaced: jax.Array, new: AttackResult, old: AttackResult
) -> AttackResult:
    """Per example the new result or the old one."""

    def choose(one: jax.Array, other: jax.Array) -> jax.Array:
        return jnp.where(per_example(is_replaced, one), one, other)

    return jax.tree.map(choose, new, old)
