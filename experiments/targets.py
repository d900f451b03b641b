"""Devices that are not there, to compile for: chips, how many, and what they can do.

XLA compiles ahead of time for a description of devices. For TPUs it needs libtpu (extra
`compiled`), for GPUs the plugin of CUDA (extra `cuda12`), and no such device.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import topologies

__all__ = ["CPU", "TARGETS", "Target"]

_H100 = """gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32
  shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84929347584 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
runtime_version: { major: 12 minor: 8 patch: 0 }
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 7 }
device_description_str: "H100"
"""
"""What XLA has to know of the card, as its text proto."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """What is compiled for.

    Attributes:
        platform: cpu, tpu or gpu.
        topology: of the chips, in the words of the compiler; empty for the host.
        num_slices: of a pod, each with this topology.
        num_devices: that are used.
        description: of the card, for a GPU.
        peak: operations of the matrix units in a cycle, of a device; None where the
            compiler estimates no cycles.
    """

    platform: str
    topology: str = ""
    num_slices: int = 1
    num_devices: int = 1
    description: str = ""
    peak: int | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs that compiles for it."""
        own = {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"}
        # Without it a second process fails on the lock of libtpu.
        own["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"
        if self.platform == "gpu":
            # Tuning measures on the card.
            own["XLA_FLAGS"] = "--xla_gpu_autotune_level=0"
        return own

    def devices(self) -> Sequence[Any]:
        """The devices, which can be compiled for and not computed on."""
        if self.platform == "cpu":
            return jax.devices("cpu")[: self.num_devices]
        if self.platform == "tpu":
            found = topologies.get_topology_desc(
                platform="tpu", topology_name=self.topology, num_slices=self.num_slices
            )
        else:
            found = topologies.get_topology_desc(
                "card",
                "cuda",
                target_config=self.description,
                topology=self.topology,
            )
        return found.devices[: self.num_devices]


# 197 TFLOP/s in bfloat16 at 1.5 GHz: four units of 128 x 128 multiply-adds.
_V5E_PEAK = 2 * 4 * 128 * 128

CPU = Target(platform="cpu")

TARGETS = {
    "cpu": CPU,
    # The compiler refuses a topology of one chip: one of four is used.
    "v5e": Target(platform="tpu", topology="v5e:2x2", peak=_V5E_PEAK),
    "v5e-2x2": Target(
        platform="tpu", topology="v5e:2x2", num_devices=4, peak=_V5E_PEAK
    ),
    "v5e-4x4": Target(
        platform="tpu", topology="v5e:4x4", num_devices=16, peak=_V5E_PEAK
    ),
    "v5e-2slices": Target(
        platform="tpu", topology="v5e:2x2", num_slices=2, num_devices=8, peak=_V5E_PEAK
    ),
    "h100": Target(platform="gpu", topology="1x1x1", description=_H100),
}
"""By name."""
