"""What a compiled program does: a tree of loops, and the cost of a pass through each.

The entry of a program runs once, the body of each `while` as often as its trip count
says. The cost of a pass has cycles, where the compiler estimates them, bytes that are
moved, operations that are started, products, copies and collectives. Nothing here knows
of jax.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from experiments.hlo import Computation, Instruction, Module, Shape

__all__ = ["Cost", "Loop", "program_of"]

COLLECTIVES = (
    *("all-reduce", "all-gather", "all-to-all", "collective-permute"),
    *("reduce-scatter", "collective-broadcast", "ragged-all-to-all"),
)
HOST = ("infeed", "outfeed", "send", "recv")
"""Operations that talk to the host."""

_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "iota"),
    *("after-all", "partition-id", "replica-id", "opt-barrier", "add-dependency"),
}
"""What starts nothing on a device."""

_SLICES = {"slice", "dynamic-slice", "gather"}
_GROUPS = re.compile(r"\b(?:feature|batch)_group_count=(\d+)")
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_PRECISION = re.compile(r"operand_precision=\{([^}]*)\}")

_NONE: Counter[Any] = Counter()


class Cost(NamedTuple):
    """What one pass does, without the loops inside it.

    Attributes:
        cycles: the compiler's estimate, of what it estimates.
        num_bytes: read from and written to main memory, as shapes say.
        operations: that are started one by one: kernels, on a GPU.
        unestimated: operations on more than a number without an estimate, by opcode.
        copies: operations that only copy.
        transposes: operations that only transpose.
        convolutions: by number of groups.
        products: convolutions and matrix products by operand types and precision, such
            as "f32 x f32 highest"; those of a library by its name.
        collectives: by opcode.
        host: operations that talk to the host, and calls back to it, by name.
    """

    cycles: int = 0
    num_bytes: int = 0
    operations: int = 0
    unestimated: Counter[str] = _NONE
    copies: int = 0
    transposes: int = 0
    convolutions: Counter[int] = _NONE
    products: Counter[str] = _NONE
    collectives: Counter[str] = _NONE
    host: Counter[str] = _NONE

    def plus(self, other: "Cost") -> "Cost":
        """Both together."""
        pairs: Any = zip(self, other, strict=True)
        return Cost(*(mine + its for mine, its in pairs))

    def times(self, count: int) -> "Cost":
        """So many passes."""

        def repeated(value: Any) -> Any:
            if isinstance(value, Counter):
                return Counter({key: count * value[key] for key in value})
            return count * value

        return Cost(*map(repeated, self))


class Loop(NamedTuple):
    """A loop, or the entry of a program, which is passed once.

    Attributes:
        name: of its body.
        trip_count: passes; None where the compiler does not know.
        own: cost of a pass, without the loops inside.
        inside: those.
    """

    name: str
    trip_count: int | None
    own: Cost
    inside: tuple["Loop", ...]

    @property
    def num_products(self) -> int:
        """Convolutions and matrix products, with those of the loops inside."""
        return self.own.products.total() + sum(
            loop.num_products for loop in self.inside
        )

    def walk(self) -> Iterator["Loop"]:
        """This one and all inside."""
        yield self
        for loop in self.inside:
            yield from loop.walk()

    def cost(self, unknown: int = 1) -> Cost:
        """Of a pass, with the loops inside.

        Args:
            unknown: passes of loops whose number the compiler does not know.
        """
        total = self.own
        for loop in self.inside:
            count = unknown if loop.trip_count is None else loop.trip_count
            total = total.plus(loop.cost(unknown).times(count))
        return total


def _target(instruction: Instruction) -> str:
    """What a call of a library calls; empty for what is none."""
    found = _TARGET.search(instruction.attributes)
    return found[1] if found else ""


def _num_groups(instruction: Instruction) -> int:
    found = _GROUPS.search(instruction.attributes)
    return int(found[1]) if found else 1


def _product(instruction: Instruction, computation: Computation) -> str:
    """How a product is counted; empty for what is none."""
    target = _target(instruction)
    is_library = re.search(r"gemm|matmul|\$conv", target)
    if instruction.opcode not in ("dot", "convolution") and not is_library:
        return ""
    known = [name for name in instruction.operands if name in computation]
    label = " x ".join(computation[name].shapes[0].dtype for name in known[:2])
    precision = _PRECISION.search(instruction.attributes)
    words = set(precision[1].split(",")) - {"default"} if precision else set()
    return " ".join([label, *sorted(words), *([target] if target else [])])


def program_of(module: Module) -> Loop:
    """The program as a tree of loops."""
    own, inside = _Reader(module).passed(module.entry)
    return Loop(module.entry, 1, own, tuple(inside))


class _Reader(NamedTuple):
    """Reads the costs of a program.

    Attributes:
        module: the program.
    """

    module: Module

    def passed(self, name: str) -> tuple[Cost, list[Loop]]:
        """What one pass through a computation costs, and the loops inside."""
        computation = self.module.computations[name]
        total, loops = Cost(), []
        for instruction in computation.values():
            called = instruction.called
            if instruction.opcode == "while":
                (body,), (condition,) = called["body"], called["condition"]
                own, inside = self.passed(body)
                own = own.plus(self.passed(condition)[0])
                loops.append(Loop(body, instruction.trip_count, own, tuple(inside)))
            elif instruction.opcode == "call":
                for target in called.get("to_apply", ()):
                    own, inside = self.passed(target)
                    total, loops = total.plus(own), loops + inside
            elif instruction.opcode == "conditional":
                branches = [
                    self.passed(target)
                    for targets in called.values()
                    for target in targets
                ]
                # Nobody knows which branch is taken: the dearest.
                own, inside = max(
                    branches,
                    key=lambda branch: branch[0].cycles + branch[0].num_bytes,
                )
                total, loops = total.plus(own), loops + inside
            else:
                total = total.plus(self._cost(instruction, computation))
        return total, loops

    def _cost(self, instruction: Instruction, computation: Computation) -> Cost:
        """Of an operation that is no loop, branch or call."""
        opcode = instruction.opcode
        if opcode in _FREE or opcode.endswith("-done"):
            return Cost()
        plain = opcode.removesuffix("-start")
        inner = list(self._inside(instruction))
        cycles = instruction.cycles
        if cycles is None and plain == "async":
            cycles = sum(each.cycles or 0 for each, _ in inner) or None
        is_scalar = all(math.prod(shape.dims) <= 1 for shape in instruction.shapes)
        is_unestimated = cycles is None and not is_scalar
        kinds = {each.opcode for each, _ in inner} - {"parameter", "bitcast"}
        kind = kinds.pop() if plain == "fusion" and len(kinds) == 1 else plain
        products, convolutions = Counter[str](), Counter[int]()
        collectives, host = Counter[str](), Counter[str]()
        for each, place in [(instruction, computation), *inner]:
            name = each.opcode.removesuffix("-start")
            target = _target(each)
            if label := _product(each, place):
                products[label] += 1
            is_convolution = name == "convolution" and "window={" in each.attributes
            if "$conv" in target or is_convolution:
                convolutions[_num_groups(each)] += 1
            if name in COLLECTIVES:
                collectives[name] += 1
            if name in HOST or "callback" in target:
                host[target or name] += 1
        return Cost(
            cycles=cycles or 0,
            num_bytes=self._bytes(instruction, computation),
            operations=1,
            unestimated=Counter([opcode] if is_unestimated else []),
            copies=int(kind == "copy"),
            transposes=int(kind == "transpose"),
            convolutions=convolutions,
            products=products,
            collectives=collectives,
            host=host,
        )

    def _inside(
        self, instruction: Instruction
    ) -> Iterator[tuple[Instruction, Computation]]:
        """What a fusion, or an operation under way, is made of; and where that is."""
        for attribute in ("calls", "called_computations"):
            for target in instruction.called.get(attribute, ()):
                computation = self.module.computations[target]
                for each in computation.values():
                    yield each, computation
                    yield from self._inside(each)

    def _bytes(self, instruction: Instruction, computation: Computation) -> int:
        """Main memory that an operation reads and writes."""

        def in_memory(shapes: tuple[Shape, ...]) -> int:
            return sum(shape.num_bytes for shape in shapes if shape.space == 0)

        results = instruction.shapes
        if instruction.opcode.endswith("-start"):
            # The operand stands in the result, too.
            results = results[:1]
        written = in_memory(results)
        if instruction.opcode in _SLICES:
            return 2 * written
        read = 0
        fused = instruction.called.get("calls", ())
        body = (
            self.module.computations[fused[0]] if instruction.opcode == "fusion" else {}
        )
        for index, name in enumerate(instruction.operands):
            if name not in computation:
                continue
            shapes = computation[name].shapes
            part = self._part_read(body, index)
            if part is None or in_memory(shapes) == 0:
                read += in_memory(shapes)
            else:
                read += min(part, in_memory(shapes))
        root = next((each for each in body.values() if each.is_root), instruction)
        if root.opcode == "dynamic-update-slice" and len(root.operands) > 1:
            source = body or computation
            update = source.get(root.operands[1])
            if update is not None:
                # In place: only the update moves.
                size = sum(shape.num_bytes for shape in update.shapes)
                whole = root.shapes[0].num_bytes
                read, written = max(read - whole, size), min(written, size)
        return read + written

    @staticmethod
    def _part_read(body: Computation, index: int) -> int | None:
        """Bytes of an operand that a fusion takes slices of; None if it reads all."""
        parameter = next(
            (
                each.name
                for each in body.values()
                if each.opcode == "parameter"
                and each.attributes.startswith(f"({index})")
            ),
            None,
        )
        users = [each for each in body.values() if parameter in each.operands]
        if not users or any(
            each.opcode not in _SLICES or each.operands[0] != parameter
            for each in users
        ):
            return None
        return sum(shape.num_bytes for each in users for shape in each.shapes)
