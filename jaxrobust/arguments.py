"""One way of refusing: which argument, what it must be, what it is, what to do instead.

Settings are refused when they are made, before anything is compiled. Numbers of Python
and NumPy are looked at; an array of JAX may be traced, without a value yet, and is not.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = [
    "is_in",
    "require",
    "require_choice",
    "require_count",
    "require_in",
    "require_shape",
]


def require(
    condition: bool | np.bool_, name: str, rule: str, value: object, remedy: str
) -> None:
    """Refuse a value unless a condition holds.

    Raises:
        ValueError: "`name` must be RULE, got VALUE; REMEDY."
    """
    if not condition:
        raise ValueError(f"`{name}` must be {rule}, got {value!r}; {remedy}.")


def require_choice(
    name: str,
    value: object,
    allowed: Sequence[str],
    remedy: str = "choose one of these",
) -> None:
    """Refuse a word that is not one of those allowed.

    Raises:
        ValueError: naming them.
    """
    require(value in allowed, name, f"one of {', '.join(allowed)}", value, remedy)


def require_in(name: str, value: Any, interval: str, remedy: str) -> None:
    """Refuse a number outside an interval.

    Args:
        name: of the argument, for the message.
        value: a number or an array of numbers.
        interval: allowed values, such as "[0, 1)" or "(0, inf)".
        remedy: what to do instead, for the message.

    Raises:
        TypeError: for a value that is no number.
        ValueError: for a number outside, or one that is none (NaN).
    """
    numbers = _numbers(name, value, remedy)
    if numbers is not None:
        _require_all(is_in(numbers, interval), name, f"in {interval}", numbers, remedy)


def require_count(
    name: str, value: Any, remedy: str, *, least: int = 1, most: int | None = None
) -> None:
    """Refuse a number that is not whole, or too small or too large.

    Args:
        name: of the argument, for the message.
        value: a number or an array of numbers.
        remedy: what to do instead, for the message.
        least: smallest number allowed.
        most: largest number allowed; None for no limit.

    Raises:
        TypeError: for a value that is no number.
        ValueError: for a number of a type that is not of integers, or outside.
    """
    numbers = _numbers(name, value, remedy)
    if numbers is None:
        return
    is_whole = isinstance(value, int) or numbers.dtype.kind in "iu"
    _require_all(
        np.full(numbers.shape, is_whole), name, "a whole number", numbers, remedy
    )
    rule = f"at least {least}" if most is None else f"in [{least}, {most}]"
    is_enough = (numbers >= least) & (most is None or numbers <= most)
    _require_all(is_enough, name, rule, numbers, remedy)


def require_shape(
    name: str, value: Any, shape: Sequence[int | str], remedy: str
) -> None:
    """Refuse an array of another shape, which is known of traced arrays, too.

    Args:
        name: of the argument, for the message.
        value: the array.
        shape: allowed length of each axis; a word, such as "batch", allows any.
        remedy: what to do instead, for the message.

    Raises:
        ValueError: for any other shape.
    """
    given = tuple(np.shape(value))
    is_right = len(given) == len(shape) and all(
        isinstance(wanted, str) or wanted == length
        for wanted, length in zip(shape, given, strict=True)
    )
    axes = ", ".join(map(str, shape)) + "," * (len(shape) == 1)
    require(is_right, name, f"of shape ({axes})", given, remedy)


def is_in(numbers: np.ndarray, interval: str) -> np.ndarray:
    """Which numbers lie in an interval such as "[0, 1)"; NaN lies in none."""
    low, high = (float(each) for each in interval[1:-1].split(","))
    is_above = numbers >= low if interval[0] == "[" else numbers > low
    is_below = numbers <= high if interval[-1] == "]" else numbers < high
    return is_above & is_below


def _numbers(name: str, value: Any, remedy: str) -> np.ndarray | None:
    """A value that must be a number, or an array of them; None if it is JAX's."""
    if hasattr(value, "shape") and not isinstance(value, np.ndarray | np.generic):
        return None
    numbers = np.asarray(value)
    # A number of Python may be too large for NumPy's types.
    if not (isinstance(value, int) or np.can_cast(numbers.dtype, float)):
        raise TypeError(f"`{name}` must be a number, got {value!r}; {remedy}.")
    return numbers


def _require_all(
    is_right: np.ndarray, name: str, rule: str, numbers: np.ndarray, remedy: str
) -> None:
    """Refuse the first number that is not right."""
    wrong = numbers[~np.asarray(is_right, bool)]
    if wrong.size:
        require(False, name, rule, wrong.tolist()[0], remedy)
