"""Equinox modules as networks; Equinox is imported only where one is used.

A class or function that takes `key` makes a module, or a module with its
`equinox.nn.State`, with fresh weights for every key. (The class itself, also of a
module with a state: `make_with_state` of it hides what it takes.) A module that is made
already brings its weights along: they are where every seed begins. Arrays of floating
point are trained, other arrays and the `State` are state.

As is usual in Equinox, the module is called with one example `(height, width,
channels)` and mapped over the batch, by an axis of the name `batch`, over which batch
normalization takes its means (`eqx.nn.BatchNorm(..., axis_name="batch")`). A module
that takes a whole batch at once says so by an attribute `is_batched = True`. It is
called with what it takes by name, beside the images: `state`, in which case it returns
`(logits, state)`, `key`, and its mode. `equinox.nn.inference_mode` is set, too.
"""

import dataclasses
import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxrobust.keys import seeded
from jaxrobust.networks.network import Network, Variables, in_mode
from jaxrobust.networks.paths import by_path, nested, unnested
from jaxrobust.types import Images, Logits, PRNGKey

__all__ = ["from_equinox", "from_equinox_module"]

Make = Callable[..., Any]


def from_equinox(make: Make) -> Network:
    """The network of what makes modules, called as `make(key=...)`.

    Equal for equal callables.
    """
    return Network(Init(make), Apply(make))


def from_equinox_module(module: Any) -> Network:
    """The network of a module, or of `(module, State)`, and its weights."""
    return from_equinox(_Made(module))


@dataclasses.dataclass(frozen=True, eq=False)
class _Made:
    """Gives the same module, with the same weights, again and again."""

    module: Any

    def __call__(self, *, key: PRNGKey) -> Any:
        del key
        return self.module


def _made(make: Make, key: PRNGKey) -> tuple[Any, Any]:
    """The module, and its `State`, which may be empty."""
    found = make(key=key)
    if not isinstance(found, tuple):
        found = eqx.nn.make_with_state(lambda: found)()
    module = found[0]
    if not (isinstance(module, eqx.Module) and isinstance(found[1], eqx.nn.State)):
        raise TypeError(
            "`network` must make an Equinox module, or one with its State, where it "
            f"takes `key`, got {type(module).__name__}; return the module."
        )
    return found


class _Form(NamedTuple):
    """A module and its `State` with shapes in the place of arrays."""

    module: Any
    state: Any


@lru_cache(maxsize=64)
def _form(make: Make) -> _Form:
    key = seeded(0)
    return _Form(*eqx.filter_eval_shape(lambda key: _made(make, key), key))


def _filled(tree: Any, leaves: dict[tuple[str, ...], Any]) -> Any:
    """A tree with these arrays in their places, and its own leaves elsewhere."""
    values = [leaves.get(path, leaf) for path, leaf in by_path(tree).items()]
    return jax.tree.unflatten(jax.tree.structure(tree), values)


@dataclasses.dataclass(frozen=True)
class Init:
    """Fresh variables of a module."""

    make: Make

    def __call__(self, key: PRNGKey, images: Images) -> Variables:
        """Parameters; other arrays and the `State`."""
        del images
        module, state = _made(self.make, key)
        leaves = by_path(module)
        params = {
            path: leaf for path, leaf in leaves.items() if eqx.is_inexact_array(leaf)
        }
        others = {
            ("arrays", *path): leaf
            for path, leaf in leaves.items()
            if eqx.is_array(leaf) and path not in params
        }
        # Counters begin as weakly typed numbers, and would have another type later.
        others |= {
            ("state", *path): jnp.asarray(leaf, leaf.dtype)
            for path, leaf in by_path(state).items()
        }
        return Variables(nested(params), nested(others))


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
        """Logits, and the variables with the `State` as the call left it."""
        params, state = variables
        form = _form(self.make)
        parts: dict[str, dict[Any, Any]] = {"arrays": {}, "state": {}}
        for (part, *path), leaf in unnested(state).items():
            parts[part][tuple(path)] = leaf
        module = _filled(form.module, unnested(params) | parts["arrays"])
        module = eqx.nn.inference_mode(module, value=not train)
        logits, left = _called(
            module, _filled(form.state, parts["state"]), images, key, train
        )
        if not train:
            return logits, Variables(params, state)
        moved = {("state", *path): leaf for path, leaf in by_path(left).items()}
        return logits, Variables(params, nested(unnested(state) | moved))


def _called(
    module: Any, state: Any, images: Images, key: PRNGKey | None, train: bool
) -> tuple[Any, Any]:
    """Logits and `State`, by a call with what the module takes."""
    names = inspect.signature(type(module).__call__).parameters
    mode = in_mode(type(module).__call__, train)
    takes_state = "state" in names

    def call(images: Any, state: Any, key: Any) -> tuple[Any, Any]:
        given = dict(mode)
        if takes_state:
            given["state"] = state
        if "key" in names:
            given["key"] = key
        found = module(images, **given)
        return found if takes_state else (found, state)

    if getattr(module, "is_batched", False):
        return call(images, state, key)
    keys = None if key is None else jax.random.split(key, images.shape[0])
    mapped = jax.vmap(
        call,
        in_axes=(0, None, None if keys is None else 0),
        out_axes=(0, None),
        axis_name="batch",
    )
    return mapped(images, state, keys)
