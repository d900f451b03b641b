"""Flax NNX modules as networks.

A class or function that takes `rngs` makes a module with fresh weights for every key.
A module that is made already brings its weights along: they are where every seed
begins. `nnx.Param` is trained, other variables are state; the streams of random
numbers are no part of it, but begin anew from the key of each step.
"""

import dataclasses
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxrobust.keys import seeded
from jaxrobust.networks.network import Network, Variables, in_mode
from jaxrobust.networks.paths import by_path, nested, unnested
from jaxrobust.types import Images, Logits, PRNGKey

__all__ = ["from_nnx", "from_nnx_module"]

Make = Callable[..., nnx.Module]


def from_nnx(make: Make) -> Network:
    """The network of what makes modules, called as `make(rngs=...)`.

    Equal for equal callables.
    """
    return Network(Init(make), Apply(make))


def from_nnx_module(module: nnx.Module) -> Network:
    """The network of a module and its weights, which stay as they are."""
    return from_nnx(_Made(*nnx.split(nnx.clone(module))))


@dataclasses.dataclass(frozen=True, eq=False)
class _Made:
    """Makes the same module, with the same weights, again and again."""

    graph: Any
    values: Any

    def __call__(self, *, rngs: nnx.Rngs) -> nnx.Module:
        del rngs
        return nnx.merge(self.graph, self.values)


class _Form(NamedTuple):
    """What is known of a module without any numbers.

    Attributes:
        graph: its structure.
        params, streams, others: states of shapes, in the order of `_split`.
    """

    graph: Any
    params: Any
    streams: Any
    others: Any


def _split(module: nnx.Module) -> _Form:
    return _Form(*nnx.split(module, nnx.Param, nnx.RngState, ...))


def _made(make: Make, key: PRNGKey) -> nnx.Module:
    module = make(rngs=nnx.Rngs(key))
    if not isinstance(module, nnx.Module):
        raise TypeError(
            "`network` must make an NNX module where it takes `rngs`, got "
            f"{type(module).__name__}; return the module."
        )
    return module


@lru_cache(maxsize=64)
def _form(make: Make) -> _Form:
    return _split(nnx.eval_shape(lambda: _made(make, seeded(0))))


def _named(state: Any) -> dict[tuple[str, ...], Any]:
    """The arrays of a state by the names of their variables."""
    return {path[:-1]: leaf for path, leaf in by_path(state).items()}


def _filled(state: Any, leaves: dict[tuple[str, ...], Any]) -> Any:
    """A state of shapes with these arrays in their places."""
    values = [leaves[path] for path in _named(state)]
    return jax.tree.unflatten(jax.tree.structure(state), values)


def _begun(streams: Any, key: PRNGKey) -> Any:
    """Streams of random numbers at their beginnings, each with a key of its own."""

    def begun(index: int, leaf: Any) -> Any:
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jnp.zeros(leaf.shape, leaf.dtype)
        own = jax.random.fold_in(key, index)
        return jax.random.split(own, leaf.shape) if leaf.shape else own

    leaves, structure = jax.tree.flatten(streams)
    return jax.tree.unflatten(
        structure, [begun(index, leaf) for index, leaf in enumerate(leaves)]
    )


@dataclasses.dataclass(frozen=True)
class Init:
    """Fresh variables of a module."""

    make: Make

    def __call__(self, key: PRNGKey, images: Images) -> Variables:
        """Parameters, and the other variables."""
        del images
        found = _split(_made(self.make, key))
        return Variables(nested(_named(found.params)), nested(_named(found.others)))


@dataclasses.dataclass(frozen=True)
class Apply:
    """Logits of a module."""

    make: Make

    def __call__(
        self,
        variables: Variables,
        images: Images,
        *,
        train: bool,
        key: PRNGKey | None,
    ) -> tuple[Logits, Variables]:
        """Logits, and the variables as the call left them."""
        form, (params, state) = _form(self.make), variables
        others = unnested(state)
        # In evaluation nothing should be drawn; what is, is the same every time.
        streams = _begun(form.streams, seeded(0) if key is None else key)
        module = nnx.merge(
            form.graph,
            _filled(form.params, unnested(params)),
            streams,
            _filled(form.others, others),
        )
        if train:
            module.train()
        else:
            module.eval()
        logits = module(images, **in_mode(type(module).__call__, train))
        if not train:
            return logits, Variables(params, state)
        # What the call has added, such as sown values, is not of the network.
        left = _named(_split(module).others)
        moved = {path: left.get(path, leaf) for path, leaf in others.items()}
        return logits, Variables(params, nested(moved))
