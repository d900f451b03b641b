"""The words every other module shares: arrays and their shapes, the role of a model.

An image batch is `(batch, height, width, channels)` in the library's own models, but
attacks and threat models accept any trailing shape. Pixels are floats in [0, 1]
unless a threat model says otherwise.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
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
    "known",
    "widened",
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


def known(values: Any) -> np.ndarray | None:
    """Values that can be looked at, on the host; None if they are traced.

    Also None for an array of which other processes hold a part.
    """
    if isinstance(values, Tracer):
        return None
    if isinstance(values, jax.Array):
        return jax.device_get(values) if values.is_fully_addressable else None
    return np.asarray(values)


def widened(images: Images) -> Images:
    """The images in float32, or in float64 if that is what they are.

    Distances and sums of images are computed in this type: half precision has too few
    bits for them.
    """
    return images.astype(jnp.promote_types(images.dtype, jnp.float32))
