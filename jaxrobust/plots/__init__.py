"""Figures of the library; the only place that imports matplotlib."""

from jaxrobust.plots.bars import accuracy_bars, risk_bars
from jaxrobust.plots.lines import Curve, curves
from jaxrobust.plots.maps import Panel, accuracy_maps, surfaces
from jaxrobust.plots.pictures import ImageRow, image_grid
from jaxrobust.plots.style import Figure, save

__all__ = [
    "Curve",
    "Figure",
    "ImageRow",
    "Panel",
    "accuracy_bars",
    "accuracy_maps",
    "curves",
    "image_grid",
    "risk_bars",
    "save",
    "surfaces",
]
