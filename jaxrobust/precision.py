"""The precision of matrix products: said in settings, put into the programs.

What is called float32 is multiplied in bfloat16 by a TPU and in TF32 by a GPU, unless a
program says otherwise. Training and searches may: rounding costs them little, and time
is what they need. Whether an image breaks a model is asked at `JUDGED`, whatever the
search was run at. On a CPU all precisions are the same numbers, to the bit.

A precision that a model names for a product of its own stays, and so does that of a
program compiled elsewhere, such as an exported model.
"""

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Literal, ParamSpec, TypeVar, get_args

import jax

from jaxrobust.arguments import require_choice

__all__ = [
    "JUDGED",
    "MatmulPrecision",
    "PrecisionWarning",
    "at_precision",
    "precision_note",
    "require_precision",
    "unconfirmed_note",
]

MatmulPrecision = Literal["default", "high", "highest"]
"""Of matrix products and convolutions of float32 numbers, in JAX's words. "default":
what is fastest, bfloat16 on a TPU and TF32 on a GPU; "high": three passes of bfloat16
on a TPU, TF32 on a GPU; "highest": float32."""

JUDGED: MatmulPrecision = "highest"
"""At which a model is asked whether an image is classified rightly."""

P = ParamSpec("P")
R = TypeVar("R")


class PrecisionWarning(UserWarning):
    """Results stand side by side that were computed at different precisions."""


def require_precision(value: object) -> None:
    """Refuse a word that is no precision.

    Raises:
        ValueError: naming those that are.
    """
    remedy = '"default" is the fastest, "highest" is float32 on every device'
    require_choice("matmul_precision", value, get_args(MatmulPrecision), remedy)


def at_precision(
    precision: MatmulPrecision, function: Callable[P, R]
) -> Callable[P, R]:
    """A function whose matrix products have a precision, wherever it is traced.

    The setting is made while the function is traced, so that the program has it
    whatever `jax.default_matmul_precision` is round its calls. Gradients that are taken
    inside have it too, also by a rule of the model's own (`jax.custom_vjp`).
    """

    @wraps(function)
    def traced(*args: P.args, **kwargs: P.kwargs) -> R:
        with jax.default_matmul_precision(precision):
            return function(*args, **kwargs)

    return traced


def precision_note(
    what: str, precisions: Iterable[tuple[str, str | None]]
) -> str | None:
    """What to say of results side by side, if their precisions differ.

    Args:
        what: was computed, such as "trained".
        precisions: name and precision of each result; None where an older version did
            not say it.

    Returns:
        A sentence without its end, or None if all that is known agrees.
    """
    names: dict[str, list[str]] = {}
    for name, precision in precisions:
        if precision is not None:
            names.setdefault(precision, []).append(name)
    if len(names) < 2:
        return None
    told = "; ".join(
        f"{', '.join(alike)} at {precision!r}" for precision, alike in names.items()
    )
    return (
        f"{what} at different precisions of matrix products, which are different "
        f"numbers on all devices but CPUs: {told}"
    )


def unconfirmed_note(count: int) -> str:
    """What to say of attacks that broke a model at their own precision only."""
    return (
        f"{count} images broke the model at the attacks' precision of matrix products, "
        f"but not at {JUDGED!r}, and do not count; attacks that search at {JUDGED!r} "
        "would find more."
    )
