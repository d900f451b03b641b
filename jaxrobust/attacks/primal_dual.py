"""PDPGD: the perturbation and the price of its norm, improved side by side."""

from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxrobust.arguments import require_count, require_in
from jaxrobust.attacks.base import Attack, per_example
from jaxrobust.attacks.builders import costs
from jaxrobust.attacks.nearest import (
    Kernel,
    Look,
    Problem,
    choose,
    least_norm,
    margin_loss,
    passes_of_steps,
    require_norm,
)
from jaxrobust.threat import (
    L0Ball,
    L1Ball,
    L2Ball,
    LinfBall,
    ThreatModel,
    l2_norm,
)
from jaxrobust.types import Images, Labels, PerExample, PRNGKey, Scalar

__all__ = ["pdpgd", "proximal"]

_SQUARE_DECAY, _TINY = 0.999, 1e-8
"""Of Adam."""


def _two_thirds(change: Images, weight: PerExample) -> Images:
    """Minimizer of `weight * sum(|z|^(2/3)) + |z - change|^2 / 2`."""
    weight = per_example(weight, change)
    square = jnp.square(change) / 16
    inner = jnp.square(square) - 8 / 729 * weight**3
    root = jnp.sqrt(jnp.maximum(inner, 0.0))
    # Both terms of Cardano's sum; the second one by their product, which is exact.
    first = jnp.cbrt(square + root)
    second = 2 / 9 * weight / jnp.maximum(first, 1e-30)
    height = 2 * (first + second)
    safe = jnp.where(inner > 0, height, 1.0)
    rest = jnp.maximum(2 * jnp.abs(change) / jnp.sqrt(safe) - safe, 0.0)
    shrunk = (jnp.sqrt(safe) + jnp.sqrt(rest)) ** 3 / 8
    # Below this a change of 0 is better than the stationary point, if there is one.
    is_kept = jnp.abs(change) > 2 * (2 / 3 * weight) ** 0.75
    return jnp.where(is_kept, jnp.sign(change) * shrunk, 0.0)


def proximal(threat: ThreatModel, change: Images, weight: PerExample) -> Images:
    r"""The perturbation `z` that minimizes `weight * |z| + |z - change|_2^2 / 2`.

    In l_inf, l_2 and l_1 what the projection on the dual ball of radius `weight`
    leaves of `change` (Moreau). In l_0 the sum of :math:`|z_i|^{2/3}` takes the place
    of the norm, as in the paper: the proximal operator of the norm itself sets to 0 or
    leaves alone, and an iterate at 0 would never get away.

    Args:
        threat: gives the norm; its radius and pixel range do not count.
        change: `(batch, *pixels)`, widened.
        weight: `(batch,)`, of the norm, above 0.
    """
    if isinstance(threat, L0Ball):
        return _two_thirds(change, weight)
    dual = {LinfBall: L1Ball, L2Ball: L2Ball, L1Ball: LinfBall}
    for kind, other in dual.items():
        if isinstance(threat, kind):
            return change - other(1.0).project_perturbation(change, weight)
    raise AssertionError(type(threat))


class _State(NamedTuple):
    """Where the search stands.

    Attributes:
        images: iterate.
        moments: Adam's.
        price: logarithm of the weight of being adversarial over that of the norm.
        weight: of the norm, averaged over steps; that of being adversarial is the rest
            to 1.
    """

    images: Images
    moments: optax.OptState
    price: PerExample
    weight: PerExample


@costs(passes_of_steps)
def pdpgd(
    threat: ThreatModel,
    *,
    num_steps: Scalar = 500,
    targets: Labels | None = None,
    step_size: float = 0.1,
    final_step_share: float = 0.01,
    price_step: float = 0.1,
    final_price_share: float = 0.1,
    initial_ratio: float = 0.01,
    least_ratio: float = 1e-6,
    memory: float = 0.9,
    num_proximal: int = 5,
) -> Attack:
    """Primal-dual proximal gradient descent (Matyasko & Chau, 2021), in any norm.

    One player moves the perturbation to lower a weighted sum of its norm and of the
    missing part of the margin: a step of Adam on the latter, then the proximal operator
    of the norm, in the metric of Adam's step. The other one raises the weight of the
    margin after each image that is not adversarial and lowers it after one that is.

    Args:
        threat: gives the norm (l_inf, l_2, l_1 or l_0), the pixel range and the ball,
            in which the nearest adversarial image is judged; see `least_norm`.
        num_steps: at least 1; may be traced.
        targets: classes towards which to go; None for the likeliest other one. Success
            is any misclassification in both cases.
        step_size: of Adam, in units of [0, 1] pixels, above 0.
        final_step_share: of the step size after its exponential decay, in (0, 1].
        price_step: change of the logarithm of the weights' ratio, above 0.
        final_price_share: of the price step after its linear decay, in (0, 1].
        initial_ratio: weight of the norm over that of the margin at the start, above 0.
        least_ratio: bound of this ratio and of its inverse, in (0, 1).
        memory: share of the weights' past in their moving average, in [0, 1).
        num_proximal: iterations of the proximal operator in Adam's metric, at most.

    Returns:
        An attack; its loss is minus the norm of the smallest perturbation found.

    Raises:
        TypeError: for a threat model of another norm.
        ValueError: for a number out of range.

    References:
        Matyasko & Chau, 2021, arXiv:2106.01538, Algorithm 2.
    """
    require_norm("pdpgd", threat, LinfBall, L2Ball, L1Ball, L0Ball)
    remedy = "leave it out for the paper's choice"
    require_count("num_steps", num_steps, remedy)
    require_in("step_size", step_size, "(0, inf)", remedy)
    require_in("final_step_share", final_step_share, "(0, 1]", remedy)
    require_in("price_step", price_step, "(0, inf)", remedy)
    require_in("final_price_share", final_price_share, "(0, 1]", remedy)
    require_in("initial_ratio", initial_ratio, "(0, inf)", remedy)
    require_in("least_ratio", least_ratio, "(0, 1)", remedy)
    require_in("memory", memory, "[0, 1)", remedy)
    require_count("num_proximal", num_proximal, remedy)
    adam = optax.scale_by_adam(b2=_SQUARE_DECAY, eps=_TINY)

    def init(key: PRNGKey, problem: Problem) -> _State:
        del key
        center = problem.center
        price = jnp.full(center.shape[:1], -jnp.log(initial_ratio), center.dtype)
        return _State(center, adam.init(center), price, jax.nn.sigmoid(-price))

    def shrunk(
        problem: Problem, moved: Images, metric: Images, weight: PerExample
    ) -> Images:
        """The proximal operator where distances count by pixel, as in `metric`."""

        def once(_: jax.Array, turn: tuple[Images, jax.Array]) -> tuple:
            now, is_open = turn
            drawn = now + metric * (moved - now)
            drawn = threat.clip(problem.center + proximal(threat, drawn, weight))
            new = choose(is_open, drawn - problem.center, now)
            apart, length = l2_norm(new - now), l2_norm(new)
            return new, is_open & (apart > 1e-2 * length)

        start = moved, jnp.ones(moved.shape[:1], bool)
        return lax.fori_loop(0, num_proximal, once, start)[0]

    def step(index: jax.Array, problem: Problem, state: _State, look: Look) -> _State:
        # The missing part is softplus(-margin), and nothing once adversarial.
        pull = jnp.where(look.is_adversarial, 0.0, jax.nn.sigmoid(-look.loss))
        gradient = -per_example(pull, look.gradient) * look.gradient
        gradient = gradient.astype(look.gradient.dtype)
        update, after = adam.update(gradient, state.moments)
        direction, moments = jnp.asarray(update), cast(optax.ScaleByAdamState, after)
        share = index / num_steps
        length = step_size * final_step_share**share
        moved = threat.clip(state.images - length * direction) - problem.center
        scale = 1 - _SQUARE_DECAY ** (index + 1.0)
        metric = jnp.sqrt(jnp.asarray(moments.nu) / scale) + _TINY
        largest = jnp.max(metric, axis=tuple(range(1, metric.ndim)))
        weight = state.weight / (1 - state.weight) * length / largest
        change = shrunk(
            problem,
            moved,
            metric / per_example(largest, metric),
            weight.astype(state.weight.dtype),
        )
        left = 1 - index / jnp.maximum(num_steps - 1, 1)
        turn = price_step * (left * (1 - final_price_share) + final_price_share)
        price = state.price + jnp.where(look.is_adversarial, -turn, turn)
        limit = -jnp.log(least_ratio)
        price = jnp.clip(price, -limit, limit).astype(state.price.dtype)
        fresh = jax.nn.sigmoid(-price)
        average = memory * state.weight + (1 - memory) * fresh
        return _State(problem.center + change, moments, price, average)

    return least_norm(
        threat,
        Kernel(init, step),
        num_steps=num_steps,
        loss=margin_loss(targets),
    )
