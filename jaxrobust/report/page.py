"""Pages that are one self-contained file: no links to other files, no network.

A page is a title and sections; a section is made of the pieces that the functions here
return as HTML. It is readable on a phone (wide tables and code scroll inside their own
box), in the dark, and on paper.
"""

import base64
import html
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxrobust.report.tables import Cells

__all__ = [
    "Section",
    "badge",
    "code",
    "details",
    "figure",
    "heading",
    "html_page",
    "listing",
    "page",
    "paragraph",
    "table",
]

_STYLE = """
:root { color-scheme: light dark; --line: #8885; --soft: #8881; }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 1.5rem auto;
       padding: 0 1rem; overflow-wrap: break-word; }
h1 { line-height: 1.2; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
nav a { margin-right: 1rem; white-space: nowrap; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .93rem;
        font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding-bottom: .3rem; }
th, td { padding: .3rem .7rem; text-align: right; vertical-align: top;
         border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
table.text th, table.text td { text-align: left; }
h3 { margin-top: 1.8rem; }
figure { margin: 1.2rem 0; overflow-x: auto; }
figcaption { font-size: .9rem; margin-top: .3rem; }
img { max-width: 100%; height: auto; background: white; border-radius: 4px; }
pre { overflow-x: auto; font-size: .85rem; background: var(--soft); padding: .7rem; }
details { border: 1px solid var(--line); border-radius: 6px; padding: .4rem .8rem;
          margin: .6rem 0; }
summary { cursor: pointer; }
.badge { display: inline-block; padding: 0 .5rem; border-radius: 999px;
         font-size: .85rem; font-weight: 600; white-space: nowrap;
         border: 1px solid currentColor; }
.pass { color: #067647; } .fail { color: #b42318; } .inconclusive { color: #8a6100; }
@media (prefers-color-scheme: dark) {
  .pass { color: #5ad19a; } .fail { color: #ff9b8f; } .inconclusive { color: #e8c264; }
}
figure.svg img { width: min(100%, 38rem); }
@media (max-width: 40rem) {
  figure.png img { max-width: none; width: 36rem; }
  table.text td:first-child { min-width: 10rem; }
  th, td { padding: .3rem .4rem; }
}
@media print {
  @page { margin: 1.5cm; }
  details::details-content { content-visibility: visible; block-size: auto; }
  html { font-size: 10.5px; } body { max-width: none; font-size: 1rem; }
  nav { display: none; } h2, h3, thead, summary { break-after: avoid; }
  details p { margin: .3rem 0; }
  figure img { max-height: 21cm; width: auto; }
  figure, tr { break-inside: avoid; } .wide, pre { overflow: visible; }
  pre { white-space: pre-wrap; }
}
"""

_TYPES = {".png": "image/png", ".svg": "image/svg+xml"}


class Section(NamedTuple):
    """A part of a page.

    Attributes:
        title: plain text.
        pieces: HTML, one after another.
    """

    title: str
    pieces: Sequence[str]


def paragraph(text: str) -> str:
    """Plain text."""
    return f"<p>{html.escape(text)}</p>"


def badge(word: str) -> str:
    """A verdict (pass, fail, inconclusive) that stands out, also without color."""
    sign = {"pass": "✓", "fail": "✗", "inconclusive": "?"}.get(word, "")
    return f'<span class="badge {html.escape(word)}">{sign} {html.escape(word)}</span>'


def _unbroken(text: str) -> str:
    """Numbers with their units, and intervals, stay in one line of a narrow cell."""
    text = re.sub(r"(\d|ε) (?=[%=])|(?<==) (?=\d)", "\\1\u00a0", text)
    bracket = r"\[[^\]]*\]|\([^)]{,12}\)"
    return re.sub(bracket, lambda found: found[0].replace(" ", "\u00a0"), text)


def table(cells: Cells, caption: str = "", *, is_text: bool = False) -> str:
    """Cells with a header row; wide tables scroll by themselves.

    Args:
        cells: plain texts; verdicts among them become badges.
        caption: above the table.
        is_text: whether columns hold sentences rather than numbers.
    """

    def cell(text: str, tag: str) -> str:
        is_verdict = tag == "td" and text in ("pass", "fail", "inconclusive")
        inner = badge(text) if is_verdict else _unbroken(html.escape(text))
        return f"<{tag}>{inner}</{tag}>"

    def row(line: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(cell(text, tag) for text in line) + "</tr>"

    header, *body = cells
    kind = ' class="text"' if is_text else ""
    above = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="wide"><table{kind}>{above}<thead>{row(header, "th")}</thead>'
        f"<tbody>{''.join(row(line, 'td') for line in body)}</tbody></table></div>"
    )


def figure(path: Path, caption: str) -> str:
    """A PNG or SVG file, embedded; the caption says what it shows.

    Lines (SVG) grow and shrink with the page; pixels (PNG) scroll on a phone.
    """
    data = base64.b64encode(path.read_bytes()).decode()
    text = html.escape(caption)
    return (
        f'<figure class="{path.suffix[1:]}"><img alt="{text}" '
        f'src="data:{_TYPES[path.suffix]};base64,{data}">'
        f"<figcaption>{text}</figcaption></figure>"
    )


def code(text: str) -> str:
    """Text in a fixed-width font, such as a command or a configuration."""
    return f"<pre>{html.escape(text)}</pre>"


def heading(text: str, verdict: str = "") -> str:
    """A heading inside a section, with a verdict behind it."""
    behind = f" {badge(verdict)}" if verdict else ""
    return f"<h3>{html.escape(text)}{behind}</h3>"


def listing(texts: Sequence[str]) -> str:
    """Plain texts, each behind a dot."""
    items = "".join(f"<li>{html.escape(text)}</li>" for text in texts)
    return f"<ul>{items}</ul>"


def details(summary: str, *pieces: str, verdict: str = "") -> str:
    """Pieces of HTML that are folded away behind a line of plain text.

    On paper they are unfolded, where the browser can.
    """
    line = html.escape(summary)
    if verdict:
        line = f"{badge(verdict)} {line}"
    return f"<details><summary>{line}</summary>{''.join(pieces)}</details>"


def page(title: str, sections: Sequence[Section], *, lead: Sequence[str] = ()) -> str:
    """A whole page.

    Args:
        title: plain text.
        sections: in order; with more than two there are links to them at the top.
        lead: HTML between the title and the first section.
    """
    links = "".join(
        f'<a href="#part{number}">{html.escape(section.title)}</a>'
        for number, section in enumerate(sections)
    )
    body = "".join(
        f'<h2 id="part{number}">{html.escape(section.title)}</h2>'
        + "".join(section.pieces)
        for number, section in enumerate(sections)
    )
    menu = f"<nav>{links}</nav>" if len(sections) > 2 else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body><h1>{html.escape(title)}</h1>{''.join(lead)}{menu}{body}</body></html>\n"
    )


def html_page(
    title: str,
    *,
    paragraphs: Sequence[str] = (),
    tables: Mapping[str, Cells] | None = None,
    figures: Mapping[str, Path] | None = None,
    details: Mapping[str, Any] | None = None,
) -> str:
    """A page of tables, figures and details, each under its caption.

    Args:
        title: heading.
        paragraphs: plain text under it.
        tables: by caption.
        figures: PNG or SVG files by caption.
        details: shown as indented JSON at the end.
    """
    sections = [
        Section(caption, [table(cells)]) for caption, cells in (tables or {}).items()
    ]
    if figures:
        drawn = [figure(path, caption) for caption, path in figures.items()]
        sections.append(Section("Figures", drawn))
    if details:
        text = json.dumps(details, indent=2, default=str)
        sections.append(Section("Details", [code(text)]))
    return page(title, sections, lead=[paragraph(text) for text in paragraphs])
