"""One way of refusing: which argument, what it must be, what it is, what to do instead.

Settings are refused when they are made, before anything is compiled. What is traced has
no value yet and is not looked at.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["require", "require_choice", "require_in"]


def require(condition: bool, name: str, rule: str, value: object, remedy: str) -> None:
    """Refuse a value unless a condition holds.

    Raises:
        ValueError: "`name` must be RULE, got VALUE; REMEDY."
    """
    if not condition:
        raise ValueError(f"`{name}` must be {rule}, got {value!r}; {remedy}.")


def require_choice(name: str, value: object, allowed: Sequence[str]) -> None:
    """Refuse a word that is not one of those allowed.

    Raises:
        ValueError: naming them.
    """
    rule = f"one of {', '.join(allowed)}"
    require(value in allowed, name, rule, value, "choose one of these")


def require_in(name: str, value: Any, interval: str, remedy: str) -> None:
    """Refuse a number outside an interval; arrays are not looked at.

    Args:
        name: of the argument, for the message.
        value: a number of Python or NumPy.
        interval: allowed values, such as "[0, 1)" or "(0, inf)". An end that is
            infinite is not included.
        remedy: what to do instead, for the message.

    Raises:
        TypeError: for a value that is no number.
        ValueError: for a number outside, or one that is none (NaN).
    """
    if not isinstance(value, int | float | np.number):
        if hasattr(value, "shape"):  # an array, perhaps traced
            return
        raise TypeError(f"`{name}` must be a number, got {value!r}; {remedy}.")
    low, high = (float(each) for each in interval[1:-1].split(","))
    is_above = value >= low if interval[0] == "[" else value > low
    is_below = value <= high if interval[-1] == "]" else value < high
    is_inside = is_above and is_below and math.isfinite(value)
    require(bool(is_inside), name, f"in {interval}", value, remedy)
