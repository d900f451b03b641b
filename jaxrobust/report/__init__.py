"""Tables in Markdown and HTML, and reports that are one self-contained file."""

from jaxrobust.report.comparison import write_report
from jaxrobust.report.page import (
    Section,
    badge,
    code,
    details,
    figure,
    heading,
    html_page,
    listing,
    page,
    paragraph,
    table,
)
from jaxrobust.report.subjects import ReportConfig
from jaxrobust.report.tables import (
    accuracy_table,
    attack_table,
    certified_table,
    interval_table,
    markdown_table,
    method_table,
    percent,
)

__all__ = [
    "ReportConfig",
    "Section",
    "accuracy_table",
    "attack_table",
    "badge",
    "certified_table",
    "code",
    "details",
    "figure",
    "heading",
    "html_page",
    "interval_table",
    "listing",
    "markdown_table",
    "method_table",
    "page",
    "paragraph",
    "percent",
    "table",
    "write_report",
]
