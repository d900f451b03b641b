"""Flax Linen modules as networks.

The module is called with the images, and with its mode if it takes one (`train`,
`training`, `deterministic`, ...). The collection `params` is trained; all others are
state, which the module may change in training mode only. What it draws at random
(`make_rng` of any name, as dropout does) comes from the key of the step.
"""

import dataclasses
from typing import Any

import jax
from flax import linen as nn
from flax.core import unfreeze

from jaxrobust.keys import seeded
from jaxrobust.networks.network import Network, Variables, in_mode
from jaxrobust.types import Images, Logits, PRNGKey

__all__ = ["from_linen"]


def from_linen(module: nn.Module) -> Network:
    """The network that a Linen module is; equal for equal modules."""
    return Network(Init(module), Apply(module))


def _streams(key: PRNGKey) -> dict[str, PRNGKey]:
    # Linen falls back to `params` for a name that is not there; the most usual one is
    # given all the same, since modules may ask whether they have it.
    return {"params": jax.random.fold_in(key, 0), "dropout": key}


def _has_tuple(tree: Any) -> bool:
    if isinstance(tree, dict):
        return any(map(_has_tuple, tree.values()))
    return isinstance(tree, tuple)


@dataclasses.dataclass(frozen=True)
class Init:
    """Fresh variables of a module."""

    module: nn.Module

    def __call__(self, key: PRNGKey, images: Images) -> Variables:
        """Parameters, and the other collections."""
        mode = in_mode(self.module.__call__, False)
        found = self.module.init(key, images, **mode)
        variables = nn.meta.unbox(unfreeze(found))
        params = variables.pop("params", {})
        sown = self._sown(params, variables, images)
        kept = {name: variables[name] for name in variables if name not in sown}
        return Variables(params, kept)

    def _sown(self, params: Any, state: dict[str, Any], images: Images) -> set[str]:
        """Collections that are written and never read: they grow with each call."""
        asked = [name for name, tree in state.items() if _has_tuple(tree)]
        if not asked:
            return set()

        def after(params: Any, state: Any, images: Any, key: Any) -> Any:
            mode = in_mode(self.module.__call__, True)
            variables = {"params": params, **state}
            rngs = _streams(key)
            _, found = self.module.apply(
                variables, images, **mode, rngs=rngs, mutable=list(state)
            )
            return unfreeze(found)

        key = jax.eval_shape(lambda: seeded(0))
        found = jax.eval_shape(after, params, state, images, key)
        form = jax.tree.structure
        return {name for name in asked if form(found[name]) != form(state[name])}


@dataclasses.dataclass(frozen=True)
class Apply:
    """Logits of a module."""

    module: nn.Module

    def __call__(
        self,
        variables: Variables,
        images: Images,
        *,
        train: bool,
        key: PRNGKey | None,
    ) -> tuple[Logits, Variables]:
        """Logits, and the variables with the collections that moved."""
        params, state = variables
        mode = in_mode(self.module.__call__, train)
        everything = {"params": params, **state}
        if not train:
            logits: Any = self.module.apply(everything, images, **mode)
            return logits, Variables(params, state)
        rngs = None if key is None else _streams(key)
        found: Any = self.module.apply(
            everything, images, **mode, rngs=rngs, mutable=list(state)
        )
        logits, moved = found
        return logits, Variables(params, {**state, **unfreeze(moved)})
