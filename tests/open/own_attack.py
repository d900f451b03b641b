"""An attack of one's own: steps along the sign of the gradient."""

import jax
import jax.numpy as jnp

from jaxrobust.attacks import AttackResult, judge
from jaxrobust.losses import cross_entropy


def creeping(threat, *, num_steps=3):
    """Steps of a third of the radius along the sign of the gradient."""

    def attack(key, logits_fn, images, labels):
        def loss(moved):
            return jnp.sum(cross_entropy(logits_fn(moved), labels))

        moved = threat.sample(key, images)
        for _ in range(num_steps):
            step = threat.epsilon / 3 * jnp.sign(jax.grad(loss)(moved))
            moved = threat.project(moved + step, images)
        logits = logits_fn(moved)
        is_finite = jnp.ones(len(labels), bool)
        losses = cross_entropy(logits, labels)
        return AttackResult(moved, losses, judge(logits, labels), is_finite)

    return attack
