"""Several members in one compiled program: a trainer mapped over a leading axis.

All members have the same network, data, batch size and kinds of attack and optimizer;
every number may differ (`Settings`). A member that is done, or whose loss is no longer
finite, does not move while the others do.

Either the program runs through the members in turn (`lax.map`), so that none waits
for another's steps, or they are mapped by `vmap`: their convolutions become grouped
ones or batched matrix products, and an attack with fewer steps is masked. `mapping_for`
decides, for the platform of the devices that will compute.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxrobust.arguments import require
from jaxrobust.keys import seeded
from jaxrobust.networks import ModelConfig
from jaxrobust.training.recipe.phases import Settings
from jaxrobust.training.step.mesh import MEMBER, Placement
from jaxrobust.training.step.trainer import Trainer, TrainState, from_arrays, to_arrays

__all__ = [
    "Mapping",
    "MemberProgram",
    "Summary",
    "mapping_for",
    "model_for",
]

Mapping = Literal["one", "loop", "vmap"]


class Summary(NamedTuple):
    """What the host has to know of the members, arrays `(members,)`.

    The numbers of a key are `(members, words)`: they give the order of an epoch.
    """

    step: Any
    epoch: Any
    batch: Any
    key: Any
    loss: Any
    num_correct: Any
    num_bad_gradients: Any
    num_examples: Any


def mapping_for(
    platform: str, members_per_device: int, batch_size: int, widen_factor: float = 1.0
) -> Mapping:
    """How a device takes its members.

    On a CPU one after another, since a batched product is slower there than products
    in turn (measured). On a TPU one after another as well, but together if they are
    small, since members alone then leave its units idle. That is by XLA's estimates for
    a v5e, in thousands of cycles for a step of PGD and a member of eight, alone and
    together: LeNet with a batch of 128, 157 and 199; of 32, 180 and 216; of 16, 151 and
    115; of 8, 108 and 78; at half its width with 128, 107 and 112; at a quarter with
    128, 94 and 81. LeNet with padding at full width with 128: 209 and 433.
    On a GPU together: undecided without a device, where this decides:
    `python -m experiments benchmarks/sweep --preset accelerator`.

    Args:
        platform: of the devices: cpu, gpu or tpu.
        members_per_device: how many.
        batch_size: examples of a member that a device computes at once.
        widen_factor: of the network.
    """
    if members_per_device == 1:
        return "one"
    is_large = batch_size >= 32 and widen_factor >= 0.5
    if platform == "cpu" or (platform == "tpu" and is_large):
        return "loop"
    return "vmap"


def model_for(model: ModelConfig, platform: str, mapping: Mapping) -> ModelConfig:
    """The network in the formulation that suits the mapping.

    Alone, a network takes that of the platform. `vmap` makes of its convolutions
    grouped ones, which are slow on a GPU; of patches times a matrix, a batched product.
    A network of one's own stays as it is.
    """
    is_free = model.is_known and model.formulation == "auto"
    if is_free and mapping == "vmap" and platform != "tpu":
        return dataclasses.replace(model, formulation="patches")
    return model


def _where(is_chosen: jax.Array, chosen: Any, otherwise: Any) -> Any:
    return jax.tree.map(
        lambda one, other: jnp.where(is_chosen, one, other), chosen, otherwise
    )


class MemberProgram:
    """The compiled functions of members that train together.

    States are stacked: every array has a leading member axis, laid along the mesh.

    Args:
        trainer: of one member.
        count: number of members, a multiple of the mesh's member axis.
        placement: on which devices.
        mapping: how a device takes its members; None for one after another.
    """

    def __init__(
        self,
        trainer: Trainer,
        count: int,
        placement: Placement,
        mapping: Mapping | None = None,
    ):
        self.trainer = trainer
        self.count = count
        self.placement = placement
        is_alone = count == placement.config.member
        self.mapping = mapping or ("one" if is_alone else "loop")
        member = placement.sharding(is_member_axis=True)
        everywhere = placement.sharding(is_member_axis=False)

        def compiled(function: Callable[..., Any], out: Any, **options: Any) -> Any:
            if out is not None:
                options["out_shardings"] = out
            return jax.jit(function, **options)

        self._begin_epoch = compiled(self._begin, member, donate_argnums=0)
        end = None if member is None else (member, everywhere)
        self._end_epoch = compiled(self._end, end, donate_argnums=0)
        self._summary = compiled(self._summarize, everywhere)
        self._one = compiled(self._take, everywhere)
        self._own = compiled(self._copied, member)
        run = self.over_members(self._members, 3, 2)
        stretch = self.over_members(self._stretches, 6, 0)
        self._run = jax.jit(run, donate_argnums=0)
        self._stretch = jax.jit(stretch, donate_argnums=0)
        self._executables: dict[Any, Any] = {}

    # The pure functions, over all members at once.

    def _begin(self, states: TrainState, is_due: Any) -> TrainState:
        def begin(state: TrainState, is_due: Any) -> TrainState:
            return _where(is_due, self.trainer.begin_epoch(state), state)

        return jax.vmap(begin)(states, is_due)

    def _end(self, states: TrainState, is_due: Any) -> tuple[TrainState, Any]:
        def end(state: TrainState, is_due: Any) -> tuple[TrainState, Any]:
            ended, distance = self.trainer.end_epoch(state)
            return _where(is_due, ended, state), distance

        return jax.vmap(end)(states, is_due)

    def _summarize(self, states: TrainState) -> Summary:
        counters = (states.step, states.epoch, states.batch)
        return Summary(*counters, jax.random.key_data(states.key), *states.metrics)

    def _copied(self, arrays: Any) -> TrainState:
        # Owned by the device, never a view of host memory: the first step is given it.
        return from_arrays(jax.tree.map(jnp.copy, arrays))

    def _take(self, states: TrainState, index: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf[index], to_arrays(states))

    def mapped(self, run: Callable[..., Any], members: tuple[Any, ...]) -> Any:
        """A function of one member, over stacked arguments of members."""
        # Of more members than one, the last branch would move the first alone.
        count = self.count // self.placement.config.member
        chex.assert_tree_shape_prefix(members, (count,))
        if self.mapping == "vmap":
            return jax.vmap(run)(*members)
        if self.mapping == "loop":
            return lax.map(lambda arguments: run(*arguments), members)
        moved = run(*jax.tree.map(lambda leaf: leaf[0], members))
        return jax.tree.map(lambda leaf: leaf[None], moved)

    def _members(self, states, settings, stop_batches, images, labels) -> TrainState:
        def run(state: TrainState, settings: Settings, stop_batch: Any) -> TrainState:
            return self.trainer.run(state, settings, images, labels, stop_batch)

        return self.mapped(run, (states, settings, stop_batches))

    def _stretches(
        self, states, settings, stop_batches, images, labels, first_batches
    ) -> TrainState:
        def run(state, settings, stop_batch, images, labels, first_batch) -> TrainState:
            data = (images, labels, stop_batch, first_batch)
            return self.trainer.run(state, settings, *data)

        members = (states, settings, stop_batches, images, labels, first_batches)
        return self.mapped(run, members)

    def over_members(
        self, function: Callable[..., Any], num_stacked: int, num_shared: int
    ) -> Callable[..., Any]:
        """Each device of the member axis takes its members; no data crosses it.

        Along the data axis the compiler divides what `Placement.share` lays out there.

        Args:
            function: of stacked arguments of members, and then of arguments that they
                share; its results are stacked.
            num_stacked: number of the former.
            num_shared: number of the latter.
        """
        mesh = self.placement.mesh
        if mesh is None:
            return function
        member, everywhere = self.placement.spec(True), self.placement.spec(False)
        return jax.shard_map(
            function,
            mesh=mesh,
            in_specs=(member,) * num_stacked + (everywhere,) * num_shared,
            out_specs=member,
            axis_names={MEMBER},
            check_vma=False,
        )

    # What the host calls.

    def put(self, states: Sequence[TrainState]) -> TrainState:
        """States of single members, stacked on the devices.

        Raises:
            ValueError: if their keys are of several generators.
        """
        names = sorted({str(jax.random.key_impl(state.key)) for state in states})
        require(
            len(names) == 1,
            "members",
            "runs that draw from one generator (an older version of jaxrobust took it "
            "from jax_default_prng_impl)",
            names,
            "go on with those members one by one (jaxrobust train --resume)",
        )
        arrays = [jax.tree.map(np.asarray, to_arrays(state)) for state in states]
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *arrays)
        return self._own(self.placement.put(stacked, is_member_axis=True))

    def take(self, states: TrainState, index: int) -> TrainState:
        """The state of one member, on the host; every process must call this."""
        if self.count == 1 and self.placement.mesh is None:
            # Without a program, which would be one more to compile.
            # A copy, since the next step is given the buffers.
            arrays = jax.tree.map(
                lambda leaf: np.array(np.asarray(leaf)[0]), to_arrays(states)
            )
        else:
            arrays = self._one(states, np.int32(index))
        return from_arrays(jax.tree.map(np.asarray, arrays))

    def replace(
        self, states: TrainState, exchanged: dict[int, TrainState]
    ) -> TrainState:
        """The stacked states with some members' exchanged, by index."""
        if not exchanged:
            return states
        everyone = [
            exchanged[index] if index in exchanged else self.take(states, index)
            for index in range(self.count)
        ]
        return self.put(everyone)

    def begin_epoch(self, states: TrainState, is_due: Sequence[bool]) -> TrainState:
        """The states with an epoch begun for the members that are due."""
        due = self.placement.put(np.asarray(is_due), is_member_axis=True)
        return self._begin_epoch(states, due)

    def end_epoch(
        self, states: TrainState, is_due: Sequence[bool]
    ) -> tuple[TrainState, np.ndarray]:
        """The states with the epoch ended, and how far the weights moved in it."""
        due = self.placement.put(np.asarray(is_due), is_member_axis=True)
        states, distances = self._end_epoch(states, due)
        return states, np.asarray(distances)

    def summary(self, states: TrainState) -> Summary:
        """Counters and sums, on the host."""
        return jax.tree.map(np.asarray, self._summary(states))

    def arguments(self, settings: Sequence[Settings], stops: Sequence[int]) -> Any:
        """The numbers of a call of `run`, on the devices."""
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *settings)
        numbers = (stacked, np.asarray(stops, np.int32))
        return self.placement.put(numbers, is_member_axis=True)

    def lowered(self, states: Any, settings: Any, stops: Any, *data: Any) -> Any:
        """The program for arguments of this form, or shapes of them, not compiled."""
        jitted = self._run if len(data) == 2 else self._stretch
        return jitted.lower(states, settings, stops, *data)

    def compile(self, states: Any, settings: Any, stops: Any, *data: Any) -> Any:
        """The executable for arguments of this form, or shapes of them."""
        arguments = (states, settings, stops, *data)
        leaves, structure = jax.tree.flatten(arguments)
        key = (structure, *((leaf.shape, leaf.dtype) for leaf in leaves))
        if key not in self._executables:
            self._executables[key] = self.lowered(*arguments).compile()
        return self._executables[key]

    def run(self, states: TrainState, settings: Any, stops: Any, *data: Any) -> Any:
        """Every member up to its stop batch, or until its loss is not finite.

        Args:
            states: stacked; donated.
            settings: stacked.
            stops: for each member the batch to stop at.
            *data: images and labels that all members share; or each member's stretch
                of its epoch, with the batch that it begins with.
        """
        return self.compile(states, settings, stops, *data)(
            states, settings, stops, *data
        )

    def shapes(
        self,
        settings: Settings,
        image_shape: Sequence[int],
        num_examples: int,
        dtype: Any,
        *,
        is_stretch: bool = False,
    ) -> Any:
        """The form of the arguments of `run`, without any values.

        Args:
            settings: of any member.
            image_shape: of one image.
            num_examples: that all members share, or of each member's stretch.
            dtype: of the pixels.
            is_stretch: whether each member has a stretch of its own.
        """
        member = self.placement.sharding(is_member_axis=True)
        everywhere = self.placement.sharding(is_member_axis=False)

        def stacked(leaf: Any) -> jax.ShapeDtypeStruct:
            shape = (self.count, *leaf.shape)
            return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=member)

        images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
        key = seeded(0)
        is_averaged = settings.average_share is not None
        init = partial(self.trainer.init, is_averaged=is_averaged)
        state = jax.eval_shape(init, key, images, settings.optimizer)
        stop = jnp.int32(0)
        members = jax.tree.map(stacked, (state, settings, stop))
        pixels = jax.ShapeDtypeStruct((num_examples, *image_shape), dtype)
        labels = jax.ShapeDtypeStruct((num_examples,), jnp.int32)
        if is_stretch:
            return (*members, stacked(pixels), stacked(labels), stacked(stop))
        shared = jax.tree.map(
            lambda leaf: leaf.update(sharding=everywhere), (pixels, labels)
        )
        return (*members, *shared)

    def memory(self, shapes: Any) -> tuple[int, int] | None:
        """Bytes that a device needs: for all its members, and shared by them.

        From the compiled program's own analysis; None where it has none.
        """
        analysis = self.compile(*shapes).memory_analysis()
        if analysis is None:
            return None
        shared = 0
        if len(shapes) == 5:  # examples that all members share
            shared = sum(
                int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in shapes[-2:]
            )
        total = (
            analysis.argument_size_in_bytes
            + analysis.output_size_in_bytes
            - analysis.alias_size_in_bytes
            + analysis.temp_size_in_bytes
        )
        return max(total - shared, 0), shared
