"""Configurations to JSON and back."""

import dataclasses
import inspect
import types
import typing
from typing import Any, TypeVar

from jaxrobust.references import name_of, resolve
from jaxrobust.training.recipe.objectives import (
    OBJECTIVES,
    Objective,
    Unresolved,
    objective_name,
)

__all__ = ["config_from_json", "config_to_json", "resolved_objective"]

T = TypeVar("T")


def config_to_json(config: Any, *, has_defaults: bool = True) -> dict[str, Any]:
    """A frozen dataclass as plain dictionaries, lists and numbers.

    An objective has its name beside its fields.

    Args:
        config: the dataclass.
        has_defaults: whether to write fields that have their default. Without them the
            same settings are written alike by versions that know more of them.
    """
    if isinstance(config, Unresolved):
        return {"name": config.name, **config.settings}
    hints = typing.get_type_hints(type(config))
    return {
        field.name: _encode(hints[field.name], value, has_defaults)
        for field in dataclasses.fields(config)
        if (value := getattr(config, field.name)) != field.default or has_defaults
    }


def _encode(kind: Any, value: Any, has_defaults: bool) -> Any:
    if kind == Objective:
        is_told = dataclasses.is_dataclass(value)
        own = config_to_json(value, has_defaults=has_defaults) if is_told else {}
        return {"name": objective_name(value), **own}
    if callable(value) and type(value) not in (kind, *typing.get_args(kind)):
        # A function of a user's own: what can be told of it.
        is_function = inspect.isroutine(value)
        return name_of(value) if is_function else _label(value)
    if dataclasses.is_dataclass(value):
        return config_to_json(value, has_defaults=has_defaults)
    if isinstance(value, tuple):
        arguments = typing.get_args(kind) or (None,)
        return [_encode(arguments[0], item, has_defaults) for item in value]
    return value


def _label(value: Any) -> str:
    """What tells a value that was handed over from others; it cannot be made of it."""
    told = repr(value) if dataclasses.is_dataclass(value) else name_of(type(value))
    return f"given: {told}"


def _objective_from_json(record: dict[str, Any]) -> Any:
    """An objective of ours; nothing that a file names is imported."""
    name, settings = record["name"], dict(record)
    del settings["name"]
    if name in OBJECTIVES:
        return config_from_json(OBJECTIVES[name], settings)
    return Unresolved(name, settings)


def resolved_objective(objective: Any) -> Any:
    """An objective, or what transforms one, with what a run only names.

    Runs the code that the name names.

    Raises:
        ValueError: if there is no such thing, or it has other fields.
    """
    if isinstance(objective, Unresolved):
        found = resolve(objective.name, what="objective").value
        is_class = isinstance(found, type)
        return config_from_json(found, objective.settings) if is_class else found
    inner = getattr(objective, "objective", None)
    if inner is None:
        return objective
    return dataclasses.replace(objective, objective=resolved_objective(inner))


def _decode(kind: Any, value: Any) -> Any:
    if kind == Objective:
        return _objective_from_json(value)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return config_from_json(kind, value)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        return tuple(_decode(arguments[0], item) for item in value)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        inner = [kind for kind in arguments if kind is not type(None)]
        return _decode(inner[0], value)
    return value


def config_from_json(kind: type[T], record: dict[str, Any]) -> T:
    """The inverse of `config_to_json`.

    Raises:
        ValueError: for a field that `kind` does not have.
    """
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(record) - set(hints))
    if unknown:
        raise ValueError(
            f"`{kind.__name__}` must be made of {', '.join(hints)}, "
            f"got {', '.join(unknown)}; the file is from another version of jaxrobust."
        )
    return kind(**{name: _decode(hints[name], value) for name, value in record.items()})
