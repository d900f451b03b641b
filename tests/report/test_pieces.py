import re

import numpy as np
import pytest

from jaxrobust import plots
from jaxrobust.report import (
    accuracy_table,
    details,
    heading,
    html_page,
    interval_table,
    listing,
    markdown_table,
    paragraph,
    percent,
    table,
)

ROWS = [
    {"model": "a", "clean_accuracy": 0.98, "robust_accuracy": {"0.3": 0.9, "0.4": 0.1}},
    {"model": "b <b>", "clean_accuracy": 1.0, "robust_accuracy": {"0.4": 0.5}},
]


def test_a_table_has_a_row_for_each_model_and_a_dash_for_what_is_not_known():
    assert accuracy_table(ROWS) == [
        ["model", "clean", "ε = 0.3", "ε = 0.4"],
        ["a", "98.0 %", "90.0 %", "10.0 %"],
        ["b <b>", "100.0 %", "-", "50.0 %"],
    ]


def test_intervals_stand_behind_the_shares_that_are_known():
    ends = {"0.3": (0.8, 0.95), "0.4": (0.05, 0.2)}
    rows = [
        {**ROWS[0], "clean_interval": (0.9, 1.0), "robust_interval": ends},
        {**ROWS[1], "clean_interval": (0.9, 1.0), "robust_interval": {"0.4": (0, 1)}},
    ]
    assert interval_table(rows)[1:] == [
        ["a", "98.0 % [90.0, 100.0]", "90.0 % [80.0, 95.0]", "10.0 % [5.0, 20.0]"],
        ["b <b>", "100.0 % [90.0, 100.0]", "-", "50.0 % [0.0, 100.0]"],
    ]


def test_pieces_take_plain_texts_and_unfold_into_markup():
    folded = details("a < b", paragraph("1 < 2"), verdict="fail")
    assert "a &lt; b</summary><p>1 &lt; 2</p>" in folded and "✗ fail" in folded
    assert listing(["<li>"]) == "<ul><li>&lt;li&gt;</li></ul>"
    assert heading("<i>") == "<h3>&lt;i&gt;</h3>"


def test_numbers_keep_their_units_and_intervals_their_ends():
    shown = table([["x", "ε = 0.3"], ["a", "5.0 % [1.0, 9.0]"]])
    assert "5.0\u00a0% [1.0,\u00a09.0]" in shown and "ε\u00a0=\u00a00.3" in shown


def test_published_numbers_stand_in_brackets():
    cells = accuracy_table(ROWS, {"a": (0.98, 0.91, 0.15)})
    assert cells[1] == ["a", "98.0 % (98)", "90.0 % (91)", "10.0 % (15)"]
    assert cells[2] == accuracy_table(ROWS)[2]


def test_markdown_aligns_numbers_right():
    assert markdown_table([["m", "x"], ["a", "1"]]) == (
        "| m | x |\n| --- | ---: |\n| a | 1 |\n"
    )


@pytest.mark.parametrize(("share", "text"), [(0.12345, "12.3 %"), (None, "-")])
def test_percent(share, text):
    assert percent(share) == text


def test_a_page_holds_everything_itself(tmp_path):
    bars = plots.save(plots.accuracy_bars(ROWS), tmp_path / "bars.png")
    page = html_page(
        "<Title>",
        paragraphs=["1 < 2"],
        tables={"T & t": accuracy_table(ROWS)},
        figures={"bars": bars},
        details={"seed": 0},
    )
    assert "<h1>&lt;Title&gt;</h1>" in page and "1 &lt; 2" in page
    assert "b &lt;b&gt;" in page and "T &amp; t" in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert "http" not in page
    assert page.count("<table") == 1 and page.count('src="data:image/png') == 1


def test_figures_are_written_in_the_format_of_their_suffix(tmp_path):
    lines = [plots.Curve("a", [1, 2, 3], [0.1, 0.2, 0.15])]

    def draw():
        levels = {"chance": 2.3}
        return plots.curves(lines, xlabel="x", ylabel="y", levels=levels, title="t")

    png = plots.save(draw(), tmp_path / "a.png")
    assert png.read_bytes().startswith(b"\x89PNG")
    first = plots.save(draw(), tmp_path / "a.svg").read_text()
    second = plots.save(draw(), tmp_path / "b.svg").read_text()
    assert "<svg" in first and first == second


def test_curves_show_the_values_they_are_given():
    line = plots.Curve("a", [1, 2, 3], [0.1, 0.2, 0.15])
    figure = plots.curves([line], xlabel="epoch", ylabel="loss", log=True)
    (axes,) = figure.axes
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), line.y)
    assert axes.get_yscale() == "log" and axes.get_xlabel() == "epoch"
