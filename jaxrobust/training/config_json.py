"""Configurations to JSON and back, and the difference between two of them."""

import dataclasses
import types
import typing
from typing import Any, TypeVar

__all__ = ["config_difference", "config_from_json", "config_to_json"]

T = TypeVar("T")


def config_to_json(config: Any) -> dict[str, Any]:
    """A frozen dataclass as plain dictionaries, lists and numbers."""
    return dataclasses.asdict(config)


def _decode(kind: Any, value: Any) -> Any:
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


def config_difference(before: Any, after: Any, place: str = "") -> list[str]:
    """Lines that name each field in which two JSON-like configurations differ."""
    if isinstance(before, dict) and isinstance(after, dict):
        lines = []
        for name in dict.fromkeys([*before, *after]):
            inner = f"{place}.{name}" if place else name
            lines += config_difference(before.get(name), after.get(name), inner)
        return lines
    if isinstance(before, list | tuple) and isinstance(after, list | tuple):
        if len(before) != len(after):
            return [f"{place}: {len(before)} entries, now {len(after)}"]
        pairs = zip(before, after, strict=True)
        return [
            line
            for index, (one, other) in enumerate(pairs)
            for line in config_difference(one, other, f"{place}[{index}]")
        ]
    return [] if before == after else [f"{place}: {before!r}, now {after!r}"]
