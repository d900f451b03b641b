"""The compiled programs of a group, and how many members fit into one."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from jaxrobust.training.members import (
    MemberProgram,
    mapping_for,
    model_for,
)
from jaxrobust.training.memory import device_memory
from jaxrobust.training.mesh import Placement
from jaxrobust.training.own import Own, network_for
from jaxrobust.training.phases import Phase, TrainConfig
from jaxrobust.training.runs import Problem, trainer_for

__all__ = ["Programs"]


def _kind(phase: Phase) -> tuple[Any, Any]:
    """What is left of a phase once all that `Controls` carries is made the same."""
    return (
        dataclasses.replace(phase.attack, step_size=1.0, num_steps=None),
        dataclasses.replace(
            phase.optimizer,
            learning_rate=1.0,
            weight_decay=0.0,
            milestones=(),
            decay=1.0,
        ),
    )


def _differences(one: Any, other: Any) -> list[str]:
    names = [field.name for field in dataclasses.fields(one)]
    return [name for name in names if getattr(one, name) != getattr(other, name)]


class Programs:
    """Makes one program for each kind of phase, and keeps it.

    Args:
        configs: of all runs that will use them; one, or several that go together.
        problem: shape of the data.
        placement: on which devices.
        count: members of a group; rounded up to a multiple of the member axis.
        own: their network, if it is not that of the catalogue.

    Raises:
        ValueError: for configurations that do not go together, or a batch size that
            the data axis does not divide.
    """

    def __init__(
        self,
        configs: Sequence[TrainConfig],
        problem: Problem,
        placement: Placement,
        count: int,
        own: Own | None = None,
    ):
        self.config = configs[0]
        self.own = own
        self.problem = problem
        self.placement = placement
        self.check(configs)
        placement.config.check_batch_size(self.config.batch_size)
        size = placement.config.member
        self.count = -(-count // size) * size
        self._programs: dict[Any, MemberProgram] = {}

    def resized(self, count: int) -> "Programs":
        """The same for another number of members."""
        return Programs([self.config], self.problem, self.placement, count, self.own)

    def check(self, configs: Sequence[TrainConfig]) -> None:
        """Refuse members that cannot share a program.

        Raises:
            ValueError: naming what differs.
        """
        kind = _kind(self.config.phases[0])
        for config in configs:
            same = dataclasses.replace(
                config, phases=self.config.phases, seed=self.config.seed
            )
            names = _differences(self.config, same)
            if len(configs) > 1:
                for phase in config.phases:
                    for mine, its in zip(kind, _kind(phase), strict=True):
                        names += _differences(mine, its)
            if names:
                raise ValueError(
                    f"`members` must share {', '.join(dict.fromkeys(names))}, got "
                    "different ones; they are part of the compiled program. Make a "
                    "sweep for each."
                )

    def program(self, phase: Phase) -> MemberProgram:
        """The program of a phase; phases that differ in numbers share it."""
        kind = _kind(phase)
        if kind not in self._programs:
            mesh = self.placement.config
            model = model_for(self.config.model, mapping_for(self.count // mesh.member))
            network = network_for(model, self.problem.num_classes, self.own)
            share = self.placement.share
            trainer = trainer_for(self.config, phase, network, share=share)
            self._programs[kind] = MemberProgram(trainer, self.count, self.placement)
        return self._programs[kind]

    def fitted(
        self,
        num_examples: int,
        dtype: Any,
        memory_limit: int | None = None,
        *,
        is_stretch: bool = False,
    ) -> tuple["Programs", str | None]:
        """These programs, or those of as many members as fit into the memory.

        Args:
            num_examples: that stay on the device, or of each member's stretch.
            dtype: of their pixels.
            memory_limit: bytes of a device; None for what is free.
            is_stretch: whether each member has a stretch of its own.

        Returns:
            The programs, and what to tell the user if the members do not fit.

        Raises:
            ValueError: if not even one member for each device fits.
        """
        limit = device_memory() if memory_limit is None else memory_limit
        program = self.program(self.config.phases[0])
        shapes = program.shapes(
            self.problem.image_shape, num_examples, dtype, is_stretch=is_stretch
        )
        needed = program.memory(shapes)
        if limit is None or needed is None or sum(needed) <= limit:
            return self, None
        own, shared = needed
        size = self.placement.config.member
        each = own * size / self.count
        count = int((limit - shared) / each) * size
        if count < size:
            raise ValueError(
                "`memory_limit` must allow for one member "
                f"({(each + shared) / 2**20:,.1f} MiB), got {limit / 2**20:,.1f} MiB; "
                "use a smaller batch or network, or more devices on the data axis."
            )
        told = (
            f"{self.count} members need {(own + shared) / 2**20:,.1f} MiB on a device, "
            f"{limit / 2**20:,.1f} MiB are free: training them in groups of {count}"
        )
        return self.resized(count), told
