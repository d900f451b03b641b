"""Where members and batches lie: a mesh of devices with the axes `member` and `data`.

Members are placed along the first axis and never communicate. Along the second, devices
share each batch of their members. A mesh of one device is none at all: the same
functions then move arrays to that device and nothing else.
"""

import dataclasses
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

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


class Placement:
    """Puts arrays on the devices of a mesh, and takes them back.

    Args:
        config: sizes of the axes.

    Raises:
        ValueError: if there are not as many devices, over all processes.
    """

    def __init__(self, config: MeshConfig | None = None):
        self.config = config or MeshConfig()
        is_exact = jax.process_count() > 1
        self.config.check_devices(jax.device_count(), is_exact=is_exact)
        self.mesh: Mesh | None = None
        if self.config.size > 1:
            shape = (self.config.member, self.config.data)
            kinds = (AxisType.Auto, AxisType.Auto)
            devices = jax.devices()[: self.config.size]
            self.mesh = jax.make_mesh(
                shape, (MEMBER, DATA), axis_types=kinds, devices=devices
            )

    def share(self, batch: Any) -> Any:
        """Examples of a batch, laid out over the devices that share it; when traced."""
        if self.mesh is None or self.config.data == 1:
            return batch
        return lax.with_sharding_constraint(batch, PartitionSpec(DATA))

    def spec(self, is_member_axis: bool) -> PartitionSpec:
        """How an array lies: first axis over the members' devices, or everywhere."""
        return PartitionSpec(MEMBER) if is_member_axis else PartitionSpec()

    def sharding(self, *, is_member_axis: bool) -> NamedSharding | None:
        """The same on the mesh; None without one."""
        if self.mesh is None:
            return None
        return NamedSharding(self.mesh, self.spec(is_member_axis))

    def put(self, tree: Any, *, is_member_axis: bool) -> Any:
        """Arrays that every process has in full, on the devices.

        They may share the host's memory, and so must not be donated.
        """
        sharding = self.sharding(is_member_axis=is_member_axis)
        if sharding is None:
            return jax.device_put(tree)

        def global_array(leaf: Any) -> jax.Array:
            leaf = np.asarray(leaf)
            return jax.make_array_from_callback(
                leaf.shape, sharding, lambda index: np.array(leaf[index])
            )

        return jax.tree.map(global_array, tree)
