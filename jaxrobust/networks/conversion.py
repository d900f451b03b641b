"""Whatever a user hands over, as a network."""

import dataclasses
import inspect
import sys
from collections.abc import Callable
from typing import Any

from flax import linen as nn

from jaxrobust.networks.linen import from_linen
from jaxrobust.networks.network import Network

__all__ = ["as_network"]

ACCEPTED = (
    "a Flax Linen, Flax NNX or Equinox module, a pair of functions (init, apply), the "
    "class of such a module, or a function of the number of classes that returns one "
    "of these"
)


def as_network(value: Any, num_classes: int) -> Network:
    """The network that a value is, or that it makes.

    Args:
        value: a module of Flax Linen, of Flax NNX or of Equinox (also with its
            `State`); a pair `(init, apply)`, see `Network`; or a class or function
            that makes one of these. That is called with `num_classes`, if it takes
            it, or, of a function, as its only argument that has no default. If it
            takes `rngs` it makes NNX modules, if it takes `key` Equinox modules, with
            fresh weights for every seed; modules of these two that are made already
            bring their weights along. How each is called is said in the module of its
            name.
        num_classes: number of logits.

    Returns:
        The network; equal, and with the same hash, for a module that is equal, or for
        the same class or function.

    Raises:
        TypeError: for anything else, or for a module that cannot be hashed.
        ValueError: for a class or function that wants to know more.
    """
    network = _converted(value, num_classes)
    try:
        hash(network)
    except TypeError as error:
        raise TypeError(
            f"`network` must be hashable, since compiled programs are kept by it, got "
            f"{type(value).__name__}, which is not ({error}); make arrays and lists "
            "among its fields tuples."
        ) from error
    return network


def _converted(value: Any, num_classes: int, *, is_made: bool = False) -> Network:
    if isinstance(value, Network):
        return value
    if isinstance(value, nn.Module):
        return from_linen(value)
    # Of a library that nobody has imported there are no modules.
    nnx, equinox = sys.modules.get("flax.nnx"), sys.modules.get("equinox")
    if nnx is not None and isinstance(value, nnx.Module):
        from jaxrobust.networks.nnx import from_nnx_module

        return from_nnx_module(value)
    if equinox is not None:
        module = value[0] if isinstance(value, tuple) and value else value
        if isinstance(module, equinox.Module):
            from jaxrobust.networks.equinox import from_equinox_module

            return from_equinox_module(value)
    if isinstance(value, tuple) and len(value) == 2 and all(map(callable, value)):
        return Network(*value)
    if not callable(value) or (is_made and not _is_maker(value)):
        shown = repr(value)
        raise TypeError(
            f"`network` must be {ACCEPTED}, got {shown[:80]}"
            f"{' ...' if len(shown) > 80 else ''}, of type {type(value).__name__}; "
            "hand over one of these."
        )
    return _made(value, num_classes)


def _parameters(value: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """What a class or function is called with."""
    if not isinstance(value, type):
        return dict(inspect.signature(value).parameters)
    # Not the signature of the class: metaclasses, as of NNX, take anything.
    named = inspect.signature(value.__init__).parameters
    return dict(list(named.items())[1:])


def _is_maker(value: Callable[..., Any]) -> bool:
    """Whether a callable that was itself made is to be called again: not logits."""
    names = {"num_classes", "rngs", "key"}
    return isinstance(value, type) or not names.isdisjoint(_parameters(value))


@dataclasses.dataclass(frozen=True)
class _Partial:
    """A class or function with its number of classes; equal for equal ones."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    named: tuple[tuple[str, Any], ...]

    def __call__(self, **random: Any) -> Any:
        return self.function(*self.arguments, **dict(self.named), **random)


def _made(value: Callable[..., Any], num_classes: int) -> Network:
    """The network that a class or function makes."""
    parameters = _parameters(value)
    required = [
        name
        for name, each in parameters.items()
        if each.default is each.empty
        and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]
    random = [name for name in ("rngs", "key") if name in parameters]
    wanted = [name for name in required if name not in (*random, "num_classes")]
    arguments: tuple[Any, ...] = ()
    named: dict[str, Any] = {}
    if "num_classes" in parameters:
        named = {"num_classes": num_classes}
    elif len(wanted) == 1 and not isinstance(value, type):
        arguments, wanted = (num_classes,), []
    if wanted:
        name = getattr(value, "__name__", repr(value))
        raise ValueError(
            f"`network` must be made of `num_classes` (and `rngs` or `key`) alone, got "
            f"{name}, which wants {', '.join(wanted)}; hand over a function of the "
            "number of classes that gives them."
        )
    if random:
        make = _Partial(value, arguments, tuple(named.items()))
        if random[0] == "rngs":
            from jaxrobust.networks.nnx import from_nnx

            return from_nnx(make)
        from jaxrobust.networks.equinox import from_equinox

        return from_equinox(make)
    return _converted(value(*arguments, **named), num_classes, is_made=True)
