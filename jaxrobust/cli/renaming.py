"""Flags that are spelled alike in all commands, whatever their fields are called."""

import dataclasses
from typing import Annotated, Any

import tyro

__all__ = ["with_flags"]


def with_flags(settings: type, **flags: str | None) -> Any:
    """A class of settings, some of whose fields have flags of other names, or none.

    A field that takes several values may have a plural; its flag does not, or commands
    that take one value and those that take several would not share it.

    Args:
        settings: a frozen dataclass whose fields are given by keyword.
        **flags: names of flags by fields, None for no flag; fields that it does not
            have are passed over.
    """

    def marked(field: dataclasses.Field) -> Any:
        name = flags[field.name]
        if name is None:
            return tyro.conf.Suppress[tyro.conf.Fixed[field.type]]
        return Annotated[field.type, tyro.conf.arg(name=name)]

    def default(field: dataclasses.Field) -> Any:
        if field.default_factory is dataclasses.MISSING:
            return dataclasses.field(default=field.default)
        return dataclasses.field(default_factory=field.default_factory)

    fields = [
        (field.name, marked(field), default(field))
        for field in dataclasses.fields(settings)
        if field.name in flags
    ]
    made = dataclasses.make_dataclass(
        settings.__name__, fields, bases=(settings,), frozen=True, kw_only=True
    )
    made.__doc__ = settings.__doc__
    return made
