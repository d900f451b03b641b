"""The compiled function of a method, and how much memory and work it takes."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr, Var

from jaxrobust.arguments import require
from jaxrobust.bounds import is_certified
from jaxrobust.data import as_float
from jaxrobust.evaluation.certificates.methods import Method
from jaxrobust.evaluation.engine.programs import Data, placement
from jaxrobust.evaluation.engine.sharing import Reference
from jaxrobust.precision import JUDGED, at_precision
from jaxrobust.threat import ThreatModel
from jaxrobust.types import Images, Labels, Logits, LogitsFn, Params, PerExampleFlag

__all__ = [
    "Cost",
    "bounding_program",
    "costing_program",
    "operations_in",
    "peak_bytes",
]


def bounding_program(
    apply: Reference,
    method: Reference,
    *,
    threat: type[ThreatModel],
    devices: tuple[Any, ...],
) -> Callable[..., PerExampleFlag]:
    """The compiled function that serves all models and radii of a method.

    Returns:
        `(weights, data, epsilon, chosen) -> is_proven`, of the examples chosen.
    """

    def bounded(
        weights: Params, data: Data, epsilon: jax.Array, chosen: jax.Array
    ) -> PerExampleFlag:
        images, labels = data
        shown, labels = as_float(images[chosen]), labels[chosen]
        margins = method()(apply()(weights), threat(epsilon), shown, labels)
        return is_certified(margins, labels)

    # Bounds are rounded for products that are rounded to nearest in float32.
    judged = at_precision(JUDGED, bounded)
    return placement(devices).divide(judged, False, False, False, True)


class Cost(NamedTuple):
    """What bounding a batch at one radius takes, without what is the same for all.

    Attributes:
        operations: of products and of everything else, about.
        memory: bytes of the arrays that are there at once, before the compiler merges
            any.
    """

    operations: float
    memory: int


def costing_program(
    apply: Reference, method: Reference, *, threat: type[ThreatModel]
) -> Callable[[str, Params, np.ndarray, int], Cost]:
    """`(name, weights, images, batch) -> cost`; refuses a method that cannot run.

    Nothing is compiled, and what was traced once is remembered.
    """

    def bounded(
        weights: Params, epsilon: jax.Array, images: Images, labels: Labels
    ) -> Logits:
        logits_fn: LogitsFn = apply()(weights)
        run: Method = at_precision(JUDGED, method())
        return run(logits_fn, threat(epsilon), as_float(images), labels)

    known: dict[Any, Cost] = {}

    def cost(name: str, weights: Params, images: np.ndarray, batch: int) -> Cost:
        shown = jax.ShapeDtypeStruct((batch, *images.shape[1:]), images.dtype)
        labels = jax.ShapeDtypeStruct((batch,), jnp.int32)
        leaves, structure = jax.tree.flatten((weights, shown))
        key = structure, *((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
        if key not in known:
            epsilon = jax.ShapeDtypeStruct((), jnp.float32)
            try:
                traced = jax.make_jaxpr(bounded, return_shape=True)
                closed, found = traced(weights, epsilon, shown, labels)
            except Exception as error:
                raise ValueError(
                    f"`methods` must be able to bound this model in {threat.name}, "
                    f"got {name!r}, which says: {str(error).rstrip('.')}."
                ) from error
            logits = jax.eval_shape(
                lambda each: apply()(weights)(as_float(each)), shown
            )
            _require_margins(name, found, logits.shape)
            num_weights = len(jax.tree.leaves(weights))
            arguments = range(len(closed.jaxpr.invars))
            is_image = [place >= num_weights for place in arguments]
            known[key] = Cost(
                operations_in(closed.jaxpr), peak_bytes(closed.jaxpr, is_image)
            )
        return known[key]

    return cost


def _require_margins(name: str, found: Any, wanted: tuple[int, ...]) -> None:
    """Refuse what is not one number for each class.

    Raises:
        ValueError: naming what was returned instead.
    """
    leaves = jax.tree.leaves(found)
    is_margins = len(leaves) == 1 and leaves[0].shape == wanted
    is_margins = is_margins and jnp.issubdtype(leaves[0].dtype, jnp.floating)
    shown = ", ".join(f"{leaf.dtype}{list(leaf.shape)}" for leaf in leaves)
    require(
        is_margins,
        "methods",
        f"functions that return margins (images, classes), {list(wanted)} here",
        f"{name}, which returns {shown}",
        "return lower bounds of the logit at the label minus each logit",
    )


def operations_in(jaxpr: Jaxpr) -> float:
    """Operations of a program, about: of a loop of unknown length one turn."""
    count = 0.0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        size = sum(map(_length, equation.outvars))
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            shape = _form(equation.invars[0]).shape
            size *= 2 * math.prod(shape[axis] for axis in contracted)
        elif name == "conv_general_dilated":
            kernel = _form(equation.invars[1]).shape
            features = kernel[params["dimension_numbers"].rhs_spec[0]]
            size *= 2 * math.prod(kernel) / features
        inner = [operations_in(each) for each in _programs_in(params)]
        turns = params["length"] if name == "scan" else 1
        count += turns * sum(inner) if inner else size
    return count


def peak_bytes(jaxpr: Jaxpr, is_counted: list[bool]) -> int:
    """Bytes of the arrays of a program that are there at once, at most.

    Args:
        jaxpr: the program.
        is_counted: of its arguments; arrays that depend on none of those that are
            counted do not count.
    """
    last: dict[Any, int] = {}
    for place, equation in enumerate(jaxpr.eqns):
        last |= {each: place for each in equation.invars if isinstance(each, Var)}
    counted = {
        each for each, flag in zip(jaxpr.invars, is_counted, strict=True) if flag
    }
    last |= {each: len(jaxpr.eqns) for each in jaxpr.outvars if isinstance(each, Var)}
    present, most = dict.fromkeys(counted, 0), 0
    for place, equation in enumerate(jaxpr.eqns):
        if not any(
            isinstance(each, Var) and each in counted for each in equation.invars
        ):
            continue
        counted.update(equation.outvars)
        present |= {
            each: _length(each) * getattr(_form(each).dtype, "itemsize", 8)
            for each in equation.outvars
        }
        inside = [
            peak_bytes(each, [True] * len(each.invars))
            for each in _programs_in(equation.params)
        ]
        most = max(most, sum(present.values()) + max(inside, default=0))
        present = {
            each: size for each, size in present.items() if last.get(each, -1) > place
        }
    return most


def _form(atom: Any) -> Any:
    """Shape and type of a variable or a literal."""
    return atom.aval


def _length(atom: Any) -> int:
    return math.prod(_form(atom).shape)


def _programs_in(value: Any) -> Iterator[Jaxpr]:
    """The programs in the parameters of an equation."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for each in value:
            yield from _programs_in(each)
    elif isinstance(jaxpr := getattr(value, "jaxpr", value), Jaxpr):
        yield jaxpr
