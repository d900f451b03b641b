"""Members of a sweep: in one program, one after another, and one after another in
PyTorch.

    python -m experiments.benchmarks.sweep --preset cpu

Adversarial training of the MNIST network at epsilons from .05 to .4, each with its own
number of PGD steps (2.5 epsilon / .05). "One program" is what `sweep` runs: on a CPU it
goes through the members in turn, on an accelerator it maps over them. "One after
another" is the program of one member, called for each. Also timed is the mapping that
the device does not choose, which shows why it does not. Rounds alternate between the
sides, the median counts; compilation is left out on all sides. Needs the extra
`benchmark` (PyTorch).

Presets:
    smoke: two small members, to show that it runs.
    cpu: 1 to 16 members of a quarter of the width, 4 of the full one; about 6 minutes
        on 2 cores.
    accelerator: 1 to 16 members of the full width.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from experiments.benchmarks import training_step
from experiments.runner import Workspace, main
from jaxrobust.attacks import PGD
from jaxrobust.networks import ModelConfig, network_of
from jaxrobust.training import (
    Phase,
    Placement,
    adversarial,
    linspace,
    make_trainer,
)
from jaxrobust.training.step import members as members_module
from jaxrobust.training.step.members import MemberProgram, mapping_for, model_for

STEP_SIZE = 0.05
TARGETS = {"cpu": 1.0, "gpu": 3.0, "tpu": 3.0}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What is timed, and how often."""

    batch_size: int = 128
    num_batches: int = 2
    """Batches of a round, for each member."""
    num_rounds: int = 5
    cases: tuple[tuple[float, int], ...]
    """Width factors and numbers of members."""


PRESETS = {
    "smoke": Config(batch_size=8, num_batches=1, num_rounds=1, cases=((0.125, 2),)),
    "cpu": Config(
        cases=((0.25, 1), (0.25, 2), (0.25, 4), (0.25, 8), (0.25, 16), (1.0, 4))
    ),
    "accelerator": Config(
        num_batches=40, cases=((1.0, 1), (1.0, 2), (1.0, 4), (1.0, 8), (1.0, 16))
    ),
}


def _epsilons(count: int) -> tuple[float, ...]:
    return (0.2,) if count == 1 else linspace(0.05, 0.4, count)


def _phase(epsilon: float) -> Phase:
    return adversarial(epsilon, 1, attack=PGD(step_size=STEP_SIZE))


def our_round(
    factor: float, members: int, calls: int, mapping: Any, config: Config
) -> Callable[[], None]:
    """A function that trains `calls` groups of `members`, one after another."""
    model = model_for(ModelConfig(name="lenet", widen_factor=factor), mapping)
    trainer = make_trainer(
        network_of(model, 10),
        batch_size=config.batch_size,
    )
    chosen = members_module.mapping_for
    members_module.mapping_for = lambda _: mapping
    try:
        program = MemberProgram(trainer, members, Placement())
    finally:
        members_module.mapping_for = chosen
    num_images = config.batch_size * config.num_batches
    images = np.asarray(jax.random.uniform(jax.random.key(1), (num_images, 28, 28, 1)))
    labels = np.asarray(jax.random.randint(jax.random.key(2), (num_images,), 0, 10))
    data = program.placement.put((images, labels), is_member_axis=False)
    epsilons = np.reshape(_epsilons(members * calls), (calls, members))
    init = jax.jit(trainer.init)
    optimizer = _phase(0.1).optimizer
    groups = [
        program.put(
            [
                init(jax.random.key(seed), images[:1], optimizer)
                for seed in range(members)
            ]
        )
        for _ in range(calls)
    ]

    def train() -> None:
        for index, radii in enumerate(epsilons):
            states = program.begin_epoch(groups[index], [True] * members)
            numbers = program.arguments(
                [_phase(float(radius)).at(1, config.num_batches) for radius in radii],
                [config.num_batches] * members,
            )
            groups[index] = program.run(states, *numbers, *data)
            program.summary(groups[index])

    return train


def torch_round(factor: float, members: int, config: Config) -> Callable[[], None]:
    """The same members one after another in PyTorch."""
    settings = training_step.Config(
        batch_size=config.batch_size, num_batches=config.num_batches
    )
    runs = [
        training_step.torch_round(
            "VALID",
            factor,
            settings,
            epsilon=epsilon,
            num_steps=PGD(step_size=STEP_SIZE).num_steps_at(epsilon),
        )
        for epsilon in _epsilons(members)
    ]

    training_step.use_fastest_threads(runs[0])

    def train() -> None:
        for each in runs:
            each()

    return train


def run(config: Config, workspace: Workspace) -> Mapping[str, Any]:
    """Time all sides for each number of members."""
    rows = []
    for factor, count in config.cases:
        mapping = mapping_for(count)
        sides = {
            "together": our_round(factor, count, 1, mapping, config),
            "apart": our_round(factor, 1, count, "one", config),
            "torch": torch_round(factor, count, config),
        }
        if count > 1:
            other = "vmap" if mapping == "loop" else "loop"
            sides["other"] = our_round(factor, count, 1, other, config)
        for function in sides.values():
            function()
        times: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(config.num_rounds):
            for name, function in sides.items():
                began = time.perf_counter()
                function()
                times[name].append(time.perf_counter() - began)
        workspace.seconds += sum(map(sum, times.values()))
        median = {name: statistics.median(each) for name, each in times.items()}
        num_images = count * config.batch_size * config.num_batches
        row = {
            "width": factor,
            "members": count,
            "mapping": mapping,
            "images_per_second": num_images / median["together"],
            "ratio_apart": median["apart"] / median["together"],
            "ratio_torch": median["torch"] / median["together"],
            "ratio_other_mapping": (
                median["other"] / median["together"] if count > 1 else None
            ),
            "target": TARGETS[jax.default_backend()],
        }
        rows.append(row)
        workspace.say(
            f"width x{factor:g}, {count} members: {row['images_per_second']:,.0f} "
            f"images/s, {row['ratio_apart']:.2f} times one after another, "
            f"{row['ratio_torch']:.2f} times PyTorch"
        )
    return {
        "title": "Members in one program, and one after another",
        "rows": rows,
        "notes": [
            "Times are in units of the time of one program: above 1, it is faster. "
            "Target: against one after another, the same code. PyTorch has the number "
            "of threads at which it is fastest."
        ],
        "tables": {"Sweep": results_table({"rows": rows})},
    }


def results_table(result: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the table, also from a committed results file."""
    header = ["width", "members", "images/s", "one after another", "target"]
    header += ["PyTorch one after another", "the other mapping"]

    def times(value: float | None) -> str:
        return "" if value is None else f"{value:.2f}"

    lines = [
        [
            f"x{row['width']:g}",
            str(row["members"]),
            f"{row['images_per_second']:,.0f}",
            times(row["ratio_apart"]),
            f"{row['target']:g}",
            times(row["ratio_torch"]),
            times(row["ratio_other_mapping"]),
        ]
        for row in result["rows"]
    ]
    return [header, *lines]


if __name__ == "__main__":
    raise SystemExit(main("benchmarks/sweep", PRESETS, run, description=__doc__ or ""))
