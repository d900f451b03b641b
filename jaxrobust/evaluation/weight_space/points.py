"""Mean losses of models at points of weight space, by one compiled program."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxrobust.arguments import require, require_choice, require_in
from jaxrobust.attacks import AttackBuilder, judge
from jaxrobust.attacks.builders import settled
from jaxrobust.evaluation.engine.builders import (
    Parts,
    Structure,
    numbers_by_radius,
    put_together,
    taken_apart,
)
from jaxrobust.evaluation.engine.sharing import Reference, shared_program
from jaxrobust.keys import seeded
from jaxrobust.losses import LOSSES, LossName
from jaxrobust.precision import JUDGED, at_precision
from jaxrobust.threat import ThreatModel, threat_of
from jaxrobust.types import (
    Images,
    Labels,
    Logits,
    LogitsFn,
    Params,
    PerExample,
    PRNGKey,
)

__all__ = [
    "Apply",
    "BatchNorm",
    "Loss",
    "Recalibrate",
    "batch_norm_of",
    "evaluate_points",
    "loss_named",
]

Apply = Callable[[Any], LogitsFn]
Recalibrate = Callable[[Any], Any]
Loss = LossName | Callable[[Logits, Labels], PerExample]
BatchNorm = Literal["frozen at interpolation", "re-estimated"]


def loss_named(loss: Loss) -> Callable[[Logits, Labels], PerExample]:
    """A loss by its name, or the function itself.

    Raises:
        ValueError: for an unknown name.
    """
    if not isinstance(loss, str):
        return loss
    remedy = "choose one of these, or give a function (logits, labels) -> (batch,)"
    require_choice("loss", loss, tuple(LOSSES), remedy)
    return LOSSES[loss]


def batch_norm_of(recalibrate: Recalibrate | None) -> BatchNorm:
    """What became of running statistics."""
    return "frozen at interpolation" if recalibrate is None else "re-estimated"


def _points_program(
    apply: Reference,
    recalibrate: Reference,
    loss_fn: Reference,
    *functions: Reference,
    place: Callable[[Any, jax.Array], Params],
    structure: Structure | None,
    varies: tuple[bool, ...],
    threat: type[ThreatModel],
) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """`(tree, points, epsilons, shared, varying, key, images, labels)` to losses.

    Means of loss and accuracy over the images, `(points, radii)`, of the weights placed
    at points. `shared` and `varying` are numbers of the attack: see `attack_program`.
    """

    @jax.jit
    def means_at(
        tree: Any,
        points: jax.Array,
        epsilons: jax.Array,
        shared: list[jax.Array],
        varying: list[jax.Array],
        key: PRNGKey,
        images: Images,
        labels: Labels,
    ) -> tuple[jax.Array, jax.Array]:
        calibrated = recalibrate()

        def at(point: jax.Array) -> tuple[jax.Array, jax.Array]:
            weights = place(tree, point)
            if calibrated is not None:
                weights = calibrated(weights)
            logits_fn = apply()(weights)

            def under(
                radius: tuple[jax.Array, list[jax.Array]],
            ) -> tuple[jax.Array, jax.Array]:
                epsilon, own = radius
                shown = images
                if structure is not None:
                    groups = iter(shared), iter(own)
                    numbers = [next(groups[is_varying]) for is_varying in varies]
                    values = [function() for function in functions]
                    build = put_together(structure, values, numbers)
                    attack = build(threat(epsilon))
                    moved = attack(key, logits_fn, images, labels).images
                    # At radius 0 the loss is of the clean images, whatever the attack.
                    shown = jnp.where(epsilon > 0, moved, images)
                logits = at_precision(JUDGED, logits_fn)(shown)
                loss = jnp.mean(loss_fn()(logits, labels))
                return loss, jnp.mean(~judge(logits, labels))

            return lax.map(under, (epsilons, varying))

        return lax.map(at, points)

    return means_at


def evaluate_points(
    tree: Any,
    points: jax.Array,
    epsilons: Sequence[float],
    images: Images,
    labels: Labels,
    *,
    apply: Apply,
    place: Callable[[Any, jax.Array], Params],
    attack: AttackBuilder | None,
    norm: str | type[ThreatModel],
    recalibrate: Recalibrate | None,
    loss: Loss,
    key: PRNGKey | None,
) -> tuple[jax.Array, jax.Array]:
    """Mean loss and accuracy, `(points, radii)`, of the weights placed at points.

    Args:
        tree: what weights are placed with.
        points: of any shape but for the first axis.
        epsilons: radii known to Python.
        images: what the mean is over, in [0, 1].
        labels: true classes.
        apply: from weights to a model in evaluation mode.
        place: from the tree and a point to weights.
        attack: builds what perturbs the images; needed for positive radii.
        norm: of the ball.
        recalibrate: of batch normalization; None for none.
        loss: by name, or a function.
        key: of the attack; None for that of seed 0.

    Raises:
        ValueError: for a radius, norm or loss out of range, or a positive radius
            without an attack.
    """
    radii = np.asarray(epsilons, float)
    remedy = "radii are in units of [0, 1] pixels"
    require_in("epsilons", radii, "[0, inf)", remedy)
    is_given = attack is not None or not np.any(radii > 0)
    remedy = "give a builder such as `PGD(step_size=0.01)`"
    require(is_given, "attack", "given for positive radii", attack, remedy)
    threat = threat_of(norm)
    parts, varies = Parts(Structure(None, ()), (), ()), ()
    groups: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    if attack is not None:
        builds = [settled(attack, float(radius)) for radius in radii]
        parts = taken_apart(builds[0])
        varies, values = numbers_by_radius(builds)
        for is_varying, value in zip(varies, values, strict=True):
            groups[is_varying].append(value)
    program = shared_program(
        _points_program,
        apply,
        recalibrate,
        loss_named(loss),
        *parts.functions,
        place=place,
        structure=None if attack is None else parts.structure,
        varies=varies,
        threat=threat,
    )
    return program(
        tree,
        points,
        jnp.asarray(radii, jnp.float32),
        *groups,
        seeded(0) if key is None else key,
        jnp.asarray(images),
        jnp.asarray(labels),
    )
