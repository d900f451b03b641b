"""The l_0 ball: as many values of the image may differ as the radius says."""

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxrobust.arguments import require
from jaxrobust.threat.arithmetic import largest_values, per_example
from jaxrobust.threat.base import ThreatModel
from jaxrobust.types import Images, PerExample, PRNGKey, Scalar, widened

__all__ = ["L0Ball"]


@dataclasses.dataclass(frozen=True)
class L0Ball(ThreatModel):
    r"""All images that differ from the clean one in at most `epsilon` values.

    A value is a channel of a pixel, so that a color counts up to three. The radius is
    a whole number of them; what lies between two counts as the lower one. The
    admissible set is :math:`\{x' : \|x' - x\|_0 \le \epsilon\} \cap [l, u]^d`, which is
    not convex; `project` moves to its nearest point, of equally near ones to that which
    changes earlier values.

    References:
        Croce & Hein, 2019, arXiv:1909.05040, Section 4, for projection and steps.
    """

    name: ClassVar[str] = "l0"
    symbol: ClassVar[str] = "l₀"

    @classmethod
    def diameter(
        cls,
        shape: Sequence[int] | None,
        bounds: tuple[float, float] | None = (0.0, 1.0),
    ) -> float:
        del bounds
        return math.inf if shape is None else float(math.prod(shape))

    @classmethod
    def units(cls, epsilon: float) -> str:
        return "it is the number of values (channels of pixels) that may differ"

    @classmethod
    def require_epsilon(
        cls,
        epsilon: float,
        shape: Sequence[int] | None = None,
        *,
        name: str = "epsilon",
    ) -> None:
        super().require_epsilon(epsilon, shape, name=name)
        is_whole = float(epsilon).is_integer()
        require(is_whole, name, "a whole number in l0", epsilon, cls.units(epsilon))

    @classmethod
    def nearby_epsilon(cls, epsilon: float) -> float:
        return float(max(round(epsilon), 1))

    def radius(self, images: Images) -> jax.Array:
        """The number of values: a whole one is not rounded down, as others are."""
        dtype = super().radius(images).dtype
        return jnp.floor(jnp.asarray(self.epsilon, dtype))

    def norm(self, perturbation: Images) -> PerExample:
        axes = tuple(range(1, perturbation.ndim))
        return jnp.sum(widened(perturbation) != 0, axis=axes, dtype=jnp.float32)

    def project(self, images: Images, center: Images) -> Images:
        perturbation = self.perturbation(images, center)
        there = (widened(center) + perturbation).astype(center.dtype)
        # As they are, where they are numbers: a sum may round.
        moved = self.clip(jnp.where(jnp.isfinite(images), images, there), center)
        allowed = widened(moved) - widened(center)
        # By how much a change brings the images nearer that stays in the range.
        gain = allowed * (2 * perturbation - allowed)
        is_kept = largest_values(gain, self.radius(center))
        return jnp.where(is_kept, moved, center)

    def project_perturbation(self, perturbation: Images, radius: PerExample) -> Images:
        is_kept = largest_values(jnp.abs(perturbation), jnp.floor(radius))
        return jnp.where(is_kept, perturbation, 0)

    def sample(self, key: PRNGKey, center: Images) -> Images:
        """As many values as there may be, each anywhere in the pixel range.

        Without a range, anywhere within 1 of the clean value.
        """
        place_key, value_key = jax.random.split(key)
        wide = widened(center)
        places = jax.random.uniform(place_key, center.shape, jnp.float32)
        is_chosen = largest_values(places, self.radius(center))
        lower, upper = self.bounds or (-1.0, 1.0)
        drawn = jax.random.uniform(
            value_key, center.shape, wide.dtype, minval=lower, maxval=upper
        )
        if self.bounds is None:
            drawn += wide
        return self.project(
            jnp.where(is_chosen, drawn.astype(center.dtype), center), center
        )

    def steepest(self, gradient: Images) -> Images:
        """The one value of steepest climb, moved by 1: the whole range of pixels."""
        is_chosen = largest_values(jnp.abs(gradient), 1)
        return jnp.where(is_chosen, jnp.sign(gradient), 0)

    def ascend(self, images: Images, gradient: Images, step_size: Scalar) -> Images:
        """A step along the gradient itself, whose steepest value moves by `step_size`.

        Projection keeps the values that moved furthest. Steps as wide as the pixel
        range, and wider, let others take their places; short ones keep to those that
        were chosen first.
        """
        slope = widened(gradient)
        axes = tuple(range(1, slope.ndim))
        largest = jnp.max(jnp.abs(slope), axis=axes, initial=0.0)
        # An infinite slope moves its values alone.
        slope = jnp.where(
            per_example(jnp.isinf(largest), slope),
            jnp.sign(slope) * jnp.isinf(slope),
            slope / per_example(jnp.where(largest > 0, largest, 1.0), slope),
        )
        return images + step_size * slope
