"""Trees of any library as nested dictionaries by name, which checkpoints can hold."""

from typing import Any

import jax
from flax.traverse_util import flatten_dict, unflatten_dict

__all__ = ["by_path", "nested", "unnested"]

Path = tuple[str, ...]


def by_path(tree: Any) -> dict[Path, Any]:
    """The leaves of a tree, in its order, by the names on the way to them."""

    def text(entry: Any) -> str:
        for attribute in ("key", "name", "idx"):
            if hasattr(entry, attribute):
                return str(getattr(entry, attribute))
        return str(entry)

    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {tuple(map(text, path)): leaf for path, leaf in leaves}


def nested(leaves: dict[Path, Any]) -> dict[str, Any]:
    """Leaves by path as dictionaries in dictionaries."""
    return unflatten_dict(leaves)


def unnested(tree: dict[str, Any]) -> dict[Path, Any]:
    """The inverse of `nested`."""
    return flatten_dict(tree)
