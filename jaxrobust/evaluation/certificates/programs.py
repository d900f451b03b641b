"""The compiled function of a method, and how much memory and work it takes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr, Literal, Var

from jaxrobust.arguments import require
from jaxrobust.bounds import is_certified
from jaxrobust.data import as_float
from jaxrobust.evaluation.certificates.methods import Method
from jaxrobust.evaluation.engine.programs import Data, placement
from jaxrobust.evaluation.engine.sharing import Reference
from jaxrobust.precision import JUDGED, at_precision
from jaxrobust.threat import ThreatModel
from jaxrobust.types import Images, Labels, Logits, LogitsFn, Params, PerExampleFlag

__all__ = ["Cost", "bounding_program", "costing_program", "peak_bytes"]


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
    """What bounding one image at one radius takes.

    Attributes:
        operations: as XLA counts them, a loop once.
        memory: bytes of the largest set of arrays that are there at once, before the
            compiler merges any, without what is the same for all images.
    """

    operations: float
    memory: int


def costing_program(
    apply: Reference, method: Reference, *, threat: type[ThreatModel]
) -> Callable[[str, Params, np.ndarray, np.ndarray], Cost]:
    """`(name, weights, images, labels) -> cost`; refuses a method that cannot run.

    Nothing is compiled, and what was traced once is remembered.
    """

    def bounded(
        weights: Params, epsilon: jax.Array, images: Images, labels: Labels
    ) -> Logits:
        logits_fn: LogitsFn = apply()(weights)
        run: Method = at_precision(JUDGED, method())
        return run(logits_fn, threat(epsilon), as_float(images), labels)

    known: dict[Any, Cost] = {}

    def cost(
        name: str, weights: Params, images: np.ndarray, labels: np.ndarray
    ) -> Cost:
        first = jnp.asarray(images[:1]), jnp.asarray(labels[:1])
        leaves, structure = jax.tree.flatten((weights, first))
        key = structure, *((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
        if key not in known:
            try:
                traced = jax.jit(bounded).trace(weights, jnp.float32(0.1), *first)
            except Exception as error:
                raise ValueError(
                    f"`methods` must be able to bound this model in {threat.name}, "
                    f"got {name!r}, which says: {str(error).rstrip('.')}."
                ) from error
            _require_margins(name, traced.out_info, apply, weights, first[0])
            analysis = traced.lower().cost_analysis() or {}
            jaxpr = traced.jaxpr.jaxpr
            num_weights = len(jax.tree.leaves(weights))
            is_image = [place >= num_weights for place in range(len(jaxpr.invars))]
            # Not every backend counts; a bound of ordinary size is then assumed.
            operations = float(analysis.get("flops", 0.0)) or 4e7
            known[key] = Cost(operations, peak_bytes(jaxpr, is_image))
        return known[key]

    return cost


def _require_margins(
    name: str, found: Any, apply: Reference, weights: Params, images: jax.Array
) -> None:
    """Refuse what is not one number for each class.

    Raises:
        ValueError: naming what was returned instead.
    """
    wanted = jax.eval_shape(apply()(weights), as_float(images)).shape
    leaves = jax.tree.leaves(found)
    is_margins = len(leaves) == 1 and leaves[0].shape == wanted
    is_margins = is_margins and jnp.issubdtype(leaves[0].dtype, jnp.floating)
    shown = ", ".join(f"{leaf.dtype}{list(leaf.shape)}" for leaf in leaves)
    require(
        is_margins,
        "methods",
        f"functions that return margins (images, classes), {list(wanted)} for an image",
        f"{name}, which returns {shown}",
        "return lower bounds of the logit at the label minus each logit",
    )


def peak_bytes(jaxpr: Jaxpr, is_counted: list[bool]) -> int:
    """Bytes of the arrays of a program that are there at once, at most.

    Args:
        jaxpr: the program.
        is_counted: of its arguments; arrays that depend on none of those that are
            counted do not count.
    """
    last: dict[Var, int] = {}
    for place, equation in enumerate(jaxpr.eqns):
        last |= {each: place for each in equation.invars if not _is_literal(each)}
    end = len(jaxpr.eqns)
    last |= {each: end for each in jaxpr.outvars if not _is_literal(each)}
    counted = {
        each for each, flag in zip(jaxpr.invars, is_counted, strict=True) if flag
    }
    present, most = dict.fromkeys(counted, 0), 0
    for place, equation in enumerate(jaxpr.eqns):
        flags = [each in counted for each in equation.invars if not _is_literal(each)]
        if not any(flags):
            continue
        counted.update(equation.outvars)
        present |= {each: _size(each) for each in equation.outvars}
        inner = max((_inside(each) for each in equation.params.values()), default=0)
        most = max(most, sum(present.values()) + inner)
        present = {
            each: size for each, size in present.items() if last.get(each, -1) > place
        }
    return most


def _is_literal(atom: Any) -> bool:
    return isinstance(atom, Literal)


def _size(variable: Var) -> int:
    aval: Any = variable.aval
    return int(np.prod(aval.shape)) * getattr(aval.dtype, "itemsize", 8)


def _inside(value: Any) -> int:
    """Of the programs in a parameter of an equation, all of whose arguments count."""
    if isinstance(value, list | tuple):
        return max(map(_inside, value), default=0)
    jaxpr = getattr(value, "jaxpr", value)
    if not isinstance(jaxpr, Jaxpr):
        return 0
    return peak_bytes(jaxpr, [True] * len(jaxpr.invars))
