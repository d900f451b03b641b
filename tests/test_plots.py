"""What figures draw: the data on their axes, not pixels."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

from jaxrobust import plots

RNG = np.random.default_rng(4)


def test_curves_draw_their_lines_levels_and_bands():
    lines = [
        plots.Curve("a", [0.0, 1.0, 2.0], [0.9, 0.5, 0.1]),
        plots.Curve("b", [0.0, 1.0], [0.4, 0.3]),
    ]
    bands = {"a": ([0.8, 0.4, 0.0], [1.0, 0.6, 0.2])}
    figure = plots.curves(
        lines, xlabel="radius", ylabel="share", levels={"chance": 0.1}, bands=bands
    )
    (axes,) = figure.axes
    for line, drawn in zip(lines, axes.lines, strict=False):
        np.testing.assert_array_equal(drawn.get_xdata(), line.x)
        np.testing.assert_array_equal(drawn.get_ydata(), line.y)
    assert axes.lines[2].get_ydata()[0] == 0.1
    (band,) = axes.collections
    corners = {(round(x, 6), round(y, 6)) for x, y in band.get_paths()[0].vertices}
    assert corners == {(0, 0.8), (1, 0.4), (2, 0), (0, 1), (1, 0.6), (2, 0.2)}
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["a", "b"]


def test_histograms_draw_shares_over_each_other():
    edges = [0.0, 0.5, 0.75, 1.0]
    figure = plots.histograms(
        {"a": ([1, 0, 3], edges), "b": ([0, 0, 0], edges)}, xlabel="pixel", title="t"
    )
    (axes,) = figure.axes
    assert (axes.get_yscale(), axes.get_title()) == ("log", "t")
    first, second = (patch.get_data() for patch in axes.patches)
    np.testing.assert_array_equal(first.values, [25, 0, 75])
    np.testing.assert_array_equal(first.edges, edges)
    np.testing.assert_array_equal(second.values, 0)
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["a", "b"]


def test_surfaces_share_one_scale_and_draw_the_border_of_what_is_marked():
    x, y = np.linspace(-1, 1, 9), np.linspace(-2, 2, 7)
    low, high = 0.5 * x[None] + 0 * y[:, None], 3 + y[:, None] ** 2 + 0 * x[None]
    panels = [
        plots.Panel("low", low, low > 0.2),
        plots.Panel("high", high, high > 99),
        plots.Panel("plain", low),
        plots.Panel("more", high),
    ]
    figure = plots.surfaces(
        panels, x=x, y=y, xlabel="a", ylabel="b", label="loss", columns=3
    )
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in shown[:4]] == ["low", "high", "plain", "more"]
    assert len(figure.axes) == 6 + 1 and len(shown) == 4 + 1
    # Filled contours, their lines, and the border, which only the first panel has.
    assert [len(axes.collections) for axes in shown[:4]] == [3, 2, 2, 2]
    for axes in shown[:4]:
        levels = axes.collections[0].levels
        assert (levels[0], levels[-1]) == (-0.5, 7.0)
    border = np.concatenate([p.vertices for p in shown[0].collections[2].get_paths()])
    assert np.all((border[:, 0] > 0.25) & (border[:, 0] < 0.5))
    np.testing.assert_allclose(np.ptp(border[:, 1]), 4)


def test_a_flat_surface_can_be_drawn():
    axis = [0.0, 1.0]
    panels = [plots.Panel("flat", np.ones((2, 2)))]
    figure = plots.surfaces(panels, x=axis, y=axis, xlabel="", ylabel="", label="loss")
    assert figure.axes[0].collections[0].levels[0] == 1


def test_image_grids_show_gray_color_and_signed_images():
    gray = RNG.uniform(size=(3, 4, 4, 1))
    color = RNG.uniform(-0.1, 1.1, size=(2, 4, 4, 3))
    signed = RNG.normal(size=(3, 4, 4, 1))
    figure = plots.image_grid(
        [
            plots.ImageRow("images", gray, titles=["7", "2", "1"]),
            plots.ImageRow("color", color),
            plots.ImageRow("gradient", signed, is_signed=True),
            plots.ImageRow("color gradient", color - 0.5, is_signed=True),
        ]
    )
    rows = figure.axes
    assert [axes.get_ylabel() for axes in rows] == [
        *("images", "color", "gradient", "color gradient")
    ]
    assert [text.get_text() for text in rows[0].texts] == ["7", "2", "1"]
    assert [len(axes.images) for axes in rows] == [3, 2, 3, 2]
    for index, (drawn, image) in enumerate(zip(rows[0].images, gray, strict=True)):
        np.testing.assert_array_equal(drawn.get_array(), image[..., 0])
        assert drawn.get_clim() == (0, 1) and drawn.get_cmap().name == "gray"
        assert drawn.get_extent()[0] == index
    for drawn, image in zip(rows[1].images, color, strict=True):
        np.testing.assert_array_equal(drawn.get_array(), np.clip(image, 0, 1))
    limit = np.abs(signed).max()
    for drawn, image in zip(rows[2].images, signed, strict=True):
        assert drawn.get_clim() == (-limit, limit)
        np.testing.assert_array_equal(drawn.get_array(), image[..., 0])
    for drawn, image in zip(rows[3].images, color - 0.5, strict=True):
        np.testing.assert_allclose(drawn.get_array(), image.mean(axis=-1))
    assert len({axes.get_xlim() for axes in rows}) == 1


def test_images_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"`images` must be .*, got \(4, 4\)"):
        plots.image_grid([plots.ImageRow("one", np.zeros((4, 4)))])


def test_a_figure_is_saved_alike_twice(tmp_path):
    def save(name):
        line = plots.Curve("a", [0.0, 1.0], [0.9, 0.5])
        figure = plots.curves([line], xlabel="x", ylabel="y")
        return plots.save(figure, tmp_path / name).read_bytes()

    assert save("one.svg") == save("other.svg")
    assert save("one.png").startswith(b"\x89PNG")


ROWS = [
    {"model": "a", "clean_accuracy": 0.9, "robust_accuracy": {"0.1": 0.5}},
    {"model": "b", "clean_accuracy": 0.8, "robust_accuracy": {"0.1": 0.4}},
]
RISKS = [{"name": "a", "risk": 0.1, "adversarial_risk": 0.3}]
LINES = [plots.Curve("a", [0.0, 1.0], [0.9, 0.5])]
AXIS = [0.0, 1.0]
TABLES = [plots.Panel("one", np.eye(2)), plots.Panel("other", np.ones((2, 2)))]
PICTURES = [plots.ImageRow("one", RNG.uniform(size=(2, 3, 3)))] * 2
MAPS = {"one": [[0.1, 0.2]], "other": [[0.3, 0.4]]}
DRAWINGS = {
    "accuracy_bars": (1, lambda **ax: plots.accuracy_bars(ROWS, **ax)),
    "risk_bars": (1, lambda **ax: plots.risk_bars(RISKS, **ax)),
    "curves": (1, lambda **ax: plots.curves(LINES, xlabel="", ylabel="", **ax)),
    "histograms": (
        1,
        lambda **ax: plots.histograms({"a": ([1, 2], [0, 0.5, 1])}, xlabel="", **ax),
    ),
    "surfaces": (
        2,
        lambda **ax: plots.surfaces(
            TABLES, x=AXIS, y=AXIS, xlabel="", ylabel="", label="", **ax
        ),
    ),
    "accuracy_maps": (
        2,
        lambda **ax: plots.accuracy_maps(
            MAPS, rows=[1.0], columns=[1.0, 2.0], xlabel="", ylabel="", **ax
        ),
    ),
    "image_grid": (2, lambda **ax: plots.image_grid(PICTURES, **ax)),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_plots_draw_into_axes_that_are_handed_over(name):
    count, draw = DRAWINGS[name]
    own = draw()
    figure = Figure()
    axes = figure.subplots(1, count + 1).flat
    given = axes[0] if count == 1 else axes[:count]
    assert draw(ax=given) is figure and own is not figure
    drawn = [[*ax.lines, *ax.patches, *ax.images, *ax.collections] for ax in axes]
    assert all(drawn[:count]) and not drawn[count]
    own_parts = [
        len([*ax.lines, *ax.patches, *ax.images, *ax.collections]) for ax in own.axes
    ]
    assert [len(parts) for parts in drawn[:count]] == own_parts[:count]
    with pytest.raises(ValueError, match=f"`ax` must be {count} axes, .*, got "):
        draw(ax=figure.subplots(1, count + 2))


def test_every_plot_takes_axes():
    functions = {name for name in plots.__all__ if name.islower()} - {"save"}
    assert functions == {*DRAWINGS}


BACKEND = """
import sys
from pathlib import Path

import matplotlib

if {is_chosen}:
    matplotlib.use("svg")
import jaxrobust.report
from jaxrobust import plots
from jaxrobust.cli import chosen

chosen(["report", "run"])
figure = plots.curves([plots.Curve("a", [0.0, 1.0], [1.0, 2.0])], xlabel="", ylabel="")
plots.save(figure, Path({path!r}))
# What a notebook shows of the value of a cell.
assert figure._repr_png_()[1:4] == b"PNG"
assert "matplotlib.pyplot" not in sys.modules

from matplotlib import pyplot

assert matplotlib.get_backend() == "svg", matplotlib.get_backend()
mine, axes = pyplot.subplots()
assert plots.curves([plots.Curve("a", [0, 1], [1, 2])], xlabel="", ylabel="", ax=axes)
assert pyplot.get_fignums() == [mine.number]
plots.save(mine, Path({path!r}))
assert pyplot.get_fignums() == [mine.number], "a figure of the user's stays open"
"""


@pytest.mark.parametrize("is_chosen", [True, False], ids=["use", "MPLBACKEND"])
def test_the_backend_stays_what_the_user_made_it(is_chosen, tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg" if is_chosen else "svg")
    code = BACKEND.format(is_chosen=is_chosen, path=str(tmp_path / "figure.png"))
    subprocess.run([sys.executable, "-c", code], check=True)
