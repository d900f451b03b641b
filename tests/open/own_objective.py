"""An objective of a user's own, with an attack and numbers that can be swept."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxrobust.attacks import PGD
from jaxrobust.losses import cross_entropy
from jaxrobust.pytrees import Pytree
from jaxrobust.training import attacked, seen


@dataclasses.dataclass(frozen=True, kw_only=True)
class Paired(Pytree):
    """The cross-entropy, and beta times the squared distance of logits under attack."""

    beta: float = 0.5
    attack: PGD = PGD(step_size=0.05)

    def __call__(self, key, model, threat, images, labels):
        logits_fn = attacked(model, "eval", key)
        found = self.attack(threat)(key, logits_fn, images, labels)
        network_key = jax.random.fold_in(key, 2)
        logits, model = model.train(network_key, images)
        moved, model = model.train(network_key, found.images)
        loss = jnp.mean(cross_entropy(logits, labels))
        distance = jnp.mean(jnp.sum((moved - logits) ** 2, axis=1))
        flags = found.is_gradient_finite
        return loss + self.beta * distance, seen(model, moved, labels, flags)
