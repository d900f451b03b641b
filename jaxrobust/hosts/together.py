"""What the processes of a job tell each other: numbers, arrays, settings, failures.

Every function here must be called by all processes, in the same order. In a job of one
process none of them does anything.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxrobust.keeping import InUseError, describe_failure, difference, mark

__all__ = ["agree", "exchange", "failing_together", "require_same"]

SHOWN = 5
"""Differences that a message names."""

FAILURES: dict[str, type[Exception]] = {
    "in use": InUseError,
    "storage": OSError,
    "refusal": ValueError,
}
"""What one process may meet and all have to end by."""


def agree(*values: float) -> tuple[float, ...]:
    """The largest of each value over all processes."""
    if jax.process_count() == 1:
        return values
    gathered = multihost_utils.process_allgather(np.asarray(values, np.float64))
    return tuple(float(value) for value in np.max(np.asarray(gathered), axis=0))


def _parts(array: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
    # What is exchanged must have the same shape everywhere.
    missing = int(sizes.max()) - len(array)
    padding = [(0, missing)] + [(0, 0)] * (array.ndim - 1)
    every = np.asarray(multihost_utils.process_allgather(np.pad(array, padding)))
    return [part[:size] for part, size in zip(every, sizes, strict=True)]


def _sizes(array: np.ndarray) -> np.ndarray:
    return np.ravel(multihost_utils.process_allgather(np.int32(len(array))))


def exchange(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    """The parts that all processes have, one behind the other, for each array."""
    if jax.process_count() == 1:
        return arrays
    sizes = _sizes(arrays[0])
    return tuple(np.concatenate(_parts(array, sizes)) for array in arrays)


def _gather(value: Any) -> list[Any]:
    """The JSON-like value of each process, in their order."""
    if jax.process_count() == 1:
        return [value]
    content = np.frombuffer(json.dumps(value).encode(), np.uint8)
    return [json.loads(bytes(part)) for part in _parts(content, _sizes(content))]


def require_same(settings: Mapping[str, Any]) -> None:
    """Refuse a job whose processes do not do the same thing, in all of them.

    Args:
        settings: JSON-like, all that decides what this process is about to do.

    Raises:
        ValueError: naming what differs.
    """
    if len(set(_gather(mark(settings)))) == 1:
        return
    # The settings themselves, which may be long, only where they are needed.
    every = _gather(dict(settings))
    other = next(number for number, each in enumerate(every) if each != every[0])
    lines = difference(every[0], every[other])
    shown = "; ".join(lines[:SHOWN]) + ("; ..." if len(lines) > SHOWN else "")
    raise ValueError(
        "`settings` must be the same in all processes of a job, got other ones in "
        f"process {other} than in process 0: {shown}; start all of them by the same "
        "command, with the same packages, and let them see the same files."
    )


@contextmanager
def failing_together() -> Iterator[None]:
    """Have the block fail in all processes if it is refused or fails in one.

    Without it the others would wait for one that is gone. For claims, refusals and
    storage that fails; other errors pass as they are.

    Raises:
        InUseError, OSError, ValueError: the error of this process, or a copy of that
            of the first one that has one.
    """
    if jax.process_count() == 1:
        yield
        return
    failure = None
    try:
        yield
    except tuple(FAILURES.values()) as error:
        failure = error
    every = _gather(_described(failure))
    if failure is not None:
        raise failure
    for kind, text in every:
        if kind in FAILURES:
            raise FAILURES[kind](text)


def _described(failure: Exception | None) -> tuple[str, str]:
    """The kind of a failure, empty for none, and what to tell of it."""
    for kind, cause in FAILURES.items():
        if isinstance(failure, cause):
            is_os = isinstance(failure, OSError)
            return kind, describe_failure(failure) if is_os else str(failure)
    return "", ""
