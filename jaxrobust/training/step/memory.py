"""How much memory there is for members and examples."""

import math
import os
from pathlib import Path

import jax

from jaxrobust.hosts.together import agree

__all__ = ["device_memory"]


def device_memory() -> int | None:
    """Bytes that every device, or CPU's machine, has free; None where nobody knows.

    All processes of a job must call this: they have to come to the same conclusions.
    """
    free = _own_memory()
    least = -agree(-math.inf if free is None else -free)[0]
    return None if math.isinf(least) else int(least)


def _own_memory() -> int | None:
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    free: list[int] = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        table = {line.split(":")[0]: line.split()[1] for line in lines}
        free.append(1024 * int(table["MemAvailable"]))
    except (OSError, KeyError):
        names = os.sysconf_names
        if "SC_AVPHYS_PAGES" in names:
            free.append(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    try:  # a container may have less than its machine
        group = Path("/sys/fs/cgroup")
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
        if limit != "max":
            free.append(int(limit) - used)
    except (OSError, ValueError):
        pass
    return min(free) if free else None
