"""Colors of all figures, and how a figure becomes a file.

Nothing is ever shown in a window, so matplotlib needs no display.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from jaxrobust.keeping import open_whole

__all__ = ["COLORS", "DIVERGING", "SEQUENTIAL", "Figure", "plt", "save"]

# Okabe and Ito's colors, told apart by readers with any color vision.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")

# Both read alike by any color vision; the first also in print without color.
SEQUENTIAL, DIVERGING = "cividis", "PuOr"


def save(figure: Figure, path: Path) -> Path:
    """Write a figure in the format of the path's suffix (png, svg) and close it."""
    # A fixed date and hash keep committed figures the same when the numbers are.
    with matplotlib.rc_context({"svg.hashsalt": "jaxrobust"}):
        metadata = {"Date": None} if path.suffix == ".svg" else None
        with open_whole(path) as file:
            figure.savefig(file, format=path.suffix[1:], dpi=130, metadata=metadata)
    plt.close(figure)
    return path
