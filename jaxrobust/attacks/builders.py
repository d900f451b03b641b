"""What is asked of a builder beside its attack: turns, steps at a radius, cost, name.

A builder is any function from a threat model to an attack. Only `build(threat)` is
needed; what it may have besides has an answer here for those that do not:

- `num_turns(num_classes)` and `turn(index)`: it is several attacks, which may be run
  one by one. The index may be traced, and beyond the last turn it begins again.
- `at(epsilon)`: the builder with the numbers that follow the radius settled.
- `num_passes(num_classes)`: about what one turn costs. A function says it by `costs`.
"""

import dataclasses
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import numpy as np

from jaxrobust.arguments import require, require_choice
from jaxrobust.attacks.base import AttackBuilder
from jaxrobust.keeping import fingerprint
from jaxrobust.references import name_of
from jaxrobust.types import Scalar

__all__ = [
    "builder_name",
    "costs",
    "described",
    "innermost",
    "num_passes",
    "num_turns",
    "require_builder",
    "settings_of",
    "settled",
    "takes",
    "takes_targets",
    "turn_of",
    "with_setting",
    "wrappers",
]


Build = TypeVar("Build", bound=Callable[..., Any])

_costs: dict[Any, Callable[..., int]] = {}


def costs(count: Callable[..., int]) -> Callable[[Build], Build]:
    """Notes beside a builder how many passes its attack takes, about.

    It chooses how many images are attacked at once, and is what an evaluation reports.

    Args:
        count: from the settings of the builder by name, and `num_classes`, to forward
            passes for each image, a gradient counted as two more.
    """

    def decorate(build: Build) -> Build:
        _costs[build] = count
        return build

    return decorate


def require_builder(build: Any, name: str = "attacks") -> None:
    """Refuse what is no function of a threat model alone, such as an attack itself.

    Args:
        build: what is given.
        name: of the argument, for the message.

    Raises:
        ValueError: if it cannot be called, or not so.
    """
    rule = "a builder, a function from a threat model to an attack"
    remedy = (
        "give such as `PGD(num_steps=100)` or `partial(auto_pgd)`, and an attack of "
        "your own as `def build(threat): return attack`"
    )
    require(callable(build), name, rule, build, remedy)
    try:
        signature = inspect.signature(build)
    except ValueError:  # of what is not written in Python
        return
    try:
        signature.bind(None)
    except TypeError:
        require(False, name, rule, f"{builder_name(build)}{signature}", remedy)


def num_passes(build: AttackBuilder, num_classes: int, **settings: Any) -> int:
    """Forward passes that one turn takes for each image, about; 0 if it is not known.

    Args:
        build: the builder.
        num_classes: of the model.
        settings: what the builder is given besides, such as targets.
    """
    if (counted := getattr(build, "num_passes", None)) is not None:
        return counted(num_classes, **settings)
    function, given = _unwrapped(build)
    if function not in _costs:
        return 0
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
    }
    values = defaults | given | settings | {"num_classes": num_classes}
    return int(_costs[function](**values))


def num_turns(build: AttackBuilder, num_classes: int) -> int:
    """How many attacks a builder is; 1 for one that does not say."""
    counted = getattr(build, "num_turns", None)
    return 1 if counted is None else counted(num_classes)


def turn_of(build: AttackBuilder, index: Scalar) -> AttackBuilder:
    """One of the attacks that a builder is; the index may be traced."""
    turn = getattr(build, "turn", None)
    return build if turn is None else turn(index)


def settled(build: Any, epsilon: float) -> Any:
    """A builder, or an aim, whose numbers that follow the radius are settled.

    Args:
        build: the builder.
        epsilon: radius known to Python, in units of [0, 1] pixels.
    """
    at = getattr(build, "at", None)
    return build if at is None else at(epsilon)


def builder_name(build: Any) -> str:
    """A short name for reports, such as "pgd" or "auto-pgd"."""
    if (name := getattr(build, "builder_name", None)) is not None:
        return name
    function, _ = _unwrapped(build)
    name = getattr(function, "__name__", type(function).__name__)
    return "attack" if name == "<lambda>" else name.lower().strip("_").replace("_", "-")


def described(build: Any) -> Any:
    """A builder as JSON: what it is called and its settings.

    It tells two builders apart by their names and numbers; of functions of the user's
    own it knows nothing but where they are defined.
    """
    if dataclasses.is_dataclass(build) and not isinstance(build, type):
        names = [field.name for field in dataclasses.fields(build)]
        settings = {name: described(getattr(build, name)) for name in names}
        return {"attack": builder_name(build)} | settings
    if isinstance(build, partial):
        function, given = _unwrapped(build)
        settings = {name: described(value) for name, value in given.items()}
        return {"attack": name_of(function)} | settings
    if isinstance(build, tuple | list):
        return [described(part) for part in build]
    if build is None or isinstance(build, bool | int | float | str):
        return build
    if callable(build):
        return {"attack": name_of(build)}
    array = np.asarray(build)
    return array.item() if array.ndim == 0 else fingerprint(array)


_INNER = ("build", "aim")
"""Fields of a builder that hold another one, whose settings are its own too."""


def innermost(build: Any) -> Any:
    """The builder inside builders that hold one, such as restarts and targets."""
    inner = _held(build)
    return build if inner is None else innermost(inner)


def wrappers(build: Any) -> list[type]:
    """The kinds of builders round the innermost one, from the outside."""
    inner = _held(build)
    return [] if inner is None else [type(build), *wrappers(inner)]


def _held(build: Any) -> Any:
    """What a builder holds, None if it holds no other."""
    if not dataclasses.is_dataclass(build):
        return None
    held = (getattr(build, name, None) for name in _INNER)
    return next((inner for inner in held if inner is not None), None)


_NO_SETTINGS = ("threat", "targets", "start", "must_hit")


def settings_of(build: Any) -> dict[str, Any]:
    """Settings of a builder by name, those of the builders in it included."""
    if dataclasses.is_dataclass(build) and not isinstance(build, type):
        fields = {
            field.name: getattr(build, field.name)
            for field in dataclasses.fields(build)
        }
        inner = [fields.pop(name) for name in _INNER if name in fields]
        settings = settings_of(inner[0]) if inner else {}
        return settings | {
            name: value for name, value in fields.items() if not callable(value)
        }
    function, given = _unwrapped(build)
    parameters = inspect.signature(function).parameters.values()
    named = (
        parameter
        for parameter in parameters
        if parameter.kind is parameter.KEYWORD_ONLY
    )
    defaults = {parameter.name: parameter.default for parameter in named}
    return {
        name: value
        for name, value in (defaults | given).items()
        if name not in _NO_SETTINGS
    }


def takes(build: Any, name: str) -> bool:
    """Whether a builder can be given something by keyword beside the threat model."""
    kinds = inspect.Parameter
    parameters = inspect.signature(build).parameters.values()
    return any(
        parameter.kind is kinds.VAR_KEYWORD
        or (parameter.name == name and parameter.kind is not kinds.POSITIONAL_ONLY)
        for parameter in parameters
    )


def takes_targets(build: Any) -> bool:
    """Whether a builder can be steered: `(threat, targets=targets) -> attack`."""
    function, given = _unwrapped(build)
    return "targets" in inspect.signature(function).parameters and (
        "targets" not in given
    )


def with_setting(build: Any, name: str, value: Any) -> Any:
    """A builder with another value of a setting, in it or in a builder in it.

    Args:
        build: the builder.
        name: of the setting.
        value: which the builder may refuse, here or when its attack is built.

    Raises:
        ValueError: if there is no setting of that name, or for a value that is refused.
    """
    known = settings_of(build)
    require_choice("setting", name, tuple(known), f"of {builder_name(build)!r}")
    if not dataclasses.is_dataclass(build) or isinstance(build, type):
        return partial(build, **{name: value})
    fields = [field.name for field in dataclasses.fields(build)]
    if name in fields:
        return dataclasses.replace(build, **{name: value})
    (inner,) = (field for field in _INNER if field in fields)
    changed = with_setting(getattr(build, inner), name, value)
    return dataclasses.replace(build, **{inner: changed})


def _unwrapped(build: Any) -> tuple[Any, dict[str, Any]]:
    """The function that a partial calls, and the settings that it gives it by name."""
    if not isinstance(build, partial):
        return build, {}
    signature = inspect.signature(build.func)
    bound = signature.bind_partial(*build.args, **build.keywords)
    return build.func, dict(bound.arguments)
