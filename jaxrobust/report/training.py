"""The course of training of several runs, side by side."""

from collections.abc import Sequence
from pathlib import Path

from jaxrobust import plots
from jaxrobust.report.page import html_page
from jaxrobust.report.tables import percent
from jaxrobust.training import Run

__all__ = ["run_report"]


def run_report(runs: Sequence[Run], directory: Path) -> Path:
    """Loss, accuracy and radius of runs side by side, as `report.html`.

    Args:
        runs: each with at least one epoch done.
        directory: where the page and its figures go; made if missing.

    Raises:
        ValueError: if a run has no epoch done.
    """
    for run in runs:
        if not run.records:
            raise ValueError(
                f"`runs` must have epochs to show, got {str(run.directory)!r} with "
                "none; train it first."
            )
    directory.mkdir(parents=True, exist_ok=True)
    shown = {
        "loss": "mean training loss (nats)",
        "adversarial_accuracy": "training adversarial accuracy",
        "epsilon": "epsilon (pixels in [0, 1])",
    }
    figures = {}
    for name, label in shown.items():
        lines = [
            plots.Curve(
                run.directory.name,
                [record["epoch"] for record in run.records],
                [record[name] for record in run.records],
            )
            for run in runs
        ]
        figure = plots.curves(lines, xlabel="epoch", ylabel=label)
        figures[label] = plots.save(figure, directory / f"{name}.png")
    header = ["run", "data", "epochs", "epsilon", "loss", "adversarial accuracy"]
    cells = [header]
    for run in runs:
        last = run.records[-1]
        cells.append(
            [
                run.directory.name,
                run.problem.title,
                str(last["epoch"]),
                f"{last['epsilon']:g}",
                f"{last['loss']:.4f}",
                percent(last["adversarial_accuracy"]),
            ]
        )
    page = html_page(
        "Training runs",
        tables={"Last epoch, training data": cells},
        figures=figures,
        details={str(run.directory): run.config for run in runs},
    )
    path = directory / "report.html"
    path.write_text(page)
    return path
