"""A curve between two models along which the loss is low."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jaxrobust.arguments import require, require_count, require_in
from jaxrobust.attacks import Attack, AttackBuilder
from jaxrobust.attacks.builders import settled
from jaxrobust.evaluation.weight_space.paths import (
    Path,
    bezier_path,
    line,
    require_alike,
)
from jaxrobust.evaluation.weight_space.points import (
    Apply,
    Loss,
    Recalibrate,
    loss_named,
)
from jaxrobust.keys import seeded
from jaxrobust.pytrees import outline
from jaxrobust.threat import ThreatModel
from jaxrobust.types import Images, Labels, LogitsFn, Params, PRNGKey

__all__ = ["Connection", "connect"]


class Connection(NamedTuple):
    """A curve that was trained to have a low loss.

    Attributes:
        path: from the first to the second model.
        losses: at the share drawn in each step, before it, `(steps,)`.
    """

    path: Path
    losses: np.ndarray

    def __repr__(self) -> str:
        return outline(self)


def _built(attack: AttackBuilder, threat: ThreatModel) -> Attack:
    epsilon = threat.epsilon
    is_known = isinstance(epsilon, int | float)
    return (settled(attack, float(epsilon)) if is_known else attack)(threat)


def connect(
    apply: Apply,
    weights_0: Params,
    weights_1: Params,
    images: Images,
    labels: Labels,
    *,
    num_steps: int,
    learning_rate: float = 0.01,
    batch_size: int = 128,
    attack: AttackBuilder | None = None,
    threat: ThreatModel | None = None,
    trained: Any = True,
    recalibrate: Recalibrate | None = None,
    loss: Loss = "cross_entropy",
    key: PRNGKey | None = None,
) -> Connection:
    """A quadratic Bezier curve between two models along which the loss is low.

    Each step draws a share of the way uniformly from [0, 1] and a batch, and moves the
    control point of the curve by Adam, down the gradient of the loss at that share. The
    control point begins half way between the models.

    Args:
        apply: from weights to a model in evaluation mode.
        weights_0: one end, which does not move.
        weights_1: the other end.
        images: training images, in [0, 1].
        labels: true classes.
        num_steps: of Adam, at least 1.
        learning_rate: of Adam, positive.
        batch_size: images drawn for each step, with replacement; at least 1.
        attack: builds what perturbs the images of each step, for a curve of robust
            models; None for clean images.
        threat: what it searches, such as `LinfBall(0.3)`; given with an attack.
        trained: which parts of the control point move: a pytree of booleans, or a
            prefix of one. For `Variables(params, state)`, `Variables(True, False)`
            leaves the state, such as running statistics, half way, which descent on
            it would not.
        recalibrate: as in `loss_along_path`; gradients pass through it.
        loss: "cross_entropy", "margin", or a function `(logits, labels) -> (batch,)`.
        key: of everything random; by default that of seed 0.

    Raises:
        ValueError: for weights of different shapes, an unknown loss, or a number out
            of range.

    References:
        Garipov et al., 2018, arXiv:1802.10026, Section 3.1, with Adam in place of SGD.
    """
    require_alike(weights_0, weights_1, "weights_1")
    require_count("num_steps", num_steps, "take one step at least")
    require_in("learning_rate", learning_rate, "(0, inf)", "try 0.01")
    require_count("batch_size", batch_size, "128 is usual")
    remedy = "give both, such as `PGD(step_size=0.01)` and `LinfBall(0.3)`"
    is_paired = (attack is None) == (threat is None)
    require(is_paired, "threat", "given with an attack", threat, remedy)
    search = None
    if attack is not None and threat is not None:
        search = _built(attack, threat)
    loss_fn = loss_named(loss)
    optimizer = optax.adam(learning_rate)
    ends = (weights_0, weights_1)
    base_key = seeded(0) if key is None else key

    @jax.jit
    def train(
        base_key: PRNGKey, ends: tuple[Params, Params], images: Images, labels: Labels
    ) -> tuple[Params, jax.Array]:
        def step(carry: tuple[Params, Any], index: jax.Array) -> tuple[Any, jax.Array]:
            control, opt_state = carry
            keys = jax.random.split(jax.random.fold_in(base_key, index), 3)
            share = jax.random.uniform(keys[0])
            chosen = jax.random.randint(keys[1], (batch_size,), 0, len(images))
            shown, classes = images[chosen], labels[chosen]

            def at(control: Params) -> LogitsFn:
                weights = Path((ends[0], control, ends[1])).at(share)
                return apply(weights if recalibrate is None else recalibrate(weights))

            if search is not None:
                shown = search(keys[2], at(control), shown, classes).images
                shown = lax.stop_gradient(shown)
            value, gradient = jax.value_and_grad(
                lambda control: jnp.mean(loss_fn(at(control)(shown), classes)),
                allow_int=True,
            )(control)
            updates, opt_state = optimizer.update(
                _kept(trained, gradient, control), opt_state
            )
            return (optax.apply_updates(control, updates), opt_state), value

        control = line(*ends).at(0.5)
        start = (control, optimizer.init(control))
        (control, _), losses = lax.scan(step, start, jnp.arange(num_steps))
        return control, losses

    control, losses = train(base_key, ends, jnp.asarray(images), jnp.asarray(labels))
    return Connection(bezier_path(*ends, control), np.asarray(losses))


def _kept(trained: Any, gradient: Params, control: Params) -> Params:
    """The gradient where the control point moves, zeros elsewhere."""

    def part(is_trained: bool, gradient: Params, control: Params) -> Params:
        def leaf(slope: jax.Array, value: jax.Array) -> jax.Array:
            moves = is_trained and jnp.issubdtype(value.dtype, jnp.inexact)
            return slope if moves else jnp.zeros_like(value)

        return jax.tree.map(leaf, gradient, control)

    return jax.tree.map(part, trained, gradient, control)
