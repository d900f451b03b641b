"""Training on images under Gaussian noise, for randomized smoothing."""

import dataclasses
from typing import Any

import jax
from jaxtyping import Array

from jaxrobust.arguments import require_in
from jaxrobust.training.recipe.model import Model
from jaxrobust.training.recipe.objectives.base import Seen
from jaxrobust.training.recipe.objectives.standard import Standard
from jaxrobust.types import Images, Labels, PRNGKey

__all__ = ["Gaussian"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gaussian(Standard):
    """The cross-entropy on images with Gaussian noise, one draw for each image.

    What randomized smoothing votes by (`jaxrobust.bounds.smoothing`) is then what the
    network has seen: noise is not cut to the pixel range, and the radius of the phase
    plays no part.

    Raises:
        ValueError: for a deviation out of range.

    References:
        Lecuyer et al., 2019, arXiv:1802.03471; Cohen et al., 2019, arXiv:1902.02918.
    """

    sigma: float = 0.25
    """Deviation of the noise in every pixel, in units of [0, 1] pixels."""

    def __post_init__(self):
        remedy = "it is in [0, 1] pixel units, such as 0.25"
        require_in("sigma", self.sigma, "[0, inf)", remedy)

    def __call__(
        self, key: PRNGKey, model: Model, threat: Any, images: Images, labels: Labels
    ) -> tuple[Array, Seen]:
        """Loss and what was seen; see `Objective`."""
        noise_key = jax.random.fold_in(key, 2)  # the key itself is the network's
        noise = jax.random.normal(noise_key, images.shape, images.dtype)
        return super().__call__(key, model, threat, images + self.sigma * noise, labels)
