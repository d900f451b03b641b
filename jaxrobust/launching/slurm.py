"""What only SLURM needs of a job."""

import dataclasses

from jaxrobust.arguments import require, require_count
from jaxrobust.launching.values import REMEDY, require_options, require_words

__all__ = ["Slurm"]

KNOWN = {
    "job-name": "name",
    "nodes": "hosts and slurm.hosts_per_node",
    "ntasks": "hosts",
    "ntasks-per-node": "slurm.hosts_per_node",
    "time": "slurm.time_limit",
    "gpus-per-node": "devices_per_host and slurm.gpu_type",
    "gres": "slurm.gres",
    "cpus-per-task": "slurm.cpus_per_host",
    "mem": "slurm.memory_per_host",
    "partition": "slurm.partition",
    "account": "slurm.account",
    "qos": "slurm.qos",
    "constraint": "slurm.constraint",
    "array": "parts",
    "output": "workdir",
    "signal": "slurm.stop_seconds",
    **dict.fromkeys(("requeue", "no-requeue"), "max_restarts"),
    "open-mode": "the log, in which a job that starts again goes on",
}
"""Options of sbatch that are rendered, and the fields that decide them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slurm:
    """What only SLURM needs; None leaves it to the cluster.

    Raises:
        ValueError: for values out of range.
    """

    time_limit: str = "24:00:00"
    """Of one go, as for sbatch; a job that reaches it saves, and goes on in a next."""
    stop_seconds: int = 180
    """Time before the limit at which the job is told to save and stop."""
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gpu_type: str | None = None
    """Such as a100; by default any."""
    gres: str | None = None
    """Of a node, such as gpu:a100:4, where the cluster does not know --gpus-per-node,
    which it replaces. Neither is asked for when devices are simulated."""
    cpus_per_host: int | None = None
    memory_per_host: str | None = None
    """Such as 64G; of a node."""
    hosts_per_node: int = 1
    """Processes on one machine; more than one where each has a single device."""
    options: tuple[str, ...] = ()
    """Further options of sbatch, an #SBATCH line each, such as "--mail-type=FAIL" or
    "--exclude=node[07-08]"; their values are quoted."""
    setup: tuple[str, ...] = ()
    """Lines of bash before the program, in the job's directory, such as "module load
    cuda" or "source .venv/bin/activate"; the first that fails ends the job."""
    srun_options: tuple[str, ...] = ()
    """Further options of srun, such as "--container-image=image.sqsh"."""
    container: tuple[str, ...] = ()
    """Words before the command, such as ("apptainer", "exec", "--nv", "image.sif")."""

    def __post_init__(self) -> None:
        """Check what needs no look at the job."""
        require_count("slurm.hosts_per_node", self.hosts_per_node, REMEDY)
        require_count("slurm.stop_seconds", self.stop_seconds, REMEDY)
        require(
            self.gres is None or self.gpu_type is None,
            "slurm.gpu_type",
            f"left out beside slurm.gres ({self.gres})",
            self.gpu_type,
            "name the type there, as in gpu:a100:4",
        )
        require_options("slurm.options", self.options, KNOWN)
        own = {
            "kill-on-bad-exit": "the script: processes stop each other",
            "wait": "the script: whatever is left is killed a minute after the first",
        }
        require_options("slurm.srun_options", self.srun_options, own)
        require_words("slurm.setup", self.setup)
        require_words("slurm.container", self.container)

    def check(self, hosts: int, devices_per_host: int, simulate_devices: bool) -> None:
        """Refuse nodes that do not fit the job.

        Raises:
            ValueError: with what would fit.
        """
        require(
            hosts % self.hosts_per_node == 0,
            "slurm.hosts_per_node",
            f"a divisor of `hosts` ({hosts})",
            self.hosts_per_node,
            "a node takes as many processes as every other",
        )
        require(
            self.hosts_per_node == 1 or devices_per_host == 1 or simulate_devices,
            "slurm.hosts_per_node",
            f"1 if a process has several devices ({devices_per_host})",
            self.hosts_per_node,
            "use one process per node, or one device per process",
        )
