"""Directories and files that one process alone may write into."""

import errno
import json
import os
import socket
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

try:
    import fcntl
except ImportError:  # there is no such thing on Windows
    fcntl = None

__all__ = ["InUseError", "UnclaimedWarning", "claimed"]

LOCK = ".lock"
"""What the name of the file of a claim ends with; a killed holder leaves it behind."""

UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


class InUseError(RuntimeError):
    """Another process holds the claim."""


class UnclaimedWarning(UserWarning):
    """The file system has no locks, so nothing keeps other writers away."""


@contextmanager
def claimed(path: Path | str, *, what: str, wait: float = 0.0) -> Iterator[None]:
    """Keep all other claims on a path away until the block ends, or this process does.

    The claim is a lock on a file beside the path, with `.lock` added to its name; on
    one inside the path where a file system is mounted there, or nothing may be written
    beside it. The system lets go of it when its holder dies, however it dies.

    It holds among the processes of one machine, and among machines as far as their file
    system shares locks (NFS 4, Lustre mounted with flock, GPFS, CephFS do). Where it
    has no locks at all, a warning says so.

    Args:
        path: of a file or directory, whether or not there is one; the directory that it
            lies in is made if missing, and removed again if nothing comes to lie there.
        what: the argument that names it, for the message.
        wait: seconds to wait for another one's claim to end.

    Raises:
        InUseError: if another one holds it; names host, process and since when.
        OSError: if the file of the lock cannot be written.
    """
    path = Path(os.path.abspath(path))
    made = [each for each in path.parents if not each.exists()]
    is_outside = os.path.ismount(path) or not os.access(path.parent, os.W_OK)
    is_inside = is_outside and path.is_dir()
    lock = path / LOCK if is_inside else path.with_name(f"{path.name}{LOCK}")
    descriptor = _locked(lock, path, what, time.monotonic() + wait)
    try:
        yield
    finally:
        # Before it is let go: whoever waits to take this file sees that it is gone.
        with suppress(OSError):
            lock.unlink(missing_ok=True)
        # A child process may have the same descriptor, so closing is not enough.
        if fcntl is not None:
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)
        with suppress(OSError):  # those that are not empty stay
            for each in made:
                each.rmdir()


def _locked(lock: Path, path: Path, what: str, deadline: float) -> int:
    """An open file on which this process holds a lock."""
    misses = 0
    while True:
        lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # whoever made its directory may just have removed it
            misses += 1
            if misses < 100:
                continue
            raise
        is_taken = False
        try:
            if _take(descriptor, path):
                # Whoever had it before may have removed it since it was opened.
                is_taken = _is_at(descriptor, lock)
                if is_taken:
                    _sign(descriptor)
                    return descriptor
            elif time.monotonic() >= deadline:
                raise InUseError(
                    f"`{what}` must not be in use by another process, got "
                    f"{str(path)!r}, which {_holder(descriptor)}; wait for it to end, "
                    "or choose another one."
                )
            else:
                time.sleep(0.05)
        finally:
            if not is_taken:
                os.close(descriptor)


def _take(descriptor: int, path: Path) -> bool:
    """Whether the lock is this process's now; True also where there are no locks."""
    if fcntl is None:
        _warn(path, "this system has no locks")
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        _warn(path, f"its file system has no locks ({error})")
    return True


def _warn(path: Path, why: str) -> None:
    warnings.warn(
        f"nothing keeps other processes away from {str(path)!r}: {why}; see to it that "
        "no other one writes there.",
        UnclaimedWarning,
        stacklevel=6,
    )


def _sign(descriptor: int) -> None:
    """Write down who holds the lock; a claim without it is a claim all the same."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    owner = {"host": socket.gethostname(), "process": os.getpid(), "since": now}
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(owner).encode(), 0)


def _holder(descriptor: int) -> str:
    with suppress(OSError, ValueError, KeyError, TypeError):
        owner = json.loads(os.pread(descriptor, 4096, 0))
        return (
            f"process {owner['process']} on {owner['host']} has been using since "
            f"{owner['since']}"
        )
    return "another process is using"


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is still what its path leads to."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
