"""Per-example losses; every one of them is higher when the defender does worse.

All of them refuse labels of another shape than `(batch,)`, which would be broadcast to
a table of every label against every image, and labels known to be no class. Where a
traced label is no class, the loss and its gradient are not numbers.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxrobust.arguments import require
from jaxrobust.types import Labels, Logits, PerExample, PerExampleFlag, known

__all__ = [
    "LOSSES",
    "LossName",
    "as_classes",
    "as_labels",
    "cross_entropy",
    "dlr",
    "margin",
    "require_classes_below",
    "targeted_cross_entropy",
    "targeted_dlr",
    "targeted_margin",
    "towards",
]

LossName = Literal["cross_entropy", "margin", "dlr"]
Loss = Callable[[Logits, Labels], PerExample]


def as_labels(labels: Labels, num_examples: int, *, name: str = "labels") -> Labels:
    """Labels as int32, one for each example.

    Raises:
        TypeError: for labels that are not integers.
        ValueError: for another shape than `(num_examples,)`.
    """
    given = labels if isinstance(labels, jax.Array) else np.asarray(labels)
    require(
        given.shape == (num_examples,),
        name,
        f"one class for each image, in the shape ({num_examples},)",
        given.shape,
        "squeeze a column, and take the argmax of one-hot rows",
    )
    if not jnp.issubdtype(given.dtype, jnp.integer):
        raise TypeError(
            f"`{name}` must be integers, got {given.dtype}; give numbers of classes."
        )
    if isinstance(given, Tracer):
        return _as_int32(given)
    # Constants stay known inside `jit`, for whoever looks at them next.
    with jax.ensure_compile_time_eval():
        return _as_int32(given)


def _as_int32(labels: jax.Array | np.ndarray) -> Labels:
    if labels.dtype.itemsize > 4:
        # Beyond 32 bits they would wrap to other classes.
        lowest = max(-1, int(jnp.iinfo(labels.dtype).min))
        labels = labels.clip(lowest, 2**31 - 1)
    return jnp.asarray(labels, jnp.int32)


def require_classes_below(
    num_classes: int, labels: Labels, *, name: str = "labels"
) -> None:
    """Refuse labels known to be no class.

    Raises:
        ValueError: for a label below 0 or not below `num_classes`.
    """
    values = known(labels)
    if values is None or not values.size:
        return
    for value in (int(values.min()), int(values.max())):
        require(
            0 <= value < num_classes,
            name,
            f"classes of the model, from 0 to {num_classes - 1}",
            value,
            "number the classes from 0, as the model's logits are",
        )


def as_classes(
    logits: Logits, labels: Labels, *, name: str = "labels"
) -> tuple[Labels, PerExampleFlag]:
    """Labels as int32, and which of them are classes of the logits.

    Raises:
        TypeError: for labels that are not integers.
        ValueError: for labels that are not one for each row of the logits, or are known
            to be no class.
    """
    classes = as_labels(labels, logits.shape[0], name=name)
    num_classes = logits.shape[1]
    # Looked at as they came: inside `jit` even constants are traced once converted.
    require_classes_below(num_classes, labels, name=name)
    return classes, (classes >= 0) & (classes < num_classes)


def _meaningful(loss: PerExample, is_class: PerExampleFlag) -> PerExample:
    """The loss, which is no number, nor its gradient, where a label is no class."""
    return loss * jnp.where(is_class, 1.0, jnp.nan).astype(loss.dtype)


def cross_entropy(logits: Logits, labels: Labels) -> PerExample:
    """Cross-entropy of the softmax at `labels`, in nats and in [0, inf).

    Computed in float32 whatever the dtype of the logits: bfloat16 has eight
    significant bits, too few to tell neighboring iterates of an attack apart.
    """
    return _cross_entropy(logits, *as_classes(logits, labels))


def _cross_entropy(
    logits: Logits, labels: Labels, is_class: PerExampleFlag
) -> PerExample:
    logits = logits.astype(jnp.float32)
    # Of differences, since the softmax at the label minus 1, which is the gradient of
    # the plain form, is nothing but rounding where the model is sure.
    is_label = jnp.arange(logits.shape[-1])[None] == labels[:, None]
    lead = jnp.where(is_label, 0.0, logits - _at(is_label, logits)[:, None])
    return _meaningful(jax.nn.logsumexp(lead, axis=-1), is_class)


def _at(is_label: jax.Array, logits: Logits) -> PerExample:
    """The logit of each label.

    A sum rather than a look-up, whose gradient is a scatter: of batches that are
    divided, devices would send each other the gradients of all examples.
    """
    return jnp.sum(jnp.where(is_label, logits, 0.0), axis=-1)


def margin(logits: Logits, labels: Labels) -> PerExample:
    """Largest other logit minus the logit at `labels`; positive when misclassified.

    The negative of the margin of Ding et al. (2019) and of Wen et al. (2020). Unlike
    the cross-entropy it has a gradient where the softmax is saturated.
    """
    labels, is_class = as_classes(logits, labels)
    logits = logits.astype(jnp.float32)
    is_label = jnp.arange(logits.shape[-1])[None] == labels[:, None]
    others = jnp.max(jnp.where(is_label, -jnp.inf, logits), axis=-1)
    return _meaningful(others - _at(is_label, logits), is_class)


def _spread(logits: Logits, places: dict[int, float]) -> PerExample:
    """Largest logit minus a weighted mean of those at some places of the ranking."""
    ranked, _ = jax.lax.top_k(logits, max(places) + 1)
    spread = sum(
        weight * (ranked[:, 0] - ranked[:, place]) for place, weight in places.items()
    )
    # Where logits tie the ratio would be 0 / 0; the authors' code adds the same number.
    return jnp.maximum(spread, 1e-12)


def dlr(logits: Logits, labels: Labels) -> PerExample:
    r"""Difference of logits ratio; positive when misclassified.

    With logits :math:`z` and their ranking :math:`z_{(1)} \ge z_{(2)} \ge \dots` it is
    :math:`(\max_{i \ne y} z_i - z_y) / (z_{(1)} - z_{(3)})`: the margin on a scale that
    neither shifting nor scaling the logits changes, so that a model cannot hide its
    gradient by large logits. With fewer than three classes there is no third logit,
    and it is the margin.

    References:
        Croce & Hein, 2020, arXiv:2003.01690, "difference of logits ratio".
    """
    logits = logits.astype(jnp.float32)
    if logits.shape[-1] < 3:
        return margin(logits, labels)
    return margin(logits, labels) / _spread(logits, {2: 1.0})


def targeted_cross_entropy(targets: Labels) -> Loss:
    """Minus the cross-entropy at `targets`, in (-inf, 0]; 0 when all mass is there.

    Returns:
        A loss `(logits, labels) -> (batch,)`, which does not look at the labels.
    """

    def loss(logits: Logits, labels: Labels) -> PerExample:
        del labels
        return -_cross_entropy(logits, *as_classes(logits, targets, name="targets"))

    return loss


def targeted_margin(targets: Labels) -> Loss:
    """Logit at `targets` minus the one at the labels; positive if misclassified.

    Returns:
        A loss `(logits, labels) -> (batch,)`.
    """

    def loss(logits: Logits, labels: Labels) -> PerExample:
        aims, is_aim = as_classes(logits, targets, name="targets")
        labels, is_class = as_classes(logits, labels)
        logits = logits.astype(jnp.float32)
        classes = jnp.arange(logits.shape[-1])[None]
        at_target = jnp.where(classes == aims[:, None], logits, 0.0)
        at_label = jnp.where(classes == labels[:, None], logits, 0.0)
        gain = jnp.sum(at_target, axis=-1) - jnp.sum(at_label, axis=-1)
        return _meaningful(gain, is_aim & is_class)

    return loss


def targeted_dlr(targets: Labels) -> Loss:
    r"""Difference of logits ratio towards `targets`.

    With ranked logits it is
    :math:`(z_t - z_y) / (z_{(1)} - (z_{(3)} + z_{(4)}) / 2)`. With fewer than four
    classes there is no fourth logit, and it is `targeted_margin`.

    Returns:
        A loss `(logits, labels) -> (batch,)`.

    References:
        Croce & Hein, 2020, arXiv:2003.01690, "difference of logits ratio".
    """

    def loss(logits: Logits, labels: Labels) -> PerExample:
        logits = logits.astype(jnp.float32)
        gain = targeted_margin(targets)(logits, labels)
        if logits.shape[-1] < 4:
            return gain
        return gain / _spread(logits, {2: 0.5, 3: 0.5})

    return loss


LOSSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "margin": margin,
    "dlr": dlr,
}

_TARGETED: dict[str, Callable[[Labels], Loss]] = {
    "cross_entropy": targeted_cross_entropy,
    "margin": targeted_margin,
    "dlr": targeted_dlr,
}


def towards(
    loss: str | Loss, targets: Labels | None, *, must_hit: bool = False
) -> Loss:
    """What an attack climbs that is steered at targets, if there are any.

    Args:
        loss: of the attack without targets, by name or as a function.
        targets: `(batch,)`, the classes it is steered at; None for the loss itself.
        must_hit: whether only the target counts as a success. Then it is minus the loss
            at the targets, whose margin is positive where the target is met.

    Returns:
        A loss `(logits, labels) -> (batch,)`: for a name its targeted form, for a
        function minus its value at the targets.
    """
    loss_fn = LOSSES[loss] if isinstance(loss, str) else loss
    if targets is None:
        return loss_fn
    if isinstance(loss, str) and not must_hit:
        return _TARGETED[loss](targets)

    def at_targets(logits: Logits, labels: Labels) -> PerExample:
        del labels
        as_classes(logits, targets, name="targets")
        return -loss_fn(logits, targets)

    return at_targets
