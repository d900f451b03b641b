"""The words every other module shares: arrays and their shapes, the role of a model.

An image batch is `(batch, height, width, channels)` in the library's own models, but
attacks and threat models accept any trailing shape. Pixels are floats in [0, 1]
unless a threat model says otherwise.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

__all__ = [
    "Images",
    "Labels",
    "Logits",
    "LogitsFn",
    "PRNGKey",
    "Params",
    "PerExample",
    "PerExampleFlag",
    "Scalar",
]

Params = Any
"""A pytree of arrays, as `module.init` returns it."""

PRNGKey = PRNGKeyArray
Images = Float[Array, "batch *pixels"]
Labels = Int[Array, " batch"]
Logits = Float[Array, "batch classes"]
PerExample = Float[Array, " batch"]
PerExampleFlag = Bool[Array, " batch"]
Scalar = float | int | np.number | Float[Array, ""] | Int[Array, ""]
"""A number known to Python, or a traced one: both compile once."""

LogitsFn = Callable[[Images], Logits]
"""Everything an attack may know of a model: images in, logits out."""
