"""What a job on several devices is, whatever starts it.

A definition says what runs (an experiment, a preset, a seed), on what (hosts, devices,
a mesh), where its results go, and, for each target, what only that target needs.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Literal, get_args

from jaxrobust.arguments import require, require_choice, require_count
from jaxrobust.training import MeshConfig

__all__ = ["Definition", "Kubernetes", "Slurm", "Target", "Tpu"]

Target = Literal["local", "slurm", "kubernetes", "tpu"]
TARGETS: tuple[Target, ...] = get_args(Target)

_REMEDY = "correct the definition"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slurm:
    """What only SLURM needs; None leaves it to the cluster."""

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
    cpus_per_host: int | None = None
    memory_per_host: str | None = None
    """Such as 64G."""
    hosts_per_node: int = 1
    """Processes on one machine; more than one where each has a single device."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kubernetes:
    """What only Kubernetes (with the JobSet controller) needs."""

    image: str
    """Made with launch/Dockerfile."""
    volume_claim: str
    """Persistent volume claim that all pods can write (ReadWriteMany)."""
    mount_path: str = "/data"
    """Where the volume is seen; the work directory lies below it."""
    checkout: str = "/app"
    """Where the image has the code."""
    namespace: str | None = None
    service_account: str | None = None
    accelerator: str = "nvidia.com/gpu"
    """Resource of which each pod gets devices_per_host."""
    node_selector: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Labels of the nodes, such as the type of accelerator."""
    cpus_per_host: int | None = None
    memory_per_host: str | None = None
    """Such as 64Gi."""
    stop_seconds: int = 180
    """Time that a pod has to save and stop when it is told to go."""
    port: int = 12345
    """Of the coordinator."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tpu:
    """What only a slice of a Cloud TPU pod needs."""

    zone: str
    accelerator_type: str
    """Such as v5litepod-16: it decides how many hosts there are."""
    version: str
    """Of the software on the virtual machines, such as v2-alpha-tpuv5-lite."""
    checkout: str
    """Where the code is on every host, on a disk that is there when it starts."""
    project: str | None = None
    is_spot: bool = True
    """Cheaper, and may be taken away at any time; the job goes on in a new slice."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Definition:
    """One job.

    Raises:
        ValueError: for values out of range, and for a mesh or a batch that does not fit
            the devices; the message names those that would.
    """

    name: str
    """Lower-case letters, digits and hyphens, at most 40."""
    experiment: str
    """PAPER/ITEM, such as large_perturbations/sweep."""
    preset: str
    seed: int = 0
    hosts: int = 1
    """Processes; each has devices of its own."""
    devices_per_host: int = 1
    mesh: MeshConfig = MeshConfig()
    """Its product is the number of all devices."""
    batch_size_per_host: int | None = None
    """Images per step; by default the batch of the preset is split."""
    workdir: str
    """Checkpoints and results; on storage that all hosts share. The same directory goes
    on where it stopped, on any number of hosts. A relative path begins in the code's
    directory, on Kubernetes at the volume."""
    start_from: tuple[str, ...] = ()
    """Runs that the preset starts from; refused before submission if one is missing."""
    parts: int = 1
    """Jobs that a grid larger than one allocation is cut into; the experiment is run
    once more without parts when all are done."""
    max_restarts: int = 3
    """Fresh starts after failures; interruptions with the state saved do not count."""
    simulate_devices: bool = False
    """Use CPU cores as devices_per_host devices, to try a job without accelerators."""
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Further variables of the job."""
    python: str = "python"
    """Interpreter with jaxrobust, as seen on the hosts."""
    slurm: Slurm = Slurm()
    kubernetes: Kubernetes | None = None
    tpu: Tpu | None = None

    def __post_init__(self) -> None:
        """Check everything that needs no look at the machine."""
        label = r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?"
        rule = "lower-case letters, digits and hyphens, up to 40"
        _require_match("name", self.name, label, rule)
        item = r"[a-z]\w*/[a-z]\w*"
        _require_match("experiment", self.experiment, item, "PAPER/ITEM")
        for field in ("hosts", "devices_per_host", "parts"):
            require_count(field, getattr(self, field), _REMEDY)
        for field in ("seed", "max_restarts"):
            require_count(field, getattr(self, field), _REMEDY, least=0)
        for name in self.environment:
            rule = "names of letters, digits and _"
            _require_match("environment", name, r"[A-Za-z_]\w*", rule)
        _refuse_control_characters("", dataclasses.asdict(self))
        remedy = "mount the bucket on every host and name the mounted directory"
        is_address = "://" in self.workdir
        require(not is_address, "workdir", "a directory", self.workdir, remedy)
        self.mesh.check_devices(self.num_devices, is_exact=True)
        if self.batch_size_per_host is not None:
            require_count("batch_size_per_host", self.batch_size_per_host, _REMEDY)
            self.check_batch(self.batch_size_per_host * self.hosts)
        self._check_targets()

    @property
    def num_devices(self) -> int:
        """Of all hosts."""
        return self.hosts * self.devices_per_host

    @property
    def batch_size(self) -> int | None:
        """Of all hosts; None for that of the preset."""
        if self.batch_size_per_host is None:
            return None
        return self.batch_size_per_host * self.hosts

    def check_batch(self, batch_size: int) -> None:
        """Refuse a batch of all hosts that the data axis does not divide.

        Raises:
            ValueError: with the nearest sizes that would do.
        """
        self.mesh.check_batch_size(batch_size)

    def _check_targets(self) -> None:
        shared = self.slurm.hosts_per_node
        require_count("slurm.hosts_per_node", shared, _REMEDY)
        require(
            self.hosts % shared == 0,
            "slurm.hosts_per_node",
            f"a divisor of `hosts` ({self.hosts})",
            shared,
            "a node takes as many processes as every other",
        )
        require(
            shared == 1 or self.devices_per_host == 1 or self.simulate_devices,
            "slurm.hosts_per_node",
            f"1 if a process has several devices ({self.devices_per_host})",
            shared,
            "use one process per node, or one device per process",
        )
        times = {"slurm.stop_seconds": self.slurm.stop_seconds}
        if self.kubernetes:
            times["kubernetes.stop_seconds"] = self.kubernetes.stop_seconds
        for field, seconds in times.items():
            require_count(field, seconds, _REMEDY)

    def check_target(self, target: str) -> None:
        """Refuse a target that is unknown, or that the definition does not fit.

        Raises:
            ValueError: with what is missing.
        """
        require_choice("target", target, TARGETS)
        settings = getattr(self, target, self)
        require(
            settings is not None,
            target,
            f"set in the definition {self.name!r} to launch it there",
            settings,
            f"give it a {target.capitalize()}(...)",
        )
        require(
            target != "local" or self.hosts == 1 or self.simulate_devices,
            "hosts",
            "1 on one machine unless devices are simulated",
            self.hosts,
            "one process uses all devices of a machine",
        )
        require(
            target != "slurm" or "\\" not in self.workdir,
            "workdir",
            "without a backslash on slurm",
            self.workdir,
            "SLURM takes it out of the name of the log, so rename the directory",
        )
        if target == "kubernetes" and self.kubernetes:
            place = self.kubernetes.mount_path
            for field, path in [
                ("workdir", self.workdir),
                *(("start_from", each) for each in self.start_from),
            ]:
                directory = PurePosixPath(place, path)
                require(
                    directory.is_relative_to(place) and ".." not in directory.parts,
                    field,
                    f"below the volume at {place} on kubernetes",
                    path,
                    "only that is kept and shared",
                )

    def root(self, target: Target, directory: str) -> str:
        """Where relative paths begin, as the hosts see it.

        Args:
            target: one that the definition fits.
            directory: of the code on this machine.
        """
        if target == "kubernetes" and self.kubernetes:
            return self.kubernetes.mount_path
        if target == "tpu" and self.tpu:
            return self.tpu.checkout
        return directory


def _require_match(field: str, value: str, pattern: str, rule: str) -> None:
    is_match = re.fullmatch(pattern, value, re.ASCII) is not None
    require(is_match, field, rule, value, "rename it")


def _refuse_control_characters(field: str, value: object) -> None:
    """No line of a script may be broken by a value, however it is quoted."""
    if isinstance(value, Mapping):
        for name, each in value.items():
            _refuse_control_characters(f"{field}.{name}".lstrip("."), each)
    elif isinstance(value, tuple):
        for each in value:
            _refuse_control_characters(field, each)
    elif isinstance(value, str):
        rule = "one line of printable characters"
        require(value.isprintable(), field, rule, value, "take out the others")
