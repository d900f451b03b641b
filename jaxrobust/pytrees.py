"""Settings and threat models as pytrees that are never taken for each other.

`jax.tree_util.register_dataclass`, and `flax.struct` with it, makes tree definitions
that compare equal across classes whose static fields agree (seen in jax 0.10 to 0.12).
A cache of compiled programs that looks one up by some bits of its hash, and then by
equality, now and then runs the program of the other class. Here the class is part of
what is compared, and no subclass can forget it.
"""

import dataclasses
from typing import Any, NamedTuple

import jax

__all__ = ["Pytree", "outline", "static"]


def static(**options: Any) -> Any:
    """A dataclass field that is structure: hashable, and compiled into programs.

    Args:
        options: as for `dataclasses.field`, such as `default`.
    """
    return dataclasses.field(metadata={"static": True}, **options)


def _names(tree: Any, *, is_static: bool) -> list[str]:
    return [
        field.name
        for field in dataclasses.fields(tree)
        if field.metadata.get("static", False) is is_static
    ]


class Pytree:
    """Base of frozen dataclasses that jax maps over, traces and compiles for.

    Fields are leaves (or trees of them), but for those made by `static`. A subclass is
    registered by being defined; registering it again is an error.
    """

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)

        def structure(tree: Any) -> tuple[Any, ...]:
            names = _names(tree, is_static=True)
            return (cls, *((name, getattr(tree, name)) for name in names))

        def flatten(tree: Any):
            names = _names(tree, is_static=False)
            return [getattr(tree, name) for name in names], structure(tree)

        def flatten_with_keys(tree: Any):
            names = _names(tree, is_static=False)
            leaves = [
                (jax.tree_util.GetAttrKey(name), getattr(tree, name)) for name in names
            ]
            return leaves, structure(tree)

        def unflatten(structure: Any, leaves: Any):
            # Past `__init__`: what jax puts in place of leaves would not pass its
            # checks.
            tree = object.__new__(cls)
            names = _names(cls, is_static=False)
            for name, value in (*zip(names, leaves, strict=True), *structure[1:]):
                object.__setattr__(tree, name, value)
            return tree

        jax.tree_util.register_pytree_with_keys(
            cls, flatten_with_keys, unflatten, flatten
        )


def outline(value: NamedTuple) -> str:
    """A named tuple in one line, with type and shape in place of its arrays."""
    fields = [f"{name}={_form(item)}" for name, item in value._asdict().items()]
    return f"{type(value).__name__}({', '.join(fields)})"


def _form(item: Any) -> str:
    shape = getattr(item, "shape", ())
    return f"{item.dtype.name}{list(shape)}" if shape else repr(item)
