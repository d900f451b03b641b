"""Which process of how many this is, and what happens when another one dies.

A job of several processes runs the same program in each; `initialize` finds the others
before jax computes anything. A process that dies takes its part of every array with it,
so the others stop too, with a message that says how to go on.
"""

import atexit
import ctypes
import dataclasses
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import jax

__all__ = [
    "Cluster",
    "HostLostError",
    "HostOptions",
    "Hosts",
    "cluster_from",
    "initialize",
    "is_loss",
    "is_primary",
    "leave",
    "lost_hosts_as_errors",
]

Source = Literal["explicit", "slurm", "ompi", "tpu"]

COORDINATOR = "JAXROBUST_COORDINATOR"
NUM_PROCESSES = "JAXROBUST_NUM_PROCESSES"
PROCESS_ID = "JAXROBUST_PROCESS_ID"
CLUSTER = "JAXROBUST_CLUSTER"
HEARTBEAT = "JAXROBUST_HEARTBEAT_SECONDS"
START = "JAXROBUST_START_SECONDS"

HOW_TO_GO_ON = (
    "the last checkpoint is kept; start the job again, on any number of hosts, to go on"
)


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


class HostLostError(RuntimeError):
    """Another process of the job stopped, or was never there."""


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


class Hosts(NamedTuple):
    """The place of this process in its job."""

    process_id: int = 0
    num_processes: int = 1
    source: Source | Literal["single"] = "single"


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
    _require(
        wanted in ("auto", "none", "slurm", "ompi", "tpu"),
        f"`{CLUSTER}` must be auto, none, slurm, ompi or tpu, got {wanted!r}; choose "
        "one of these.",
    )
    if wanted == "none":
        return None
    found = {"ompi": _ompi, "slurm": _slurm, "tpu": _tpu}
    if wanted != "auto":
        cluster = found[wanted](environment)
        if cluster is None and wanted == "tpu":
            # The hosts of a TPU virtual machine are in its metadata, which jax reads.
            return Cluster("tpu")
        _require(
            cluster is not None,
            f"`{CLUSTER}` must name the launcher of this process, got {wanted!r}, "
            "whose variables are not set; start the process with "
            f"{'srun' if wanted == 'slurm' else 'mpirun'}.",
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
        _require(
            int(text) <= known,
            f"`{COORDINATOR}` must be set in a process of a job of {launcher}, got "
            f"only {number}={text}; set it to host:port of process 0, {NUM_PROCESSES} "
            f"to ${number} and {PROCESS_ID} to ${own}; or set {CLUSTER}=none, if the "
            "processes have nothing to do with each other.",
        )
    address = environment.get(JAX_COORDINATOR)
    is_alone = environment.get("JAX_NUM_PROCESSES") == "1"
    _require(
        not address or is_alone or cluster is not None,
        f"`{COORDINATOR}` must be set in a process of several, got only "
        f"{JAX_COORDINATOR}={address}; set it to that, {NUM_PROCESSES} and "
        f"{PROCESS_ID} to the number of processes and of this one; or set "
        f"{CLUSTER}=none for a single process.",
    )


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _explicit(environment: Mapping[str, str], options: HostOptions) -> Cluster | None:
    coordinator = options.coordinator or environment.get(COORDINATOR) or None
    num_processes = options.num_processes
    if num_processes is None:
        num_processes = _integer(environment, NUM_PROCESSES)
    process_id = options.process_id
    if process_id is None:
        process_id = _integer(environment, PROCESS_ID)
    settings = (coordinator, num_processes, process_id)
    if not any(setting is not None for setting in settings):
        return None
    if process_id is None:
        process_id = _integer(environment, "JOB_COMPLETION_INDEX")
    if num_processes == 1 and not process_id:
        return Cluster("explicit", num_processes=1, process_id=0)
    settings = {
        COORDINATOR: coordinator,
        NUM_PROCESSES: num_processes,
        PROCESS_ID: process_id,
    }
    missing = [name for name, setting in settings.items() if setting is None]
    given = [f"{name}={each}" for name, each in settings.items() if each is not None]
    _require(
        not missing,
        f"`{'`, `'.join(missing)}` must be set too, got only {', '.join(given)}; set "
        "all three, or none for a single process.",
    )
    assert coordinator and num_processes is not None and process_id is not None
    _check_address(coordinator)
    _require(
        num_processes >= 1,
        f"`{NUM_PROCESSES}` must be at least 1, got {num_processes}; it counts all "
        "processes of the job.",
    )
    _check_process_id(PROCESS_ID, process_id, num_processes)
    return Cluster("explicit", coordinator, num_processes, process_id)


def _integer(environment: Mapping[str, str], name: str) -> int | None:
    """A whole number from a variable; None if it is unset or empty."""
    text = environment.get(name)
    if not text:
        return None
    _require(
        text.isascii() and text.isdigit(),
        f"`{name}` must be a whole number, got {text!r}; correct or unset it.",
    )
    return int(text)


def _required_integer(environment: Mapping[str, str], name: str, launcher: str) -> int:
    value = _integer(environment, name)
    if value is None:
        raise ValueError(
            f"`{name}` must be set in a process started by {launcher}, got None; "
            f"start it with {launcher}, or set {CLUSTER}=none for a single process."
        )
    return value


def _check_address(address: str) -> None:
    host, _, port = address.rpartition(":")
    is_port = port.isascii() and port.isdigit() and 0 < int(port) < 65536
    _require(
        bool(host) and is_port,
        f"`{COORDINATOR}` must be host:port, got {address!r}; name the host of process "
        "0 and a free port on it, such as node1:12345.",
    )


def _check_process_id(name: str, process_id: int, num_processes: int) -> None:
    _require(
        0 <= process_id < num_processes,
        f"`{name}` must be at least 0 and below the number of processes "
        f"({num_processes}), got {process_id}; count the processes from 0.",
    )


def _ompi(environment: Mapping[str, str]) -> Cluster | None:
    if "OMPI_COMM_WORLD_SIZE" not in environment:
        return None
    size = _required_integer(environment, "OMPI_COMM_WORLD_SIZE", "mpirun")
    rank = _required_integer(environment, "OMPI_COMM_WORLD_RANK", "mpirun")
    _check_process_id("OMPI_COMM_WORLD_RANK", rank, size)
    _require(
        size == 1 or "OMPI_MCA_orte_hnp_uri" in environment,
        f"`{COORDINATOR}` must be set with this version of Open MPI, got None: it does "
        "not say where its first process is; set it to host:port, and "
        f"{NUM_PROCESSES} and {PROCESS_ID} to $OMPI_COMM_WORLD_SIZE and _RANK.",
    )
    tasks_here = _integer(environment, "OMPI_COMM_WORLD_LOCAL_SIZE") or 1
    local_id = _integer(environment, "OMPI_COMM_WORLD_LOCAL_RANK") or 0
    devices = _own_devices(environment, tasks_here, local_id)
    # Where process 0 is, is in the address of mpirun, which jax knows how to read.
    return Cluster("ompi", None, size, rank, devices)


def _slurm(environment: Mapping[str, str]) -> Cluster | None:
    # Only srun sets the node list of a step. The batch script of an allocation of many
    # tasks has SLURM_NTASKS and SLURM_PROCID too, but is alone.
    if "SLURM_STEP_NODELIST" not in environment:
        return None
    size = _integer(environment, "SLURM_STEP_NUM_TASKS")
    if size is None:
        size = _required_integer(environment, "SLURM_NTASKS", "srun")
    if size == 1:
        return Cluster("slurm", num_processes=1, process_id=0)
    rank = _required_integer(environment, "SLURM_PROCID", "srun")
    _check_process_id("SLURM_PROCID", rank, size)
    job = _required_integer(environment, "SLURM_JOB_ID", "srun")
    step = _integer(environment, "SLURM_STEP_ID") or 0
    host = _first_host(environment["SLURM_STEP_NODELIST"])
    # Outside the range from which systems hand out ports by themselves (from 32768
    # up); jobs that share a node differ, and so do the steps of a job.
    port = 20000 + (job * 16 + step % 16) % 12000
    counts = re.findall(
        r"\d+(?![\d)])", environment.get("SLURM_STEP_TASKS_PER_NODE", "1")
    )
    tasks_here = max(map(int, counts), default=1)
    local_id = _integer(environment, "SLURM_LOCALID") or 0
    devices = _own_devices(environment, tasks_here, local_id)
    return Cluster("slurm", f"{host}:{port}", size, rank, devices)


def _first_host(nodes: str) -> str:
    """The first of the hosts in a SLURM list such as `n[1-3,7],m2`."""
    # A comma ends the first name unless it is inside brackets.
    match = re.match(r"(?:\[[^\]]*\]|[^,\[\]])+", nodes)
    _require(
        match is not None,
        f"`SLURM_STEP_NODELIST` must be a list of hosts, got {nodes!r}; start the "
        "process with srun.",
    )
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
    slices = _integer(environment, "MEGASCALE_NUM_SLICES") or 1
    # jax knows how the slices of a pod are numbered; here it matters only whether
    # there is more than one process.
    return Cluster("tpu") if names.count(",") or (names and slices > 1) else None


class _State:
    """What this module knows about its process."""

    hosts: Hosts | None = None
    # Set when a program ends by itself, so that its farewell is not taken for a loss.
    is_leaving = False
    has_left = threading.Event()
    # Set when the job is known to be broken, or this process is.
    is_lost = False
    exit_code = 1
    # Whether the main thread is telling already.
    is_reported = threading.Event()


def initialize(
    options: HostOptions = HostOptions(),
    *,
    environment: Mapping[str, str] | None = None,
) -> Hosts:
    """Join the other processes of the job; call it once, before jax computes anything.

    In a job of one process it does nothing, and a second call returns what the first
    one found. Otherwise the processes watch each other: when one has not been heard of
    for JAXROBUST_HEARTBEAT_SECONDS (default 30), the others stop, with a message and
    exit code 1, whatever they are doing. Processes that do not find each other within
    JAXROBUST_START_SECONDS (default 300) stop likewise. Arrays on CPUs are reduced by
    gloo, jax's default.

    Args:
        options: take precedence over the variables.
        environment: by default the variables of the process.

    Returns:
        The place of this process.

    Raises:
        ValueError: for settings that are incomplete or contradict each other.
        HostLostError: if the job cannot be joined.
    """
    if _State.hosts is not None:
        return _State.hosts
    environment = os.environ if environment is None else environment
    cluster = cluster_from(environment, options)
    if cluster is None:
        _State.hosts = Hosts()
        return _State.hosts
    heartbeat = _seconds(environment, HEARTBEAT, 30)
    start = _seconds(environment, START, 300)
    _join(cluster, heartbeat=heartbeat, start=start)
    from jax._src import distributed  # what jax.distributed found has no public name

    state = distributed.global_state
    _State.hosts = Hosts(state.process_id, state.num_processes, cluster.source)
    if state.num_processes > 1:
        _watch(state.client, str(state.coordinator_address), state.process_id)
    return _State.hosts


def _seconds(environment: Mapping[str, str], name: str, default: int) -> int:
    value = _integer(environment, name)
    value = default if value is None else value
    _require(
        value >= 1,
        f"`{name}` must be at least 1, got {value}; unset it for {default}.",
    )
    return value


def _join(cluster: Cluster, *, heartbeat: int, start: int) -> None:
    """Connect to the coordinator, in at most `start` seconds."""
    joined = threading.Event()

    def give_up() -> None:
        if not joined.wait(start):
            _end(
                f"not all {cluster.num_processes or ''} processes of this job came to "
                f"{cluster.coordinator or 'its coordinator'} within {start} s; see "
                "whether each was started with the same address and number of "
                f"processes, and {START} to wait longer"
            )

    # jax would end the process here itself, without saying what was waited for.
    threading.Thread(target=give_up, daemon=True).start()
    ids = cluster.local_device_ids
    chosen = None if "JAX_LOCAL_DEVICE_IDS" in os.environ else list(ids or ())
    method = {"explicit": "deactivate", "slurm": "deactivate", "ompi": "ompi"}
    try:
        jax.distributed.initialize(
            cluster.coordinator,
            cluster.num_processes,
            cluster.process_id,
            local_device_ids=None if cluster.source == "tpu" else chosen,
            cluster_detection_method=method.get(cluster.source),
            initialization_timeout=start + 30,
            heartbeat_timeout_seconds=heartbeat,
            # The first process may have to write a report when the others are done.
            shutdown_timeout_seconds=3600,
        )
    except jax.errors.JaxRuntimeError as error:
        raise HostLostError(
            f"could not join the other processes of this job: {_cause(error)}"
        ) from error
    finally:
        joined.set()


def _watch(client, coordinator: str, process_id: int) -> None:
    """Make sure that this process ends, and says why, when another one is lost.

    jax notices the loss by itself, and then aborts the process from a thread of its own
    with a stack trace. So that there is a message too, the aborting thread is held back
    a little, and two threads look out: one waits for the same notice, the other for the
    abort, in which jax answers no more.
    """
    # The handler is the C function `sleep`, called with the number of the signal (6) as
    # the number of seconds. A Python handler would need the interpreter lock and memory
    # in a thread that may hold other locks, and could hang for ever; `sleep` may be
    # called anywhere (POSIX lists it), and the abort goes on when it returns.
    libc = ctypes.CDLL(None)
    libc.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
    libc.signal.restype = ctypes.c_void_p
    libc.signal(signal.SIGABRT, ctypes.cast(libc.sleep, ctypes.c_void_p))

    def wait_for_a_loss() -> None:
        number = 0
        while True:
            # A barrier that the others never come to: it ends by an error when one of
            # them is lost, or the coordinator is, or after a day for another round.
            name = f"jaxrobust/watch/{process_id}/{number}"
            try:
                client.wait_at_barrier(name, 24 * 3600 * 1000)
            except Exception as error:
                if "DEADLINE_EXCEEDED" in str(error):
                    number += 1
                    continue
                # A job that ends well takes its barriers with it.
                if not _State.is_leaving:
                    _end_for_a_loss(_loss(error))
                return

    def wait_for_an_abort() -> None:
        while not _is_aborting():
            if _State.has_left.wait(1):
                return
        if process_id > 0 and not _answers(coordinator):
            cause = "process 0 cannot be reached any more"
            _end_for_a_loss(f"another process of this job stopped ({cause})")
        else:
            _end_for_a_loss(
                "jax stopped this process for the reason above, most likely that "
                "another process of this job stopped"
            )

    watchers = [
        threading.Thread(target=wait, daemon=True)
        for wait in (wait_for_a_loss, wait_for_an_abort)
    ]
    for watcher in watchers:
        watcher.start()
    previous_hook = sys.excepthook

    def hook(*details) -> None:
        previous_hook(*details)
        _State.is_lost = True

    def say_goodbye() -> None:
        _State.is_leaving = True
        if _State.is_lost:
            # jax's goodbye would wait for a process that is gone, and then abort.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(_State.exit_code)
        try:
            # It waits for the others; and it ends the barrier of the first watcher, who
            # must be gone before the interpreter is: a thread that comes back from C++
            # to an interpreter that has ended aborts the process.
            jax.distributed.shutdown()
        except Exception as error:
            _end_for_a_loss(_loss(error))
        _State.has_left.set()
        for watcher in watchers:
            watcher.join(10)

    sys.excepthook = hook
    # Handlers run last in, first out: this one before that of jax.
    atexit.register(say_goodbye)


def _is_aborting() -> bool:
    """Whether a thread of this process is in the handler of SIGABRT (Linux only)."""
    for status in Path("/proc/self/task").glob("*/status"):
        try:
            text = status.read_text()
        except OSError:  # the thread has just ended
            continue
        blocked = int(text.partition("SigBlk:")[2].split()[0], 16)
        # While a handler runs, its own signal is blocked. Threads that block all
        # signals are another matter.
        if (
            blocked >> (signal.SIGABRT - 1) & 1
            and not blocked >> (signal.SIGTERM - 1) & 1
        ):
            return True
    return False


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=1).close()
    except OSError:
        return False
    return True


def _end_for_a_loss(message: str) -> None:
    """End the process with a message, unless it is ending with one of its own."""
    _State.is_lost = True
    # The main thread may have met the loss too: its message is better.
    if _State.is_reported.wait(0.5):
        time.sleep(4)
    _end(f"{message}; {HOW_TO_GO_ON}")


def _end(message: str) -> None:
    """End the process, from any thread, with a message and exit code 1."""
    # Not through sys.stderr: another thread may be holding its lock.
    os.write(2, f"jaxrobust: {message}\n".encode(errors="replace"))
    os._exit(1)


def _loss(error: BaseException) -> str:
    """What happened, for the person who started the job."""
    return f"another process of this job stopped ({_cause(error)})"


def _cause(error: BaseException) -> str:
    """The telling part of a message of the runtime, in one line."""
    text = str(error)
    number = re.search(r"[Tt]ask:? (\d+)|unhealthy[^:]*:\s*(\d+)", text)
    if number and "heartbeat" in text:
        return f"process {number[1] or number[2]} was not heard of any more"
    if "Socket closed" in text or "Connection refused" in text:
        return "the connection to process 0 was closed"
    if "gloo" in text.lower():
        return "a reduction over all processes was cut off"
    return text.splitlines()[0][:200] if text else type(error).__name__


# What the runtimes say when a peer is gone: gloo (CPU), NCCL (GPU), the coordination
# service. gloo's comes as a ValueError, so the type alone tells nothing.
LOSS = re.compile(
    r"""gloo\b.*(connection|timed\ out|timeout|peer)
    | Connection\ (closed|reset)\ by\ peer
    | heartbeat\ timeout | stopped\ sending\ heartbeats
    | Barrier\ failed | coordination\ service .* (error|unavailable)
    | UNAVAILABLE: | Socket\ closed
    | NCCL .* (remote|network|unhandled\ system)""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)


def is_loss(error: BaseException) -> bool:
    """Whether an error is what a runtime says when another process is gone."""
    hosts = _State.hosts
    is_single = hosts is None or hosts.num_processes == 1
    return not is_single and bool(LOSS.search(str(error)))


@contextmanager
def lost_hosts_as_errors() -> Iterator[None]:
    """Raise `HostLostError` for the errors that the loss of another process causes.

    Anything else passes unchanged, and so does everything in a job of one process.

    Raises:
        HostLostError: when another process of the job is gone.
    """
    try:
        yield
    except (ValueError, RuntimeError) as error:
        if isinstance(error, HostLostError) or not is_loss(error):
            raise
        _State.is_lost = True
        _State.is_reported.set()
        raise HostLostError(f"{_loss(error)}; {HOW_TO_GO_ON}") from error


def is_primary() -> bool:
    """Whether this process is the one that writes and prints; true in a job of one."""
    return _State.hosts is None or _State.hosts.process_id == 0


def leave(code: int) -> int:
    """Say with which exit code the program is about to end; returns the code.

    A process that has failed must not wait for the others at the end, as they are
    waiting for it: it goes at once, and they notice. After 0 (done) and 75 (interrupted
    with the state saved), where all end together, it waits for them.
    """
    if code not in (0, 75):
        _State.is_lost = True
        _State.exit_code = code
    return code
