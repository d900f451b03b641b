"""Numbers on the command line: decimals, or fractions such as 8/255."""

from fractions import Fraction
from typing import Any

from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec

__all__ = ["NUMBERS", "exact", "number"]


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
"""For `tyro.cli`: every flag that takes a float takes a fraction, too.

One rule for all of them, so that none is forgotten.
"""


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
