r"""Threat models: which images an adversary may show in place of the clean one.

A threat model is a small pytree. Its radius `epsilon` is a leaf and may be traced, so
one compiled attack serves a whole schedule or sweep of radii; everything else is
static. Attacks only call `project`, `sample` and `steepest`, so a further norm joins
by subclassing `ThreatModel`.

The promises of `project` are exact, not approximate: the difference of the returned
and the clean image, taken in real arithmetic, has norm at most `epsilon`, in float32
as in bfloat16. Rounding `center + epsilon` to the nearest float would break this by
half a unit in the last place, which in bfloat16 is half of 1/256.
"""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jaxrobust.pytrees import Pytree, static
from jaxrobust.types import Images, PerExample, PRNGKey, Scalar

__all__ = [
    "THREATS",
    "L2Ball",
    "LinfBall",
    "ThreatModel",
    "l2_norm",
    "l2_normalize",
]


def _per_example(values: PerExample, images: Images) -> jax.Array:
    return values.reshape(values.shape + (1,) * (images.ndim - 1))


def _add_toward_zero(center: Images, perturbation: Images) -> Images:
    """`center + perturbation`, rounded so that no pixel moves further than asked."""
    if center.dtype == jnp.float32:
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
    return jnp.where(overshoot, jnp.nextafter(total, center), total)


def l2_norm(images: Images) -> PerExample:
    """Euclidean length of each example, in float32, in [0, inf)."""
    flat = images.astype(jnp.float32).reshape(images.shape[0], -1)
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
            pytree leaf: may be traced or mapped.
        bounds: valid pixel range `(lower, upper)`, closed; None for no range. Clean
            images must lie inside it.

    Raises:
        ValueError: if a radius known to Python is negative or not a number, or if the
            bounds do not increase.
    """

    epsilon: Scalar
    bounds: tuple[float, float] | None = static(default=(0.0, 1.0))

    def __post_init__(self):
        if isinstance(self.epsilon, int | float | np.number) and not (
            0 <= self.epsilon < math.inf
        ):
            raise ValueError(
                f"`epsilon` must be finite and non-negative, got {self.epsilon!r}; "
                "radii are in units of [0, 1] pixels, so 8/255 rather than 8."
            )
        if self.bounds is not None and not self.bounds[0] < self.bounds[1]:
            raise ValueError(
                f"`bounds` must be increasing, got {self.bounds!r}; "
                "give (0.0, 1.0), or None for no pixel range."
            )

    def with_epsilon(self, epsilon: Scalar) -> "ThreatModel":
        """The same threat at another radius."""
        return dataclasses.replace(self, epsilon=epsilon)

    def clip(self, images: Images) -> Images:
        """Images moved into the pixel range."""
        if self.bounds is None:
            return images
        return jnp.clip(images, *self.bounds)

    def norm(self, perturbation: Images) -> PerExample:
        """The norm that `epsilon` bounds, of each example's perturbation."""
        raise NotImplementedError

    def project(self, images: Images, center: Images) -> Images:
        """Images moved into the ball round `center`, then into the pixel range.

        The second move never leaves the ball, since `center` lies in the range. A
        pixel that is not a number becomes the clean pixel.
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
        epsilon = jnp.full_like(center, self.epsilon, dtype=jnp.float32)
        images = jnp.where(jnp.isnan(images), center, images)
        lower = _add_toward_zero(center, -epsilon)
        upper = _add_toward_zero(center, epsilon)
        return self.clip(jnp.clip(images, lower, upper))

    def sample(self, key: PRNGKey, center: Images) -> Images:
        noise = jax.random.uniform(key, center.shape, minval=-1.0, maxval=1.0)
        moved = center.astype(jnp.float32) + self.epsilon * noise
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
        perturbation = images.astype(jnp.float32) - center.astype(jnp.float32)
        limit = float(np.finfo(np.float32).max) ** 0.5 / perturbation[0].size
        perturbation = jnp.clip(perturbation, -limit, limit)
        # A hair inside, because the norm itself is only known up to rounding; optax
        # would divide 0 by 0 at radius 0, so the radius is kept above 0 there.
        radius = jnp.asarray(self.epsilon, jnp.float32) * (1 - 2.0**-18)
        tiny = float(np.finfo(np.float32).tiny) ** 0.5
        project = partial(
            optax.projections.projection_l2_ball, scale=jnp.maximum(radius, tiny)
        )
        perturbation = jnp.where(radius > tiny, jax.vmap(project)(perturbation), 0.0)
        return self.clip(_add_toward_zero(center, perturbation))

    def sample(self, key: PRNGKey, center: Images) -> Images:
        direction_key, radius_key = jax.random.split(key)
        direction = l2_normalize(jax.random.normal(direction_key, center.shape))
        # A radius of epsilon * u^(1/d) makes the points uniform in the ball, not on
        # the sphere.
        share = jax.random.uniform(radius_key, center.shape[:1])
        share = share ** (1.0 / center[0].size)
        moved = center + self.epsilon * _per_example(share, center) * direction
        return self.project(moved.astype(center.dtype), center)

    def steepest(self, gradient: Images) -> Images:
        return l2_normalize(gradient)


THREATS: dict[str, type[ThreatModel]] = {"linf": LinfBall, "l2": L2Ball}
