"""The compiled programs of a group, and how many members fit into one."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust.data import Dataset, augmentation_of
from jaxrobust.keys import seeded
from jaxrobust.networks import Network
from jaxrobust.training.recipe.config import (
    TrainConfig,
    differ_in_level,
    settings_of,
)
from jaxrobust.training.recipe.model import Model
from jaxrobust.training.recipe.named_numbers import words_of
from jaxrobust.training.recipe.objectives import OBJECTIVES, require_objective
from jaxrobust.training.recipe.own import Own, network_for
from jaxrobust.training.recipe.phases import Phase, Settings
from jaxrobust.training.recipe.problem import Problem
from jaxrobust.training.recipe.validation import Validation
from jaxrobust.training.step.members import Mapping as MemberMapping
from jaxrobust.training.step.members import MemberProgram, mapping_for, model_for
from jaxrobust.training.step.memory import device_memory
from jaxrobust.training.step.mesh import Placement
from jaxrobust.training.step.trainer import trainer_for
from jaxrobust.training.step.validation import Validator

__all__ = ["Programs"]


def _words(phase: Phase) -> dict[str, Any]:
    """What is left of a phase without the numbers, which are traced."""
    settings = phase.at(1, 1)
    named = zip(settings._fields, settings, strict=True)
    return {
        name: word
        for field, part in named
        for name, word in words_of(part, field).items()
    }


def _differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    names = dict.fromkeys([*one, *other])
    return [name for name in names if one.get(name) != other.get(name)]


class Programs:
    """The program of runs that train together, made when it is first needed.

    Args:
        configs: of all runs that will use them; one, or several that go together.
        problem: shape of the data.
        placement: on which devices.
        count: members of a group; rounded up to a multiple of the member axis.
        own: their network, if it is not that of the catalogue.
        has_variant: whether steps make the variant of the data, since runs differ in
            its level, though those given here may not.

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
        has_variant: bool = False,
    ):
        self.config = configs[0]
        self.own = own
        self.problem = problem
        self.placement = placement
        self.has_variant = has_variant or differ_in_level(configs)
        self.check(configs)
        placement.config.check_batch_size(
            self.config.batch_size // self.config.micro_batches
        )
        augmentation = self.config.augmentation
        if isinstance(augmentation, str):
            augmentation = augmentation_of(augmentation)
        self.augmentation = augmentation
        self._validator: Validator | None = None
        size = placement.config.member
        self.count = -(-count // size) * size

    def resized(self, count: int) -> "Programs":
        """The same for another number of members."""
        return Programs(
            [self.config],
            self.problem,
            self.placement,
            count,
            self.own,
            self.has_variant,
        )

    def check(self, configs: Sequence[TrainConfig]) -> None:
        """Refuse members that cannot share a program.

        Raises:
            ValueError: naming what differs.
        """
        words = _words(self.config.phases[0])
        for config in configs:
            free = ("phases", "seed", *(["variant"] if self.has_variant else []))
            same = dataclasses.replace(
                config, **{name: getattr(self.config, name) for name in free}
            )
            names = _differences(vars(self.config), vars(same))
            for phase in config.phases if len(configs) > 1 else ():
                names += _differences(words, _words(phase))
            if names:
                raise ValueError(
                    f"`members` must share {', '.join(dict.fromkeys(names))}, got "
                    "different ones; they are part of the compiled program. Make a "
                    "sweep for each."
                )

    def require_objectives(self) -> None:
        """Refuse objectives of a user's own that break the contract.

        Raises:
            TypeError: for results of another kind.
            ValueError: for results of another shape.
        """
        size = self.config.batch_size
        images = jax.ShapeDtypeStruct((size, *self.problem.image_shape), jnp.float32)
        labels = jax.ShapeDtypeStruct((size,), jnp.int32)
        network = network_for(self.config.model, self.problem.num_classes, self.own)
        key = seeded(0)
        for phase in self.config.phases:
            if type(phase.objective) in OBJECTIVES.values():
                continue

            def loss_of(
                key: Any, variables: Any, settings: Settings, images: Any, labels: Any
            ) -> Any:
                model = Model(network, variables, self.config.precision)
                return settings.objective(key, model, settings.threat, images, labels)

            variables = jax.eval_shape(network.init, key, images)
            now = jax.tree.map(lambda values: values[0], phase.at(1, 1))
            require_objective(loss_of, (key, variables, now, images, labels))

    @cached_property
    def mapping(self) -> MemberMapping:
        """How a device takes its members."""
        mesh, platform = self.placement.config, self.placement.platform
        size = self.config.batch_size // self.config.micro_batches // mesh.data
        width = self.config.model.widen_factor
        return mapping_for(platform, self.count // mesh.member, size, width)

    @cached_property
    def network(self) -> Network:
        """The network, in the formulation that suits the members."""
        platform = self.placement.platform
        model = model_for(self.config.model, platform, self.mapping)
        return network_for(model, self.problem.num_classes, self.own)

    def validator(self, held_out: Dataset, validation: Validation) -> Validator:
        """What judges the members on held-out examples; one for all groups."""
        if self._validator is None or self._validator.held_out is not held_out:
            self._validator = Validator(
                self.program,
                self.network,
                held_out,
                self.config.batch_size,
                validation.num_steps,
                self.config.matmul_precision,
            )
        return self._validator

    @cached_property
    def program(self) -> MemberProgram:
        """The program; what differs in words is compiled for each of them."""
        trainer = trainer_for(
            self.config,
            self.network,
            augmentation=self.augmentation,
            share=self.placement.share,
        )
        return MemberProgram(trainer, self.count, self.placement, self.mapping)

    def fitted(
        self,
        num_batches: int,
        num_examples: int,
        dtype: Any,
        memory_limit: int | None = None,
        *,
        is_stretch: bool = False,
    ) -> tuple["Programs", str | None]:
        """These programs, or those of as many members as fit into the memory.

        Args:
            num_batches: in an epoch.
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
        shapes = self.program.shapes(
            settings_of(self.config, 0, 1, num_batches, has_variant=self.has_variant),
            self.problem.image_shape,
            num_examples,
            dtype,
            is_stretch=is_stretch,
        )
        needed = self.program.memory(shapes)
        if limit is None or needed is None or sum(needed) <= limit:
            return self, None
        own, shared = needed
        size = self.placement.config.member
        per_member = own * size / self.count
        count = int((limit - shared) / per_member) * size
        if count < size:
            raise ValueError(
                "`memory_limit` must allow for one member "
                f"({(per_member + shared) / 2**20:,.1f} MiB), got "
                f"{limit / 2**20:,.1f} MiB; use a smaller batch or network, or more "
                "devices on the data axis."
            )
        told = (
            f"{self.count} members need {(own + shared) / 2**20:,.1f} MiB on a device, "
            f"{limit / 2**20:,.1f} MiB are free: training them in groups of {count}"
        )
        return self.resized(count), told
