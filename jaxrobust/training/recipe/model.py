"""A network as it is at some step: what objectives train and attacks are given."""

import dataclasses
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxrobust.networks import Network, Variables
from jaxrobust.types import Images, LogitsFn, PRNGKey

__all__ = ["Model", "Precision", "applied", "bind"]

Precision = Literal["float32", "bfloat16"]


def _lowered(tree: Any, precision: Precision) -> Any:
    """Parameters or images as the network computes with them."""
    if precision == "float32":
        return tree
    return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), tree)


@dataclasses.dataclass(frozen=True)
class Model:
    """A network with its variables; pure: what changes is returned.

    Attributes:
        network: what it computes.
        variables: its parameters, in which a loss is differentiated, and its state.
        precision: of the forward pass. Logits are float32 whatever the precision, and
            so are gradients with respect to float32 images: only what lies between is
            rounded.
    """

    network: Network
    variables: Variables
    precision: Precision = "float32"

    def with_params(self, params: Any) -> "Model":
        """The same network with other parameters."""
        return dataclasses.replace(self, variables=Variables(params, self.state))

    @property
    def params(self) -> Any:
        """What gradients train."""
        return self.variables.params

    @property
    def state(self) -> Any:
        """Everything else that changes in training."""
        return self.variables.state

    def train(self, key: PRNGKey | None, images: Images) -> tuple[Array, "Model"]:
        """Logits in training mode, and the model after them, whose state moved on.

        Args:
            key: decides what is random in the network, such as dropout.
            images: (batch, height, width, channels).
        """
        logits, state = self._apply(images, train=True, key=key)
        variables = Variables(self.params, state)
        return logits, dataclasses.replace(self, variables=variables)

    def logits(self, images: Images) -> Array:
        """Logits in evaluation mode."""
        return self._apply(images, train=False, key=None)[0]

    def frozen(self) -> "Model":
        """The same model, into whose variables no gradient flows."""
        held = lax.stop_gradient(self.variables)
        return dataclasses.replace(self, variables=held)

    def _apply(self, images: Images, **mode: Any) -> tuple[Array, Any]:
        params, state = self.variables
        lowered = Variables(_lowered(params, self.precision), state)
        pixels = _lowered(images, self.precision)
        logits, (_, moved) = self.network.apply(lowered, pixels, **mode)
        if self.precision != "float32":
            moved = jax.tree.map(lambda new, old: new.astype(old.dtype), moved, state)
        return logits.astype(jnp.promote_types(images.dtype, jnp.float32)), moved


def bind(
    network: Network, variables: Variables, precision: Precision = "float32"
) -> LogitsFn:
    """A network with its variables, in evaluation mode, as a logits function."""
    return Model(network, variables, precision).logits


@lru_cache(maxsize=16)
def applied(
    network: Network, precision: Precision = "float32"
) -> Callable[[Variables], LogitsFn]:
    """From variables to the network in evaluation mode, by `bind`.

    Equal networks have one function, so that what is compiled for it serves them all.
    """
    return lambda variables: bind(network, variables, precision)
