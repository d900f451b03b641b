"""Changes of images named in text, such as `saturate(4)` or `own.py:fog`."""

import dataclasses
import difflib
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from jaxrobust.pytrees import Pytree, static
from jaxrobust.references import is_reference, resolve

__all__ = ["Given", "as_change", "change_of", "changes_in", "names_in", "spelled"]

_CALL = re.compile(r"(?P<name>[^()]+)(?:\((?P<numbers>[^()]*)\))?")
_WORDS = {"true": True, "false": False}


@dataclasses.dataclass(frozen=True)
class Given(Pytree):
    """A function of the caller's own, as structure of programs.

    Attributes:
        function: what is called.
        name: how it was named, for titles.
    """

    function: Callable[..., Any] = static()
    name: str = static()

    def __call__(self, *arguments: Any) -> Any:
        """What the function returns."""
        return self.function(*arguments)

    @property
    def suffix(self) -> str:
        """What a data set's title says of it."""
        return f" ({self.name})"


def as_change(value: Any, *, what: str, name: str | None = None) -> Any:
    """A callable as a pytree that is hashable: itself, or a `Given`.

    Args:
        value: a callable.
        what: it is, for the message, such as `variant`.
        name: of it in text, if it has one.

    Raises:
        TypeError: if it cannot be called.
    """
    name = name or str(getattr(value, "__name__", type(value).__name__))
    if not callable(value):
        raise TypeError(
            f"`{what}` must be a function or its name, got "
            f"{type(value).__name__} ({name}); give something that can be called."
        )
    # A class is a pytree in its instances only.
    if isinstance(value, Pytree):
        return value
    return Given(value, name)


def changes_in(text: str) -> list[str]:
    """The texts that "+" joins in one, each of one change, as `change_of` reads it."""
    # A sign inside parentheses belongs to a number, as in 1e+5.
    return [each.strip() for each in re.split(r"\+(?![^()]*\))", text)]


def names_in(text: str) -> list[str]:
    """The names of the changes that "+" joins, without their numbers."""
    return [each.partition("(")[0].strip() for each in changes_in(text)]


def spelled(text: str, table: Mapping[str, Any]) -> str:
    """A text in the one spelling that is written down.

    Args:
        text: changes joined by "+", where `smooth:3`, which a shell takes without
            quotes, is short for `smooth(3)`.
        table: the names that have this short form; references have a colon of their
            own.
    """

    def one(each: str) -> str:
        name, colon, numbers = each.partition(":")
        return f"{name}({numbers})" if colon and name in table else each

    return "+".join(one(each) for each in changes_in(text))


def change_of(text: str, table: Mapping[str, Callable[..., Any]], *, what: str) -> Any:
    """What a text names: `NAME`, or `NAME(4)` and `NAME(4, word=0.5)` with numbers.

    Args:
        text: NAME is one in the table, or a reference, `path/to/file.py:NAME` or
            `package.module:NAME`: a function, or, with numbers, one that is called with
            them and returns the function. A class is called in any case.
        table: what makes each change, by name.
        what: it is, for messages, such as `variant`.

    Raises:
        ValueError: if there is no such name, or it takes other numbers.
        TypeError: if a reference leads to something that cannot be called.
    """
    match = _CALL.fullmatch(text.strip())
    name = match["name"].strip() if match else text
    if match is None or not (name in table or is_reference(name)):
        close = difflib.get_close_matches(name, table, n=1)
        raise ValueError(
            f"`{what}` must be one of {', '.join(table)}, got {text!r}; "
            + (f"did you mean {close[0]!r}?" if close else "use one of these")
            + ", or name your own as path/to/file.py:NAME."
        )
    positional, by_name = _numbers(match["numbers"] or "", text, what)
    if name in table:
        return _made(table[name], positional, by_name, text, what)
    value = resolve(name, what=what).value
    if match["numbers"] is not None or isinstance(value, type):
        value = _made(value, positional, by_name, text, what)
    return as_change(value, what=what, name=text.strip())


def _numbers(inside: str, text: str, what: str) -> tuple[list[Any], dict[str, Any]]:
    positional: list[Any] = []
    by_name: dict[str, Any] = {}
    for item in filter(None, map(str.strip, inside.split(","))):
        name, _, written = item.rpartition("=")
        try:
            value = _number(written.strip())
        except ValueError as error:
            raise ValueError(
                f"`{what}` must have numbers in its parentheses, got {written!r} in "
                f"{text!r}; write them as 4, 0.5, inf, true or name=0.5."
            ) from error
        if name:
            by_name[name.strip()] = value
        else:
            positional.append(value)
    return positional, by_name


def _number(written: str) -> bool | int | float:
    if written.lower() in _WORDS:
        return _WORDS[written.lower()]
    try:
        return int(written)
    except ValueError:
        return float(written)


def _made(
    maker: Callable[..., Any],
    positional: list[Any],
    by_name: dict[str, Any],
    text: str,
    what: str,
) -> Any:
    signature = inspect.signature(maker)
    try:
        signature.bind(*positional, **by_name)
    except TypeError as error:
        words = ", ".join(str(each.name) for each in signature.parameters.values())
        raise ValueError(
            f"`{what}` must give {text.partition('(')[0].strip()} the numbers "
            f"({words}), got {text!r}: {error}; write them in parentheses."
        ) from error
    return maker(*positional, **by_name)
