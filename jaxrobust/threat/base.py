r"""What a threat model is: the images an adversary may show in place of the clean one.

A threat model is a small pytree. Its radius `epsilon` is a leaf and may be traced, so
one compiled attack serves a whole schedule or sweep of radii; everything else is
static. A norm is a subclass, which owns all that is known of it: how it is called, how
far apart two images can be, how a perturbation is measured and brought back.

The promises of `project` are exact, not approximate: the difference of the returned
and the clean image, taken in real arithmetic, has norm at most `epsilon`, in float32
as in bfloat16 and float64. Rounding `center + epsilon` to the nearest float would break
this by half a unit in the last place, which in bfloat16 is half of 1/256; rounding
`epsilon` itself to the nearest float32 would make 0.3 a radius of 0.30000001.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.arguments import require, require_in
from jaxrobust.pytrees import Pytree, static
from jaxrobust.threat.arithmetic import add_toward_zero, next_toward, per_example
from jaxrobust.types import (
    Images,
    PerExample,
    PerExampleFlag,
    PRNGKey,
    Scalar,
    known,
    widened,
)

__all__ = ["ThreatModel", "require_images", "require_radius"]

HAIR = 2.0**-18
"""Share of the radius that is kept free where norms are known up to rounding only."""

_REMEDY = "radii are in units of [0, 1] pixels, so 8/255 rather than 8"


def require_radius(epsilon: float | np.number, *, name: str = "epsilon") -> None:
    """Refuse a number that is no radius, in whatever norm and unit.

    Raises:
        ValueError: for a radius that is negative, not finite or beyond float32.
    """
    require_in(name, epsilon, "[0, inf)", _REMEDY)
    largest = float(np.finfo(np.float32).max)
    rule = f"at most {largest:g}, which is as far as float32 goes"
    require(epsilon <= largest, name, rule, epsilon, _REMEDY)


def require_images(images: np.ndarray, bounds: tuple[float, float] | None) -> None:
    """Refuse images outside the pixel range; bytes are always inside.

    Raises:
        ValueError: for a pixel outside `bounds`, or one that is not a number.
    """
    if bounds is None or images.dtype == np.uint8 or not images.size:
        return
    lower, upper = bounds
    low, high = float(np.min(images)), float(np.max(images))
    # A NaN fails every comparison.
    require(
        low >= lower and high <= upper,
        "images",
        f"in [{lower:g}, {upper:g}]",
        [low, high],
        "give images before normalization, which belongs into the model, and bytes "
        "divided by 255",
    )


@dataclasses.dataclass(frozen=True)
class ThreatModel(Pytree):
    """A norm ball round each clean image, cut by the valid pixel range.

    A subclass is a pytree like those here, with nothing to register. It has `norm`,
    `sample` and `steepest`; the other methods follow from these, for any norm that does
    not grow when a pixel moves towards the clean one.

    Attributes:
        name: by which configurations call the norm; that of the class if not given.
        symbol: of the norm, as plots and reports print it; the name if not given.
        epsilon: radius, in units of [0, 1] pixels (8/255, not 8); non-negative. A
            pytree leaf: may be traced or mapped. A Python number is rounded down to the
            type of the images; an array counts as it is.
        bounds: valid pixel range `(lower, upper)`, closed; None for no range. Clean
            images must lie inside it.

    Raises:
        ValueError: if a radius known to Python is negative, not a number or beyond
            float32, or if the bounds do not increase.
    """

    name: ClassVar[str] = ""
    symbol: ClassVar[str] = ""

    epsilon: Scalar
    bounds: tuple[float, float] | None = static(default=(0.0, 1.0))

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        cls.name = vars(cls).get("name", cls.__name__)
        cls.symbol = vars(cls).get("symbol", cls.name)

    def __post_init__(self):
        if isinstance(self.epsilon, int | float | np.number):
            require_radius(self.epsilon)
        if self.bounds is not None:
            remedy = "give (0.0, 1.0), or None for no pixel range"
            is_right = self.bounds[0] < self.bounds[1]
            require(is_right, "bounds", "increasing", self.bounds, remedy)

    # What is known of the norm, whatever the radius.

    @classmethod
    def diameter(
        cls,
        shape: Sequence[int] | None,
        bounds: tuple[float, float] | None = (0.0, 1.0),
    ) -> float:
        """The largest distance of two images: at this radius the ball holds them all.

        Args:
            shape: of an image, without a batch; None if not known yet.
            bounds: pixel range; None for none.

        Returns:
            A distance; infinite where it depends on what is not known.
        """
        if shape is None or bounds is None:
            return math.inf
        with jax.ensure_compile_time_eval():
            apart = jnp.full((1, *shape), bounds[1] - bounds[0], jnp.float32)
            return float(cls(0.0).norm(apart)[0])

    @classmethod
    def units(cls, epsilon: float) -> str:
        """What to do about a radius that is in another unit, for messages."""
        return (
            "radii are in units of [0, 1] pixels, so "
            f"{epsilon:g}/255 rather than {epsilon:g}"
        )

    @classmethod
    def require_epsilon(
        cls,
        epsilon: float,
        shape: Sequence[int] | None = None,
        *,
        name: str = "epsilon",
    ) -> None:
        """Refuse a radius that is in another unit than images in [0, 1].

        Args:
            epsilon: radius, at most the diameter of the images.
            shape: of an image, without a batch; None if not known yet.
            name: of the setting, for the message.

        Raises:
            ValueError: for a radius that is negative, not finite or too large.
        """
        require_radius(epsilon, name=name)
        largest = cls.diameter(shape)
        rule = f"in [0, {largest:g}] in {cls.name}"
        if largest != cls.diameter(None):
            rule += f" for images of {math.prod(shape or ())} values"
        require(epsilon <= largest, name, rule, epsilon, cls.units(epsilon))

    @classmethod
    def usual_epsilon(cls, shape: Sequence[int]) -> float | None:
        """The radius that is usual for such images; None if there is none."""
        del shape
        return None

    @classmethod
    def nearby_epsilon(cls, epsilon: float) -> float:
        """The radius next to this one that the norm tells from others."""
        return epsilon

    # What depends on the radius.

    def with_epsilon(self, epsilon: Scalar) -> "ThreatModel":
        """The same threat at another radius."""
        return dataclasses.replace(self, epsilon=epsilon)

    def check(self, images: Images) -> None:
        """Refuse a radius, or clean images, that are known not to be meant.

        Raises:
            ValueError: for a radius that is no number of at least 0, or a pixel outside
                the range. Nothing traced is looked at.
        """
        radius, values = known(self.epsilon), known(images)
        if radius is not None and radius.ndim == 0:
            require_radius(radius.item())
        if values is not None:
            require_images(values, self.bounds)

    def radius(self, images: Images) -> jax.Array:
        """The radius in the type of the widened images, never more than was given.

        Raises:
            ValueError: if it is not one number.
        """
        remedy = "map over threat models for several radii"
        shape = jnp.shape(self.epsilon)
        require(shape == (), "epsilon", "one number, of shape ()", shape, remedy)
        dtype = np.dtype(jnp.promote_types(images.dtype, jnp.float32))
        if not isinstance(self.epsilon, jax.Array):
            given = np.asarray(self.epsilon, np.float64)
            nearest = given.astype(dtype)
            return jnp.asarray(
                np.nextafter(nearest, dtype.type(0)) if nearest > given else nearest
            )
        nearest = self.epsilon.astype(dtype)
        below = next_toward(nearest, jnp.zeros_like(nearest))
        if self.epsilon.dtype == jnp.float32 and self.epsilon.weak_type:
            # It was a Python number, which jax has rounded to the nearest.
            return below
        if self.epsilon.dtype == jnp.float64 and dtype == np.float32:
            return jnp.where(nearest.astype(jnp.float64) > self.epsilon, below, nearest)
        return nearest

    def clip(self, images: Images, center: Images | None = None) -> Images:
        """Images moved into the pixel range, or as near to it as `center` is."""
        if self.bounds is None:
            return images
        lower, upper = self.bounds
        if center is not None:
            lower, upper = jnp.minimum(lower, center), jnp.maximum(upper, center)
        return jnp.clip(images, lower, upper)

    def norm(self, perturbation: Images) -> PerExample:
        """The norm that `epsilon` bounds, of each example's perturbation."""
        raise NotImplementedError

    def dual_norm(self, gradient: Images) -> PerExample:
        """How fast the steepest direction climbs, per unit of the norm."""
        slope = gradient * self.steepest(gradient)
        return jnp.sum(slope, axis=tuple(range(1, gradient.ndim)))

    def project(self, images: Images, center: Images) -> Images:
        """Images moved into the ball round `center`, then into the pixel range.

        The second move never leaves the ball: a pixel whose center lies outside the
        range, which is an error, goes no further than to the center. A pixel that is
        not a number becomes the clean pixel.
        """
        # A hair inside, because the norm itself is only known up to rounding.
        radius = self.radius(center) * (1 - HAIR)
        perturbation = self.project_perturbation(
            self.perturbation(images, center), jnp.full(center.shape[:1], radius)
        )
        return self.clip(add_toward_zero(center, perturbation), center)

    def perturbation(self, images: Images, center: Images) -> Images:
        """What was added to the clean images, widened: numbers that can be squared."""
        images = jnp.where(jnp.isnan(images), center, images)
        limit = float(np.finfo(np.float32).max) ** 0.5 / center[0].size
        return jnp.clip(widened(images) - widened(center), -limit, limit)

    def project_perturbation(self, perturbation: Images, radius: PerExample) -> Images:
        """Perturbations moved into balls round 0 that have a radius each.

        To the nearest point of the ball for the norms of the library; if a norm says
        nothing else, by shortening. Neither `epsilon` nor the pixel range play a part.

        Args:
            perturbation: `(batch, *pixels)`, widened and finite.
            radius: of each example, at least 0, of the same type; may be infinite.
        """
        length = self.norm(perturbation)
        share = jnp.minimum(radius / jnp.where(length > 0, length, 1.0), 1.0)
        return perturbation * per_example(share, perturbation)

    def contains(self, images: Images, center: Images) -> PerExampleFlag:
        """Whether images lie in the ball round `center` and in the pixel range.

        For who looks at the work of others: up to a ten-thousandth of the radius and a
        millionth of the pixel range of [0, 1], which rounding may take in float32.
        """
        outside = jnp.abs(widened(images) - widened(self.clip(images, center)))
        # A pixel that is not a number fails every comparison.
        is_in_range = jnp.all(outside <= 1e-6, axis=tuple(range(1, images.ndim)))
        distance = self.norm(widened(images) - widened(center))
        return is_in_range & (distance <= 1.0001 * self.radius(center) + 1e-6)

    def corners(self, center: Images) -> tuple[Images, Images]:
        """The lowest and the highest image of a ball that is a box.

        Raises:
            TypeError: if the ball is none.
        """
        raise TypeError(
            "`threat` must be a box, such as a LinfBall, to have corners, got "
            f"{type(self).__name__}; use `project` or `sample`."
        )

    def sample(self, key: PRNGKey, center: Images) -> Images:
        """Random images, uniform in the ball, then moved into the pixel range."""
        raise NotImplementedError

    def steepest(self, gradient: Images) -> Images:
        """The perturbation of norm 1 that climbs fastest; 0 where the gradient is 0."""
        raise NotImplementedError

    def ascend(self, images: Images, gradient: Images, step_size: Scalar) -> Images:
        """Images moved up a gradient by a step, to be projected; widened.

        Along the steepest direction, if a norm says nothing else.

        Args:
            images: where the step begins.
            gradient: there, without NaN.
            step_size: length, in the norm.
        """
        return images + step_size * widened(self.steepest(gradient))
