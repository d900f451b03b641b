r"""Threat models: which images an adversary may show in place of the clean one.

A threat model is a small pytree. Its radius `epsilon` is a leaf and may be traced, so
one compiled attack serves a whole schedule or sweep of radii; everything else is
static. Attacks only call `project`, `sample` and `steepest`, so a further norm joins
by subclassing `ThreatModel`.

The promises of `project` are exact, not approximate: the difference of the returned
and the clean image, taken in real arithmetic, has norm at most `epsilon`, in float32
as in bfloat16 and float64. Rounding `center + epsilon` to the nearest float would break
this by half a unit in the last place, which in bfloat16 is half of 1/256; rounding
`epsilon` itself to the nearest float32 would make 0.3 a radius of 0.30000001.
"""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jaxrobust.arguments import require, require_choice, require_in
from jaxrobust.pytrees import Pytree, static
from jaxrobust.types import Images, PerExample, PRNGKey, Scalar, known, widened

__all__ = [
    "THREATS",
    "L2Ball",
    "LinfBall",
    "ThreatModel",
    "l2_norm",
    "l2_normalize",
    "require_epsilon",
    "require_images",
    "require_radius",
]

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


def require_epsilon(
    norm: str,
    epsilon: float,
    num_pixels: int | None = None,
    *,
    name: str = "epsilon",
) -> None:
    """Refuse a radius that is in another unit than images in [0, 1].

    Args:
        norm: of the ball: linf or l2.
        epsilon: radius, in units of [0, 1] pixels. In l_inf at most 1, at which the
            ball holds every image; in l_2 at most the square root of `num_pixels`.
        num_pixels: values in an image, with its channels; None if not known yet.
        name: of the setting, for the message.

    Raises:
        ValueError: for a radius that is negative, not finite or too large.
    """
    require_choice("norm", norm, tuple(THREATS))
    require_radius(epsilon, name=name)
    largest, where = math.inf, ""
    if norm == "linf":
        largest, where = 1, "linf"
    elif norm == "l2" and num_pixels is not None:
        largest, where = math.sqrt(num_pixels), f"l2 for images of {num_pixels} values"
    rule = f"in [0, {largest:g}] in {where}"
    remedy = (
        "radii are in units of [0, 1] pixels, so "
        f"{epsilon:g}/255 rather than {epsilon:g}"
    )
    require(epsilon <= largest, name, rule, epsilon, remedy)


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


def _per_example(values: PerExample, images: Images) -> jax.Array:
    return values.reshape(values.shape + (1,) * (images.ndim - 1))


@jax.custom_jvp
def _next_toward(value: jax.Array, target: jax.Array) -> jax.Array:
    """The next float; for derivatives the value itself, a hair away."""
    return jnp.nextafter(value, target)


@_next_toward.defjvp
def _derivative_of_next_toward(primals: tuple, tangents: tuple) -> tuple:
    return _next_toward(*primals), tangents[0]


def _add_toward_zero(center: Images, perturbation: Images) -> Images:
    """`center + perturbation`, rounded so that no pixel moves further than asked.

    The perturbation has the type of the widened center.
    """
    if center.dtype == perturbation.dtype:
        # Without the barrier XLA reassociates constants through the sum, and the error
        # below comes out as 0.
        total = lax.optimization_barrier(center + perturbation)
        # TwoSum (Knuth): `error` is exactly what rounding took from the true sum.
        moved = total - center
        error = (center - (total - moved)) + (perturbation - moved)
        overshoot = jnp.sign(perturbation) * error < 0
    else:
        # Half precision: the sum is exact in float32 up to bits far below the result.
        # `reduce_precision` because XLA may elide a plain cast to and fro.
        info = jnp.finfo(center.dtype)
        wide = center.astype(jnp.float32) + perturbation
        rounded = lax.reduce_precision(wide, info.nexp, info.nmant)
        total = rounded.astype(center.dtype)
        overshoot = jnp.sign(perturbation) * (rounded - wide) > 0
    return jnp.where(overshoot, _next_toward(total, center), total)


def l2_norm(images: Images) -> PerExample:
    """Euclidean length of each example, in float32 at least, in [0, inf)."""
    flat = widened(images).reshape(images.shape[0], -1)
    # Scaled by the largest pixel, or the square would lose tiny and huge values.
    largest = jnp.max(jnp.abs(flat), axis=1, initial=0.0)
    scale = jnp.where(largest > 0, largest, 1.0)[:, None]
    return scale[:, 0] * jnp.sqrt(jnp.sum(jnp.square(flat / scale), axis=1))


def l2_normalize(images: Images) -> Images:
    """Each example divided by its Euclidean length; an example of zeros stays 0."""
    norm = _per_example(l2_norm(images), images)
    return images / jnp.where(norm > 0, norm, 1.0).astype(images.dtype)


@dataclasses.dataclass(frozen=True)
class ThreatModel(Pytree):
    """A norm ball round each clean image, cut by the valid pixel range.

    A subclass is a pytree like those here, with nothing to register.

    Attributes:
        epsilon: radius, in units of [0, 1] pixels (8/255, not 8); non-negative. A
            pytree leaf: may be traced or mapped. A Python number is rounded down to the
            type of the images; an array counts as it is.
        bounds: valid pixel range `(lower, upper)`, closed; None for no range. Clean
            images must lie inside it.

    Raises:
        ValueError: if a radius known to Python is negative, not a number or beyond
            float32, or if the bounds do not increase.
    """

    epsilon: Scalar
    bounds: tuple[float, float] | None = static(default=(0.0, 1.0))

    def __post_init__(self):
        if isinstance(self.epsilon, int | float | np.number):
            require_radius(self.epsilon)
        if self.bounds is not None:
            remedy = "give (0.0, 1.0), or None for no pixel range"
            is_right = self.bounds[0] < self.bounds[1]
            require(is_right, "bounds", "increasing", self.bounds, remedy)

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
        below = _next_toward(nearest, jnp.zeros_like(nearest))
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

    def project(self, images: Images, center: Images) -> Images:
        """Images moved into the ball round `center`, then into the pixel range.

        The second move never leaves the ball: a pixel whose center lies outside the
        range, which is an error, goes no further than to the center. A pixel that is
        not a number becomes the clean pixel.
        """
        raise NotImplementedError

    def sample(self, key: PRNGKey, center: Images) -> Images:
        """Random images, uniform in the ball, then moved into the pixel range."""
        raise NotImplementedError

    def steepest(self, gradient: Images) -> Images:
        """The perturbation of norm 1 that climbs fastest; 0 where the gradient is 0."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class LinfBall(ThreatModel):
    r"""All images within `epsilon` of the clean one in every pixel.

    The admissible set is
    :math:`\{x' : \|x' - x\|_\infty \le \epsilon\} \cap [l, u]^d`.

    References:
        Madry et al., 2018, arXiv:1706.06083, Section 2.1; facts 0.1.
    """

    def norm(self, perturbation: Images) -> PerExample:
        return jnp.max(
            jnp.abs(perturbation), axis=tuple(range(1, perturbation.ndim)), initial=0.0
        )

    def project(self, images: Images, center: Images) -> Images:
        radius = self.radius(center)
        epsilon = jnp.full_like(center, radius, dtype=radius.dtype)
        images = jnp.where(jnp.isnan(images), center, images)
        lower = _add_toward_zero(center, -epsilon)
        upper = _add_toward_zero(center, epsilon)
        return self.clip(jnp.clip(images, lower, upper), center)

    def sample(self, key: PRNGKey, center: Images) -> Images:
        wide = widened(center)
        noise = jax.random.uniform(key, center.shape, wide.dtype, -1.0, 1.0)
        moved = wide + self.radius(center) * noise
        return self.project(moved.astype(center.dtype), center)

    def steepest(self, gradient: Images) -> Images:
        return jnp.sign(gradient)


@dataclasses.dataclass(frozen=True)
class L2Ball(ThreatModel):
    r"""All images within Euclidean distance `epsilon` of the clean one.

    The admissible set is :math:`\{x' : \|x' - x\|_2 \le \epsilon\} \cap [l, u]^d`.
    `project` moves to the ball and then to the range; this lies in both, but is not
    the nearest such point when both constraints bind.
    """

    def norm(self, perturbation: Images) -> PerExample:
        return l2_norm(perturbation)

    def project(self, images: Images, center: Images) -> Images:
        images = jnp.where(jnp.isnan(images), center, images)
        perturbation = widened(images) - widened(center)
        limit = float(np.finfo(np.float32).max) ** 0.5 / perturbation[0].size
        perturbation = jnp.clip(perturbation, -limit, limit)
        # A hair inside, because the norm itself is only known up to rounding; optax
        # would divide 0 by 0 at radius 0, so the radius is kept above 0 there.
        radius = self.radius(center) * (1 - 2.0**-18)
        tiny = float(np.finfo(np.float32).tiny) ** 0.5
        project = partial(
            optax.projections.projection_l2_ball, scale=jnp.maximum(radius, tiny)
        )
        perturbation = jnp.where(radius > tiny, jax.vmap(project)(perturbation), 0.0)
        return self.clip(_add_toward_zero(center, perturbation), center)

    def sample(self, key: PRNGKey, center: Images) -> Images:
        direction_key, radius_key = jax.random.split(key)
        wide = widened(center)
        direction = jax.random.normal(direction_key, center.shape, wide.dtype)
        direction = l2_normalize(direction)
        # A radius of epsilon * u^(1/d) makes the points uniform in the ball, not on
        # the sphere.
        share = jax.random.uniform(radius_key, center.shape[:1], wide.dtype)
        share = share ** (1.0 / center[0].size)
        moved = wide + self.radius(center) * _per_example(share, center) * direction
        return self.project(moved.astype(center.dtype), center)

    def steepest(self, gradient: Images) -> Images:
        return l2_normalize(gradient)


THREATS: dict[str, type[ThreatModel]] = {"linf": LinfBall, "l2": L2Ball}
