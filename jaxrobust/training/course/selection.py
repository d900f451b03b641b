"""Which epoch of a run is the best, by what was measured on held-out examples."""

from collections.abc import Sequence
from typing import Any

__all__ = ["CLEAN", "ROBUST", "best_epoch"]

CLEAN, ROBUST = "validation_accuracy", "validation_robust_accuracy"
"""Names of the accuracies in the record of an epoch."""


def best_epoch(records: Sequence[dict[str, Any]]) -> int | None:
    """The epoch, from 1, with the highest robust accuracy on held-out examples.

    Ties are broken by clean accuracy, then by who came first. Accuracies at different
    radii do not compare: one measured at a new radius takes the place of all before.
    Nor does an epoch count that was taken back, since the loss jumped.

    Args:
        records: of all epochs so far.

    Returns:
        None if none was measured.
    """
    best: dict[str, Any] | None = None
    for record in records:
        if ROBUST not in record or record["is_jump"]:
            continue
        if (
            best is None
            or record["epsilon"] != best["epsilon"]
            or _measured(record) > _measured(best)
        ):
            best = record
    return None if best is None else best["epoch"]


def _measured(record: dict[str, Any]) -> tuple[float, float]:
    return record[ROBUST], record[CLEAN]
