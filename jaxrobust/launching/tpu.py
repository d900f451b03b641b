"""What only a slice of a Cloud TPU pod needs of a job."""

import dataclasses
from pathlib import PurePosixPath

from jaxrobust.arguments import require, require_count
from jaxrobust.launching.values import (
    REMEDY,
    require_match,
    require_options,
    require_words,
)

__all__ = ["DataDisk", "Tpu"]

KNOWN = {
    **{name: f"tpu.{name}" for name in ("zone", "project", "version", "network")},
    "accelerator-type": "tpu.accelerator_type",
    "spot": "tpu.is_spot",
    "preemptible": "tpu.is_spot",
    "data-disk": "tpu.data_disk",
    "metadata-from-file": "tpu.startup_script",
    "subnetwork": "tpu.subnetwork",
    "service-account": "tpu.service_account",
    "async": "the script, which waits for the slice",
    "quiet": "the script, which nobody answers",
}
"""Options of gcloud that are rendered, and the fields that decide them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataDisk:
    """A disk that every host of a slice mounts: of several hosts, each can only read.

    Raises:
        ValueError: if it is not named in full.
    """

    source: str
    """In full: projects/PROJECT/zones/ZONE/disks/NAME."""
    mount_path: str
    """Such as /mnt/shared."""
    device: str = "/dev/sdb"
    """As `lsblk` calls it on a host."""

    def __post_init__(self) -> None:
        """Check what needs no look at the job."""
        part = "[A-Za-z0-9.:_-]+"
        require_match(
            "tpu.data_disk.source",
            self.source,
            f"projects/{part}/(zones|regions)/{part}/disks/{part}",
            "projects/PROJECT/zones/ZONE/disks/NAME",
            "name it in full",
        )
        for field in ("mount_path", "device"):
            path = getattr(self, field)
            is_absolute = PurePosixPath(path).is_absolute()
            name = f"tpu.data_disk.{field}"
            require(is_absolute, name, "an absolute path", path, REMEDY)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tpu:
    """What only a slice of a Cloud TPU pod needs.

    Raises:
        ValueError: for values out of range, or if no host would get the checkout.
    """

    zone: str
    accelerator_type: str
    """Such as v5litepod-16: it decides how many hosts there are."""
    version: str
    """Of the software on the virtual machines, such as v2-alpha-tpuv5-lite."""
    checkout: str
    """Where the code is on every host, brought there by the data disk or the start-up
    script."""
    data_disk: DataDisk | None = None
    """Mounted on every host before the program starts."""
    startup_script: str | None = None
    """A file on this machine that every host runs as root when it boots: it may mount
    what all hosts share, or clone the code. The program starts as soon as the checkout
    is there, which should therefore come last."""
    start_seconds: int = 600
    """Time from the first login until the checkout must be there."""
    project: str | None = None
    network: str | None = None
    subnetwork: str | None = None
    service_account: str | None = None
    """Whose rights the programs on the hosts have."""
    is_spot: bool = True
    """Cheaper, and may be taken away at any time; the job goes on in a new slice."""
    options: tuple[str, ...] = ()
    """Further options of `gcloud compute tpus tpu-vm create`, such as
    "--internal-ips"."""
    ssh_options: tuple[str, ...] = ()
    """Further options of `gcloud compute tpus tpu-vm ssh`, such as "--internal-ip"."""
    setup: tuple[str, ...] = ()
    """Lines of bash before the program, in the checkout, on every host, such as "source
    .venv/bin/activate"."""

    def __post_init__(self) -> None:
        """Check what needs no look at the job."""
        require_options("tpu.options", self.options, KNOWN)
        ssh = {
            "command": "command",
            "worker": "hosts",
            **{name: KNOWN[name] for name in ("zone", "project", "quiet")},
        }
        require_options("tpu.ssh_options", self.ssh_options, ssh)
        require_words("tpu.setup", self.setup)
        require_count("tpu.start_seconds", self.start_seconds, REMEDY)
        is_absolute = PurePosixPath(self.checkout).is_absolute()
        name, rule = "tpu.checkout", "an absolute path"
        require(is_absolute, name, rule, self.checkout, REMEDY)
        require(
            self.data_disk is not None or self.startup_script is not None,
            "tpu.checkout",
            "brought to the hosts of a new slice, which have nothing",
            self.checkout,
            "give a data_disk that has it, or a startup_script that brings it",
        )
        require(
            "," not in (self.startup_script or ""),
            "tpu.startup_script",
            "a path without a comma, at which gcloud would cut it",
            self.startup_script,
            "rename the file",
        )

    def check_path(self, path: str, hosts: int) -> None:
        """Refuse a work directory on a disk that the hosts can only read.

        Args:
            path: as the hosts see it, absolute.
            hosts: of the job.

        Raises:
            ValueError: with the disk.
        """
        disk = self.data_disk
        if disk is None or hosts == 1:
            return
        require(
            not PurePosixPath(path).is_relative_to(disk.mount_path),
            "workdir",
            f"outside the data disk at {disk.mount_path}, which several hosts can only "
            "read",
            path,
            "name a directory of a file system that the start-up script mounts on all "
            "hosts, such as Filestore",
        )
