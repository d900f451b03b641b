"""A logits function as a straight line of equations, the form in which it is bounded.

The function is traced for one image at a time, as a batch of one: what is bounded is
what the function says of an image alone, and no example can depend on another. Calls
(`jit`, `custom_jvp`, `checkpoint` and their like) are inlined; what does not depend on
the image is computed at once, and stays differentiable in weights that are traced.
Where a function asks for the platform (`lax.platform_dependent`, as `Conv` of this
library does) its default branch is taken.

Statistics that a network takes of its batch, such as those of batch normalization in
training, are no function of one image. They are refused, unless the clean batch is
given: then it is followed through the program first, and whatever a reduction over the
batch axis gives is a constant (`CleanBatch`).
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var, jaxpr_as_fun

from jaxrobust.arguments import require
from jaxrobust.bounds.convolving import convolved, is_plain
from jaxrobust.types import Images, Logits, LogitsFn

__all__ = ["CleanBatch", "Program", "Step", "UnboundedError", "clean_batch", "trace"]


class UnboundedError(NotImplementedError):
    """A function computes something that nobody has written a bound for."""


@dataclasses.dataclass(frozen=True, eq=False)
class Known:
    """A value that does not depend on the image."""

    value: Any


@dataclasses.dataclass(frozen=True)
class Dependent:
    """A value that does, by its number in the program."""

    number: int


@dataclasses.dataclass(frozen=True, eq=False)
class Statistic:
    """A value taken of the batch, known once the clean batch was seen."""

    value: Any = None


class _Platform:
    """Which platform computes: what `lax.platform_dependent` asks for."""


Operand = Known | Dependent | Statistic | _Platform

_CALLS = ("jaxpr", "call_jaxpr", "fun_jaxpr")
"""Parameters of primitives under which the program of a call stands."""

_INLINED = (
    "jit",
    "pjit",
    "closed_call",
    "core_call",
    "remat",
    "remat2",
    "checkpoint",
    "custom_jvp_call",
    "custom_vjp_call",
    "custom_vjp_call_jaxpr",
)

_SAME = (
    "copy",
    "copy_p",
    "name",
    "optimization_barrier",
    "sharding_constraint",
    "stop_gradient",
)
"""Primitives whose results are their operands."""

_REDUCTIONS = (
    "argmax",
    "argmin",
    "reduce_and",
    "reduce_max",
    "reduce_min",
    "reduce_or",
    "reduce_prod",
    "reduce_sum",
)


@dataclasses.dataclass(frozen=True)
class Step:
    """One equation that depends on the image.

    Attributes:
        primitive: its name.
        operands: what it takes, in order: constants and values of the program.
        outputs: numbers of the values that it gives.
        equation: of JAX.
        source: the user's line, for messages.
        as_written: whether to compute the very equation, which the errors of
            `rounding.py` are of, rather than what is the same but for rounding.
    """

    primitive: str
    operands: tuple[Known | Dependent, ...]
    outputs: tuple[int, ...]
    equation: JaxprEqn
    source: str
    as_written: bool = True

    @property
    def params(self) -> dict[str, Any]:
        """Of the equation."""
        return self.equation.params

    @property
    def inputs(self) -> tuple[int, ...]:
        """Numbers of the values that it depends on, one for each place."""
        return tuple(
            each.number for each in self.operands if isinstance(each, Dependent)
        )

    @property
    def constants(self) -> tuple[Any, ...]:
        """The operands that do not depend on the image."""
        return tuple(each.value for each in self.operands if isinstance(each, Known))

    @property
    def forms(self) -> list[jax.ShapeDtypeStruct]:
        """Shapes and types of what it depends on, one for each place."""
        return [
            _form(atom)
            for atom, each in zip(self.equation.invars, self.operands, strict=True)
            if isinstance(each, Dependent)
        ]

    @property
    def results(self) -> list[jax.ShapeDtypeStruct]:
        """Shapes and types of what it gives."""
        return [_form(variable) for variable in self.equation.outvars]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of its first result."""
        return self.results[0].shape

    def __call__(
        self, *values: Any, of_constant: Callable[[Any], Any] | None = None
    ) -> Any:
        """What the equation makes of other values in place of those it depends on.

        Args:
            values: one for each of `inputs`.
            of_constant: what to put in place of each constant.

        Returns:
            Its result, or a list of them if it has several.
        """
        given = iter(values)
        operands = [
            next(given)
            if isinstance(each, Dependent)
            else (each.value if of_constant is None else of_constant(each.value))
            for each in self.operands
        ]
        compute = _evaluate if self.as_written else _quickly
        results = compute(self.equation, operands)
        return results[0] if len(results) == 1 else results


class Program(NamedTuple):
    """A logits function of one image.

    Attributes:
        steps: in an order in which they can be computed; only those that the logits
            need.
        forms: shape and type of every value by its number; that of the image is 0.
        output: number of the logits, `(1, classes)`.
    """

    steps: tuple[Step, ...]
    forms: dict[int, jax.ShapeDtypeStruct]
    output: int


class CleanBatch(NamedTuple):
    """What was seen of the clean images, as a batch.

    Attributes:
        logits: `(batch, classes)`.
        statistics: by equation and operand, the values derived from the batch that
            meet values of single images.
    """

    logits: Logits
    statistics: dict[tuple[int, int], Any]


def _form(atom: Any) -> jax.ShapeDtypeStruct:
    """Shape and type of a variable of JAX."""
    return jax.ShapeDtypeStruct(atom.aval.shape, atom.aval.dtype)


def _evaluate(equation: JaxprEqn, operands: Sequence[Any]) -> list[Any]:
    """The results of one equation: those of a program that has no other."""
    # Each place gets a variable of its own, since `x - x` may be asked for `y - z`.
    invars: list[Any] = [Var(atom.aval) for atom in equation.invars]
    program = Jaxpr(
        constvars=(),
        invars=invars,
        outvars=list(equation.outvars),
        eqns=[equation.replace(invars=invars)],
        effects=equation.effects,
        debug_info=_debug_info(invars),
    )
    return jaxpr_as_fun(ClosedJaxpr(program, ()))(*operands)


def _quickly(equation: JaxprEqn, operands: Sequence[Any]) -> list[Any]:
    """The results of one equation, but for rounding."""
    if is_plain(equation):
        return [convolved(equation, *operands)]
    return _evaluate(equation, operands)


def _debug_info(given: Sequence[Any]) -> Any:
    info: Any = _EMPTY.jaxpr.debug_info
    return info._replace(arg_names=("",) * len(given), result_paths=None)


_EMPTY = jax.make_jaxpr(lambda: ())()


def _source(equation: JaxprEqn, outer: str) -> str:
    """The innermost line of the user's, as "file.py, line 12".

    What `jit` has traced before does not know from where it is called now: then it is
    the line of the call.
    """
    traceback = equation.source_info.traceback
    frames = traceback.frames if traceback is not None else []
    own = Path(__file__).parent
    lines = [
        (frame.file_name, frame.line_num)
        for frame in frames
        if not Path(frame.file_name).is_relative_to(own)
        and not frame.file_name.startswith("<")
    ]
    outside = [line for line in lines if "site-packages" not in line[0]]
    return "{}, line {}".format(*outside[0]) if outside else outer


def refused(name: str, source: str, why: str, remedy: str) -> UnboundedError:
    """What to raise at an equation that cannot be bounded."""
    return UnboundedError(
        f"`logits_fn` must be made of what has bounds, got {name} ({source}), {why}; "
        f"{remedy}."
    )


def _inner(
    equation: JaxprEqn, operands: list[Operand], source: str
) -> tuple[ClosedJaxpr, list[Operand]] | None:
    """The program of a call, and its operands; None for what is no call."""
    name = equation.primitive.name
    if name in _INLINED:
        inner = next(equation.params[key] for key in _CALLS if key in equation.params)
        if isinstance(inner, Jaxpr):
            inner = ClosedJaxpr(inner, ())
        return inner, operands
    if name == "cond":
        index, *rest = operands
        branches = equation.params["branches"]
        if isinstance(index, _Platform):
            if equation.params.get("branches_platforms", (None,))[-1] is not None:
                why = "which has no branch for every platform"
                remedy = "give `platform_dependent` a default"
                raise refused(name, source, why, remedy)
            return branches[-1], rest
        if isinstance(index, Known) and not isinstance(index.value, Tracer):
            return branches[min(max(int(index.value), 0), len(branches) - 1)], rest
        if any(not isinstance(each, Known) for each in operands):
            why = "whose branch is not known while tracing"
            remedy = "choose it by a number of Python, or by `jnp.where`"
            raise refused(name, source, why, remedy)
    return None


def _walk(
    closed: ClosedJaxpr,
    operands: Sequence[Operand],
    visit: Callable[[JaxprEqn, list[Operand], str], Sequence[Operand]],
    outer: str = "an unknown line",
) -> list[Operand]:
    """Visit the equations of a program in order, with those of its calls."""
    program = closed.jaxpr
    known = map(Known, closed.consts)
    seen: dict[Any, Operand] = dict(zip(program.constvars, known, strict=True))
    seen |= dict(zip(program.invars, operands, strict=True))

    def read(atom: Any) -> Operand:
        return Known(atom.val) if isinstance(atom, Literal) else seen[atom]

    for equation in program.eqns:
        inputs = [read(atom) for atom in equation.invars]
        name = equation.primitive.name
        source = _source(equation, outer)
        if name == "platform_index":
            outputs: Sequence[Operand] = [_Platform()]
        elif all(isinstance(each, Known) for each in inputs):
            values = [each.value for each in inputs if isinstance(each, Known)]
            outputs = [Known(value) for value in _evaluate(equation, values)]
        elif (inner := _inner(equation, inputs, source)) is not None:
            outputs = _walk(inner[0], inner[1], visit, source)
        elif any(isinstance(each, _Platform) for each in inputs):
            outputs = [_Platform() for _ in equation.outvars]
        elif name in _SAME:
            outputs = inputs
        else:
            outputs = visit(equation, inputs, source)
        seen |= dict(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in program.outvars]


def _is_of_batch(equation: JaxprEqn, inputs: Sequence[Operand], batch: int) -> bool:
    """Whether an equation takes something of a whole batch."""
    if equation.primitive.name not in _REDUCTIONS:
        return False
    shape = _form(equation.invars[0]).shape
    axes = equation.params["axes"]
    return isinstance(inputs[0], Dependent) and 0 in axes and shape[0] == batch


def _traced(logits_fn: LogitsFn, images: Any, batch: int) -> ClosedJaxpr:
    form = jax.ShapeDtypeStruct((batch, *images.shape[1:]), images.dtype)
    closed, answer = jax.make_jaxpr(logits_fn, return_shape=True)(form)
    leaves = jax.tree.leaves(answer)
    is_logits = len(leaves) == 1 and leaves[0].ndim == 2 and leaves[0].shape[0] == batch
    require(
        is_logits,
        "logits_fn",
        f"a function to logits ({batch}, classes) for a batch of {batch}",
        [leaf.shape for leaf in leaves],
        "return the logits only, one row for each image",
    )
    return closed


def clean_batch(logits_fn: LogitsFn, images: Images) -> CleanBatch:
    """Follow a clean batch through a function, and keep what it takes of the batch.

    Args:
        logits_fn: in whatever mode, such as batch normalization in training.
        images: clean ones, `(batch, *pixels)`.

    Raises:
        ValueError: for a function whose answer are no logits.
    """
    batch = images.shape[0]
    closed = _traced(logits_fn, images, batch)
    values: list[Any] = [images]
    statistics: dict[tuple[int, int], Any] = {}
    count = 0

    def read(operand: Any) -> Any:
        return (
            values[operand.number] if isinstance(operand, Dependent) else operand.value
        )

    def visit(equation: JaxprEqn, inputs: list[Operand], source: str) -> list[Operand]:
        nonlocal count
        del source
        count += 1
        results = _quickly(equation, [read(each) for each in inputs])
        is_dependent = any(isinstance(each, Dependent) for each in inputs)
        if not is_dependent or _is_of_batch(equation, inputs, batch):
            return [Statistic(result) for result in results]
        for place, each in enumerate(inputs):
            if isinstance(each, Statistic):
                statistics[count, place] = each.value
        values.extend(results)
        first = len(values) - len(results)
        return [Dependent(first + place) for place in range(len(results))]

    (logits,) = _walk(closed, [Dependent(0)], visit)
    return CleanBatch(read(logits), statistics)


def trace(
    logits_fn: LogitsFn,
    images: Images,
    clean: CleanBatch | None = None,
    example: jax.Array | int = 0,
    *,
    as_written: bool = True,
) -> Program:
    """The program of a function for one image.

    Args:
        logits_fn: images `(batch, *pixels)` to logits `(batch, classes)`.
        images: whose shape and type count, but for the length of the batch.
        clean: statistics of the batch, for a function that takes any.
        example: which of the batch the image is; may be traced.
        as_written: see `Step`.

    Raises:
        UnboundedError: for a function that takes statistics of its batch, if `clean`
            is not given, and for control flow that depends on the image.
        ValueError: for a function whose answer are no logits, or does not depend on
            the image.
    """
    closed = _traced(logits_fn, images, 1)
    form = jax.ShapeDtypeStruct((1, *images.shape[1:]), images.dtype)
    forms = {0: form}
    steps: list[Step] = []
    count = 0

    def statistic(equation: JaxprEqn, place: int, source: str) -> Known:
        assert clean is not None
        found = clean.statistics.get((count, place))
        wanted = _form(equation.invars[place]).shape
        shape = None if found is None else jnp.shape(found)
        if shape == wanted:
            return Known(found)
        if shape is not None and wanted[:1] == (1,) and shape[1:] == wanted[1:]:
            return Known(lax.dynamic_index_in_dim(found, example, keepdims=True))
        why = "which takes statistics of a batch in a form of its own"
        remedy = "reduce over the batch axis, which comes first, by a sum or a mean"
        raise refused(equation.primitive.name, source, why, remedy)

    def visit(equation: JaxprEqn, inputs: list[Operand], source: str) -> list[Operand]:
        nonlocal count
        count += 1
        name = equation.primitive.name
        is_dependent = any(isinstance(each, Dependent) for each in inputs)
        if not is_dependent or _is_of_batch(equation, inputs, 1):
            if clean is None:
                why = "which takes something of the whole batch"
                remedy = 'use evaluation mode, or give statistics="clean"'
                raise refused(name, source, why, remedy)
            return [Statistic() for _ in equation.outvars]
        operands: Any = tuple(
            statistic(equation, place, source) if isinstance(each, Statistic) else each
            for place, each in enumerate(inputs)
        )
        outputs = tuple(range(len(forms), len(forms) + len(equation.outvars)))
        for number, variable in zip(outputs, equation.outvars, strict=True):
            forms[number] = _form(variable)
        steps.append(Step(name, operands, outputs, equation, source, as_written))
        return [Dependent(number) for number in outputs]

    (logits,) = _walk(closed, [Dependent(0)], visit)
    is_dependent = isinstance(logits, Dependent)
    rule = "a function whose logits depend on the images"
    require(is_dependent, "logits_fn", rule, logits_fn, "give that of a model")
    assert isinstance(logits, Dependent)
    return _needed(steps, forms, logits.number)


def _needed(steps: list[Step], forms: dict[int, Any], output: int) -> Program:
    """The program without the steps that the output does not need."""
    needed, kept = {output}, []
    for step in reversed(steps):
        if needed & {*step.outputs}:
            kept.append(step)
            needed |= {*step.inputs}
    return Program(tuple(reversed(kept)), forms, output)
