"""Configurations to JSON and back."""

import collections.abc
import dataclasses
import difflib
import inspect
import types
import typing
from dataclasses import MISSING
from typing import Any, Literal, TypeVar

from jaxrobust.arguments import require
from jaxrobust.references import name_of, resolve
from jaxrobust.training.recipe.objectives import (
    OBJECTIVES,
    Objective,
    Unresolved,
    objective_name,
)
from jaxrobust.training.recipe.objectives.own_attack import (
    GIVEN_LABEL,
    OwnAttack,
    resolved_attack,
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
    if isinstance(value, OwnAttack):
        return _encode(kind, value.build, has_defaults)
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
    return f"{GIVEN_LABEL}{told}"


def resolved_objective(objective: Any) -> Any:
    """An objective, or what transforms one, with what a run only names.

    Runs the code that the name names.

    Raises:
        ValueError: if there is no such thing, or it has other fields.
    """
    if isinstance(objective, Unresolved):
        value = resolve(objective.name, what="objective").value
        is_class = isinstance(value, type)
        return config_from_json(value, objective.settings) if is_class else value
    attack = getattr(objective, "attack", None)
    if isinstance(attack, OwnAttack):
        return dataclasses.replace(objective, attack=resolved_attack(attack))
    inner = getattr(objective, "objective", None)
    if inner is None:
        return objective
    return dataclasses.replace(objective, objective=resolved_objective(inner))


def config_from_json(
    kind: type[T], record: dict[str, Any], *, place: str = "", **made: Any
) -> T:
    """The inverse of `config_to_json`.

    Args:
        kind: a frozen dataclass.
        record: its fields; those that it lacks have their defaults.
        place: of the record in the whole, such as `phases[0].`, for messages.
        **made: fields that are no JSON.

    Raises:
        ValueError: for a field that `kind` does not have, with the nearest that it
            has; for one that is missing; or for a value of another type.
    """
    hints = typing.get_type_hints(kind)
    for name in record:
        if name not in hints:
            near = difflib.get_close_matches(name, hints, 1)
            remedy = f"did you mean {near[0]!r}?" if near else "leave it out."
            raise ValueError(
                f"`{place.rstrip('.') or kind.__name__}` must be made of "
                f"{', '.join(hints)}, got {name!r}; {remedy}"
            )
    for field in dataclasses.fields(kind):  # type: ignore
        has_default = (field.default, field.default_factory) != (MISSING, MISSING)
        rule = "there, since it has no default"
        is_there = has_default or field.name in {*record, *made}
        require(is_there, f"{place}{field.name}", rule, None, "add it")
    fields = {
        name: _decode(hints[name], value, f"{place}{name}")
        for name, value in record.items()
    }
    return kind(**fields, **made)


def _decode(kind: Any, value: Any, place: str) -> Any:
    rule = f"of the type {_type_name(kind)}"
    require(_is_of(kind, value), place, rule, value, "correct it")
    if kind == Objective:
        return _objective_from_json(value, place)
    if _is_dataclass(kind):
        return config_from_json(kind, value, place=f"{place}.")
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        return tuple(
            _decode(arguments[0], item, f"{place}[{index}]")
            for index, item in enumerate(value)
        )
    if origin in UNIONS and value is not None:
        fitting = next(inner for inner in arguments if _is_of(inner, value))
        return _decode(fitting, value, place)
    return value


def _objective_from_json(record: dict[str, Any], place: str) -> Any:
    """An objective of ours; nothing that a file names is imported."""
    settings = dict(record)
    name = settings.pop("name", None)
    is_named = isinstance(name, str)
    require(is_named, f"{place}.name", "the name of an objective", name, "add it")
    if name in OBJECTIVES:
        return config_from_json(OBJECTIVES[name], settings, place=f"{place}.")
    return Unresolved(name, settings)


UNIONS = (typing.Union, types.UnionType)


def _is_dataclass(kind: Any) -> bool:
    return dataclasses.is_dataclass(kind) and isinstance(kind, type)


def _is_of(kind: Any, value: Any) -> bool:
    """Whether a value of JSON, or of TOML, may be made into one of a type."""
    origin = typing.get_origin(kind)
    if kind == Objective or _is_dataclass(kind) or origin is collections.abc.Mapping:
        return isinstance(value, dict)
    if origin in UNIONS:
        return any(_is_of(inner, value) for inner in typing.get_args(kind))
    if origin is Literal:
        return value in typing.get_args(kind)
    if origin is tuple:
        return isinstance(value, list | tuple)
    if kind is float:
        return isinstance(value, float | int) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind is types.NoneType:
        return value is None
    # A function is named by a text, which its union has beside it.
    return kind in (bool, str) and isinstance(value, kind)


def _type_name(kind: Any) -> str:
    if kind == Objective or _is_dataclass(kind):
        return "table"
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in UNIONS:
        names = [_type_name(inner) for inner in arguments if _is_named(inner)]
        return " or ".join(dict.fromkeys(names))
    if origin is Literal:
        return " or ".join(map(repr, arguments))
    if origin is tuple:
        return "list"
    return {types.NoneType: "null", str: "text", float: "number"}.get(
        kind, getattr(kind, "__name__", str(kind))
    )


def _is_named(kind: Any) -> bool:
    return typing.get_origin(kind) is not collections.abc.Callable
