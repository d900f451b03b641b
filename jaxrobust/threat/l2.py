"""The l_2 ball: the Euclidean length of the perturbation is at most the radius."""

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrobust.threat.arithmetic import (
    l2_norm,
    l2_normalize,
    per_example,
)
from jaxrobust.threat.base import ThreatModel
from jaxrobust.types import Images, PerExample, PRNGKey, widened

__all__ = ["L2Ball"]


@dataclasses.dataclass(frozen=True)
class L2Ball(ThreatModel):
    r"""All images within Euclidean distance `epsilon` of the clean one.

    The admissible set is :math:`\{x' : \|x' - x\|_2 \le \epsilon\} \cap [l, u]^d`.
    `project` moves to the ball and then to the range; this lies in both, but is not
    the nearest such point when both constraints bind.
    """

    name: ClassVar[str] = "l2"
    symbol: ClassVar[str] = "l₂"

    @classmethod
    def diameter(
        cls,
        shape: Sequence[int] | None,
        bounds: tuple[float, float] | None = (0.0, 1.0),
    ) -> float:
        if shape is None or bounds is None:
            return math.inf
        return (bounds[1] - bounds[0]) * math.sqrt(math.prod(shape))

    @classmethod
    def usual_epsilon(cls, shape: Sequence[int]) -> float:
        """Maini et al., 2020, arXiv:1909.04068."""
        return 2.0 if shape[-1] == 1 else 0.5

    def norm(self, perturbation: Images) -> PerExample:
        return l2_norm(perturbation)

    def project_perturbation(self, perturbation: Images, radius: PerExample) -> Images:
        # optax would divide 0 by 0 at radius 0, and infinity by infinity.
        largest = float(np.finfo(np.float32).max) ** 0.5
        tiny = float(np.finfo(np.float32).tiny) ** 0.5
        scale = jnp.clip(radius, tiny, largest)
        moved = jax.vmap(optax.projections.projection_l2_ball)(perturbation, scale)
        return jnp.where(per_example(radius, moved) > tiny, moved, 0.0)

    def sample(self, key: PRNGKey, center: Images) -> Images:
        direction_key, radius_key = jax.random.split(key)
        wide = widened(center)
        direction = jax.random.normal(direction_key, center.shape, wide.dtype)
        direction = l2_normalize(direction)
        # A radius of epsilon * u^(1/d) makes the points uniform in the ball, not on
        # the sphere.
        share = jax.random.uniform(radius_key, center.shape[:1], wide.dtype)
        share = share ** (1.0 / center[0].size)
        moved = wide + self.radius(center) * per_example(share, center) * direction
        return self.project(moved.astype(center.dtype), center)

    def steepest(self, gradient: Images) -> Images:
        return l2_normalize(gradient)
