"""What a loss looks like over weights: along lines and curves, and over random planes.

Weights are pytrees of arrays, such as `(params, state)`, and a model is
`apply(weights) -> logits_fn`, in evaluation mode. Between two networks the running
statistics of batch normalization are a question of their own: interpolated, they are
those of no network. They stay as interpolated unless `recalibrate`, which takes weights
to weights, re-estimates them; every result says which was done.

All points are evaluated one after another in one compiled program, attack included, so
memory does not depend on how many there are. A program is used again when `apply` and
`recalibrate` are the same objects as before and the attack has the same structure, and
goes when one of the functions does.
"""

from jaxrobust.evaluation.weight_space.connection import Connection, connect
from jaxrobust.evaluation.weight_space.lines import (
    PathLoss,
    loss_along_line,
    loss_along_path,
)
from jaxrobust.evaluation.weight_space.paths import (
    Path,
    barrier_height,
    bezier_path,
    line,
)
from jaxrobust.evaluation.weight_space.planes import (
    PlaneLoss,
    filter_normalized_plane,
    loss_plane,
)
from jaxrobust.evaluation.weight_space.points import BatchNorm

__all__ = [
    "BatchNorm",
    "Connection",
    "Path",
    "PathLoss",
    "PlaneLoss",
    "barrier_height",
    "bezier_path",
    "connect",
    "filter_normalized_plane",
    "line",
    "loss_along_line",
    "loss_along_path",
    "loss_plane",
]
