"""Whether two things are the same: hashes of arrays and settings, and differences."""

import hashlib
import importlib.metadata
import json
import platform
from typing import Any

import jax
import numpy as np

import jaxrobust

__all__ = ["difference", "fingerprint", "mark", "versions"]

BLOCK = 1 << 24
"""Bytes hashed at once, so that arrays mapped from disk need not be in memory."""


def _update(found: Any, array: np.ndarray) -> None:
    # The same on machines of any byte order, and for views with any strides.
    kind = array.dtype.newbyteorder("<")
    if array.ndim == 0 or array.nbytes <= BLOCK:
        found.update(np.ascontiguousarray(array, kind).tobytes())
        return
    rows = max(1, BLOCK * len(array) // array.nbytes)
    for first in range(0, len(array), rows):
        block = np.ascontiguousarray(array[first : first + rows], kind)
        found.update(block.tobytes())


def fingerprint(tree: Any) -> str:
    """A hash of the values, shapes, types and names of all arrays of a pytree.

    It does not depend on where the arrays lie (in memory, on disk, on a device), on
    their byte order or on their strides.

    Returns:
        16 hexadecimal digits, of SHA-256.
    """
    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = leaf if isinstance(leaf, np.ndarray) else np.asarray(leaf)
        kind = array.dtype.newbyteorder("=")
        found.update(f"{jax.tree_util.keystr(path)} {kind} {array.shape};".encode())
        _update(found, array)
    return found.hexdigest()[:16]


def mark(settings: Any) -> str:
    """A hash of JSON-like settings, for names of files: 10 hexadecimal digits."""
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def difference(before: Any, now: Any, place: str = "") -> list[str]:
    """Lines that name each place in which two JSON-like values differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        lines = []
        for name in dict.fromkeys([*before, *now]):
            inner = f"{place}.{name}" if place else str(name)
            lines += difference(before.get(name), now.get(name), inner)
        return lines
    if isinstance(before, list | tuple) and isinstance(now, list | tuple):
        if len(before) != len(now):
            return [f"{place}: {len(before)} entries, now {len(now)}"]
        pairs = zip(before, now, strict=True)
        return [
            line
            for index, (one, other) in enumerate(pairs)
            for line in difference(one, other, f"{place}[{index}]")
        ]
    return [] if before == now else [f"{place}: {before!r}, now {now!r}"]


def versions() -> dict[str, str]:
    """Versions of Python, of this library and of what its numbers depend on."""
    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    found = {"python": platform.python_version(), "jaxrobust": jaxrobust.__version__}
    return found | {name: importlib.metadata.version(name) for name in names}
