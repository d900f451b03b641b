"""What the tests of the mesh look at: run with 8 simulated devices, prints JSON.

Kept out of the test process, whose one device is what most of the library runs on.
"""

import functools
import json
import os
import re
import sys
from typing import Any

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8"
    # Much is compiled here and hardly anything runs.
    + " --xla_backend_optimization_level=0"
)

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.attacks import PGD
from jaxrobust.data import Dataset, PadCropFlip
from jaxrobust.networks import Linear, ModelConfig, as_network
from jaxrobust.networks.resnet import ResNet
from jaxrobust.training import (
    Averaging,
    MeshConfig,
    OptimizerConfig,
    Placement,
    Settings,
    SweepConfig,
    TrainConfig,
    Validation,
    adversarial,
    make_trainer,
    sweep,
)
from jaxrobust.training.step.members import MemberProgram

BATCH = 16
rng = np.random.default_rng(0)
IMAGES = rng.uniform(0.2, 0.8, size=(64, 6, 6, 3)).astype(np.float32)
LABELS = rng.integers(0, 3, size=64).astype(np.int32)
OPTIMIZER = OptimizerConfig(name="sgd", learning_rate=0.05, weight_decay=1e-3)


def steps(num_steps: int) -> Settings:
    attack = PGD(step_size=0.04, num_steps=num_steps)
    return adversarial(0.1, 1, attack=attack, optimizer=OPTIMIZER).at(1, 4)


def network_of(kind: str) -> Any:
    if kind == "linear":
        return Linear(3)
    return ResNet(
        block_counts=(1,), is_bottleneck=False, num_classes=3, widen_factor=0.0625
    )


def trainer_of(kind: str, **options):
    return make_trainer(
        as_network(network_of(kind), 3),
        batch_size=BATCH,
        augmentation=PadCropFlip() if kind == "resnet" else None,
        **options,
    )


def program_of(kind: str, member: int, data: int, count: int):
    placement = Placement(MeshConfig(member=member, data=data))
    return MemberProgram(trainer_of(kind, share=placement.share), count, placement)


def start(kind: str, count: int) -> list:
    trainer = trainer_of(kind)
    return [
        trainer.init(jax.random.key(seed), IMAGES, OPTIMIZER) for seed in range(count)
    ]


def flat(weights) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(weights)])


def trained(kind: str, member: int, data: int, count: int = 4) -> np.ndarray:
    """Weights of members after 4 steps on a mesh."""
    program = program_of(kind, member, data, count)
    states = program.put(start(kind, count))
    data_arrays = program.placement.put((IMAGES, LABELS), is_member_axis=False)
    states = program.begin_epoch(states, [True] * count)
    numbers = [steps(2 + i) for i in range(count)]
    states = program.run(states, *program.arguments(numbers, [4] * count), *data_arrays)
    return np.stack(
        [flat(program.take(states, i).weights.variables) for i in range(count)]
    )


@functools.cache
def text_of(kind: str, member: int, data: int) -> str:
    """The compiled training program, as every device runs it."""
    program = program_of(kind, member, data, 8)
    executable = program.compile(*program.shapes(steps(4), (6, 6, 3), 64, np.float32))
    return executable.as_text()


def batch_sizes(kind: str, member: int, data: int) -> list[int]:
    """How many images the arrays of images hold that a device makes."""
    made = r"= f32\[(?:\d+,)*?(\d+),6,6,3\]\S* (?!parameter|get-tuple-element)"
    return sorted({int(size) for size in re.findall(made, text_of(kind, member, data))})


def collectives(kind: str, member: int, data: int) -> list[tuple[str, str]]:
    """Kind and scope of the collectives in the compiled training program."""
    names = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
    pattern = rf".* ({names})(?:-start)?\(.*"
    found = []
    for line in re.finditer(pattern, text_of(kind, member, data)):
        scope = re.search(r'op_name="([^"]*)"', line[0])
        # One without a name would be one that nobody asked for.
        found.append((line[1], scope[1] if scope else ""))
    return found


def by_pmap(kind: str, count: int) -> np.ndarray:
    """The functions of a trainer under `jax.pmap`, a member on each device."""
    trainer = trainer_of(kind)
    members = jax.tree.map(
        lambda *leaves: jnp.stack(leaves),
        *[trainer.begin_epoch(state) for state in start(kind, count)],
    )
    numbers = jax.tree.map(
        lambda *leaves: jnp.stack(leaves),
        *[steps(2 + i) for i in range(count)],
    )
    run = jax.pmap(trainer.run, in_axes=(0, 0, None, None, None))
    states = run(members, numbers, IMAGES, LABELS, jnp.int32(4))
    one = [jax.tree.map(lambda leaf, i=i: leaf[i], states) for i in range(count)]
    return np.stack([flat(state.weights.variables) for state in one])


def difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.max(np.abs(one - other)))


def swept(directory: str, member: int, data: int) -> tuple[np.ndarray, list]:
    """Weights of members, with an average, and what was measured on held-out images."""
    dataset = Dataset(
        name="noise", title="noise", images=IMAGES, labels=LABELS, num_classes=3
    )
    base = TrainConfig(
        model=ModelConfig(name="linear"),
        batch_size=BATCH,
        phases=(
            adversarial(
                0.1,
                2,
                attack=PGD(step_size=0.05),
                averaging=Averaging(decay=0.5),
                optimizer=OPTIMIZER,
            ),
        ),
        validation=Validation(share=0.25, num_steps=2),
        micro_batches=2,
    )
    found = sweep(
        SweepConfig(base=base, epsilon=(0.05, 0.1, 0.2)),
        f"{directory}/{member}x{data}",
        dataset=dataset,
        placement=Placement(MeshConfig(member=member, data=data)),
    )
    weights = [flat(run.state.weights[::3]) for run in found.runs.values()]
    measured = [
        [each["validation_accuracy"], each["validation_robust_accuracy"]]
        for run in found.runs.values()
        for each in run.records
    ]
    return np.stack(weights), measured


def main(directory: str) -> None:
    found: dict = {"differences": {}, "collectives": {}}
    for kind in ("linear", "resnet"):
        alone = trained(kind, 1, 1)
        found["moved"] = difference(
            alone, np.stack([flat(s.weights.variables) for s in start(kind, 4)])
        )
        # Each is compiled, the network with batch normalization for a long time.
        meshes = {"linear": [(2, 1), (4, 2), (1, 8)], "resnet": [(2, 4)]}[kind]
        for member, data in meshes:
            name = f"{kind} {member}x{data}"
            mesh = trained(kind, member, data)
            found["differences"][name] = difference(mesh, alone)
        found["differences"][f"{kind} pmap"] = difference(by_pmap(kind, 4), alone)
    found["collectives"] = {
        "members alone": collectives("resnet", 8, 1),
        "both": collectives("linear", 2, 4),
        "batch norm": collectives("resnet", 2, 4),
    }
    found["batch sizes"] = batch_sizes("resnet", 2, 4)
    one, measured = swept(directory, 1, 1)
    # Three members on four devices: one of them has nothing to do.
    other, found["measured on 4x2"] = swept(directory, 4, 2)
    found["measured"] = measured
    found["differences"]["sweep 4x2"] = difference(other, one)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
