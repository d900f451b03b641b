r"""Intervals of the dual network, estimated by random projections, for training.

With the slopes of Wong & Kolter both lines round a relu are parallel: its value is
:math:`s z + r (1 + \xi)` with a slope s, :math:`r = -s l / 2` where it is unstable and
0 elsewhere, and some :math:`\xi` in [-1, 1]. So every value of the network is a center
and a sum :math:`\sum_k g_k \xi_k` over the pixels and the unstable units before it,
and its linear bounds are the center plus or minus :math:`\|g\|_1`.

They cost a backward pass for each value. Instead, a sum :math:`\sum_k g_k c_k` with
numbers c from the Cauchy distribution has that distribution, scaled by
:math:`\|g\|_1`, and passes through the network forwards, together with all other
values. The median of the absolute values of some such sums is an estimate of the norm,
above or below it: nothing is proven by it.

References:
    Wong et al., 2018, arXiv:1805.12514, Section 3.2.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxrobust.arguments import require_count
from jaxrobust.bounds.backward import least, substitute
from jaxrobust.bounds.forward import propagate
from jaxrobust.bounds.inputs import InputSet, input_set
from jaxrobust.bounds.intervals import (
    Statistics,
    checked_labels,
    margin_rows,
    require_statistics,
)
from jaxrobust.bounds.linear import Relaxed
from jaxrobust.bounds.program import Program, Step, clean_batch, refused, trace
from jaxrobust.bounds.rounding import Bounds
from jaxrobust.bounds.rules import Affine, is_relu
from jaxrobust.bounds.table import rule_of
from jaxrobust.threat import LinfBall, ThreatModel
from jaxrobust.types import Images, Labels, Logits, LogitsFn, PRNGKey

__all__ = ["projected_margins"]


class _Projections:
    """Centers and random sums of all values up to some step."""

    def __init__(
        self, program: Program, inputs: InputSet, key: PRNGKey, num_projections: int
    ):
        self.steps = iter(program.steps)
        self.key = key
        self.num_projections = num_projections
        center, radius = inputs.box.center, inputs.box.radius
        self.centers: dict[int, Array] = {0: center}
        self.sums: dict[int, Array] = {0: radius[None] * self.drawn(0, radius)}

    def drawn(self, number: int, like: Array) -> Array:
        """Of the Cauchy distribution, for each element of a value and projection."""
        key = jax.random.fold_in(self.key, number)
        shape = (self.num_projections, *like.shape)
        return jax.random.cauchy(key, shape, like.dtype)

    def bounds(self, number: int, known: dict[int, Bounds]) -> Bounds:
        """An estimate of a value's interval, from those of all relus before it."""
        while number not in self.centers:
            self.advance(next(self.steps), known)
        reach = jnp.median(jnp.abs(self.sums[number]), axis=0)
        center = self.centers[number]
        return Bounds(center - reach, center + reach)

    def advance(self, step: Step, known: dict[int, Bounds]) -> None:
        if is_relu(step):
            self.relu(step, known[step.inputs[0]])
        elif isinstance(rule_of(step), Affine):
            self.affine(step)
        else:
            why = "which is neither affine nor a relu"
            remedy = "use `linear_margins`, which takes any network"
            raise refused(step.primitive, step.source, why, remedy)

    def affine(self, step: Step) -> None:
        centers = [self.centers[number] for number in step.inputs]
        sums = [self.sums[number] for number in step.inputs]
        found, linear = jax.linearize(step, *centers)
        moved = jax.vmap(linear)(*sums)
        if not isinstance(found, list):
            found, moved = [found], [moved]
        self.centers |= dict(zip(step.outputs, found, strict=True))
        self.sums |= dict(zip(step.outputs, moved, strict=True))

    def relu(self, step: Step, ends: Bounds) -> None:
        (argument,), (number,) = step.inputs, step.outputs
        low, high = ends
        is_unstable = (low < 0) & (high > 0)
        width = jnp.where(is_unstable, high - low, 1.0)
        slope = jnp.where(is_unstable, high / width, (low >= 0).astype(low.dtype))
        error = jnp.where(is_unstable, -slope * low / 2, 0.0)
        self.centers[number] = slope * self.centers[argument] + error
        own = error[None] * self.drawn(number, error)
        self.sums[number] = slope[None] * self.sums[argument] + own


def projected_margins(
    logits_fn: LogitsFn,
    threat: ThreatModel,
    images: Images,
    labels: Labels,
    key: PRNGKey,
    *,
    num_projections: int = 50,
    statistics: Statistics = "none",
) -> Logits:
    """Estimates of the dual bound of the logit at the label minus each logit.

    The intervals of hidden units are estimated, and the margins are the dual bound on
    these intervals. Differentiable, and may be compiled and mapped; the cost is that of
    a forward pass for each projection and of a few passes for each class.

    Args:
        logits_fn: images `(batch, *pixels)` to logits `(batch, classes)`, made of what
            is affine and of relus.
        threat: of l_inf; its radius may be traced.
        images: clean ones, `(batch, *pixels)`, pixels in [0, 1].
        labels: `(batch,)`.
        key: of the projections, which are the same for all images.
        num_projections: random sums of each value; the relative error of an estimate is
            some 1.6 over its square root.
        statistics: as for `interval_pass`.

    Returns:
        `(batch, classes)`, 0 at the label. Nothing is proven by it.

    Raises:
        TypeError: for another threat model, or labels that are not integers.
        UnboundedError: for a function with other steps.
        ValueError: for a number out of range, an unknown word, labels that are no
            classes, or images outside the pixel range.
    """
    if type(threat) is not LinfBall:
        raise TypeError(
            "`threat` must be a LinfBall for projections, got "
            f"{type(threat).__name__}; use `linear_margins`, which knows other norms."
        )
    require_count("num_projections", num_projections, "50 are usual")
    require_statistics(statistics)
    threat.check(images)
    labels = checked_labels(labels, logits_fn, images)
    clean = clean_batch(logits_fn, images) if statistics == "clean" else None

    def one(example: Array, image: Array, label: Array) -> Array:
        program = trace(logits_fn, images, clean, example, as_written=False)
        inputs = input_set(threat, image[None], is_outward=False)
        estimated = _Projections(program, inputs, key, num_projections)
        bounds = propagate(program, inputs, estimated.bounds)
        relaxations = Relaxed(program, "dual", is_outward=False).until(bounds)
        form = program.forms[program.output]
        rows = margin_rows(label, form.shape[1], form.dtype)
        functional = substitute(
            program, program.output, rows, bounds, relaxations, is_outward=False
        )
        found = least(functional, bounds, inputs)
        return jnp.where(jnp.arange(form.shape[1]) == label, 0.0, found)

    return jax.vmap(one)(jnp.arange(images.shape[0]), images, labels)
