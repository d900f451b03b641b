"""How many items a bucket has, where its size is not given.

Sizes follow from the work and from the kind of device, never from a measurement:
measured ones would differ from run to run, and with them the rounding of matrix
products.
"""

import numpy as np

__all__ = ["bucket_size", "most_memory"]

_SECONDS = 5.0
"""What a bucket shall take about."""

_PEAKS = {
    "TPU v6": 918e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v4": 275e12,
    "H200": 495e12,
    "H100": 495e12,
    "A100": 156e12,
}
"""Operations a second of kinds of devices at best, by a part of the name; the first
counts. Of the products that jax makes of float32 matrices by default: in bfloat16 on
a TPU ("Peak compute per chip (bf16)", cloud.google.com/tpu/docs/v4, v5e, v5p and v6e),
in TF32 on a GPU, without sparsity (NVIDIA's data sheets of A100, H100 and H200 SXM;
those of the last two name twice as much, with sparsity)."""

_SHARE = 0.05
"""Of the peak, that a small network attains, roughly."""

_SPEED = {"cpu": 2e11, "gpu": 1e13, "tpu": 1e13}
"""Operations a second that are expected of other kinds, by platform. Of all CPUs the
same, whatever their cores: so the numbers are the same, too."""

_LARGEST = {"cpu": 256, "gpu": 2048, "tpu": 512}
"""On a TPU v5e what PGD on 512 MNIST images works with stays on the chip, by estimates
of its compiler (`benchmarks/compiled`, v5e-buckets): of 128 or 2,048 images each takes
more cycles."""

_MEMORY = {"cpu": 3 << 30, "gpu": 8 << 30, "tpu": 4 << 30}
"""Bytes that a bucket of bounds may take, by platform."""


def _speed(platform: str, kind: str) -> float:
    for name, peak in _PEAKS.items():
        if name in kind:
            return _SHARE * peak
    return _SPEED.get(platform, 1e10)


def bucket_size(
    num_passes: int, operations: float, platform: str, kind: str = ""
) -> int:
    """A power of two of items that takes some seconds, whatever the machine's mood.

    Args:
        num_passes: forward passes of an attack on one item; 0 if unknown.
        operations: of a forward pass of one image.
        platform: "cpu", "gpu" or "tpu", as jax calls it.
        kind: of the device, as jax calls it.
    """
    wanted = _speed(platform, kind) * _SECONDS / (max(num_passes, 1) * operations)
    wanted = min(max(wanted, 1.0), _LARGEST.get(platform, 256))
    return 1 << int(np.log2(wanted))


def most_memory(platform: str) -> int:
    """Bytes that a bucket may take whose size is chosen by its memory.

    Args:
        platform: "cpu", "gpu" or "tpu", as jax calls it.
    """
    return _MEMORY.get(platform, 3 << 30)
