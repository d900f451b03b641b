"""Numbers of settings by name, such as `objective.beta`, and as arrays."""

import dataclasses
import typing
from typing import Any, TypeVar

import jax
import numpy as np

from jaxrobust.arguments import require, require_choice
from jaxrobust.pytrees import Pytree

__all__ = ["as_arrays", "names_of", "with_number", "words_of"]

T = TypeVar("T")


def _fields(settings: Any) -> list[str]:
    return [
        field.name
        for field in dataclasses.fields(settings)
        if not field.metadata.get("static", False)
    ]


def _counts(settings: Any, field: str) -> bool:
    """Whether a field holds whole numbers only."""
    hint = typing.get_type_hints(type(settings)).get(field)
    kinds = typing.get_args(hint) or (hint,)
    return int in kinds and float not in kinds


def names_of(settings: Any) -> list[str]:
    """The names of all numbers that are traced, so that any of them may be swept.

    Args:
        settings: a dataclass; of its fields those count that are pytrees of ours, and
            in these the numbers.
    """
    names = []
    for field in _fields(settings):
        value = getattr(settings, field)
        if isinstance(value, Pytree):
            names += [f"{field}.{inner}" for inner in names_of(value)]
        elif isinstance(settings, Pytree):
            names.append(field)
    return names


def words_of(settings: Any, name: str) -> dict[str, Any]:
    """What is compiled into the programs of settings, by name: all but the numbers."""
    if not isinstance(settings, Pytree):
        return {name: jax.tree.structure(settings)}
    words: dict[str, Any] = {name: type(settings)}
    for field in dataclasses.fields(settings):  # type: ignore
        value, inner = getattr(settings, field.name), f"{name}.{field.name}"
        if field.metadata.get("static", False):
            words[inner] = value
        elif isinstance(value, Pytree):
            words |= words_of(value, inner)
        else:
            words[inner] = jax.tree.structure(value)  # whether there is a number
    return words


def with_number(settings: T, name: str, value: float) -> T:
    """The settings with another number.

    Raises:
        ValueError: if there is no number of that name, or the value is refused.
    """
    require_choice("number", name, names_of(settings))
    return _replaced(settings, name, name.split("."), value)


def _replaced(settings: Any, name: str, parts: list[str], value: float) -> Any:
    first, *rest = parts
    if rest:
        inner = _replaced(getattr(settings, first), name, rest, value)
    elif _counts(settings, first):
        require(float(value).is_integer(), name, "a whole number", value, "round it")
        inner = int(value)
    else:
        inner = float(value)
    return dataclasses.replace(settings, **{first: inner})


def as_arrays(settings: Any, length: int) -> Any:
    """Settings whose numbers are arrays `(length,)` of their value: float32 or int32.

    An objective that is no pytree of ours is returned as it is.
    """
    if not isinstance(settings, Pytree):
        return settings
    changes = {}
    for field in _fields(settings):
        value = getattr(settings, field)
        if isinstance(value, Pytree):
            changes[field] = as_arrays(value, length)
        else:
            kind = np.int32 if _counts(settings, field) else np.float32
            changes[field] = jax.tree.map(
                lambda it, k=kind: np.full(length, it, k), value
            )
    # Past `__init__`, whose checks are for numbers.
    new = object.__new__(type(settings))
    for field in dataclasses.fields(settings):  # type: ignore
        value = changes.get(field.name, getattr(settings, field.name))
        object.__setattr__(new, field.name, value)
    return new
