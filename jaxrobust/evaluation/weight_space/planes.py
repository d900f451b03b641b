"""The loss of models on a plane through one of them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxrobust.arguments import require_count, require_in
from jaxrobust.attacks import AttackBuilder
from jaxrobust.evaluation.weight_space.paths import require_alike
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

__all__ = ["PlaneLoss", "filter_normalized_plane", "loss_plane"]


class PlaneLoss(NamedTuple):
    """Mean loss of the models on a plane through weight space.

    Attributes:
        offsets: how far along each direction, `(points,)`; the same for both.
        losses: `[i, j]` is the mean loss at `offsets[i]` along the first and
            `offsets[j]` along the second direction.
        accuracies: share of the images classified rightly at the same points.
        epsilon: radius of the attack; 0 stands for clean images.
        batch_norm: what became of running statistics.
    """

    offsets: np.ndarray
    losses: Float[np.ndarray, "points points"]
    accuracies: Float[np.ndarray, "points points"]
    epsilon: float
    batch_norm: BatchNorm

    def __repr__(self) -> str:
        return outline(self)


def _on_plane(tree: tuple[Params, Params, Params], offsets: jax.Array) -> Params:
    def move(leaf: jax.Array, first: jax.Array, second: jax.Array) -> jax.Array:
        moved = leaf + offsets[0] * first + offsets[1] * second
        return jnp.asarray(moved, jnp.result_type(leaf))

    return jax.tree.map(move, *tree)


def filter_normalized_plane(
    weights: Params, key: PRNGKey, *, filter_axis: int = -1
) -> tuple[Params, Params]:
    """Two random directions, each filter as long as that filter of the weights.

    Directions are Gaussian; each filter of a convolution, and each neuron of a dense
    layer, is scaled to the Euclidean norm of the same filter of `weights`. So a step of
    length 1 is as large as the weights, whatever their scale, which ReLU networks are
    free to choose. Biases, batch-norm parameters and statistics (arrays of fewer than
    two axes) do not move.

    Args:
        weights: the middle of the plane.
        key: of the two draws.
        filter_axis: axis that numbers the filters: the last one in Flax's kernels, 0 in
            PyTorch's.

    References:
        Li et al., 2018, arXiv:1712.09913, Section 4.
    """
    leaves, structure = jax.tree.flatten(weights)

    def direction(key: PRNGKey) -> Params:
        keys = jax.random.split(key, max(len(leaves), 1))
        drawn = [
            _filter_normalized(leaf, leaf_key, filter_axis)
            for leaf, leaf_key in zip(map(jnp.asarray, leaves), keys, strict=False)
        ]
        return jax.tree.unflatten(structure, drawn)

    first, second = jax.random.split(key)
    return direction(first), direction(second)


def _filter_normalized(leaf: jax.Array, key: PRNGKey, filter_axis: int) -> jax.Array:
    if leaf.ndim < 2 or not jnp.issubdtype(leaf.dtype, jnp.inexact):
        return jnp.zeros_like(leaf)
    noise = jax.random.normal(key, leaf.shape, leaf.dtype)
    axes = tuple(axis for axis in range(leaf.ndim) if axis != filter_axis % leaf.ndim)

    def norm(array: jax.Array) -> jax.Array:
        return jnp.sqrt(jnp.sum(jnp.square(array), axis=axes, keepdims=True))

    return noise * (norm(leaf) / norm(noise))


def loss_plane(
    apply: Apply,
    weights: Params,
    direction_a: Params,
    direction_b: Params,
    images: Images,
    labels: Labels,
    *,
    extent: float = 1.0,
    num_points: int = 25,
    epsilon: float = 0.0,
    attack: AttackBuilder | None = None,
    norm: str | type[ThreatModel] = "linf",
    recalibrate: Recalibrate | None = None,
    loss: Loss = "cross_entropy",
    key: PRNGKey | None = None,
) -> PlaneLoss:
    """Mean loss at the points of a square grid round one model.

    Args:
        apply: from weights to a model in evaluation mode.
        weights: the middle of the grid.
        direction_a: where the first offset leads, as `filter_normalized_plane` gives.
        direction_b: where the second leads.
        images: what the loss is the mean over, in [0, 1].
        labels: true classes.
        extent: offsets go from `-extent` to `extent`; positive.
        num_points: along each side, at least 2; the middle is a point if it is odd.
        epsilon: radius of the attack, in units of [0, 1] pixels; 0 for clean images.
        attack: as in `loss_along_path`.
        norm: of the ball: one of `THREATS`, or one of your own.
        recalibrate: as in `loss_along_path`.
        loss: "cross_entropy", "margin", or a function `(logits, labels) -> (batch,)`.
        key: of the attack; by default that of seed 0.

    Raises:
        ValueError: for an unknown loss, directions of other shapes than the weights, or
            a number out of range.

    References:
        Li et al., 2018, arXiv:1712.09913, Section 4.
    """
    require_alike(weights, direction_a, "direction_a")
    require_alike(weights, direction_b, "direction_b")
    require_count("num_points", num_points, "25 is usual", least=2)
    require_in("extent", extent, "(0, inf)", "1 is usual")
    offsets = np.linspace(-extent, extent, num_points, dtype=np.float32)
    grid = np.stack(np.meshgrid(offsets, offsets, indexing="ij"), axis=-1)
    losses, accuracies = evaluate_points(
        (weights, direction_a, direction_b),
        jnp.asarray(grid.reshape(-1, 2)),
        [epsilon],
        images,
        labels,
        apply=apply,
        place=_on_plane,
        attack=attack,
        norm=norm,
        recalibrate=recalibrate,
        loss=loss,
        key=key,
    )
    shape = (num_points, num_points)
    return PlaneLoss(
        offsets,
        np.asarray(losses).reshape(shape),
        np.asarray(accuracies).reshape(shape),
        epsilon,
        batch_norm_of(recalibrate),
    )
