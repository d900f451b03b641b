"""Figures of the library; the only place that imports matplotlib.

It is imported when the first of them is asked for, which takes half a second.
"""

import importlib
from typing import TYPE_CHECKING, Any

__all__ = [
    "Curve",
    "Figure",
    "ImageRow",
    "Panel",
    "accuracy_bars",
    "accuracy_maps",
    "curves",
    "histograms",
    "image_grid",
    "risk_bars",
    "save",
    "surfaces",
]

if TYPE_CHECKING:
    from jaxrobust.plots.bars import accuracy_bars, risk_bars
    from jaxrobust.plots.lines import Curve, curves
    from jaxrobust.plots.maps import Panel, accuracy_maps, surfaces
    from jaxrobust.plots.pictures import ImageRow, image_grid
    from jaxrobust.plots.steps import histograms
    from jaxrobust.plots.style import Figure, save
else:
    _PLACES = {
        "bars": ("accuracy_bars", "risk_bars"),
        "lines": ("Curve", "curves"),
        "maps": ("Panel", "accuracy_maps", "surfaces"),
        "pictures": ("ImageRow", "image_grid"),
        "steps": ("histograms",),
        "style": ("Figure", "save"),
    }

    # Type checkers must not see it: to them, every name would be there.
    def __getattr__(name: str) -> Any:
        for module, names in _PLACES.items():
            if name in names:
                module = importlib.import_module(f"jaxrobust.plots.{module}")
                return getattr(module, name)
        raise AttributeError(f"module 'jaxrobust.plots' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
