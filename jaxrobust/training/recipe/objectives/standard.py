"""Standard training."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from jaxrobust.losses import cross_entropy
from jaxrobust.pytrees import Pytree
from jaxrobust.training.recipe.model import Model
from jaxrobust.training.recipe.objectives.base import Seen, seen
from jaxrobust.types import Images, Labels, PRNGKey

__all__ = ["Standard"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Standard(Pytree):
    """The cross-entropy on clean images."""

    def __call__(
        self, key: PRNGKey, model: Model, threat: Any, images: Images, labels: Labels
    ) -> tuple[Array, Seen]:
        """Loss and what was seen; see `Objective`."""
        del threat
        logits, model = model.train(key, images)
        return jnp.mean(cross_entropy(logits, labels)), seen(model, logits, labels)
