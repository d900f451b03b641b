"""What a job on several devices is, whatever starts it.

A definition says what runs (any command, experiments being one form of it), on what
(hosts, devices, a mesh), where its results go, and, for each target, what only that
target needs.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Literal, get_args

from jaxrobust.arguments import require, require_choice, require_count
from jaxrobust.launching.commands import check_command, filled
from jaxrobust.launching.kubernetes import Kubernetes
from jaxrobust.launching.slurm import Slurm
from jaxrobust.launching.tpu import Tpu
from jaxrobust.launching.values import (
    REMEDY,
    refuse_control_characters,
    require_match,
    require_words,
)
from jaxrobust.training import MeshConfig

__all__ = ["GPU_FLAGS", "TARGETS", "Definition", "Target"]

GPU_FLAGS = ("--xla_gpu_enable_latency_hiding_scheduler=true",)
"""For several GPUs: what they send each other goes on while they compute. Recommended
by JAX ("GPU performance tips") and set in NVIDIA's containers of JAX."""

Target = Literal["local", "slurm", "kubernetes", "tpu"]
TARGETS: tuple[Target, ...] = get_args(Target)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Definition:
    """One job.

    Raises:
        ValueError: for values out of range, and for a mesh that does not fit the
            devices; the message names those that would.
    """

    name: str
    """Lower-case letters, digits and hyphens, at most 40."""
    command: tuple[str, ...]
    """Words of what every process runs, such as ("jaxrobust", "train", ...) or those of
    `experiment(...)`; no shell reads them. In a word, {workdir}, {hosts}, {mesh.member}
    and {mesh.data} stand for what is said here. The same command must go on where it
    stopped: `jaxrobust train` and `sweep` do with --resume."""
    workdir: str
    """Checkpoints and results; on storage that all hosts share. The same directory goes
    on where it stopped, on any number of hosts. A relative path begins in the code's
    directory, on Kubernetes at the volume."""
    hosts: int = 1
    """Processes; each has devices of its own."""
    devices_per_host: int = 1
    mesh: MeshConfig | None = None
    """Its product is the number of all devices; by default all share each batch. Left
    out if the command does not name it."""
    start_from: tuple[str, ...] = ()
    """Directories that the command starts from; refused before submission if one is
    missing."""
    parts: int = 1
    """Jobs that a grid larger than one allocation is cut into: `--part I/PARTS` is
    added to the command of each, from 0, and it is run once more without when all are
    done, as experiments need it."""
    max_restarts: int = 3
    """Fresh starts after failures; interruptions with the state saved do not count."""
    simulate_devices: bool = False
    """Use CPU cores as devices_per_host devices, to try a job without accelerators."""
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Further variables of the job."""
    xla_flags: tuple[str, ...] = ()
    """Of the compiler, written into XLA_FLAGS of the job, such as `GPU_FLAGS`."""
    is_deterministic: bool = False
    """Have GPUs compute the same numbers every time, at some cost in speed: adds
    --xla_gpu_deterministic_ops=true to the flags of the compiler. CPUs and TPUs do."""
    slurm: Slurm = Slurm()
    kubernetes: Kubernetes | None = None
    tpu: Tpu | None = None

    def __post_init__(self) -> None:
        """Check everything that needs no look at the machine."""
        label = r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?"
        rule = "lower-case letters, digits and hyphens, up to 40"
        require_match("name", self.name, label, rule)
        names = check_command(self.command)
        for field in ("hosts", "devices_per_host", "parts"):
            require_count(field, getattr(self, field), REMEDY)
        require_count("max_restarts", self.max_restarts, REMEDY, least=0)
        require_words("start_from", self.start_from)
        for name in self.environment:
            rule = "names of letters, digits and _"
            require_match("environment", name, r"[A-Za-z_]\w*", rule)
        for flag in self.xla_flags:
            require_match(
                "xla_flags", flag, r"--xla_\w+(=\S+)?", "flags --xla_NAME=VALUE"
            )
        require(
            not self.all_xla_flags or "XLA_FLAGS" not in self.environment,
            "environment",
            "without XLA_FLAGS where `xla_flags` or `is_deterministic` says them",
            self.environment.get("XLA_FLAGS"),
            "say all of them by `xla_flags`",
        )
        refuse_control_characters("", dataclasses.asdict(self))
        remedy = "mount the bucket on every host and name the mounted directory"
        is_address = "://" in self.workdir
        require(not is_address, "workdir", "a directory", self.workdir, remedy)
        require(
            self.mesh is None or bool(names & {"mesh.member", "mesh.data"}),
            "mesh",
            "left out where no word of the command names it",
            self.mesh,
            'add "--mesh.member", "{mesh.member}", "--mesh.data", "{mesh.data}"',
        )
        self.full_mesh.check_devices(self.num_devices, is_exact=True)
        self.slurm.check(self.hosts, self.devices_per_host, self.simulate_devices)

    @property
    def num_devices(self) -> int:
        """Of all hosts."""
        return self.hosts * self.devices_per_host

    @property
    def all_xla_flags(self) -> tuple[str, ...]:
        """Flags of the compiler, with that of determinism."""
        same = ("--xla_gpu_deterministic_ops=true",) if self.is_deterministic else ()
        return self.xla_flags + same

    @property
    def full_mesh(self) -> MeshConfig:
        """The mesh, also where it is left out."""
        return self.mesh or MeshConfig(data=self.num_devices)

    def words(self, workdir: str, part: int | None = None) -> list[str]:
        """What each process runs; the same command goes on where it stopped.

        Args:
            workdir: as the process sees it.
            part: in [0, parts); None for the whole.
        """
        values = {
            "workdir": workdir,
            "hosts": str(self.hosts),
            "mesh.member": str(self.full_mesh.member),
            "mesh.data": str(self.full_mesh.data),
        }
        words = filled(self.command, values)
        return words if part is None else [*words, "--part", f"{part}/{self.parts}"]

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
            self.kubernetes.check_path("workdir", self.workdir)
            for path in self.start_from:
                self.kubernetes.check_path("start_from", path)
        if target == "tpu" and self.tpu:
            path = str(PurePosixPath(self.tpu.checkout, self.workdir))
            self.tpu.check_path(path, self.hosts)

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
