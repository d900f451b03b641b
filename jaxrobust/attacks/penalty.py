"""Carlini and Wagner: the squared norm plus a penalty whose constant is bisected."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxrobust.arguments import require_count, require_in
from jaxrobust.attacks.base import Attack, per_example
from jaxrobust.attacks.builders import costs
from jaxrobust.attacks.nearest import (
    Kernel,
    Look,
    Problem,
    least_norm,
    margin_loss,
    passes_of_steps,
    require_norm,
)
from jaxrobust.keys import seeded
from jaxrobust.threat import L2Ball, ThreatModel
from jaxrobust.types import (
    Images,
    Labels,
    PerExample,
    PerExampleFlag,
    PRNGKey,
    Scalar,
)

__all__ = ["carlini_wagner"]

_LARGEST = 1e10
"""Upper end of the constant before any was large enough."""


class _State(NamedTuple):
    """Where the search stands.

    Attributes:
        images: iterate.
        variable: what Adam moves.
        moments: Adam's.
        constant: of the penalty.
        lower: largest constant that was too small.
        upper: smallest one that was large enough.
        is_found: whether the present constant has led to an adversarial image.
    """

    images: Images
    variable: Images
    moments: optax.OptState
    constant: PerExample
    lower: PerExample
    upper: PerExample
    is_found: PerExampleFlag


def _passes(num_steps: int, num_searches: int, **_: object) -> int:
    return passes_of_steps(num_steps * num_searches)


@costs(_passes)
def carlini_wagner(
    threat: ThreatModel,
    *,
    num_steps: Scalar = 1000,
    num_searches: int = 9,
    targets: Labels | None = None,
    learning_rate: float = 0.01,
    initial_constant: float = 1e-3,
) -> Attack:
    r"""The l_2 attack of Carlini and Wagner (2017).

    Minimizes :math:`\|\delta\|_2^2 + c \max(-m(x + \delta), 0)` by Adam, where
    :math:`m` is the margin, positive if misclassified. Images are
    :math:`\tanh` of the variable, stretched to the pixel range. The constant `c` starts
    small, grows tenfold until it leads to an adversarial image, and is bisected then;
    each constant starts at the clean image.

    Args:
        threat: an l_2 ball, in which the nearest adversarial image is judged; see
            `least_norm`. Without a pixel range the variable is the image itself.
        num_steps: for each constant, at least 1; may be traced. In all there are
            `num_steps * num_searches` forward and backward passes.
        num_searches: constants tried, at least 1.
        targets: classes towards which to go; None for the likeliest other one. Success
            is any misclassification in both cases.
        learning_rate: of Adam, above 0.
        initial_constant: above 0.

    Returns:
        An attack; its loss is minus the norm of the smallest perturbation found.

    Raises:
        TypeError: for a threat model of another norm.
        ValueError: for a number out of range.

    References:
        Carlini & Wagner, 2017, arXiv:1608.04644, Sections V and VI.A.

    Differs from the authors' code: no search ends early, since that depends on the
    other images of the batch; there is no confidence, since the nearest is wanted.
    """
    require_norm("carlini_wagner", threat, L2Ball)
    remedy = "leave it out for the usual choice"
    require_count("num_steps", num_steps, remedy)
    require_count("num_searches", num_searches, remedy)
    require_in("learning_rate", learning_rate, "(0, inf)", remedy)
    require_in("initial_constant", initial_constant, "(0, inf)", remedy)
    adam = optax.adam(learning_rate)

    def as_variable(images: Images) -> Images:
        if threat.bounds is None:
            return images
        lower, upper = threat.bounds
        share = (2 * images - (lower + upper)) / (upper - lower)
        # A hair inside: the range's ends are infinitely far away.
        return jnp.arctanh(jnp.clip(share, -1.0, 1.0) * (1 - 1e-6))

    def as_images(variable: Images) -> tuple[Images, Images]:
        """Images, and their derivative in the variable, pixel by pixel."""
        if threat.bounds is None:
            return variable, jnp.ones_like(variable)
        lower, upper = threat.bounds
        half = (upper - lower) / 2
        share = jnp.tanh(variable)
        return half * share + (lower + upper) / 2, half * (1 - jnp.square(share))

    def init(key: PRNGKey, problem: Problem) -> _State:
        del key
        variable = as_variable(problem.center)
        constant = jnp.full(variable.shape[:1], initial_constant, problem.center.dtype)
        return _State(
            images=as_images(variable)[0],
            variable=variable,
            moments=adam.init(variable),
            constant=constant,
            lower=jnp.zeros_like(constant),
            upper=jnp.full_like(constant, _LARGEST),
            is_found=jnp.zeros(constant.shape, bool),
        )

    def restarted(problem: Problem, state: _State) -> _State:
        """The next constant, from the clean image."""
        upper = jnp.where(
            state.is_found, jnp.minimum(state.upper, state.constant), state.upper
        )
        lower = jnp.where(
            state.is_found, state.lower, jnp.maximum(state.lower, state.constant)
        )
        is_bracketed = upper < _LARGEST
        constant = jnp.where(is_bracketed, (lower + upper) / 2, 10 * state.constant)
        fresh = init(seeded(0), problem)
        return fresh._replace(constant=constant, lower=lower, upper=upper)

    def step(index: jax.Array, problem: Problem, state: _State, look: Look) -> _State:
        images, slope = as_images(state.variable)
        push = jnp.where(look.is_adversarial, 0.0, state.constant)
        gradient = 2 * (images - problem.center)
        gradient -= per_example(push, gradient) * look.gradient
        update, moments = adam.update(gradient * slope, state.moments)
        variable = state.variable + jnp.asarray(update)
        moved = state._replace(
            images=as_images(variable)[0],
            variable=variable,
            moments=moments,
            is_found=state.is_found | look.is_adversarial,
        )
        is_last = (index + 1) % num_steps == 0
        return jax.tree.map(
            lambda fresh, old: jnp.where(is_last, fresh, old),
            restarted(problem, moved),
            moved,
        )

    return least_norm(
        threat,
        Kernel(init, step),
        num_steps=num_steps * num_searches,
        loss=margin_loss(targets),
    )
