"""What the tests of the mesh look at: run with 8 simulated devices, prints JSON.

Kept out of the test process, whose one device is what most of the library runs on.
"""

import json
import os
import re
import sys

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8"
    # Much is compiled here and hardly anything runs.
    + " --xla_backend_optimization_level=0"
)

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxrobust.data import Dataset
from jaxrobust.models import Linear, ModelConfig
from jaxrobust.models.resnet import ResNet
from jaxrobust.training import (
    AttackConfig,
    Controls,
    MeshConfig,
    OptimizerConfig,
    Placement,
    SweepConfig,
    TrainConfig,
    adversarial,
    make_trainer,
    sweep,
)
from jaxrobust.training.members import MemberProgram
from jaxrobust.training.mesh import DATA

BATCH = 16
rng = np.random.default_rng(0)
IMAGES = rng.uniform(0.2, 0.8, size=(64, 6, 6, 3)).astype(np.float32)
LABELS = rng.integers(0, 3, size=64).astype(np.int32)
CONTROLS = Controls.of(
    epsilon=0.1, step_size=0.04, num_steps=4, learning_rate=0.05, weight_decay=1e-3
)


def network_of(kind: str, axis: str | None) -> nn.Module:
    if kind == "linear":
        return Linear(3)
    return ResNet(
        block_counts=(1,),
        is_bottleneck=False,
        num_classes=3,
        widen_factor=0.0625,
        batch_axis=axis,
    )


def trainer_of(kind: str, axis: str | None, sync: bool = True, mode: str = "eval"):
    return make_trainer(
        network_of(kind, axis if sync else None),
        attack=AttackConfig(batch_norm=mode),
        optimizer=OptimizerConfig(name="sgd", learning_rate=0.05),
        batch_size=BATCH,
        augment=kind == "resnet",
        axis=axis,
        sync_batch_norm=sync,
    )


def program_of(kind: str, member: int, data: int, count: int, **options):
    placement = Placement(MeshConfig(member=member, data=data))
    trainer = trainer_of(kind, placement.axis, **options)
    return MemberProgram(trainer, count, placement)


def start(kind: str, count: int) -> list:
    trainer = trainer_of(kind, None)
    return [trainer.init(jax.random.key(seed), IMAGES) for seed in range(count)]


def flat(weights) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(weights)])


def trained(kind: str, member: int, data: int, count: int = 4, **options) -> np.ndarray:
    """Weights of members after 4 steps on a mesh."""
    program = program_of(kind, member, data, count, **options)
    states = program.put(start(kind, count))
    data_arrays = program.placement.put((IMAGES, LABELS), is_member_axis=False)
    states = program.begin_epoch(states, [0.1] * count, [True] * count)
    controls = [CONTROLS._replace(num_steps=jnp.int32(2 + i)) for i in range(count)]
    states = program.run(
        states, *program.arguments(controls, [4] * count), *data_arrays
    )
    return np.stack([flat(program.take(states, i).weights[:2]) for i in range(count)])


def collectives(kind: str, member: int, data: int, **options) -> list[str]:
    """Scopes of the collectives in the compiled training program."""
    program = program_of(kind, member, data, 8, **options)
    executable = program.compile(*program.shapes((6, 6, 3), 64, np.float32))
    names = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
    lines = re.findall(rf".* (?:{names})(?:-start)?\(.*", executable.as_text())
    # One without a name would be one that nobody asked for.
    scopes = [re.search(r'op_name="([^"]*)"', line) for line in lines]
    return [
        scope[1] if scope else line for scope, line in zip(scopes, lines, strict=True)
    ]


def by_pmap(kind: str, data: int) -> np.ndarray:
    """The same per-device step under `jax.pmap`."""
    trainer = trainer_of(kind, DATA)
    state = start(kind, 1)[0]
    state = trainer.begin_epoch(state, CONTROLS.epsilon)
    controls = CONTROLS._replace(num_steps=jnp.int32(2))

    def on_device(index, *arguments):
        del index  # pmap wants something that is mapped
        return trainer.run(*arguments)

    run = jax.pmap(
        on_device,
        axis_name=DATA,
        in_axes=(0, None, None, None, None, None),
        out_axes=None,
        devices=jax.devices()[:data],
    )
    indices = jnp.arange(data)
    state = run(indices, state, controls, IMAGES, LABELS, jnp.int32(4))
    return flat(state.weights[:2])


def difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.max(np.abs(one - other)))


def swept(directory: str, member: int, data: int) -> np.ndarray:
    dataset = Dataset(
        name="noise", title="noise", images=IMAGES, labels=LABELS, num_classes=3
    )
    base = TrainConfig(
        model=ModelConfig(name="linear"),
        batch_size=BATCH,
        phases=(adversarial(0.1, 2, attack=AttackConfig(step_size=0.05)),),
    )
    found = sweep(
        SweepConfig(base=base, epsilon=(0.05, 0.1, 0.2)),
        f"{directory}/{member}x{data}",
        dataset=dataset,
        placement=Placement(MeshConfig(member=member, data=data)),
    )
    return np.stack([flat(run.state.weights[:2]) for run in found.runs.values()])


def main(directory: str) -> None:
    found: dict = {"differences": {}, "collectives": {}}
    for kind in ("linear", "resnet"):
        alone = trained(kind, 1, 1)
        found["moved"] = difference(
            alone, np.stack([flat(s.weights[:2]) for s in start(kind, 4)])
        )
        # Each is compiled, the network with batch normalization for a long time.
        meshes = {"linear": [(2, 1), (4, 2), (1, 8)], "resnet": [(2, 4)]}[kind]
        for member, data in meshes:
            name = f"{kind} {member}x{data}"
            mesh = trained(kind, member, data)
            found["differences"][name] = difference(mesh, alone)
        found["differences"][f"{kind} pmap"] = difference(by_pmap(kind, 4), alone[0])
    # The network of the last turn.
    apart = trained("resnet", 1, 4, sync=False)
    found["without synchronized statistics"] = difference(apart, alone)
    found["collectives"] = {
        "members alone": collectives("resnet", 8, 1),
        "both": collectives("linear", 2, 4),
        "batch norm": collectives("resnet", 2, 4),
        "batch norm apart": collectives("resnet", 2, 4, sync=False),
    }
    one = swept(directory, 1, 1)
    # Three members on four devices: one of them has nothing to do.
    found["differences"]["sweep 4x2"] = difference(swept(directory, 4, 2), one)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
