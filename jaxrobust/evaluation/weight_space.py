"""What a loss looks like over weights: along lines and curves, and over random planes.

Weights are pytrees of arrays, such as `(params, state)`, and a model is
`apply(weights) -> logits_fn`, in evaluation mode. Between two networks the running
statistics of batch normalization are a question of their own: interpolated, they are
those of no network. They stay as interpolated unless `recalibrate`, which takes weights
to weights, re-estimates them; every result says which was done.

All points are evaluated one after another in one compiled program, attack included, so
memory does not depend on how many there are. A program is used again when `apply`,
`attack_for` and `recalibrate` are the same objects as before, and goes when one of them
does.
"""

from collections.abc import Callable, Sequence
from math import comb
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Float

from jaxrobust.arguments import require, require_choice, require_count, require_in
from jaxrobust.attacks import Attack, judge
from jaxrobust.evaluation.sharing import Reference, shared_program
from jaxrobust.losses import LOSSES, LossName
from jaxrobust.pytrees import outline
from jaxrobust.types import (
    Images,
    Labels,
    Logits,
    LogitsFn,
    Params,
    PerExample,
    PRNGKey,
    Scalar,
)

__all__ = [
    "BatchNorm",
    "Connection",
    "Path",
    "PathLoss",
    "PlaneLoss",
    "barrier_height",
    "bezier_path",
    "connect",
    "filter_normalized_plane",
    "line",
    "loss_along_line",
    "loss_along_path",
    "loss_plane",
]

Apply = Callable[[Any], LogitsFn]
AttackFor = Callable[[jax.Array], Attack]
Recalibrate = Callable[[Any], Any]
Loss = LossName | Callable[[Logits, Labels], PerExample]
BatchNorm = Literal["frozen at interpolation", "re-estimated"]


class Path(NamedTuple):
    r"""A Bezier curve through weight space; with two points, a straight line.

    .. math:: w(t) = \sum_i \binom{n}{i} t^i (1-t)^{n-i} w_i, \quad t \in [0, 1]

    Arrays that are not floats are those of the first point.

    Attributes:
        points: weights, at least two; the curve starts at the first and ends at the
            last, exactly, and only leans towards those between.
    """

    points: tuple[Params, ...]

    def __repr__(self) -> str:
        return f"Path({len(self.points)} points)"

    def at(self, share: Scalar) -> Params:
        """Weights at a share of the way, in [0, 1]; may be traced."""
        degree = len(self.points) - 1
        factors = [
            comb(degree, index) * share**index * (1 - share) ** (degree - index)
            for index in range(degree + 1)
        ]

        def mix(*leaves: jax.Array) -> jax.Array:
            if not jnp.issubdtype(jnp.result_type(leaves[0]), jnp.inexact):
                return leaves[0]
            total = sum(
                factor * leaf for factor, leaf in zip(factors, leaves, strict=True)
            )
            return jnp.asarray(total, jnp.result_type(leaves[0]))

        return jax.tree.map(mix, *self.points)


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


def _loss_fn(loss: Loss) -> Callable[[Logits, Labels], PerExample]:
    if not isinstance(loss, str):
        return loss
    remedy = "choose one of these, or give a function (logits, labels) -> (batch,)"
    require_choice("loss", loss, tuple(LOSSES), remedy)
    return LOSSES[loss]


def _check_alike(first: Params, other: Params, name: str) -> None:
    """Refuse weights of networks that differ in shape."""

    def shapes(tree: Params) -> dict[str, tuple[int, ...]]:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {jax.tree_util.keystr(path): jnp.shape(leaf) for path, leaf in leaves}

    one, two = shapes(first), shapes(other)
    for key in dict.fromkeys([*one, *two]):
        if one.get(key) != two.get(key):
            raise ValueError(
                f"`{name}` must have the arrays of the first weights, got "
                f"{two.get(key, 'nothing')} against {one.get(key, 'nothing')} at "
                f"{key or 'the top'}; give weights of the same network."
            )


def line(weights_0: Params, weights_1: Params) -> Path:
    """The straight line `(1 - t) weights_0 + t weights_1` (LP-F3, LP-F4).

    Raises:
        ValueError: if the two differ in the shape of an array.
    """
    _check_alike(weights_0, weights_1, "weights_1")
    return Path((weights_0, weights_1))


def bezier_path(weights_0: Params, weights_1: Params, control: Params) -> Path:
    r"""The quadratic Bezier curve :math:`(1-t)^2 w_0 + 2 t (1-t) c + t^2 w_1`.

    Raises:
        ValueError: if weights differ in the shape of an array.

    References:
        Garipov et al., 2018, arXiv:1802.10026, Section 3.2.
    """
    _check_alike(weights_0, control, "control")
    _check_alike(weights_0, weights_1, "weights_1")
    return Path((weights_0, control, weights_1))


def _on_path(path: Path, alpha: jax.Array) -> Params:
    return path.at(alpha)


def _on_plane(tree: tuple[Params, Params, Params], offsets: jax.Array) -> Params:
    def move(leaf: jax.Array, first: jax.Array, second: jax.Array) -> jax.Array:
        moved = leaf + offsets[0] * first + offsets[1] * second
        return jnp.asarray(moved, jnp.result_type(leaf))

    return jax.tree.map(move, *tree)


def _points_program(
    apply: Reference,
    attack_for: Reference,
    recalibrate: Reference,
    loss_fn: Reference,
    *,
    place: Callable[[Any, jax.Array], Params],
) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """`(tree, points, epsilons, key, images, labels) -> (losses, accuracies)`.

    Means over the images, `(points, radii)`, of the weights placed at points.
    """

    @jax.jit
    def evaluate_points(
        tree: Any,
        points: jax.Array,
        epsilons: jax.Array,
        key: PRNGKey,
        images: Images,
        labels: Labels,
    ) -> tuple[jax.Array, jax.Array]:
        calibrated, attack_at = recalibrate(), attack_for()

        def at(point: jax.Array) -> tuple[jax.Array, jax.Array]:
            weights = place(tree, point)
            if calibrated is not None:
                weights = calibrated(weights)
            logits_fn = apply()(weights)

            def under(epsilon: jax.Array) -> tuple[jax.Array, jax.Array]:
                shown = images
                if attack_at is not None:
                    found = attack_at(epsilon)(key, logits_fn, images, labels)
                    # At radius 0 the loss is of the clean images, whatever the attack.
                    shown = jnp.where(epsilon > 0, found.images, images)
                logits = logits_fn(shown)
                loss = jnp.mean(loss_fn()(logits, labels))
                return loss, jnp.mean(~judge(logits, labels))

            return lax.map(under, epsilons)

        return lax.map(at, points)

    return evaluate_points


def _evaluate_points(
    tree: Any,
    points: jax.Array,
    epsilons: jax.Array,
    key: PRNGKey,
    images: Images,
    labels: Labels,
    *,
    apply: Apply,
    place: Callable[[Any, jax.Array], Params],
    attack_for: AttackFor | None,
    recalibrate: Recalibrate | None,
    loss_fn: Callable[[Logits, Labels], PerExample],
) -> tuple[jax.Array, jax.Array]:
    """Mean loss and accuracy, `(points, radii)`, of the weights placed at points."""
    program = shared_program(
        _points_program, apply, attack_for, recalibrate, loss_fn, place=place
    )
    return program(tree, points, epsilons, key, images, labels)


def _check_radii(epsilons: Sequence[float], attack_for: AttackFor | None) -> None:
    radii = np.asarray(epsilons, float)
    remedy = "radii are in units of [0, 1] pixels"
    require_in("epsilons", radii, "[0, inf)", remedy)
    is_given = attack_for is not None or not np.any(radii > 0)
    remedy = "give `lambda epsilon: pgd(LinfBall(epsilon), ...)`"
    require(is_given, "attack_for", "given for positive radii", attack_for, remedy)


def _batch_norm(recalibrate: Recalibrate | None) -> BatchNorm:
    return "frozen at interpolation" if recalibrate is None else "re-estimated"


def loss_along_path(
    apply: Apply,
    path: Path,
    images: Images,
    labels: Labels,
    *,
    alphas: Any = 200,
    epsilons: Any = (0.0,),
    attack_for: AttackFor | None = None,
    recalibrate: Recalibrate | None = None,
    loss: Loss = "cross_entropy",
    key: PRNGKey | None = None,
) -> PathLoss:
    """Clean and adversarial loss of the models on a path (LP-F3, LP-F4, LP-F11).

    Args:
        apply: from weights to a model in evaluation mode.
        path: `line` or `bezier_path`.
        images: what the loss is the mean over, in [0, 1]; 512 training images in LP.
        labels: true classes.
        alphas: shares of the way in [0, 1], or how many of them, both ends included.
        epsilons: radii of the attack, in units of [0, 1] pixels; 0 for clean images.
        attack_for: `epsilon -> attack`, where epsilon is traced; needed for positive
            radii. Every model is attacked with the same random draws, so the curve
            is as smooth as the loss.
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
    _check_radii(epsilons, attack_for)
    epsilons = np.asarray(epsilons, np.float32)
    losses, accuracies = _evaluate_points(
        path,
        jnp.asarray(alphas),
        jnp.asarray(epsilons),
        jax.random.key(0) if key is None else key,
        jnp.asarray(images),
        jnp.asarray(labels),
        apply=apply,
        place=_on_path,
        attack_for=attack_for,
        recalibrate=recalibrate,
        loss_fn=_loss_fn(loss),
    )
    return PathLoss(
        alphas,
        epsilons,
        np.asarray(losses).T,
        np.asarray(accuracies).T,
        _batch_norm(recalibrate),
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


def barrier_height(alphas: Any, losses: Any) -> np.ndarray:
    """How far a loss rises on its way above the straight line between its ends.

    The maximum over the path of `L(a) - ((1 - a) L(0) + a L(1))`; never negative, since
    the ends count.

    Args:
        alphas: increasing shares from 0 to 1, `(points,)`.
        losses: at these, `(..., points)`.

    Returns:
        One height for each curve, `(...)`, in the unit of the loss.

    Raises:
        ValueError: if the shares do not go from 0 to 1.
    """
    alphas, losses = np.asarray(alphas, float), np.asarray(losses, float)
    require(
        alphas[0] == 0 and alphas[-1] == 1 and np.all(np.diff(alphas) > 0),
        "alphas",
        "increasing from 0 to 1",
        alphas.tolist(),
        "a barrier is measured between the ends of the path",
    )
    chord = (1 - alphas) * losses[..., :1] + alphas * losses[..., -1:]
    return np.max(losses - chord, axis=-1)


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
    attack: Attack | None = None,
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
        attack: perturbs the images of each step, for a curve of robust models; None
            for clean images.
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
    _check_alike(weights_0, weights_1, "weights_1")
    require_count("num_steps", num_steps, "take one step at least")
    require_in("learning_rate", learning_rate, "(0, inf)", "try 0.01")
    require_count("batch_size", batch_size, "128 is usual")
    loss_fn = _loss_fn(loss)
    optimizer = optax.adam(learning_rate)
    ends = (weights_0, weights_1)
    base_key = jax.random.key(0) if key is None else key

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

            if attack is not None:
                shown = attack(keys[2], at(control), shown, classes).images
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
            _filter_normalized(leaf, each, filter_axis)
            for leaf, each in zip(map(jnp.asarray, leaves), keys, strict=False)
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
    attack_for: AttackFor | None = None,
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
        attack_for: as in `loss_along_path`.
        recalibrate: as in `loss_along_path`.
        loss: "cross_entropy", "margin", or a function `(logits, labels) -> (batch,)`.
        key: of the attack; by default that of seed 0.

    Raises:
        ValueError: for an unknown loss, directions of other shapes than the weights, or
            a number out of range.

    References:
        Li et al., 2018, arXiv:1712.09913, Section 4.
    """
    _check_alike(weights, direction_a, "direction_a")
    _check_alike(weights, direction_b, "direction_b")
    _check_radii([epsilon], attack_for)
    require_count("num_points", num_points, "25 is usual", least=2)
    require_in("extent", extent, "(0, inf)", "1 is usual")
    offsets = np.linspace(-extent, extent, num_points, dtype=np.float32)
    grid = np.stack(np.meshgrid(offsets, offsets, indexing="ij"), axis=-1)
    losses, accuracies = _evaluate_points(
        (weights, direction_a, direction_b),
        jnp.asarray(grid.reshape(-1, 2)),
        jnp.asarray([epsilon], jnp.float32),
        jax.random.key(0) if key is None else key,
        jnp.asarray(images),
        jnp.asarray(labels),
        apply=apply,
        place=_on_plane,
        attack_for=attack_for,
        recalibrate=recalibrate,
        loss_fn=_loss_fn(loss),
    )
    shape = (num_points, num_points)
    return PlaneLoss(
        offsets,
        np.asarray(losses).reshape(shape),
        np.asarray(accuracies).reshape(shape),
        epsilon,
        _batch_norm(recalibrate),
    )
