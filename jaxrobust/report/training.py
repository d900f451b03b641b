"""The course of training of several runs, side by side."""

from collections.abc import Sequence

from jaxrobust.report.tables import percent
from jaxrobust.training import Run

__all__ = ["state_of", "training_table"]


def state_of(run: Run) -> str:
    """Whether a run is finished, and which of its weights are meant."""
    state = "finished" if run.is_complete else "not finished"
    return state if run.checkpoint == "newest" else f"{state}, {run.checkpoint} weights"


def training_table(runs: Sequence[Run], names: Sequence[str]) -> list[list[str]]:
    """The last epoch of each run, on training data.

    Args:
        runs: each with at least one epoch done.
        names: of the runs, as many.
    """
    header = ["run", "state", "epochs", "epsilon", "loss", "adversarial accuracy"]
    cells = [header]
    for run, name in zip(runs, names, strict=True):
        last = run.records[-1]
        cells.append(
            [
                name,
                state_of(run),
                str(last["epoch"]),
                f"{last['epsilon']:g}",
                f"{last['loss']:.4f}",
                percent(last["adversarial_accuracy"]),
            ]
        )
    return cells
