"""Where members and batches lie: a mesh of devices with the axes `member` and `data`.

Members are placed along the first axis and never communicate. Along the second, devices
share each batch of their members. A mesh of one device is none at all: the same
functions then move arrays to that device and nothing else.

The devices may be those of a topology that is not there: programs are then compiled for
them, and nothing is put on them.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.experimental import mesh_utils
from jax.sharding import (
    AxisType,
    Mesh,
    NamedSharding,
    PartitionSpec,
    Sharding,
    SingleDeviceSharding,
)

__all__ = ["DATA", "MEMBER", "MeshConfig", "Placement"]

MEMBER, DATA = "member", "data"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """How many devices along each axis; their product is the number in use.

    Raises:
        ValueError: for sizes below 1.
    """

    member: int = 1
    """Devices among which the members are divided; no communication."""
    data: int = 1
    """Devices among which each batch is divided; one gradient mean a step. Batch-norm
    statistics are those of the whole batch, as on one device."""

    def __post_init__(self):
        for name in (MEMBER, DATA):
            size = getattr(self, name)
            if size < 1:
                raise ValueError(
                    f"`mesh.{name}` must be at least 1, got {size!r}; it counts "
                    "devices."
                )

    @property
    def size(self) -> int:
        """Number of devices."""
        return self.member * self.data

    def check_batch_size(self, batch_size: int) -> None:
        """Refuse a batch that the data axis does not divide.

        Raises:
            ValueError: naming the nearest sizes that would do.
        """
        if batch_size % self.data:
            below = batch_size // self.data * self.data
            fitting = [size for size in (below, below + self.data) if size]
            raise ValueError(
                f"`batch_size` must be divisible by the {self.data} devices of the "
                f"data axis, got {batch_size}; use {' or '.join(map(str, fitting))}."
            )

    def check_devices(self, num_devices: int, *, is_exact: bool = False) -> None:
        """Refuse a mesh that does not fit the devices.

        A single process may leave devices idle; a job of several must not (`is_exact`).

        Raises:
            ValueError: naming the meshes that would fit.
        """
        if self.size == num_devices or (self.size < num_devices and not is_exact):
            return
        rule = "exactly" if is_exact else "at most"
        fitting = ", ".join(
            f"{size} x {num_devices // size}"
            for size in range(1, num_devices + 1)
            if num_devices % size == 0
        )
        raise ValueError(
            f"`mesh` must have {rule} as many devices as there are ({num_devices}), "
            f"got {self.member} x {self.data} (member x data); use one of {fitting}, "
            "or simulate devices on a CPU by setting JAX_NUM_CPU_DEVICES."
        )


def _mesh(config: MeshConfig, devices: Sequence[Any]) -> Mesh:
    """The mesh of devices, which may come in slices that a slower network joins.

    Members, which never communicate, go across the slices; a batch is divided inside of
    them, and among them only where there are not members enough.
    """
    shape, kinds = (config.member, config.data), (AxisType.Auto, AxisType.Auto)
    sizes = Counter(getattr(device, "slice_index", 0) for device in devices)
    if len(sizes) == 1:
        return jax.make_mesh(shape, (MEMBER, DATA), axis_types=kinds, devices=devices)
    members = math.gcd(config.member, len(sizes))
    parts = len(sizes) // members
    if len(set(sizes.values())) > 1 or config.data % parts:
        raise ValueError(
            f"`mesh` must divide into {len(sizes)} equal parts, as many as there are "
            f"slices of devices, got {config.member} x {config.data} (member x data) "
            f"on {', '.join(map(str, sizes.values()))} of their devices; give "
            f"`mesh.member` a multiple of {len(sizes)}."
        )
    inside = (config.member // members, config.data // parts)
    grid = mesh_utils.create_hybrid_device_mesh(inside, (members, parts), devices)
    return Mesh(grid, (MEMBER, DATA), axis_types=kinds)


class Placement:
    """Puts arrays on the devices of a mesh, and takes them back.

    Its `platform` is that of the devices: cpu, gpu or tpu.

    Args:
        config: sizes of the axes.
        devices: of which the first ones are used; None for those that are there. Those
            of a topology (`jax.experimental.topologies`) can be compiled for.

    Raises:
        ValueError: if there are not as many devices, over all processes, or if they
            come in slices among which the mesh cannot be divided.
    """

    def __init__(
        self,
        config: MeshConfig | None = None,
        devices: Sequence[Any] | None = None,
    ):
        self.config = config or MeshConfig()
        known = jax.devices() if devices is None else list(devices)
        is_exact = devices is None and jax.process_count() > 1
        self.config.check_devices(len(known), is_exact=is_exact)
        chosen = known[: self.config.size]
        self.platform = chosen[0].platform
        self.mesh = _mesh(self.config, chosen) if self.config.size > 1 else None
        # Without a mesh, arrays go where jax puts them, unless somebody chose.
        self._device = None if devices is None else chosen[0]

    def share(self, batch: Any) -> Any:
        """Examples of a batch, laid out over the devices that share it; when traced."""
        if self.mesh is None or self.config.data == 1:
            return batch
        return lax.with_sharding_constraint(batch, PartitionSpec(DATA))

    def spec(self, is_member_axis: bool) -> PartitionSpec:
        """How an array lies: first axis over the members' devices, or everywhere."""
        return PartitionSpec(MEMBER) if is_member_axis else PartitionSpec()

    def sharding(self, *, is_member_axis: bool) -> Sharding | None:
        """The same on the mesh; without one None, or the device that was chosen."""
        if self.mesh is None:
            return None if self._device is None else SingleDeviceSharding(self._device)
        return NamedSharding(self.mesh, self.spec(is_member_axis))

    def put(self, tree: Any, *, is_member_axis: bool) -> Any:
        """Arrays that every process has in full, on the devices.

        They may share the host's memory, and so must not be donated.
        """
        sharding = self.sharding(is_member_axis=is_member_axis)
        if sharding is None or self.mesh is None:
            return jax.device_put(tree, sharding)

        def global_array(leaf: Any) -> jax.Array:
            leaf = np.asarray(leaf)
            return jax.make_array_from_callback(
                leaf.shape, sharding, lambda index: np.array(leaf[index])
            )

        return jax.tree.map(global_array, tree)
