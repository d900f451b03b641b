"""Flags: numbers as decimals or fractions such as 8/255, functions by their names."""

import math
import typing
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec

__all__ = ["NUMBERS", "exact", "number", "numbers"]


def exact(text: str) -> Fraction:
    """A finite number from a text such as 0.1, 1e-3 or 8/255, without any rounding.

    Raises:
        ValueError: for anything else, and for a fraction of zero.
    """
    above, slash, below = text.partition("/")
    try:
        return _decimal(above) / _decimal(below) if slash else _decimal(above)
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(
            f"a number must be written as 0.1 or as 8/255, got {text!r}; correct it."
        ) from error


def _decimal(text: str) -> Fraction:
    # By way of a float, or 1e999999999 would be written out.
    return Fraction(repr(float(text)))


def number(text: str) -> float:
    """The nearest float to a number such as 0.1 or 8/255; also nan and inf.

    Raises:
        ValueError: for anything else, and for a fraction of zero.
    """
    try:
        return float(text)
    except ValueError:
        return float(exact(text))


NUMBERS = ConstructorRegistry()
"""For `tyro.cli`: every flag that takes a float takes a fraction, too, and every one
that takes a function takes its name.

One rule for all of them, so that none is forgotten.
"""


@NUMBERS.primitive_rule
def _name_rule(info: Any) -> PrimitiveConstructorSpec[str] | None:
    """What may be a function in Python is named on the command line."""
    kinds = typing.get_args(info.type)
    if str not in kinds or not any(
        typing.get_origin(kind) is Callable for kind in kinds
    ):
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="NAME",
        instance_from_str=lambda texts: texts[0],
        is_instance=lambda value: isinstance(value, str),
        str_from_instance=lambda value: [value],
    )


@NUMBERS.primitive_rule
def _float_rule(info: Any) -> PrimitiveConstructorSpec[float] | None:
    if info.type is not float:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="FLOAT",
        instance_from_str=lambda texts: number(texts[0]),
        # Whole numbers are defaults of floats, too.
        is_instance=lambda value: isinstance(value, float | int),
        str_from_instance=lambda value: [str(value)],
    )


def numbers(flag: str, texts: Sequence[str]) -> tuple[float, ...]:
    """Numbers from texts such as 0.1, 8/255 or 0.1:0.5:9, both ends included.

    Also inf, which is a level of `saturate`; what takes no such number refuses it.

    Raises:
        ValueError: naming the flag, for anything else.
    """
    # Imported here, or flags of every command would import jax.
    from jaxrobust.training import linspace

    found: list[float] = []
    for text in texts:
        try:
            if ":" in text:
                start, stop, count = text.split(":")
                found += linspace(exact(start), exact(stop), int(count))
            else:
                found.append(math.inf if text == "inf" else float(exact(text)))
        except (ValueError, OverflowError) as error:
            raise ValueError(
                f"`{flag}` must be numbers such as 0.1 or 8/255, or START:STOP:COUNT "
                f"such as 0.1:0.5:9, got {text!r}; both ends are included."
            ) from error
    return tuple(found)
