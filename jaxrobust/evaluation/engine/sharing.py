"""Compiled programs that later calls with the same functions find again.

A program belongs to the functions that it was made of, and goes when one of them does:
whoever gives a new function at every call compiles at every call, and keeps nothing.
For that a program must not hold on to its functions. It is made of references to them,
and asks for what they refer to while it is traced, when the caller still has them.
"""

import inspect
import weakref
from collections.abc import Callable, Hashable
from typing import Any

__all__ = ["Reference", "shared_program"]

Reference = Callable[[], Any]
"""Gives the function it was made for, as long as that is there."""

_PROGRAMS: dict[tuple[Hashable, ...], Callable[..., Any]] = {}


def _identity(function: Callable[..., Any] | None) -> tuple[int, int]:
    # A bound method is a new object each time; what it is bound to is not.
    if inspect.ismethod(function):
        return id(function.__self__), id(function.__func__)
    return id(function), 0


def _reference(
    function: Callable[..., Any] | None, forget: Callable[[Any], Any]
) -> Reference:
    if function is None:
        return lambda: None
    if inspect.ismethod(function):
        return weakref.WeakMethod(function, forget)
    return weakref.ref(function, forget)


def shared_program(
    make: Callable[..., Callable[..., Any]],
    *functions: Callable[..., Any] | None,
    is_shared: bool = True,
    **settings: Hashable,
) -> Callable[..., Any]:
    """The program of some functions, the same for the same ones.

    Args:
        make: takes a reference to each of the functions, and the settings. What it
            returns may call a reference only while it is traced.
        functions: what the program is made of; None where there is none.
        is_shared: whether to keep it for later calls; not for functions whose answers
            may change between two calls.
        settings: what else decides the program.
    """

    def alone() -> Callable[..., Any]:
        held = [lambda function=function: function for function in functions]
        return make(*held, **settings)

    if not is_shared:
        return alone()
    key = (make, *map(_identity, functions), *sorted(settings.items()))
    if key not in _PROGRAMS:
        try:
            references = [
                _reference(each, lambda _: _PROGRAMS.pop(key, None))
                for each in functions
            ]
        except TypeError:  # an object that cannot be referred to weakly
            return alone()
        _PROGRAMS[key] = make(*references, **settings)
    return _PROGRAMS[key]
