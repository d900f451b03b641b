"""The loss of models on the way from one to another."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxrobust.arguments import require, require_count, require_in
from jaxrobust.attacks import AttackBuilder
from jaxrobust.evaluation.weight_space.paths import Path, line
from jaxrobust.evaluation.weight_space.points import (
    Apply,
    BatchNorm,
    Loss,
    Recalibrate,
    batch_norm_of,
    evaluate_points,
)
from jaxrobust.pytrees import outline
from jaxrobust.threat import ThreatModel
from jaxrobust.types import Images, Labels, Params, PRNGKey

__all__ = ["PathLoss", "loss_along_line", "loss_along_path"]


class PathLoss(NamedTuple):
    """Mean loss of the models on a path, at several radii.

    Attributes:
        alphas: shares of the way, `(points,)`.
        epsilons: radii of the attack, `(radii,)`; 0 stands for clean images.
        losses: mean over the images, in nats for the cross-entropy.
        accuracies: share of the images classified rightly, in [0, 1].
        batch_norm: what became of running statistics.
    """

    alphas: np.ndarray
    epsilons: np.ndarray
    losses: Float[np.ndarray, "radii points"]
    accuracies: Float[np.ndarray, "radii points"]
    batch_norm: BatchNorm

    def __repr__(self) -> str:
        return outline(self)


def _on_path(path: Path, alpha: jax.Array) -> Params:
    return path.at(alpha)


def loss_along_path(
    apply: Apply,
    path: Path,
    images: Images,
    labels: Labels,
    *,
    alphas: Any = 200,
    epsilons: Any = (0.0,),
    attack: AttackBuilder | None = None,
    norm: str | type[ThreatModel] = "linf",
    recalibrate: Recalibrate | None = None,
    loss: Loss = "cross_entropy",
    key: PRNGKey | None = None,
) -> PathLoss:
    """Clean and adversarial loss of the models on a path.

    Args:
        apply: from weights to a model in evaluation mode.
        path: `line` or `bezier_path`.
        images: what the loss is the mean over, in [0, 1]; 512 training images in
            Shaeiri et al., 2020.
        labels: true classes.
        alphas: shares of the way in [0, 1], or how many of them, both ends included.
        epsilons: radii of the attack, in units of [0, 1] pixels; 0 for clean images.
        attack: builds what perturbs the images; needed for positive radii. Every model
            is attacked with the same random draws, so the curve is as smooth as the
            loss.
        norm: of the ball: one of `THREATS`, or one of your own.
        recalibrate: `weights -> weights`, re-estimates batch-norm statistics on images
            of the caller's choice; None leaves them as interpolated.
        loss: "cross_entropy", "margin", or a function `(logits, labels) -> (batch,)`.
        key: of the attack; by default that of seed 0.

    Raises:
        ValueError: for an unknown loss, shares or radii out of range, or a positive
            radius without an attack.
    """
    remedy = "give shares of the path, or how many there shall be"
    if isinstance(alphas, int):
        require_count("alphas", alphas, remedy)
        alphas = np.linspace(0.0, 1.0, alphas)
    alphas = np.asarray(alphas, np.float32)
    require(alphas.ndim == 1 and alphas.size > 0, "alphas", "a list", alphas, remedy)
    require_in("alphas", alphas, "[0, 1]", remedy)
    losses, accuracies = evaluate_points(
        path,
        jnp.asarray(alphas),
        epsilons,
        images,
        labels,
        apply=apply,
        place=_on_path,
        attack=attack,
        norm=norm,
        recalibrate=recalibrate,
        loss=loss,
        key=key,
    )
    return PathLoss(
        alphas,
        np.asarray(epsilons, np.float32),
        np.asarray(losses).T,
        np.asarray(accuracies).T,
        batch_norm_of(recalibrate),
    )


def loss_along_line(
    apply: Apply,
    weights_0: Params,
    weights_1: Params,
    images: Images,
    labels: Labels,
    **options: Any,
) -> PathLoss:
    """`loss_along_path` of the straight line between two models.

    Raises:
        ValueError: as `line` and `loss_along_path` do.
    """
    path = line(weights_0, weights_1)
    return loss_along_path(apply, path, images, labels, **options)
