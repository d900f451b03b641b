"""The text of a compiled program, as XLA writes it: computations of instructions."""

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["Computation", "Instruction", "Module", "Shape", "parsed"]

_BITS = {"pred": 8, "token": 0, "opaque": 0}
_SHAPE = re.compile(r"([a-z]\w*)\[([^\]]*)\](\{[^}]*\})?")
_SPACE = re.compile(r"S\((\d+)\)")
_START = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = ")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+)\s*(?:\(.*)?\{$")
_NAMES = re.compile(r"%([\w.\-]+)")
_CALLS = re.compile(
    r"\b(calls|to_apply|body|condition|branch_computations|true_computation|"
    r"false_computation|called_computations)=(\{[^}]*\}|%?[\w.\-]+)"
)
_CYCLES = re.compile(r'"estimated_cycles":"?(\d+)')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"?(\d+)')


class Shape(NamedTuple):
    """One array.

    Attributes:
        dtype: in XLA's words, such as f32.
        dims: its dimensions.
        space: of memory; 0 is a device's main memory, others are on the chip.
    """

    dtype: str
    dims: tuple[int, ...]
    space: int = 0

    @property
    def num_bytes(self) -> int:
        """Without what tiles are padded by."""
        if self.dtype in _BITS:
            bits = _BITS[self.dtype]
        else:
            digits = re.search(r"\d+", self.dtype)
            bits = int(digits[0]) if digits else 0
        return math.ceil(math.prod(self.dims) * bits / 8)


class Instruction(NamedTuple):
    """One line of a computation.

    Attributes:
        name: unique in its module.
        opcode: what it does.
        shapes: of its result; several for a tuple.
        operands: names.
        called: computations by attribute, such as `body`.
        attributes: the rest of the line.
        is_root: whether it is the result of its computation.
    """

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    called: Mapping[str, tuple[str, ...]]
    attributes: str
    is_root: bool

    @property
    def cycles(self) -> int | None:
        """The compiler's estimate; None where it has none."""
        found = _CYCLES.search(self.attributes)
        return int(found[1]) if found else None

    @property
    def trip_count(self) -> int | None:
        """Passes of a loop; None where the compiler does not know."""
        found = _TRIPS.search(self.attributes)
        return int(found[1]) if found else None


Computation = Mapping[str, Instruction]
"""Instructions by name, in their order."""


class Module(NamedTuple):
    """A program.

    Attributes:
        computations: by name.
        entry: name of the one that is the program.
    """

    computations: Mapping[str, Computation]
    entry: str

    def dtypes(self) -> set[str]:
        """Types of all arrays."""
        return {
            shape.dtype
            for computation in self.computations.values()
            for instruction in computation.values()
            for shape in instruction.shapes
        }


def _closing(text: str, start: int) -> int:
    """Place of the bracket that closes the one at `start`."""
    depth = 0
    for place in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place
    raise ValueError(
        f"`text` must close every bracket, got {text[:80]!r}; give the whole text of a "
        "compiled program."
    )


def _shapes(text: str) -> tuple[Shape, ...]:
    found = []
    for dtype, dims, layout in _SHAPE.findall(text):
        space = _SPACE.search(layout)
        sizes = tuple(int(size.lstrip("<=")) for size in dims.split(",") if size)
        found.append(Shape(dtype, sizes, int(space[1]) if space else 0))
    return tuple(found)


def _instruction(line: str) -> Instruction | None:
    start = _START.match(line)
    if start is None:
        return None
    rest = line[start.end() :]
    if rest.startswith("("):
        end = _closing(rest, 0) + 1
    else:
        end = rest.index(" ")
    shapes, rest = _shapes(rest[:end]), rest[end:].lstrip()
    opening = rest.index("(")
    opcode = rest[:opening]
    closing = _closing(rest, opening)
    inside, attributes = rest[opening + 1 : closing], rest[closing + 1 :].lstrip(", ")
    # What is said of the source may hold any words.
    attributes = re.sub(r"metadata=\{[^{}]*\}(, )?", "", attributes)
    called = {
        match[1]: tuple(re.findall(r"[\w.\-]+", match[2]))
        for match in _CALLS.finditer(attributes)
    }
    if opcode == "parameter":
        attributes = f"({inside})"
    return Instruction(
        start[2],
        opcode,
        shapes,
        tuple(_NAMES.findall(inside)),
        called,
        attributes,
        bool(start[1]),
    )


def parsed(text: str) -> Module:
    """The program of a text, such as `compiled.as_text()` gives.

    Args:
        text: of an HLO module.

    Raises:
        ValueError: for a text without an entry computation.
    """
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = None, None
    for line in text.splitlines():
        if current is None:
            header = _HEADER.match(line)
            if header and not line.startswith("HloModule"):
                current = computations.setdefault(header[2], {})
                entry = header[2] if header[1] else entry
            continue
        if line.startswith("}"):
            current = None
            continue
        instruction = _instruction(line)
        if instruction is not None:
            current[instruction.name] = instruction
    if entry is None:
        raise ValueError(
            f"`text` must be that of a compiled program with an ENTRY, got "
            f"{text[:80]!r}; give what `compiled.as_text()` returns."
        )
    return Module(computations, entry)
