"""Adversarial weight perturbation: train at weights that are a little worse."""

import dataclasses
from typing import Any

import jax
from jax import lax
from jaxtyping import Array

from jaxrobust.arguments import require_in
from jaxrobust.pytrees import Pytree
from jaxrobust.threat import ThreatModel, l2_norm, l2_normalize
from jaxrobust.training.recipe.model import Model
from jaxrobust.training.recipe.objectives.attacking import Attacking
from jaxrobust.training.recipe.objectives.base import Objective, Seen
from jaxrobust.training.recipe.objectives.trades import Trades
from jaxrobust.types import Images, Labels, PRNGKey

__all__ = ["AWP"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AWP(Pytree):
    """An objective at weights moved up its own gradient (AWP).

    Every array of parameters with more than one axis is moved along its gradient by
    `gamma` times its Euclidean length; others, such as biases, stay. Loss and gradient
    are those at the moved weights, and the gradient is applied to the weights as they
    were. Images are searched once, at the weights as they were, if the objective is an
    `Attacking` one; any other objective is computed twice.

    Raises:
        ValueError: for a length out of range.

    References:
        Wu et al., 2020, arXiv:2004.05884.
    """

    objective: Objective = Trades()
    """What is minimized."""
    gamma: float = 0.005
    """Length of the move, in lengths of the weights moved."""

    def __post_init__(self):
        require_in("gamma", self.gamma, "[0, inf)", "0.005 is that of the paper")

    def __call__(
        self,
        key: PRNGKey,
        model: Model,
        threat: ThreatModel,
        images: Images,
        labels: Labels,
    ) -> tuple[Array, Seen]:
        """Loss and what was seen at the moved weights; see `Objective`."""
        inner = self.objective
        if isinstance(inner, Attacking):
            found = inner.search(key, model, threat, images, labels)

        def loss_at(params: Any) -> tuple[Array, Seen]:
            there = model.with_params(params)
            if isinstance(inner, Attacking):
                return inner.loss(key, there, threat, found, images, labels)
            return inner(key, there, threat, images, labels)

        def move(weights: Array, gradient: Array) -> Array:
            if weights.ndim < 2:
                return weights
            # One example for the helpers: the whole array.
            length = self.gamma * l2_norm(lax.stop_gradient(weights)[None])[0]
            return weights + (length * l2_normalize(gradient[None])[0]).astype(
                weights.dtype
            )

        held = lax.stop_gradient(model.params)
        gradient, _ = jax.grad(loss_at, has_aux=True)(held)
        return loss_at(jax.tree.map(move, model.params, gradient))
