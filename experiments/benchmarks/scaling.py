"""Simulated devices: the same numbers, and what sharing costs.

    python -m experiments benchmarks/scaling --preset cpu

The same members are trained on 1, 2, 4 and 8 simulated CPU devices, which divide first
the members, then the batches. On one machine they share its cores, so this measures
what the mesh adds, not how fast a larger machine is. Each mesh runs in a process of
its own; the weights are compared with those of one device, and the collectives of the
compiled program are counted.

Presets:
    smoke: two devices, a small network.
    cpu: 1, 2, 4, 8 devices; about 3 minutes on 2 cores.
"""

import dataclasses
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from experiments.workspace import ROOT, Workspace


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What is trained on which meshes."""

    meshes: tuple[tuple[int, int], ...]
    """Sizes of the axes `member` and `data`; the first is compared with."""
    members: int = 8
    batch_size: int = 64
    num_batches: int = 2
    num_rounds: int = 5
    widen_factor: float = 0.25


PRESETS = {
    "smoke": Config(
        meshes=((1, 1), (1, 2)),
        members=2,
        batch_size=8,
        num_rounds=1,
        widen_factor=0.125,
    ),
    "cpu": Config(
        meshes=((1, 1), (2, 1), (4, 1), (8, 1), (1, 2), (2, 2), (4, 2), (1, 4), (1, 8))
    ),
}

COLLECTIVES = re.compile(
    r" (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)"
    r"(?:-start)?\("
)


def measure(config: Config, member: int, data: int, weights: str) -> dict[str, Any]:
    """Train in this process, which has as many devices; weights go into a file."""
    import jax

    from jaxrobust.attacks import PGD
    from jaxrobust.networks import ModelConfig, network_of
    from jaxrobust.training import (
        MeshConfig,
        Placement,
        adversarial,
        make_trainer,
    )
    from jaxrobust.training.step.members import MemberProgram

    placement = Placement(MeshConfig(member=member, data=data))
    model = ModelConfig(name="lenet", widen_factor=config.widen_factor)
    trainer = make_trainer(
        network_of(model, 10),
        batch_size=config.batch_size,
        share=placement.share,
    )
    program = MemberProgram(trainer, config.members, placement)
    size = config.batch_size * config.num_batches
    images = np.asarray(jax.random.uniform(jax.random.key(1), (size, 28, 28, 1)))
    labels = np.asarray(jax.random.randint(jax.random.key(2), (size,), 0, 10))
    arrays = placement.put((images, labels), is_member_axis=False)
    phase = adversarial(0.2, 1, attack=PGD(step_size=0.05, num_steps=10))
    init = partial(jax.jit(trainer.init), images=images[:1], optimizer=phase.optimizer)
    count = config.members
    states = program.put([init(jax.random.key(seed)) for seed in range(count)])
    steps = phase.at(1, config.num_batches)
    numbers = program.arguments([steps] * count, [config.num_batches] * count)
    text = program.compile(states, *numbers, *arrays).as_text()
    times = []
    for index in range(config.num_rounds + 1):
        states = program.begin_epoch(states, [True] * count)
        began = time.perf_counter()
        states = program.run(states, *numbers, *arrays)
        program.summary(states)
        times.append(time.perf_counter() - began)
        if index == 0:  # the first round is not timed: its weights are compared
            params = [program.take(states, i).weights.params for i in range(count)]
            leaves = [np.ravel(leaf) for leaf in jax.tree.leaves(params)]
            np.save(weights, np.concatenate(leaves))
    return {
        "devices": member * data,
        "member": member,
        "data": data,
        "images_per_second": count * size / statistics.median(times[1:]),
        "collectives": len(COLLECTIVES.findall(text)),
    }


def run(config: Config, workspace: Workspace) -> Mapping[str, Any]:
    """Measure every mesh in a process with as many devices."""
    rows: list[dict[str, Any]] = []
    first = None
    for member, data in config.meshes:
        path = workspace.directory.resolve() / f"weights-{member}x{data}.npy"
        command = [sys.executable, "-m", "experiments.benchmarks.scaling"]
        settings = json.dumps([dataclasses.asdict(config), member, data, str(path)])
        count = f"--xla_force_host_platform_device_count={member * data}"
        flags = f"{os.environ.get('XLA_FLAGS', '')} {count}"
        began = time.perf_counter()
        done = subprocess.run(
            [*command, settings],
            env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
            cwd=ROOT.parent,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"mesh {member} x {data} failed: {done.stderr[-2000:]}")
        workspace.seconds += time.perf_counter() - began
        row = json.loads(done.stdout.splitlines()[-1])
        weights = np.load(path)
        first = weights if first is None else first
        row["largest_weight_difference"] = float(np.max(np.abs(weights - first)))
        row["ratio"] = row["images_per_second"] / (
            rows[0]["images_per_second"] if rows else row["images_per_second"]
        )
        rows.append(row)
        workspace.say(
            f"{member} x {data}: {row['images_per_second']:,.0f} images/s, largest "
            f"difference {row['largest_weight_difference']:.1g}, "
            f"{row['collectives']} collectives"
        )
    return {
        "title": "Simulated devices",
        "rows": rows,
        "notes": [
            f"{config.members} members, MNIST network of width "
            f"x{config.widen_factor:g}, batch {config.batch_size}, PGD-10, after "
            f"{config.num_batches} steps. All devices share the cores of one machine. "
            "Collectives: operations in the compiled training program."
        ],
        "tables": {"Meshes": results_table({"rows": rows})},
    }


def results_table(result: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the table, also from a committed results file."""
    header = ["devices", "member x data", "images/s", "against one device"]
    header += ["largest difference of a weight", "collectives"]
    lines = [
        [
            str(row["devices"]),
            f"{row['member']} x {row['data']}",
            f"{row['images_per_second']:,.0f}",
            f"{row['ratio']:.2f}",
            f"{row['largest_weight_difference']:.1g}",
            str(row["collectives"]),
        ]
        for row in result["rows"]
    ]
    return [header, *lines]


if __name__ == "__main__":
    # One mesh, in the process of its own that `run` starts.
    settings, *rest = json.loads(sys.argv[1])
    print(json.dumps(measure(Config(**settings), *rest)))
