"""Tables in Markdown and HTML, and reports that are one self-contained file."""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxrobust import plots
from jaxrobust.training import Run

__all__ = ["accuracy_table", "html_page", "markdown_table", "percent", "run_report"]

Cells = Sequence[Sequence[str]]

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto;
       padding: 0 1rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid #8884; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; background: white; }
pre { overflow-x: auto; font-size: .85rem; }
@media print { body { max-width: none; } }
"""


def percent(share: float | None, digits: int = 1) -> str:
    """A share in [0, 1] as printed in tables; a dash for None."""
    return "-" if share is None else f"{100 * share:.{digits}f} %"


def accuracy_table(
    rows: Sequence[Mapping[str, Any]],
    published: Mapping[str, Sequence[float | None]] | None = None,
) -> list[list[str]]:
    """Cells of an accuracy table, with a header row.

    Args:
        rows: each with `model`, `clean_accuracy`, `robust_accuracy` (shares in [0, 1]
            by radius as printed).
        published: for models by name, the paper's shares in the order of the columns;
            printed in brackets behind ours.
    """
    radii = list(dict.fromkeys(key for row in rows for key in row["robust_accuracy"]))
    cells = [["model", "clean", *(f"ε = {radius}" for radius in radii)]]
    for row in rows:
        shares = [row["clean_accuracy"]]
        shares += [row["robust_accuracy"].get(radius) for radius in radii]
        papers = list((published or {}).get(row["model"], []))
        papers += [None] * (len(shares) - len(papers))
        line = [
            percent(ours) + ("" if paper is None else f" ({100 * paper:.0f})")
            for ours, paper in zip(shares, papers, strict=True)
        ]
        cells.append([row["model"], *line])
    return cells


def markdown_table(cells: Cells) -> str:
    """A Markdown table whose first row is the header; first column left."""
    header, *body = cells
    rule = ["---", *["---:"] * (len(header) - 1)]
    lines = [header, rule, *body]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _html_table(cells: Cells) -> str:
    def row(line: Sequence[str], tag: str) -> str:
        inner = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in line)
        return f"<tr>{inner}</tr>"

    header, *body = cells
    return (
        f"<table>{row(header, 'th')}{''.join(row(line, 'td') for line in body)}</table>"
    )


def html_page(
    title: str,
    *,
    paragraphs: Sequence[str] = (),
    tables: Mapping[str, Cells] | None = None,
    figures: Mapping[str, Path] | None = None,
    details: Mapping[str, Any] | None = None,
) -> str:
    """One page with everything in it: no links to other files, no network.

    Args:
        title: heading.
        paragraphs: plain text under it.
        tables: by caption.
        figures: PNG files by caption.
        details: shown as indented JSON at the end.
    """
    parts = [f"<h1>{html.escape(title)}</h1>"]
    parts += [f"<p>{html.escape(text)}</p>" for text in paragraphs]
    for caption, cells in (tables or {}).items():
        parts.append(f"<h2>{html.escape(caption)}</h2>{_html_table(cells)}")
    for caption, path in (figures or {}).items():
        data = base64.b64encode(path.read_bytes()).decode()
        parts.append(
            f"<h2>{html.escape(caption)}</h2>"
            f'<img alt="{html.escape(caption)}" src="data:image/png;base64,{data}">'
        )
    if details:
        text = html.escape(json.dumps(details, indent=2, default=str))
        parts.append(f"<h2>Details</h2><pre>{text}</pre>")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body>{''.join(parts)}</body></html>\n"
    )


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
