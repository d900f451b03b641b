"""Members of a sweep: in one program, one after another, and one after another in
PyTorch.

    python -m experiments benchmarks/sweep --preset cpu

Adversarial training of the MNIST network at epsilons from .05 to .4, each with its own
number of PGD steps (2.5 epsilon / .05); or at epsilon .2 on levels of saturation of the
images, which the steps of one program make, while one after another each has its own
images. "One program" is what `sweep` runs: it goes
through the members in turn or maps over them, as `mapping_for` chooses. "One after
another" is the program of one member, called for each. Also timed is the mapping that
the device does not choose, which shows why it does not. Rounds alternate between the
sides, the median counts; compilation is left out on all sides. Needs the extra
`benchmark` (PyTorch).

Presets:
    smoke: two small members, to show that it runs.
    cpu: 1 to 16 members of a quarter of the width, 4 of the full one, 14 levels; about
        6 minutes on 2 cores.
    accelerator: 1 to 16 members of the full width, 14 levels.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.benchmarks import training_step
from experiments.workspace import Workspace
from jaxrobust.attacks import PGD
from jaxrobust.data import Saturate
from jaxrobust.networks import ModelConfig, network_of
from jaxrobust.training import (
    Placement,
    Settings,
    adversarial,
    linspace,
    make_trainer,
)
from jaxrobust.training.recipe.named_numbers import as_arrays
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
    level_cases: tuple[tuple[float, int], ...]
    """The same of members that differ in the level of their images."""


PRESETS = {
    "smoke": Config(
        batch_size=8,
        num_batches=1,
        num_rounds=1,
        cases=((0.125, 2),),
        level_cases=((0.125, 2),),
    ),
    "cpu": Config(
        cases=((0.25, 1), (0.25, 2), (0.25, 4), (0.25, 8), (0.25, 16), (1.0, 4)),
        level_cases=((0.25, 14),),
    ),
    "accelerator": Config(
        num_batches=40,
        cases=((1.0, 1), (1.0, 2), (1.0, 4), (1.0, 8), (1.0, 16)),
        level_cases=((1.0, 14),),
    ),
}


class Members(NamedTuple):
    """What distinguishes the members of a sweep.

    Attributes:
        epsilons: radius of each.
        levels: of saturation of their images; None where they share the images.
    """

    epsilons: tuple[float, ...]
    levels: tuple[float, ...] | None

    def settings(self, index: int, num_batches: int, *, has_level: bool) -> Settings:
        """Of the steps of one of them, which make its variant or are given it."""
        attack = PGD(step_size=STEP_SIZE)
        phase = adversarial(self.epsilons[index], 1, attack=attack)
        settings = phase.at(1, num_batches)
        if self.levels is None or not has_level:
            return settings
        variant = as_arrays(Saturate(self.levels[index]), num_batches)
        return settings._replace(variant=variant)


def members_of(count: int, *, has_levels: bool) -> Members:
    """Radii from .05 to .4, or levels of saturation from 1 to 256 at epsilon .2."""
    if has_levels:
        return Members((0.2,) * count, tuple(np.geomspace(1, 256, count).tolist()))
    return Members((0.2,) if count == 1 else linspace(0.05, 0.4, count), None)


def our_round(
    factor: float, members: Members, size: int, mapping: Any, config: Config
) -> Callable[[], None]:
    """A function that trains the members in groups of `size`, one after another."""
    placement = Placement()
    model = ModelConfig(name="lenet", widen_factor=factor)
    model = model_for(model, placement.platform, mapping)
    trainer = make_trainer(
        network_of(model, 10),
        batch_size=config.batch_size,
    )
    program = MemberProgram(trainer, size, placement, mapping)
    num_images = config.batch_size * config.num_batches
    images = np.asarray(jax.random.uniform(jax.random.key(1), (num_images, 28, 28, 1)))
    labels = np.asarray(jax.random.randint(jax.random.key(2), (num_images,), 0, 10))
    count = len(members.epsilons)
    levels = members.levels if size == 1 else None
    is_alone = levels is not None

    def data_of(index: int) -> Any:
        # One after another each member has images of its own level.
        its = images if levels is None else Saturate(levels[index])(images)
        return placement.put((np.asarray(its), labels), is_member_axis=False)

    shared = data_of(0)
    data = [data_of(index) if is_alone else shared for index in range(0, count, size)]
    init = jax.jit(trainer.init)
    optimizer = adversarial(0.1, 1).optimizer
    groups = [
        program.put(
            [init(jax.random.key(seed), images[:1], optimizer) for seed in range(size)]
        )
        for _ in data
    ]

    def train() -> None:
        for place, start in enumerate(range(0, count, size)):
            states = program.begin_epoch(groups[place], [True] * size)
            numbers = program.arguments(
                [
                    members.settings(index, config.num_batches, has_level=not is_alone)
                    for index in range(start, start + size)
                ],
                [config.num_batches] * size,
            )
            groups[place] = program.run(states, *numbers, *data[place])
            program.summary(groups[place])

    return train


def torch_round(factor: float, members: Members, config: Config) -> Callable[[], None]:
    """The same members one after another in PyTorch."""
    settings = training_step.Config(
        batch_size=config.batch_size,
        num_batches=config.num_batches,
        widen_factors=(factor,),
        paddings=("VALID",),
    )
    (case,) = training_step.cases(settings)
    runs = [
        training_step.torch_round(
            case,
            epsilon=epsilon,
            num_steps=PGD(step_size=STEP_SIZE).num_steps_at(epsilon),
        )
        for epsilon in members.epsilons
    ]

    training_step.use_fastest_threads(runs[0])

    def train() -> None:
        for each in runs:
            each()

    return train


def run(config: Config, workspace: Workspace) -> Mapping[str, Any]:
    """Time all sides for each number of members."""
    rows, platform = [], Placement().platform
    cases = [(*case, False) for case in config.cases]
    cases += [(*case, True) for case in config.level_cases]
    for factor, count, has_levels in cases:
        mapping = mapping_for(platform, count, config.batch_size, factor)
        members = members_of(count, has_levels=has_levels)
        sides = {
            "together": our_round(factor, members, count, mapping, config),
            "apart": our_round(factor, members, 1, "one", config),
            "torch": torch_round(factor, members, config),
        }
        if count > 1:
            other = "vmap" if mapping == "loop" else "loop"
            sides["other"] = our_round(factor, members, count, other, config)
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
            "has_levels": has_levels,
            "mapping": mapping,
            "images_per_second": num_images / median["together"],
            "ratio_apart": median["apart"] / median["together"],
            "ratio_torch": median["torch"] / median["together"],
            "ratio_other_mapping": (
                median["other"] / median["together"] if count > 1 else None
            ),
            "target": TARGETS[platform],
        }
        rows.append(row)
        workspace.say(
            f"width x{factor:g}, {count} {'levels' if has_levels else 'members'}: "
            f"{row['images_per_second']:,.0f} images/s, {row['ratio_apart']:.2f} times "
            f"one after another, {row['ratio_torch']:.2f} times PyTorch"
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
            f"{row['members']} levels"
            if row.get("has_levels")
            else f"{row['members']}",
            f"{row['images_per_second']:,.0f}",
            times(row["ratio_apart"]),
            f"{row['target']:g}",
            times(row["ratio_torch"]),
            times(row["ratio_other_mapping"]),
        ]
        for row in result["rows"]
    ]
    return [header, *lines]
