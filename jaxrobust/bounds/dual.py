r"""The dual of Wong & Kolter, for networks that are affine maps and relus in turn.

The network is :math:`z_1 = W_1 x + b_1`,
:math:`z_{i+1} = W_{i+1} \mathrm{relu}(z_i) + b_{i+1}`, with intervals :math:`[l, u]` of
each hidden :math:`z_i` and an objective :math:`c`. From :math:`\nu = -c` at the end on,
:math:`\hat\nu_i = W_i^T \nu_i` and
:math:`\nu_{i-1} = D_{i-1} \hat\nu_i`, where D is 0 for units with :math:`u \le 0`, 1
with :math:`l \ge 0`, and :math:`u / (u - l)` between. Then :math:`c^T z` is at least

.. math::
    J = -\sum_i \nu_i^T b_i - x^T \hat\nu_1 - \epsilon \|\hat\nu_1\|_*
        + \sum_{\text{unstable } j} l_j \max(\nu_j, 0).

The intervals are the same bounds of :math:`c = \pm e_j`, layer after layer.
The matrices are written out, so this is for small networks, and a second way to what
`linear` computes with `slopes="dual"` and `intermediate="linear"`.

References:
    Wong & Kolter, 2018, arXiv:1711.00851, Theorem 1 and Algorithm 1.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxrobust.bounds.inputs import input_set, require_bounded
from jaxrobust.bounds.intervals import checked_labels
from jaxrobust.bounds.program import Program, Step, refused, trace
from jaxrobust.bounds.rules import Affine, is_relu
from jaxrobust.bounds.table import rule_of
from jaxrobust.threat import ThreatModel
from jaxrobust.types import Images, Labels, Logits, LogitsFn

__all__ = ["Layer", "dual_objective", "sequential_layers"]


class Layer(NamedTuple):
    """An affine map of flattened values.

    Attributes:
        weights: `(outputs, inputs)`.
        bias: `(outputs,)`.
    """

    weights: Array
    bias: Array


_REMEDY = "use `linear`, which takes any network"


def sequential_layers(logits_fn: LogitsFn, images: Images) -> list[Layer]:
    """The affine maps between which a network takes relus, written out.

    Args:
        logits_fn: images `(batch, *pixels)` to logits.
        images: whose shape and type count.

    Raises:
        UnboundedError: for a network that is not one affine map and relu after the
            other.
    """
    program = trace(logits_fn, images)
    layers, steps = [], []
    start = 0
    for step in program.steps:
        if is_relu(step):
            layers.append(_layer(program, steps, start, step.inputs[0], step))
            steps, start = [], step.outputs[0]
        elif isinstance(rule_of(step), Affine):
            steps.append(step)
        else:
            why = "which is neither affine nor a relu"
            raise refused(step.primitive, step.source, why, _REMEDY)
    last = program.steps[-1]
    return [*layers, _layer(program, steps, start, program.output, last)]


def _layer(
    program: Program, steps: list[Step], start: int, end: int, last: Step
) -> Layer:
    """The map from one value to another, by the steps between."""
    form = program.forms[start]

    def between(flat: Array) -> Array:
        values = {start: flat.reshape(form.shape)}
        for step in steps:
            if {*step.inputs} - {*values}:
                why = "which joins what is apart by a relu"
                raise refused(step.primitive, step.source, why, _REMEDY)
            found = step(*(values[number] for number in step.inputs))
            results = found if isinstance(found, list) else [found]
            values |= dict(zip(step.outputs, results, strict=True))
        if end not in values:
            why = "whose argument is not that of the relu before"
            raise refused(last.primitive, last.source, why, _REMEDY)
        return values[end].reshape(-1)

    zeros = jnp.zeros(form.size, form.dtype)
    return Layer(jax.jacobian(between)(zeros), between(zeros))


def dual_objective(
    logits_fn: LogitsFn, threat: ThreatModel, images: Images, labels: Labels
) -> Logits:
    r"""The dual bound J of the logit at the label minus each logit.

    Args:
        logits_fn: images `(batch, *pixels)` to logits `(batch, classes)`, a network of
            affine maps and relus in turn.
        threat: of l_inf, l_2 or l_1. The paper has no pixel range (`bounds=None`); with
            one, the least over the cut ball takes the place of the terms of the image.
        images: clean ones, `(batch, *pixels)`, pixels in [0, 1].
        labels: `(batch,)`.

    Returns:
        `(batch, classes)`, 0 at the label; rounded to nearest. The robust loss of the
        paper is the cross-entropy of minus this.

    Raises:
        TypeError: for another threat model, or labels that are not integers.
        UnboundedError: for another kind of network.
        ValueError: for labels that are no classes, or images outside the pixel range.
    """
    require_bounded(threat)
    threat.check(images)
    labels = checked_labels(labels, logits_fn, images)
    layers = sequential_layers(logits_fn, images)
    num_classes = layers[-1].bias.size

    def one(image: Array, label: Array) -> Array:
        inputs = input_set(threat, image[None], is_outward=False)
        lows: list[Array] = []
        highs: list[Array] = []

        def objective(objectives: Array, depth: int) -> Array:
            """J of rows of c for the outputs of a layer."""
            dual = -objectives
            total = jnp.zeros(dual.shape[0], dual.dtype)
            for place in reversed(range(depth + 1)):
                weights, bias = layers[place]
                total = total - dual @ bias
                dual = dual @ weights
                if place == 0:
                    break
                low, high = lows[place - 1], highs[place - 1]
                is_unstable = (low < 0) & (high > 0)
                width = jnp.where(is_unstable, high - low, 1.0)
                slope = jnp.where(is_unstable, high / width, low >= 0)
                dual = dual * slope[None]
                gain = jnp.where(is_unstable, low, 0.0)[None] * jnp.maximum(dual, 0.0)
                total = total + jnp.sum(gain, axis=1)
            rows = -dual.reshape(-1, *image[None].shape)
            return total + inputs.least(rows)

        for depth, layer in enumerate(layers[:-1]):
            unit = jnp.eye(layer.bias.size, dtype=layer.bias.dtype)
            lows.append(objective(unit, depth))
            highs.append(-objective(-unit, depth))
        is_label = jnp.arange(num_classes) == label
        rows = is_label[None].astype(image.dtype) - jnp.eye(num_classes)
        return jnp.where(is_label, 0.0, objective(rows, len(layers) - 1))

    return jax.vmap(one)(images, labels)
