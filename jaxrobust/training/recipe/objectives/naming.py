"""Objectives by name: in text, as `awp(trades)`, and in configurations, as JSON."""

import dataclasses
import inspect
from typing import Any

from jaxrobust.arguments import require
from jaxrobust.references import is_reference, name_of, resolve
from jaxrobust.training.recipe.objectives.base import Unresolved
from jaxrobust.training.recipe.objectives.table import OBJECTIVES

__all__ = ["named_objective", "objective_name", "takes_attack"]

NAMES = {kind: name for name, kind in OBJECTIVES.items()}


def named_objective(text: str, **settings: Any) -> Any:
    """The objective that a text names.

    Args:
        text: a name in `OBJECTIVES`; for transforms with another one in parentheses,
            as in `awp(trades)`; or a reference, `path.py:NAME` or `module:NAME`, to a
            class or a function of a user's own.
        settings: fields of the innermost one; those that it does not have must be None.

    Raises:
        ValueError: for a name that is not known, or a setting that it does not have.
    """
    outer, bracket, rest = text.partition("(")
    if bracket and outer in OBJECTIVES:
        require(
            rest.endswith(")") and "objective" in _fields(OBJECTIVES[outer]),
            "objective",
            "a name, or a transform of one as in awp(trades)",
            text,
            "correct it",
        )
        return OBJECTIVES[outer](objective=named_objective(rest[:-1], **settings))
    if is_reference(text):
        value = resolve(text, what="objective").value
        taken = _taken(value, text, settings)
        return value(**taken) if _is_class(value) else value
    require(
        text in OBJECTIVES,
        "objective",
        f"one of {', '.join(OBJECTIVES)}, a transform of one as in awp(trades), or "
        "one of your own (path/to/file.py:NAME)",
        text,
        "choose one of these",
    )
    kind = OBJECTIVES[text]
    return kind(**_taken(kind, text, settings))


def takes_attack(text: str) -> bool:
    """Whether the innermost objective of a name has an attack; see `named_objective`.

    A reference runs the code that it names.
    """
    name = text.rstrip(")").rpartition("(")[2]
    if is_reference(name):
        kind = resolve(name, what="objective").value
    else:
        kind = OBJECTIVES.get(name)
    return dataclasses.is_dataclass(kind) and "attack" in _fields(kind)


def _is_class(value: Any) -> bool:
    return inspect.isclass(value)


def _fields(kind: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def _taken(kind: Any, text: str, settings: dict[str, Any]) -> dict[str, Any]:
    known = _fields(kind) if dataclasses.is_dataclass(kind) else []
    given = {name: value for name, value in settings.items() if value is not None}
    extra = [name for name in given if name not in known]
    require(
        not extra,
        "objective",
        f"one that has {', '.join(extra)}",
        text,
        f"it has {', '.join(known) or 'no settings'}",
    )
    return given


def objective_name(objective: Any) -> str:
    """What a configuration calls an objective.

    The name in `OBJECTIVES`; the reference by which it was resolved; or module and name
    of the class or function.
    """
    if isinstance(objective, Unresolved):
        return objective.name
    is_function = inspect.isroutine(objective) or _is_class(objective)
    kind = objective if is_function else type(objective)
    return NAMES.get(kind) or name_of(kind)
