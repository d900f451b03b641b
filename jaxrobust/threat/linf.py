"""The l_inf ball: every pixel moves by at most the radius."""

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxrobust.threat.arithmetic import add_toward_zero, per_example
from jaxrobust.threat.base import ThreatModel
from jaxrobust.types import Images, PerExample, PRNGKey, widened

__all__ = ["LinfBall"]


@dataclasses.dataclass(frozen=True)
class LinfBall(ThreatModel):
    r"""All images within `epsilon` of the clean one in every pixel.

    The admissible set is
    :math:`\{x' : \|x' - x\|_\infty \le \epsilon\} \cap [l, u]^d`.

    References:
        Madry et al., 2018, arXiv:1706.06083, Section 2.1.
    """

    name: ClassVar[str] = "linf"
    symbol: ClassVar[str] = "l∞"

    @classmethod
    def diameter(
        cls,
        shape: Sequence[int] | None,
        bounds: tuple[float, float] | None = (0.0, 1.0),
    ) -> float:
        del shape
        return math.inf if bounds is None else bounds[1] - bounds[0]

    @classmethod
    def usual_epsilon(cls, shape: Sequence[int]) -> float:
        """Madry et al., 2018, for gray images; RobustBench for others."""
        return 0.3 if shape[-1] == 1 else 8 / 255

    def norm(self, perturbation: Images) -> PerExample:
        return jnp.max(
            jnp.abs(perturbation), axis=tuple(range(1, perturbation.ndim)), initial=0.0
        )

    def project(self, images: Images, center: Images) -> Images:
        radius = self.radius(center)
        epsilon = jnp.full_like(center, radius, dtype=radius.dtype)
        images = jnp.where(jnp.isnan(images), center, images)
        lower = add_toward_zero(center, -epsilon)
        upper = add_toward_zero(center, epsilon)
        return self.clip(jnp.clip(images, lower, upper), center)

    def project_perturbation(self, perturbation: Images, radius: PerExample) -> Images:
        reach = per_example(radius, perturbation)
        return jnp.clip(perturbation, -reach, reach)

    def corners(self, center: Images) -> tuple[Images, Images]:
        reach = 2 * self.radius(center)
        wide = widened(center)
        lower, upper = (
            self.project(corner.astype(center.dtype), center)
            for corner in (wide - reach, wide + reach)
        )
        return lower, upper

    def sample(self, key: PRNGKey, center: Images) -> Images:
        wide = widened(center)
        noise = jax.random.uniform(key, center.shape, wide.dtype, -1.0, 1.0)
        moved = wide + self.radius(center) * noise
        return self.project(moved.astype(center.dtype), center)

    def steepest(self, gradient: Images) -> Images:
        return jnp.sign(gradient)
