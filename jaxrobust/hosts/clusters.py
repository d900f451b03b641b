"""Which process of how many this is, as options, variables and launchers say it."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Literal, NamedTuple

from jaxrobust.arguments import require, require_choice, require_count

__all__ = ["Cluster", "HostOptions", "Source", "cluster_from"]


Source = Literal["explicit", "slurm", "ompi", "tpu"]

COORDINATOR = "JAXROBUST_COORDINATOR"
NUM_PROCESSES = "JAXROBUST_NUM_PROCESSES"
PROCESS_ID = "JAXROBUST_PROCESS_ID"
CLUSTER = "JAXROBUST_CLUSTER"


# Launchers that say how many processes there are but not where the first one is:
# for each the variables of their number and of the number of this one.
UNKNOWN_LAUNCHERS = {
    "jax.distributed": ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"),
    "Kubeflow": ("NUM_PROCESSES", "PROCESS_ID"),
    "MPICH or Intel MPI": ("PMI_SIZE", "PMI_RANK"),
    "MVAPICH": ("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"),
    "jsrun": ("JSM_NAMESPACE_SIZE", "JSM_NAMESPACE_RANK"),
    "Flux": ("FLUX_JOB_SIZE", "FLUX_TASK_RANK"),
    "Horovod": ("HOROVOD_SIZE", "HOROVOD_RANK"),
    "torchrun": ("WORLD_SIZE", "RANK"),
}
# Names that may mean something else, unless both are there.
ANYBODYS = ("NUM_PROCESSES", "WORLD_SIZE")
JAX_COORDINATOR = "JAX_COORDINATOR_ADDRESS"
VISIBLE = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")


@dataclasses.dataclass(frozen=True, kw_only=True)
class HostOptions:
    """Several processes, when no cluster manager says so; variables do the same."""

    coordinator: str | None = None
    """host:port of process 0; by default $JAXROBUST_COORDINATOR."""
    num_processes: int | None = None
    """Of the job; by default $JAXROBUST_NUM_PROCESSES."""
    process_id: int | None = None
    """Of this process, from 0; by default $JAXROBUST_PROCESS_ID or, in a Kubernetes
    Indexed Job, $JOB_COMPLETION_INDEX."""


class Cluster(NamedTuple):
    """What a process must know to join the others.

    Attributes:
        source: what said so.
        coordinator: `host:port` of process 0; None if jax finds it.
        num_processes: at least 2; None if jax finds it.
        process_id: in [0, num_processes); None if jax finds it.
        local_device_ids: the GPUs of this process; None for all that it sees.
    """

    source: Source
    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    local_device_ids: tuple[int, ...] | None = None


def cluster_from(
    environment: Mapping[str, str], options: HostOptions = HostOptions()
) -> Cluster | None:
    """The job that this process is part of.

    In this order: `options` and the variables JAXROBUST_COORDINATOR, _NUM_PROCESSES and
    _PROCESS_ID; Open MPI (mpirun); SLURM (srun; the batch script itself is one process,
    however many tasks its allocation has); hosts of a TPU pod. JAXROBUST_CLUSTER says
    `none` (one process, whatever the surroundings), or names `slurm`, `ompi` or `tpu`,
    which is then required to be there. Without it, the variables of any other launcher
    that say more than one process are refused: each would believe that it is alone.

    Args:
        environment: variables of the process.
        options: take precedence over the variables.

    Returns:
        None for a job of one process.

    Raises:
        ValueError: for settings that are incomplete or contradict each other.
    """
    explicit = _explicit(environment, options)
    if explicit is not None:
        return explicit if explicit.num_processes != 1 else None
    wanted = environment.get(CLUSTER, "auto")
    require_choice(CLUSTER, wanted, ("auto", "none", "slurm", "ompi", "tpu"))
    if wanted == "none":
        return None
    found = {"ompi": _ompi, "slurm": _slurm, "tpu": _tpu}
    if wanted != "auto":
        cluster = found[wanted](environment)
        if cluster is None and wanted == "tpu":
            # The hosts of a TPU virtual machine are in its metadata, which jax reads.
            return Cluster("tpu")
        tool = "srun" if wanted == "slurm" else "mpirun"
        require(
            cluster is not None,
            CLUSTER,
            "the launcher of this process",
            wanted,
            f"its variables are not set, so start the process with {tool}",
        )
    else:
        # mpirun inside a SLURM allocation sets the variables of both; those of SLURM
        # are then about mpirun's daemons. A TPU pod may be managed by anything.
        clusters = (find(environment) for find in found.values())
        cluster = next((each for each in clusters if each is not None), None)
        _refuse_unknown(environment, cluster)
    return cluster if cluster is None or cluster.num_processes != 1 else None


def _refuse_unknown(environment: Mapping[str, str], cluster: Cluster | None) -> None:
    """Refuse to be alone, or one of few, where another launcher says there are more.

    One that is known may have started another one, such as srun the daemons of mpiexec.
    """
    known = 1 if cluster is None else cluster.num_processes
    if known is None:  # jax finds out, on a TPU pod
        return
    for launcher, (number, own) in UNKNOWN_LAUNCHERS.items():
        text = environment.get(number, "")
        is_count = text.isascii() and text.isdigit()
        if (number in ANYBODYS and own not in environment) or not is_count:
            continue
        require(
            int(text) <= known,
            COORDINATOR,
            f"set in a process of a job of {launcher}",
            f"{number}={text}",
            f"set it to host:port of process 0, {NUM_PROCESSES} to ${number} and "
            f"{PROCESS_ID} to ${own}; or set {CLUSTER}=none, if the processes have "
            "nothing to do with each other",
        )
    address = environment.get(JAX_COORDINATOR)
    is_alone = environment.get("JAX_NUM_PROCESSES") == "1"
    require(
        not address or is_alone or cluster is not None,
        COORDINATOR,
        "set in a process of several",
        f"{JAX_COORDINATOR}={address}",
        f"set it to that, {NUM_PROCESSES} and {PROCESS_ID} to the number of processes "
        f"and of this one; or set {CLUSTER}=none for a single process",
    )


def _explicit(environment: Mapping[str, str], options: HostOptions) -> Cluster | None:
    coordinator = options.coordinator or environment.get(COORDINATOR) or None
    num_processes = options.num_processes
    if num_processes is None:
        num_processes = integer(environment, NUM_PROCESSES)
    process_id = options.process_id
    if process_id is None:
        process_id = integer(environment, PROCESS_ID)
    settings = (coordinator, num_processes, process_id)
    if not any(setting is not None for setting in settings):
        return None
    if process_id is None:
        process_id = integer(environment, "JOB_COMPLETION_INDEX")
    if num_processes == 1 and not process_id:
        return Cluster("explicit", num_processes=1, process_id=0)
    settings = {
        COORDINATOR: coordinator,
        NUM_PROCESSES: num_processes,
        PROCESS_ID: process_id,
    }
    missing = [name for name, setting in settings.items() if setting is None]
    given = [f"{name}={each}" for name, each in settings.items() if each is not None]
    remedy = "set all three, or none for a single process"
    require(not missing, "`, `".join(missing), "set too", ", ".join(given), remedy)
    assert coordinator and num_processes is not None and process_id is not None
    _check_address(coordinator)
    require_count(NUM_PROCESSES, num_processes, "it counts all processes of the job")
    _check_process_id(PROCESS_ID, process_id, num_processes)
    return Cluster("explicit", coordinator, num_processes, process_id)


def integer(environment: Mapping[str, str], name: str) -> int | None:
    """A whole number from a variable; None if it is unset or empty."""
    text = environment.get(name)
    if not text:
        return None
    is_number = text.isascii() and text.isdigit()
    require(is_number, name, "a whole number", text, "correct or unset it")
    return int(text)


def _required_integer(environment: Mapping[str, str], name: str, launcher: str) -> int:
    value = integer(environment, name)
    if value is None:
        raise ValueError(
            f"`{name}` must be set in a process started by {launcher}, got None; "
            f"start it with {launcher}, or set {CLUSTER}=none for a single process."
        )
    return value


def _check_address(address: str) -> None:
    host, _, port = address.rpartition(":")
    is_port = port.isascii() and port.isdigit() and 0 < int(port) < 65536
    remedy = "name the host of process 0 and a free port on it, such as node1:12345"
    require(bool(host) and is_port, COORDINATOR, "host:port", address, remedy)


def _check_process_id(name: str, process_id: int, num_processes: int) -> None:
    remedy = "count the processes from 0"
    require_count(name, process_id, remedy, least=0, most=num_processes - 1)


def _ompi(environment: Mapping[str, str]) -> Cluster | None:
    if "OMPI_COMM_WORLD_SIZE" not in environment:
        return None
    size = _required_integer(environment, "OMPI_COMM_WORLD_SIZE", "mpirun")
    rank = _required_integer(environment, "OMPI_COMM_WORLD_RANK", "mpirun")
    _check_process_id("OMPI_COMM_WORLD_RANK", rank, size)
    require(
        size == 1 or "OMPI_MCA_orte_hnp_uri" in environment,
        COORDINATOR,
        "set with this version of Open MPI",
        None,
        "it does not say where its first process is, so set it to host:port, and "
        f"{NUM_PROCESSES} and {PROCESS_ID} to $OMPI_COMM_WORLD_SIZE and _RANK",
    )
    tasks_here = integer(environment, "OMPI_COMM_WORLD_LOCAL_SIZE") or 1
    local_id = integer(environment, "OMPI_COMM_WORLD_LOCAL_RANK") or 0
    devices = _own_devices(environment, tasks_here, local_id)
    # Where process 0 is, is in the address of mpirun, which jax knows how to read.
    return Cluster("ompi", None, size, rank, devices)


def _slurm(environment: Mapping[str, str]) -> Cluster | None:
    # Only srun sets the node list of a step. The batch script of an allocation of many
    # tasks has SLURM_NTASKS and SLURM_PROCID too, but is alone.
    if "SLURM_STEP_NODELIST" not in environment:
        return None
    size = integer(environment, "SLURM_STEP_NUM_TASKS")
    if size is None:
        size = _required_integer(environment, "SLURM_NTASKS", "srun")
    if size == 1:
        return Cluster("slurm", num_processes=1, process_id=0)
    rank = _required_integer(environment, "SLURM_PROCID", "srun")
    _check_process_id("SLURM_PROCID", rank, size)
    job = _required_integer(environment, "SLURM_JOB_ID", "srun")
    step = integer(environment, "SLURM_STEP_ID") or 0
    host = _first_host(environment["SLURM_STEP_NODELIST"])
    # Outside the range from which systems hand out ports by themselves (from 32768
    # up); jobs that share a node differ, and so do the steps of a job.
    port = 20000 + (job * 16 + step % 16) % 12000
    counts = re.findall(
        r"\d+(?![\d)])", environment.get("SLURM_STEP_TASKS_PER_NODE", "1")
    )
    tasks_here = max(map(int, counts), default=1)
    local_id = integer(environment, "SLURM_LOCALID") or 0
    devices = _own_devices(environment, tasks_here, local_id)
    return Cluster("slurm", f"{host}:{port}", size, rank, devices)


def _first_host(nodes: str) -> str:
    """The first of the hosts in a SLURM list such as `n[1-3,7],m2`."""
    # A comma ends the first name unless it is inside brackets.
    match = re.match(r"(?:\[[^\]]*\]|[^,\[\]])+", nodes)
    remedy = "start the process with srun"
    is_list = match is not None
    require(is_list, "SLURM_STEP_NODELIST", "a list of hosts", nodes, remedy)
    assert match
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", match[0])


def _own_devices(
    environment: Mapping[str, str], tasks_here: int, local_id: int
) -> tuple[int, ...] | None:
    """One GPU for each of several processes on a host; None for all there are.

    The launcher may have given each process a GPU of its own already.
    """
    visible = [environment.get(name, "") for name in VISIBLE]
    is_bound = any(each != "" and "," not in each for each in visible)
    chosen = "JAX_LOCAL_DEVICE_IDS" in environment
    return None if tasks_here == 1 or is_bound or chosen else (local_id,)


def _tpu(environment: Mapping[str, str]) -> Cluster | None:
    names = environment.get("TPU_PROCESS_ADDRESSES") or environment.get(
        "TPU_WORKER_HOSTNAMES", ""
    )
    slices = integer(environment, "MEGASCALE_NUM_SLICES") or 1
    # jax knows how the slices of a pod are numbered; here it matters only whether
    # there is more than one process.
    return Cluster("tpu") if names.count(",") or (names and slices > 1) else None
