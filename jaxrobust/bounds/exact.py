r"""The exact answer for small networks of relus, by mixed-integer programming.

Every value of the program is affine in the pixels and in the results of relus that may
be on or off; each of these has a binary variable :math:`\delta` and

.. math::
    y \ge 0, \quad y \ge z, \quad y \le u\delta, \quad y \le z - l (1 - \delta)

for an argument :math:`z \in [l, u]` (Tjeng et al., 2019, arXiv:1711.07356). HiGHS looks
for an image with a margin of at most `TOLERANCE` for one rival class after the other.

Its arithmetic is floating point with tolerances of its own: "robust" means that no
image was found with a margin below `TOLERANCE`, and is no proof in the sense of
`rounding.py`. "broken" is one: the image was put back into the ball and classified.
"""

import time
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize, sparse

from jaxrobust.arguments import require_in
from jaxrobust.bounds.forward import propagate
from jaxrobust.bounds.inputs import input_set
from jaxrobust.bounds.intervals import checked_labels
from jaxrobust.bounds.program import Program, Step, UnboundedError, trace
from jaxrobust.bounds.rounding import Bounds
from jaxrobust.bounds.rules import Affine
from jaxrobust.bounds.table import rule_of
from jaxrobust.precision import JUDGED, at_precision
from jaxrobust.pytrees import outline
from jaxrobust.threat import LinfBall
from jaxrobust.types import Images, Labels, LogitsFn

__all__ = ["Answer", "Exact", "exact"]

Answer = Literal["robust", "broken", "unknown", "timeout"]
"""robust: no image of the ball is classified wrongly. broken: one was found, and looked
at. unknown: the solver's tolerances do not decide. timeout: the time was used up."""

TOLERANCE = 1e-5
"""Margin, in logits, that counts as none."""

LIMIT, INFEASIBLE = 1, 2
"""Status of `scipy.optimize.milp`."""


class Exact(NamedTuple):
    """Answers for a batch.

    Attributes:
        answers: one word for each image, see `Answer`.
        images: `(batch, *pixels)`, the images found; NaN where there is none.
        seconds: `(batch,)`, that the solver took.
    """

    answers: tuple[Answer, ...]
    images: np.ndarray
    seconds: np.ndarray

    def __repr__(self) -> str:
        return outline(self)


class _Model:
    """Variables and constraints, as they grow while a program is followed.

    Values are arrays `(1 + variables, *shape)`: a constant, and a coefficient for each
    variable, in float64.
    """

    def __init__(self, box: Bounds):
        low, high = (np.asarray(end, np.float64).reshape(-1) for end in box)
        self.low: list[float] = low.tolist()
        self.high: list[float] = high.tolist()
        self.is_binary = [0] * len(low)
        self.rows: list[tuple[np.ndarray, np.ndarray, float, float]] = []

    def new(self, low: float, high: float, is_binary: bool = False) -> int:
        self.low.append(low)
        self.high.append(high)
        self.is_binary.append(int(is_binary))
        return len(self.low) - 1

    def constrain(
        self, coefficients: dict[int, float], below: float, above: float
    ) -> None:
        places = np.array(list(coefficients), np.int64)
        values = np.array(list(coefficients.values()), np.float64)
        self.rows.append((places, values, below, above))

    def padded(self, values: np.ndarray) -> np.ndarray:
        """Values with a coefficient for each variable that there is by now."""
        missing = 1 + len(self.low) - len(values)
        return np.concatenate([values, np.zeros((missing, *values.shape[1:]))])

    def ends(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Intervals of values, from those of the variables."""
        slopes = values[1:].reshape(len(values) - 1, -1)
        count = len(slopes)
        ends = [slopes * np.array(each)[:count, None] for each in (self.low, self.high)]
        constant = values[0].reshape(-1)
        least = constant + np.minimum(*ends).sum(axis=0)
        return least, constant + np.maximum(*ends).sum(axis=0)

    def matrix(self) -> Any:
        """The constraints, for the solver."""
        counts = [len(places) for places, *_ in self.rows]
        shape = (len(self.rows), len(self.low))
        cells = sparse.csr_array(
            (
                np.concatenate([values for _, values, *_ in self.rows]),
                np.concatenate([places for places, *_ in self.rows]),
                np.concatenate([[0], np.cumsum(counts)]),
            ),
            shape=shape,
        )
        below, above = (np.array([row[place] for row in self.rows]) for place in (2, 3))
        return optimize.LinearConstraint(cells, below, above)  # type: ignore


def _affine(step: Step, values: list[np.ndarray]) -> list[np.ndarray]:
    """What an affine step makes of values."""
    pairs = zip(values, step.forms, strict=True)
    given = [jnp.asarray(each, form.dtype) for each, form in pairs]

    def results(*rows: jax.Array) -> list[jax.Array]:
        found = step(*rows)
        return found if isinstance(found, list) else [found]

    constants = results(*(each[0] for each in given))
    zeros = results(*(jnp.zeros_like(each[0]) for each in given))
    moved = jax.vmap(results)(*(each[1:] for each in given))
    return [
        np.concatenate(
            [
                np.asarray(constant, np.float64)[None],
                np.asarray(rows, np.float64) - np.asarray(zero, np.float64)[None],
            ]
        )
        for constant, zero, rows in zip(constants, zeros, moved, strict=True)
    ]


def _relu(step: Step, values: np.ndarray, known: Bounds, model: _Model) -> np.ndarray:
    """The results of a maximum with a constant, with variables for those undecided."""
    floor = np.broadcast_to(np.asarray(step.constants[0], np.float64), step.shape)
    floor = floor.reshape(-1)
    flat = values.reshape(len(values), -1).copy()
    flat[0] -= floor
    least, most = model.ends(flat)
    least = np.maximum(least, np.asarray(known.lower, np.float64).reshape(-1) - floor)
    most = np.minimum(most, np.asarray(known.upper, np.float64).reshape(-1) - floor)
    undecided = np.flatnonzero((least < 0) & (most > 0))
    found = np.where(most > 0, flat, 0.0)
    for unit in undecided:
        low, high, row = least[unit], most[unit], flat[:, unit]
        result = model.new(0.0, high)
        switch = model.new(0.0, 1.0, is_binary=True)
        places = np.flatnonzero(row[1:])
        minus = dict(zip(places.tolist(), (-row[1:][places]).tolist(), strict=True))
        model.constrain({**minus, result: 1.0}, row[0], np.inf)
        model.constrain({**minus, result: 1.0, switch: -low}, -np.inf, row[0] - low)
        model.constrain({result: 1.0, switch: -high}, -np.inf, 0.0)
    found = model.padded(found)
    first = 1 + len(model.low) - 2 * len(undecided)
    found[:, undecided] = 0.0
    found[first + 2 * np.arange(len(undecided)), undecided] = 1.0
    found[0] += floor
    return found.reshape(len(found), *step.shape)


def _modelled(program: Program, bounds: dict[int, Bounds]) -> tuple[_Model, np.ndarray]:
    """The model of a program, and its logits `(1 + variables, classes)`."""
    model = _Model(bounds[0])
    size = len(model.low)
    shape = program.forms[0].shape
    pixels = np.concatenate([np.zeros((1, size)), np.eye(size)])
    values = {0: pixels.reshape(1 + size, *shape)}
    for step in program.steps:
        given = [model.padded(values[number]) for number in step.inputs]
        if isinstance(rule_of(step), Affine):
            found = _affine(step, given)
        elif step.primitive == "max" and len(given) == 1:
            found = [_relu(step, given[0], bounds[step.inputs[0]], model)]
        else:
            raise UnboundedError(
                "`logits_fn` must be made of relus and affine steps to be solved "
                f"exactly, got {step.primitive} ({step.source}); bound it by `linear`."
            )
        values |= dict(zip(step.outputs, found, strict=True))
    return model, model.padded(values[program.output])[:, 0]


def _solved(
    model: _Model, margin: np.ndarray, time_limit: float
) -> tuple[int, np.ndarray | None]:
    """Status of the solver, and variables at which a margin is small; None for none."""
    slopes = margin[1:]
    places = np.flatnonzero(slopes)
    row = dict(zip(places.tolist(), slopes[places].tolist(), strict=True))
    model.constrain(row, -np.inf, TOLERANCE - margin[0])
    found = optimize.milp(
        slopes,
        integrality=np.array(model.is_binary),
        bounds=optimize.Bounds(np.array(model.low), np.array(model.high)),  # type: ignore
        constraints=model.matrix(),
        options={"time_limit": max(time_limit, 0.01)},
    )
    model.rows.pop()
    return found.status, found.x


def _answered(
    logits_fn: LogitsFn,
    threat: LinfBall,
    image: jax.Array,
    label: int,
    time_limit: float,
) -> tuple[Answer, np.ndarray | None]:
    """The answer for one image, and an image that breaks it."""
    program = trace(logits_fn, image)
    bounds = propagate(program, input_set(threat, image, is_outward=True))
    model, logits = _modelled(program, bounds)
    began, doubts = time.perf_counter(), []
    margins = logits[:, label][:, None] - logits
    # The rival that intervals leave nearest first: it breaks the image, if any does.
    for rival in np.argsort(model.ends(margins)[0]):
        left = time_limit - (time.perf_counter() - began)
        if rival == label:
            continue
        status, variables = _solved(model, margins[:, rival], left)
        if variables is not None:
            pixels = jnp.asarray(variables[: image.size], image.dtype)
            moved = threat.project(pixels.reshape(image.shape), image)
            answer = np.asarray(logits_fn(moved))[0]
            if not np.all(np.delete(answer[label] - answer, label) > 0):
                return "broken", np.asarray(moved)
        if status == LIMIT:
            doubts.append("timeout")
        elif status != INFEASIBLE:
            doubts.append("unknown")
    if not doubts:
        return "robust", None
    return ("timeout" if "timeout" in doubts else "unknown"), None


def exact(
    logits_fn: LogitsFn,
    threat: LinfBall,
    images: Images,
    labels: Labels,
    *,
    time_limit: float = 60.0,
) -> Exact:
    """Whether any image of each ball is classified wrongly, by integer programming.

    For networks of some hundred relus; the time grows exponentially with those that
    may be on or off.

    Args:
        logits_fn: of affine steps and relus, images `(batch, *pixels)` to logits
            `(batch, classes)`.
        threat: of l_inf.
        images: clean ones, `(batch, *pixels)`, pixels in [0, 1].
        labels: `(batch,)`.
        time_limit: seconds for each image.

    Raises:
        TypeError: for another threat model, or labels that are not integers.
        UnboundedError: for a step that is neither affine nor a relu.
        ValueError: for labels that are no classes, or a time that is not positive.

    References:
        Tjeng et al., 2019, arXiv:1711.07356.
    """
    if type(threat) is not LinfBall:
        raise TypeError(
            f"`threat` must be a LinfBall to be solved exactly, got "
            f"{type(threat).__name__}; bound it by `linear`."
        )
    require_in("time_limit", time_limit, "(0, inf)", "it is in seconds")
    threat.check(images)
    labels = checked_labels(labels, logits_fn, images)
    judged = at_precision(JUDGED, logits_fn)
    answers, found, seconds = [], [], []
    for image, label in zip(jnp.asarray(images), np.asarray(labels), strict=True):
        began = time.perf_counter()
        answer, moved = _answered(judged, threat, image[None], int(label), time_limit)
        answers.append(answer)
        found.append(np.full(image.shape, np.nan) if moved is None else moved[0])
        seconds.append(time.perf_counter() - began)
    shape = (len(answers), *np.shape(images)[1:])
    return Exact(tuple(answers), np.reshape(found, shape), np.array(seconds))
