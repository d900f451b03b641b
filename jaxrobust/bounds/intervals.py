"""Interval bounds of logits and of margins, for certificates and for training."""

from collections.abc import Callable
from typing import Literal, NamedTuple, ParamSpec, TypeVar, get_args

import jax
import jax.numpy as jnp

from jaxrobust.arguments import require_choice
from jaxrobust.bounds.backward import least, substitute
from jaxrobust.bounds.blocks import MEMORY, block_size, substituted
from jaxrobust.bounds.forward import intersection, propagate, relu_arguments
from jaxrobust.bounds.inputs import input_set, require_bounded
from jaxrobust.bounds.program import CleanBatch, clean_batch, trace
from jaxrobust.bounds.rounding import Bounds, Rounding, require_rounding
from jaxrobust.losses import as_labels, require_classes_below
from jaxrobust.precision import JUDGED, at_precision
from jaxrobust.pytrees import outline
from jaxrobust.threat import ThreatModel
from jaxrobust.types import Images, Labels, Logits, LogitsFn, PerExampleFlag

__all__ = [
    "IntervalPass",
    "Statistics",
    "interval",
    "interval_margins",
    "interval_pass",
    "is_certified",
]

P = ParamSpec("P")
R = TypeVar("R")

Statistics = Literal["none", "clean"]
"""What a function takes of its batch: "none" is allowed, or it is that of the "clean"
batch (batch normalization in training)."""


class IntervalPass(NamedTuple):
    """What one pass of intervals through a network gives.

    Attributes:
        logits: of the clean images, `(batch, classes)`.
        bounds: of the logits, two arrays `(batch, classes)`.
        margins: `(batch, classes)`, lower bounds of the logit at the label minus each
            logit, 0 at the label; None without labels.
        inputs: of the pixels, two arrays of the shape of the images.
        relus: of the arguments of every relu, a maximum with a constant, in the order
            of the program; each two arrays `(batch, *shape)`.
    """

    logits: Logits
    bounds: Bounds
    margins: Logits | None
    inputs: Bounds
    relus: tuple[Bounds, ...]

    def __repr__(self) -> str:
        return outline(self)


def at_rounding(rounding: Rounding, function: Callable[P, R]) -> Callable[P, R]:
    """A function at the precision that its rounding asks for."""
    return at_precision(JUDGED, function) if rounding == "outward" else function


def as_known(bounds: Bounds) -> Bounds:
    """Infinite bounds in place of those that are no numbers."""
    lower, upper = bounds
    return Bounds(
        jnp.where(jnp.isnan(lower), -jnp.inf, lower),
        jnp.where(jnp.isnan(upper), jnp.inf, upper),
    )


def require_statistics(value: object) -> None:
    """Refuse a word that says nothing of statistics.

    Raises:
        ValueError: naming those that do.
    """
    remedy = '"none" refuses statistics of a batch, "clean" takes the clean one\'s'
    require_choice("statistics", value, get_args(Statistics), remedy)


def checked_labels(labels: Labels, logits_fn: LogitsFn, images: Images) -> Labels:
    """Labels as classes of the logits.

    Raises:
        TypeError: for labels that are not integers.
        ValueError: for labels that are not one for each image, or no class.
    """
    num_classes = jax.eval_shape(logits_fn, images).shape[1]
    require_classes_below(num_classes, labels)
    return as_labels(labels, images.shape[0])


def margin_rows(label: jax.Array, num_classes: int, dtype: jnp.dtype) -> jax.Array:
    """The logit at the label minus each one, as `(classes, 1, classes)` coefficients.

    NaN where the label is no class.
    """
    identity = jnp.eye(num_classes, dtype=dtype)
    is_label = jnp.arange(num_classes) == label
    rows = is_label.astype(dtype)[None] - identity
    return jnp.where(jnp.any(is_label), rows, jnp.nan)[:, None]


def is_certified(margins: Logits, labels: Labels) -> PerExampleFlag:
    """Whether every other class surely has a smaller logit.

    Args:
        margins: `(batch, classes)`, lower bounds of the logit at the label minus each.
            One that is not a number proves nothing.
        labels: `(batch,)`.
    """
    is_label = jnp.arange(margins.shape[1])[None] == labels[:, None]
    # A label that is no class has no margin that could be left out.
    return jnp.all((margins > 0) | is_label, axis=1) & jnp.any(is_label, axis=1)


def _pass(
    logits_fn: LogitsFn,
    threat: ThreatModel,
    images: Images,
    labels: Labels | None,
    clean: CleanBatch | None,
    rounding: Rounding,
    joined: bool,
) -> tuple[Bounds, Logits | None, Bounds, tuple[Bounds, ...]]:
    """One example after the other, mapped: whatever is not its own is a constant."""
    is_outward = rounding == "outward"

    def one(example: jax.Array, image: jax.Array, label: jax.Array | None):
        program = trace(logits_fn, images, clean, example, as_written=is_outward)
        inputs = input_set(threat, image[None], is_outward)

        def refine(number: int, bounds: dict[int, Bounds]) -> Bounds:
            # Without relaxations, coefficients are those of no image: one for all.
            block = block_size(program, number, 1, MEMORY)
            found = substituted(program, number, bounds, {}, inputs, block)
            return intersection(bounds[number], found)

        bounds = propagate(program, inputs, refine if joined else None)
        if joined:
            bounds[program.output] = refine(program.output, bounds)
        logits = bounds[program.output]
        margins = None
        if label is not None:
            num_classes = logits.lower.shape[1]
            rows = margin_rows(label, num_classes, logits.lower.dtype)
            functional = substitute(
                program, program.output, rows, bounds, {}, is_outward
            )
            margins = least(functional, bounds, inputs)
            margins = jnp.where(jnp.arange(num_classes) == label, 0.0, margins)
        relus = tuple(bounds[number] for number in relu_arguments(program))
        found = as_known(logits), inputs.box, relus
        return jax.tree.map(lambda values: values[0], found), margins

    examples = jnp.arange(images.shape[0])
    (bounds, box, relus), margins = jax.vmap(one)(examples, images, labels)
    return bounds, margins, box, relus


def interval_pass(
    logits_fn: LogitsFn,
    threat: ThreatModel,
    images: Images,
    labels: Labels | None = None,
    *,
    statistics: Statistics = "none",
    rounding: Rounding = "nearest",
    joined: bool = False,
) -> IntervalPass:
    r"""Interval bounds with all that training needs of them.

    The bounds of the margins put the last affine stretch back through
    :math:`e_y - e_j`, so that what logits share cancels (elision). Everything is
    differentiable in whatever `logits_fn` closes over, and may be compiled and mapped;
    the cost is that of two forward passes, three with statistics.

    Args:
        logits_fn: images `(batch, *pixels)` to logits `(batch, classes)`.
        threat: of l_inf, l_2 or l_1; its radius may be traced.
        images: clean ones, `(batch, *pixels)`, pixels in [0, 1].
        labels: `(batch,)`; None for no margins.
        statistics: "clean" takes what the function takes of its batch, such as those of
            batch normalization in training, from the clean images, as constants.
        rounding: "outward" for bounds that hold in floating point (`rounding.py`).
        joined: whether all that is affine between two nonlinear steps is bounded as a
            whole, rather than one product after the other. That is tighter where there
            are several, as in pooling by means, in residual blocks, or in convolutions
            by transforms (formulation "winograd"); its cost is that of a backward pass
            through the stretch for each value that goes into a nonlinear step.

    Raises:
        TypeError: for another threat model, or labels that are not integers.
        UnboundedError: for what has no bounds, by name and line.
        ValueError: for an unknown word, labels that are no classes, or images outside
            the pixel range.

    References:
        Gowal et al., 2018, arXiv:1810.12715; Shi et al., 2021, arXiv:2103.17268, for
        the statistics of the clean batch.
    """
    require_bounded(threat)
    require_statistics(statistics)
    require_rounding(rounding)
    threat.check(images)
    if labels is not None:
        labels = checked_labels(labels, logits_fn, images)
    clean = clean_batch(logits_fn, images) if statistics == "clean" else None
    logits = logits_fn(images) if clean is None else clean.logits
    found = _pass(logits_fn, threat, images, labels, clean, rounding, joined)
    return IntervalPass(logits, *found)


def interval(
    logits_fn: LogitsFn,
    threat: ThreatModel,
    images: Images,
    *,
    statistics: Statistics = "none",
    rounding: Rounding = "outward",
    joined: bool = False,
) -> Bounds:
    """Bounds of the logits of all images that a threat model allows.

    Arguments and errors are those of `interval_pass`. Rounded outwards, products are
    computed at the precision of judgements (`precision.py`).

    Returns:
        Two arrays `(batch, classes)`; infinite where nothing is known.
    """

    def bounded(images: Images) -> Bounds:
        return interval_pass(
            logits_fn,
            threat,
            images,
            statistics=statistics,
            rounding=rounding,
            joined=joined,
        ).bounds

    return at_rounding(rounding, bounded)(images)


def interval_margins(
    logits_fn: LogitsFn,
    threat: ThreatModel,
    images: Images,
    labels: Labels,
    *,
    statistics: Statistics = "none",
    rounding: Rounding = "outward",
    joined: bool = False,
) -> Logits:
    """Lower bounds of the logit at the label minus each logit, for a threat model.

    Arguments and errors are those of `interval_pass`; see `is_certified`.

    Returns:
        `(batch, classes)`, 0 at the label; minus infinity where nothing is known.
    """

    def bounded(images: Images, labels: Labels) -> Logits:
        found = interval_pass(
            logits_fn,
            threat,
            images,
            labels,
            statistics=statistics,
            rounding=rounding,
            joined=joined,
        )
        assert found.margins is not None
        return found.margins

    return at_rounding(rounding, bounded)(images, labels)
