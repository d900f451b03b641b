"""Joining the processes of a job, and what happens when one of them dies.

A job of several processes runs the same program in each; `initialize` finds the others
before jax computes anything. A process that dies takes its part of every array with it,
so the others stop too, with a message that says how to go on.
"""

import atexit
import ctypes
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

from jaxrobust.arguments import require_count
from jaxrobust.hosts.clusters import (
    Cluster,
    HostOptions,
    Source,
    cluster_from,
    integer,
)

__all__ = [
    "HostLostError",
    "Hosts",
    "initialize",
    "is_loss",
    "is_primary",
    "leave",
    "lost_hosts_as_errors",
]
HEARTBEAT = "JAXROBUST_HEARTBEAT_SECONDS"
START = "JAXROBUST_START_SECONDS"

HOW_TO_GO_ON = (
    "the last checkpoint is kept; start the job again, on any number of hosts, to go on"
)


class HostLostError(RuntimeError):
    """Another process of the job stopped, or was never there."""


class Hosts(NamedTuple):
    """The place of this process in its job."""

    process_id: int = 0
    num_processes: int = 1
    source: Source | Literal["single"] = "single"


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
    value = integer(environment, name)
    value = default if value is None else value
    require_count(name, value, f"unset it for {default}")
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
        _take_back(signal.SIGTERM)


def _take_back(number: signal.Signals) -> None:
    """Give a signal back to the handler of Python that it had, if there was one.

    When jax joins a job it puts its own in front, which only notes that SIGTERM came;
    without the service that does so, older versions of Orbax save nothing.
    """
    handler = signal.getsignal(number)
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and callable(handler):
        signal.signal(number, handler)


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
