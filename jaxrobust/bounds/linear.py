r"""Linear bounds: each step between two affine functions, put back to the image.

The slopes of what lies below a relu are a choice. "dual" makes the bound that of the
dual network of Wong & Kolter (2018), "zero" suits networks that were trained on
interval bounds, "adaptive" is that of CROWN, and "optimized" ascends the bound of every
margin in slopes of its own (alpha-CROWN), from one of the others on; the best bound on
the way counts, so it is never below its start. Which one is tightest depends on the
network: any of them holds, and so does the largest of several (`best_margins`).

The intervals between which relaxations are taken come from interval bounds or from
linear bounds of every value that goes into a nonlinear step; neither is always inside
the other.

References:
    Zhang et al., 2018, arXiv:1811.00866 (CROWN); Xu et al., 2020, arXiv:2002.12920;
    Xu et al., 2021, arXiv:2011.13824 (alpha-CROWN).
"""

import dataclasses
from collections.abc import Callable
from functools import reduce
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array

from jaxrobust.arguments import require_choice, require_count, require_in
from jaxrobust.bounds.backward import least, substitute
from jaxrobust.bounds.blocks import MEMORY, block_size, substituted
from jaxrobust.bounds.forward import Refine, intersection, propagate
from jaxrobust.bounds.inputs import InputSet, input_set, require_bounded
from jaxrobust.bounds.intervals import (
    Statistics,
    as_known,
    at_rounding,
    checked_labels,
    margin_rows,
    require_statistics,
)
from jaxrobust.bounds.program import Program, Step, clean_batch, trace
from jaxrobust.bounds.rounding import Bounds, Rounding, require_rounding
from jaxrobust.bounds.rules import Nonlinear, Relaxation, SlopeName
from jaxrobust.bounds.table import rule_of
from jaxrobust.threat import ThreatModel
from jaxrobust.types import Images, Labels, Logits, LogitsFn, Scalar

__all__ = [
    "Intermediate",
    "Relaxed",
    "Slopes",
    "best_margins",
    "linear",
    "linear_margins",
]

Slopes = Literal["dual", "zero", "adaptive", "optimized"]
"""How what lies below a relu is chosen; see the module."""

Intermediate = Literal["interval", "linear", "tightest"]
"""Where the intervals of relaxations come from: interval bounds, linear bounds, or
both, intersected."""


@dataclasses.dataclass(frozen=True)
class _Settings:
    slopes: Slopes
    intermediate: Intermediate
    start: SlopeName
    num_steps: int
    step_size: Scalar
    statistics: Statistics
    rounding: Rounding
    memory: int

    def __post_init__(self):
        require_choice("slopes", self.slopes, get_args(Slopes))
        require_choice("intermediate", self.intermediate, get_args(Intermediate))
        require_choice("start", self.start, get_args(SlopeName))
        require_count("num_steps", self.num_steps, "20 are usual", least=0)
        require_in("step_size", self.step_size, "(0, inf)", "0.1 is usual")
        require_statistics(self.statistics)
        require_rounding(self.rounding)
        require_count("memory", self.memory, "it is in bytes, such as 2**30")

    @property
    def first(self) -> SlopeName:
        """The slopes of all that is not optimized."""
        name: Any = self.start if self.slopes == "optimized" else self.slopes
        return name


class Relaxed:
    """The relaxations of a program's steps, as far as their intervals are known."""

    def __init__(self, program: Program, name: SlopeName, is_outward: bool):
        self.steps = [step for step in program.steps if _is_relaxed(program, step)]
        self.name = name
        self.is_outward = is_outward
        self.known: dict[int, Relaxation] = {}

    def until(self, bounds: dict[int, Bounds]) -> dict[int, Relaxation]:
        """Those of all steps whose values are bounded, by number of the value."""
        for step in self.steps:
            number = step.outputs[0]
            if number in bounds and number not in self.known:
                slope = self.slope(step, bounds)
                self.known[number] = self.relaxation(step, bounds, slope)
        return self.known

    def slope(self, step: Step, bounds: dict[int, Bounds]) -> Array | None:
        """The slopes of that name, where there is a choice."""
        rule = _nonlinear(step)
        if rule.slope is None:
            return None
        ends = [bounds[number] for number in step.inputs]
        name: Any = self.name
        return rule.slope(step, ends, name)

    def relaxation(
        self, step: Step, bounds: dict[int, Bounds], slope: Array | None
    ) -> Relaxation:
        """With slopes given."""
        ends = [bounds[number] for number in step.inputs]
        return _nonlinear(step).relax(step, ends, slope, self.is_outward)


def _nonlinear(step: Step) -> Nonlinear:
    rule = rule_of(step)
    assert isinstance(rule, Nonlinear)
    return rule


def _is_relaxed(program: Program, step: Step) -> bool:
    """Whether a step is nonlinear, and its values numbers rather than flags."""
    is_number = jnp.issubdtype(program.forms[step.outputs[0]].dtype, jnp.inexact)
    return isinstance(rule_of(step), Nonlinear) and bool(is_number)


def _rows_bounded(
    program: Program,
    inputs: InputSet,
    rows: Array,
    settings: _Settings,
    batch: int,
) -> Array:
    """The least values of functionals of the logits, `(rows,)`."""
    is_outward = inputs.is_outward
    relaxed = Relaxed(program, settings.first, is_outward)

    def refine(number: int, bounds: dict[int, Bounds]) -> Bounds:
        block = block_size(program, number, batch, settings.memory)
        relaxations = relaxed.until(bounds)
        found = substituted(program, number, bounds, relaxations, inputs, block)
        if settings.intermediate == "linear":
            return found
        return intersection(bounds[number], found)

    refined: Refine | None = None if settings.intermediate == "interval" else refine
    bounds = propagate(program, inputs, refined)
    relaxations = relaxed.until(bounds)

    def lowest(rows: Array, relaxations: dict[int, Relaxation]) -> Array:
        functional = substitute(
            program, program.output, rows, bounds, relaxations, is_outward
        )
        return least(functional, bounds, inputs)

    first = lowest(rows, relaxations)
    if settings.slopes != "optimized":
        return first
    free = {step.outputs[0]: step for step in relaxed.steps if _nonlinear(step).slope}

    def with_slopes(row: Array, slopes: dict[int, Array]) -> Array:
        own = {
            number: relaxed.relaxation(step, bounds, slopes[number])
            for number, step in free.items()
        }
        return lowest(row[None], relaxations | own)[0]

    def value(slopes: dict[int, Array]) -> Array:
        return jax.vmap(with_slopes)(rows, slopes)

    start = {
        number: jnp.broadcast_to(found, (rows.shape[0], *found.shape))
        for number, step in free.items()
        if (found := relaxed.slope(step, bounds)) is not None
    }
    return _ascended(value, start, first, settings)


def _ascended(
    value: Callable[[dict[int, Array]], Array],
    start: dict[int, Array],
    first: Array,
    settings: _Settings,
) -> Array:
    """The best values seen while slopes ascend, kept in [0, 1]."""
    step_size: Any = settings.step_size
    optimizer = optax.adam(step_size)

    def objective(slopes: dict[int, Array]) -> tuple[Array, Array]:
        found = value(slopes)
        return -jnp.sum(jnp.where(jnp.isfinite(found), found, 0.0)), found

    def step(_: Array, carry: tuple[Any, ...]) -> tuple[Any, ...]:
        slopes, state, best = carry
        gradient, found = jax.grad(objective, has_aux=True)(slopes)
        gradient = jax.tree.map(lambda each: jnp.where(each == each, each, 0), gradient)
        updates, state = optimizer.update(gradient, state)
        moved: Any = optax.apply_updates(slopes, updates)
        moved = jax.tree.map(lambda each: jnp.clip(each, 0, 1), moved)
        return moved, state, jnp.maximum(best, found)

    carry = (start, optimizer.init(start), first)
    slopes, _, best = lax.fori_loop(0, settings.num_steps, step, carry)
    return jnp.maximum(best, value(lax.stop_gradient(slopes)))


def _mapped(
    logits_fn: LogitsFn,
    threat: ThreatModel,
    images: Images,
    settings: _Settings,
    rows_of: Callable[[Any, int, Any], Array],
    labels: Labels | None = None,
) -> Array:
    """Bounds of functionals of each image's logits, `(batch, rows)`."""
    require_bounded(threat)
    threat.check(images)
    clean = clean_batch(logits_fn, images) if settings.statistics == "clean" else None
    batch = images.shape[0]
    is_outward = settings.rounding == "outward"

    def one(example: Array, image: Array, label: Array | None) -> Array:
        program = trace(logits_fn, images, clean, example, as_written=is_outward)
        inputs = input_set(threat, image[None], is_outward)
        form = program.forms[program.output]
        rows = rows_of(label, form.shape[1], form.dtype)
        return _rows_bounded(program, inputs, rows, settings, batch)

    return jax.vmap(one)(jnp.arange(batch), images, labels)


def linear(
    logits_fn: LogitsFn,
    threat: ThreatModel,
    images: Images,
    *,
    slopes: Slopes = "adaptive",
    intermediate: Intermediate = "tightest",
    start: SlopeName = "adaptive",
    num_steps: int = 20,
    step_size: Scalar = 0.1,
    statistics: Statistics = "none",
    rounding: Rounding = "outward",
    memory: int = MEMORY,
) -> Bounds:
    """Bounds of the logits of all images that a threat model allows.

    Arguments and errors are those of `linear_margins`.

    Returns:
        Two arrays `(batch, classes)`; infinite where nothing is known.
    """
    settings = _Settings(
        slopes, intermediate, start, num_steps, step_size, statistics, rounding, memory
    )

    def rows_of(label: Any, num_classes: int, dtype: Any) -> Array:
        del label
        identity = jnp.eye(num_classes, dtype=dtype)[:, None]
        return jnp.concatenate([identity, -identity])

    def bounded(images: Images) -> Bounds:
        found = _mapped(logits_fn, threat, images, settings, rows_of)
        lower, minus_upper = jnp.split(found, 2, axis=1)
        return as_known(Bounds(lower, -minus_upper))

    return at_rounding(rounding, bounded)(images)


def linear_margins(
    logits_fn: LogitsFn,
    threat: ThreatModel,
    images: Images,
    labels: Labels,
    *,
    slopes: Slopes = "adaptive",
    intermediate: Intermediate = "tightest",
    start: SlopeName = "adaptive",
    num_steps: int = 20,
    step_size: Scalar = 0.1,
    statistics: Statistics = "none",
    rounding: Rounding = "outward",
    memory: int = MEMORY,
) -> Logits:
    """Lower bounds of the logit at the label minus each logit, for a threat model.

    Differentiable in whatever `logits_fn` closes over, and may be compiled and mapped.
    With intermediate bounds by intervals the cost is that of a pass of intervals and of
    a few passes for each class; with linear ones, besides, that of a backward pass for
    each value that goes into a nonlinear step.

    Args:
        logits_fn: images `(batch, *pixels)` to logits `(batch, classes)`.
        threat: of l_inf, l_2 or l_1; its radius may be traced.
        images: clean ones, `(batch, *pixels)`, pixels in [0, 1].
        labels: `(batch,)`.
        slopes: "dual", "zero", "adaptive" or "optimized"; see the module.
        intermediate: "interval", "linear", or "tightest", which intersects both.
        start: where optimized slopes begin, and what the intermediate bounds take.
        num_steps: of the optimization.
        step_size: of it, of slopes in [0, 1]; positive.
        statistics: as for `interval_pass`.
        rounding: "outward" for bounds that hold in floating point (`rounding.py`),
            computed at the precision of judgements; "nearest" for training.
        memory: bytes that the coefficients of all images may take together; what the
            number of values that are put back at a time follows from. At least one is.

    Returns:
        `(batch, classes)`, 0 at the label; minus infinity where nothing is known.

    Raises:
        TypeError: for another threat model, or labels that are not integers.
        UnboundedError: for what has no bounds, by name and line.
        ValueError: for an unknown word, a number out of range, labels that are no
            classes, or images outside the pixel range.
    """
    settings = _Settings(
        slopes, intermediate, start, num_steps, step_size, statistics, rounding, memory
    )
    labels = checked_labels(labels, logits_fn, images)

    def bounded(images: Images, labels: Labels) -> Logits:
        found = _mapped(logits_fn, threat, images, settings, margin_rows, labels)
        is_label = jnp.arange(found.shape[1])[None] == labels[:, None]
        return jnp.where(is_label, 0.0, found)

    return at_rounding(rounding, bounded)(images, labels)


def best_margins(*margins: Logits) -> Logits:
    """The largest of several lower bounds, of each margin; one that is NaN is none."""
    known = [jnp.where(jnp.isnan(each), -jnp.inf, each) for each in margins]
    return reduce(jnp.maximum, known)
