"""Tables in Markdown and HTML, and reports that are one self-contained file."""

from jaxrobust.report.page import (
    Section,
    badge,
    code,
    details,
    figure,
    html_page,
    page,
    paragraph,
    table,
)
from jaxrobust.report.tables import accuracy_table, markdown_table, percent
from jaxrobust.report.training import run_report

__all__ = [
    "Section",
    "accuracy_table",
    "badge",
    "code",
    "details",
    "figure",
    "html_page",
    "markdown_table",
    "page",
    "paragraph",
    "percent",
    "run_report",
    "table",
]
