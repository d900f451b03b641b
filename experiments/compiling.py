"""Programs of this library, compiled ahead of time for devices that are not there.

A `Program` says what is compiled and in which form; `Compiler` has it done by another
process, since the compiler of another platform needs another environment, and gives
what was read from the compiled program, as JSON.
"""

import base64
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments.costs import Cost, Loop, program_of
from experiments.hlo import parsed
from experiments.targets import TARGETS, Target
from experiments.workspace import ROOT
from jaxrobust.attacks import PGD, with_restarts
from jaxrobust.data import augmentation_of
from jaxrobust.evaluation import standard_ensemble
from jaxrobust.evaluation.engine.builders import numbers_by_radius, taken_apart
from jaxrobust.evaluation.engine.plan import Plan, Stage
from jaxrobust.evaluation.engine.programs import attack_program, placement
from jaxrobust.keeping import Kept
from jaxrobust.networks import ModelConfig, Network, Variables, network_of
from jaxrobust.networks.layers import Formulation
from jaxrobust.threat import THREATS
from jaxrobust.training import (
    MeshConfig,
    Phase,
    Placement,
    adversarial,
    applied,
    make_trainer,
)
from jaxrobust.training.step.members import Mapping, MemberProgram

__all__ = ["EVALUATED", "Compiler", "Program"]

EVALUATED = ("pgd", "apgd-ce", "fab", "square")
"""Attacks of packed evaluations."""

IMAGES = {
    "lenet": ((28, 28, 1), 60_000),
    "lenet-same": ((28, 28, 1), 60_000),
    "lenet-small": ((8, 8, 1), 1_437),
    "resnet18": ((32, 32, 3), 50_000),
    "resnet50": ((32, 32, 3), 50_000),
    "wrn28": ((32, 32, 3), 50_000),
}
"""Shape and number of the training images that a network is for."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """What is compiled, and in which form."""

    model: str
    width: float = 1.0
    attack: str = "train"
    """"train" for an epoch of adversarial training; otherwise the attack of a packed
    evaluation, one of `EVALUATED`."""
    members: int = 1
    member: int = 1
    """Devices among which the members are divided."""
    data: int = 1
    """Devices among which each batch, or bucket, is divided."""
    mapping: Mapping = "one"
    """How a device takes its members."""
    formulation: Formulation = "auto"
    """Of convolutions; "auto" is that of the platform."""
    batch_size: int = 128
    """Images of a step, or places of a bucket, over all devices."""
    num_steps: int = 40
    """Of the attack."""
    precision: Literal["float32", "bfloat16"] = "float32"

    @property
    def case(self) -> "Program":
        """The same in every form."""
        return dataclasses.replace(self, mapping="one", formulation="auto")

    @property
    def title(self) -> str:
        """In words, without its form."""
        names = {
            "lenet": "LeNet VALID",
            "lenet-same": "LeNet SAME",
            "lenet-small": "LeNet small",
            "resnet18": "ResNet-18",
            "resnet50": "ResNet-50",
            "wrn28": "WRN-28",
        }
        words = [f"{names[self.model]} x{self.width:g}"]
        if self.attack != "train":
            words.append(f"{self.attack} of {self.batch_size:,} images")
        if self.precision != "float32":
            words.append(self.precision)
        return ", ".join(words)


def _phase(program: Program) -> Phase:
    is_mnist = IMAGES[program.model][0][-1] == 1
    epsilon, step = (0.3, 0.01) if is_mnist else (8 / 255, 2 / 255)
    attack = PGD(step_size=step, num_steps=program.num_steps)
    return adversarial(epsilon, 1, attack=attack)


def _network(program: Program, formulation: Formulation) -> Network:
    model = ModelConfig(
        name=program.model, widen_factor=program.width, formulation=formulation
    )
    return network_of(model, 10)


def _lowered_training(program: Program, devices: Sequence[Any]) -> Any:
    mesh = MeshConfig(member=program.member, data=program.data)
    placement = Placement(mesh, devices)
    shape, count = IMAGES[program.model]
    is_augmented = shape[-1] == 3
    trainer = make_trainer(
        _network(program, program.formulation),
        batch_size=program.batch_size,
        precision=program.precision,
        augmentation=augmentation_of("crop-flip") if is_augmented else None,
        share=placement.share,
    )
    members = MemberProgram(trainer, program.members, placement, program.mapping)
    settings = _phase(program).at(1, count // program.batch_size)
    return members.lowered(*members.shapes(settings, shape, count, jnp.uint8))


def _lowered_evaluation(program: Program, devices: Sequence[Any]) -> Any:
    if program.attack == "pgd":
        build = with_restarts(PGD(num_steps=program.num_steps), 5)
    else:
        build = standard_ensemble(stages=(program.attack,))[program.attack]
    threat = THREATS["linf"]
    plan = Plan((Stage(program.attack, build),), (0.1, 0.2, 0.3), threat, 10)
    builds = plan.builds(0)
    parts = taken_apart(builds[0])
    varies, numbers = numbers_by_radius(builds)
    network = _network(program, program.formulation)
    apply = applied(network)
    where = placement(devices)
    compiled = attack_program(
        lambda: apply,
        *(lambda function=function: function for function in parts.functions),
        structure=parts.structure,
        varies=varies,
        threat=threat,
        keeps_images=False,
        matmul_precision=plan.matmul_precision,
        is_judged_again=plan.is_judged_again(where.platform),
        devices=tuple(devices),
    )

    def laid(shape: tuple[int, ...], dtype: Any, *, is_split: bool = False) -> Any:
        sharding = where.parts if is_split else where.whole
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    shape, count = IMAGES[program.model][0], 10_000
    size = program.batch_size
    images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    weights = jax.eval_shape(network.init, jax.random.key(0), images)
    key = jax.eval_shape(lambda: jax.random.key(0, impl="threefry2x32"))
    groups: tuple[list[Any], list[Any]] = ([], [])
    for is_varying, value in zip(varies, numbers, strict=True):
        inner = np.shape(value)[1:] if is_varying else np.shape(value)
        lead = (size,) if is_varying else ()
        leaf = laid((*lead, *inner), np.asarray(value).dtype, is_split=is_varying)
        groups[is_varying].append(leaf)
    return compiled.lower(
        laid(key.shape, key.dtype),
        jax.tree.map(lambda leaf: laid(leaf.shape, leaf.dtype), weights),
        (laid((count, *shape), jnp.uint8), laid((count,), jnp.int32)),
        laid((size,), jnp.int32, is_split=True),
        laid((size,), jnp.int32, is_split=True),
        laid((size,), jnp.float32, is_split=True),
        groups[0],
        groups[1],
    )


def _needed(program: Program) -> tuple[float | None, float]:
    """Multiplications and additions that the direct network needs, for one image.

    Returns:
        Of a step of the attack, None where it has no fixed number of passes; and of the
        step of the optimizer.
    """
    network = _network(program, "direct")
    shape = IMAGES[program.model][0]
    images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), images)

    def total(params: Any, state: Any, images: Any) -> Any:
        weights = Variables(params, state)
        key = jax.random.key(0)
        return jnp.sum(network.apply(weights, images, train=False, key=key)[0])

    def count(function: Any) -> float:
        lowered = jax.jit(function).lower(*variables, images)
        return float((lowered.cost_analysis() or {}).get("flops", 0.0))

    by_image = count(jax.grad(total, argnums=2))
    per_step = {"square": count(total), "fab": None}.get(program.attack, by_image)
    return per_step, count(jax.grad(total))


def _products(loop: Loop) -> list[Loop]:
    """The loops directly inside that multiply."""
    return [inner for inner in loop.inside if inner.num_products]


def _searches(loop: Loop) -> list[Loop]:
    """The loops directly inside that multiply, each over single steps.

    Of a loop that a GPU takes in chunks, the passes within a chunk: chunks do nothing
    else, and what they leave is the same pass once more.
    """
    inner = _products(loop)
    chunked = {
        each.name: _products(each)[0]
        for each in inner
        if not each.own.products and len(_products(each)) == 1
    }
    passes = [within.own.products for within in chunked.values()]
    return [
        chunked.get(each.name, each)
        for each in inner
        if each.name in chunked or each.own.products not in passes
    ]


def _steps(
    root: Loop, members: int, count: int = 1
) -> Iterator[tuple[int, Loop, list[Loop]]]:
    """Loops over steps of training: how often each is begun, and its attack loops.

    Members that are taken one after another are a loop round it, whose trip count not
    every compiler writes down.
    """
    for loop in _products(root):
        inner = _searches(loop)
        if inner and not any(map(_products, inner)):
            yield count, loop, inner
        elif inner:
            times = loop.trip_count or members
            yield from _steps(loop, members, count * times)


def _leaves(loop: Loop) -> list[Loop]:
    """The innermost loops that multiply."""
    inner = _products(loop)
    return [leaf for each in inner for leaf in _leaves(each)] if inner else [loop]


def _without_products(loop: Loop) -> Cost:
    """Of a pass without the loops inside that multiply; other loops run as known."""
    total = loop.own
    for inner in loop.inside:
        if not inner.num_products:
            total = total.plus(inner.cost().times(inner.trip_count or 1))
    return total


def _sum(costs: Iterable[Cost]) -> Cost:
    return reduce(Cost.plus, costs, Cost())


def _told(cost: Cost) -> dict[str, Any]:
    """A cost as JSON."""
    return {
        name: dict(sorted((str(key), number) for key, number in value.items()))
        if isinstance(value, Counter)
        else value
        for name, value in cost._asdict().items()
    }


_DECLARED = re.compile(
    r"stablehlo\.(?:dot_general|convolution|dot)\b.*: "
    r"\(tensor<(?:[\dx?]*x)?(\w+)>, tensor<(?:[\dx?]*x)?(\w+)>\)"
)


def _compiled(lowered: Any, key: Sequence[Any], kept: Kept) -> dict[str, Any]:
    """What the compiler makes of a program: kept, since it is the same every time."""

    def compute() -> dict[str, Any]:
        began = time.perf_counter()
        compiled = lowered.compile()
        seconds = time.perf_counter() - began
        memory = compiled.memory_analysis()
        text = zlib.compress(compiled.as_text().encode(), 9)
        return {
            "text": base64.b85encode(text).decode(),
            "compile_seconds": round(seconds, 1),
            "argument_bytes": memory.argument_size_in_bytes,
            "temporary_bytes": memory.temp_size_in_bytes,
            "output_bytes": memory.output_size_in_bytes,
            "donated_bytes": memory.alias_size_in_bytes,
        }

    # Names of compilers, whose versions decide with the text what they make of it.
    packages = ("jaxlib", "libtpu", "jax-cuda12-plugin", "jax-cuda12-pjrt")
    installed = {name: _version(name) for name in packages}
    asked = hashlib.sha256(lowered.as_text().encode()).hexdigest()
    flags = os.environ.get("XLA_FLAGS", "")
    return kept.numbers("compiled", [*key, asked, installed, flags], compute)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def compiled_row(program: Program, target: Target, kept: Kept) -> dict[str, Any]:
    """Compile a program in this process, and read what came of it.

    Args:
        program: what is compiled.
        target: what for.
        kept: where lies what was compiled before.
    """
    lower = _lowered_training if program.attack == "train" else _lowered_evaluation
    lowered = lower(program, target.devices())
    declared = set(_DECLARED.findall(lowered.as_text()))
    found = _compiled(lowered, [dataclasses.asdict(target)], kept)
    text = zlib.decompress(base64.b85decode(found.pop("text"))).decode()
    module = parsed(text)
    tree = program_of(module)
    if program.attack == "train":
        steps = list(_steps(tree, program.members // program.member))
        attacks = [(count, loop) for count, _, inner in steps for loop in inner]
        rest = [(count, _without_products(loop)) for count, loop, _ in steps]
        epochs = [loop.trip_count for _, loop, _ in steps]
    else:
        leaves = _leaves(tree)

        def dear(loop: Loop) -> tuple[int, int, bool]:
            # Of equal ones that within chunks, before what they leave.
            is_known = loop.trip_count is not None
            return loop.cost().cycles, loop.num_products, is_known

        dearest = max(leaves, key=dear)
        attacks, rest, epochs = [(1, dearest)], [], []
    if not attacks:
        raise RuntimeError(
            f"no loop of an attack is left in {program}, compiled for {target}: its "
            "steps cannot be told apart."
        )
    attack = _sum(loop.cost().times(count) for count, loop in attacks)
    other = _sum(cost.times(count) for count, cost in rest)
    whole = attack.times(program.num_steps).plus(other)
    row: dict[str, Any] = {
        **dataclasses.asdict(program),
        "attack_step": _told(attack),
        # Of one member, where they are taken one after another.
        "attack_body": _told(attacks[0][1].cost()),
        "rest_of_step": _told(rest[0][1]) if rest else None,
        "training_step": (
            {"cycles": whole.cycles, "num_bytes": whole.num_bytes} if rest else None
        ),
        "trip_counts": {
            "attack": attacks[0][1].trip_count,
            "epoch": epochs[0] if epochs else None,
        },
        **found,
        "donated_share": (
            found["donated_bytes"] / found["output_bytes"]
            if program.attack == "train"
            else None
        ),
        "declared": sorted(" x ".join(pair) for pair in declared),
        "has_float64": bool({"f64", "c128"} & module.dtypes()),
        "host": _told(tree.cost())["host"],
    }
    per_attack, per_update = _needed(program)
    images = program.batch_size // program.data * (program.members // program.member)
    if program.attack != "train":
        images = program.batch_size // (program.data * program.member)
    row["share_of_peak"] = None
    if target.peak and attack.cycles and per_attack is not None:
        needed, cycles = images * per_attack, attack.cycles
        if rest:
            needed = needed * program.num_steps + images * per_update
            cycles = whole.cycles
        row["share_of_peak"] = needed / (cycles * target.peak)
    return row


class Compiler:
    """A process that compiles one program after another.

    The compiler of another platform needs another environment, and may take its process
    down with it.

    Args:
        target: name of what is compiled for.
        directory: where what was compiled is kept.
    """

    def __init__(self, target: str, directory: Path):
        self.target = target
        self.directory = directory
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "Compiler":
        return self

    def __exit__(self, *error: Any) -> None:
        if self._process is not None:
            self._process.communicate()

    def row(self, program: Program) -> dict[str, Any]:
        """What came of a program.

        Raises:
            RuntimeError: if the process died of it.
        """
        if self._process is None:
            command = [sys.executable, "-m", "experiments.compiling"]
            self._process = subprocess.Popen(
                [*command, self.target, str(self.directory.resolve())],
                env=os.environ | TARGETS[self.target].environment,
                cwd=ROOT.parent,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps(dataclasses.asdict(program)) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            self._process = None
            raise RuntimeError(
                f"the process that compiled {program} for {self.target} ended with "
                f"exit code {process.wait()}; what it said stands above."
            )
        return json.loads(line)


if __name__ == "__main__":
    # The process of its own that `Compiler` starts. The compilers write what they like
    # to the standard output: rows go to what it was.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    name, directory = sys.argv[1:]
    for line in sys.stdin:
        row = compiled_row(Program(**json.loads(line)), TARGETS[name], Kept(directory))
        print(json.dumps(row), file=answers, flush=True)
