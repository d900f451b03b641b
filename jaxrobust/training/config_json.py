"""Configurations to JSON and back."""

import dataclasses
import types
import typing
from typing import Any, TypeVar

__all__ = ["config_from_json", "config_to_json"]

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
