"""Builders taken apart: what a program is made for, and the numbers that it is given.

Builders of the same structure share a program, whatever their numbers are. Numbers are
leaves of a `Pytree`; the settings of a `functools.partial` are structure, since nothing
tells which of them decide shapes.
"""

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrobust.arguments import require
from jaxrobust.attacks import AttackBuilder
from jaxrobust.attacks.builders import builder_name

__all__ = ["Parts", "Structure", "numbers_by_radius", "put_together", "taken_apart"]

_PLAIN = (bool, int, float, str, type(None))


class Structure(NamedTuple):
    """What decides a program, but for the functions.

    Attributes:
        tree: of which the leaves are.
        leaves: for each the word "number", or how it is made of a function: a tuple of
            positional and named settings of a `partial`, None for the function itself.
    """

    tree: Hashable
    leaves: tuple[Hashable, ...]


class Parts(NamedTuple):
    """A builder taken apart.

    Attributes:
        structure: see `Structure`.
        functions: that it calls, which a program must not hold on to.
        numbers: of Python, or arrays.
    """

    structure: Structure
    functions: tuple[Callable[..., Any], ...]
    numbers: tuple[Any, ...]


def taken_apart(build: AttackBuilder) -> Parts:
    """The parts of a builder."""
    leaves, tree = jax.tree.flatten(build)
    slots: list[Hashable] = []
    functions: list[Callable[..., Any]] = []
    numbers: list[Any] = []
    for leaf in leaves:
        if _is_number(leaf):
            numbers.append(leaf)
            slots.append("number")
        elif isinstance(leaf, partial) and _is_plain((*leaf.args, *_values(leaf))):
            functions.append(leaf.func)
            slots.append((leaf.args, tuple(sorted(leaf.keywords.items()))))
        else:
            functions.append(leaf)
            slots.append(None)
    return Parts(Structure(tree, tuple(slots)), tuple(functions), tuple(numbers))


def put_together(
    structure: Structure, functions: Sequence[Any], numbers: Sequence[Any]
) -> AttackBuilder:
    """The builder of parts, whose numbers may be traced."""
    next_function, next_number = iter(functions), iter(numbers)

    def leaf(slot: Any) -> Any:
        if slot == "number":
            return next(next_number)
        function = next(next_function)
        if slot is None:
            return function
        settings, named = slot
        return partial(function, *settings, **dict(named))

    return jax.tree.unflatten(structure.tree, [leaf(slot) for slot in structure.leaves])


def numbers_by_radius(
    builds: Sequence[AttackBuilder],
) -> tuple[tuple[bool, ...], list[np.ndarray]]:
    """The numbers of a builder at several radii.

    Args:
        builds: at each radius.

    Returns:
        Which numbers follow the radius, and each number: an array over the radii if it
        does. Numbers of Python are int32 or float32.

    Raises:
        ValueError: if what is no number follows the radius.
    """
    parts = [taken_apart(build) for build in builds]
    first = parts[0]
    for epsilon_parts in parts[1:]:
        require(
            epsilon_parts[:2] == first[:2],
            "attacks",
            "builders of which only numbers follow the radius",
            builder_name(builds[0]),
            "make what `at` changes a leaf of a `Pytree`",
        )
    varies, arrays_by_radius = [], []
    for values in zip(*(part.numbers for part in parts), strict=True):
        arrays = [_as_array(value) for value in values]
        is_same = all(np.array_equal(arrays[0], other) for other in arrays[1:])
        varies.append(not is_same)
        arrays_by_radius.append(arrays[0] if is_same else np.stack(arrays))
    return tuple(varies), arrays_by_radius


def _is_number(leaf: Any) -> bool:
    is_array = isinstance(leaf, jax.Array | np.ndarray | np.generic)
    return is_array or (isinstance(leaf, int | float) and not isinstance(leaf, bool))


def _as_array(value: Any) -> np.ndarray:
    if isinstance(value, int | float):
        return np.asarray(value, np.int32 if isinstance(value, int) else np.float32)
    return np.asarray(value)


def _values(function: partial) -> tuple[Any, ...]:
    return tuple(function.keywords.values())


def _is_plain(values: Any) -> bool:
    """Whether values of settings say all by what they are equal to."""
    if isinstance(values, tuple):
        return all(map(_is_plain, values))
    return isinstance(values, _PLAIN)
