"""Storage that fails under a run, which is no fault of the settings."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxrobust.hosts import is_loss

__all__ = ["StorageError", "errno_of", "failing_storage"]

TOLD = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ESTALE,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.ENAMETOOLONG,
)
"""Errors that are known by their text where libraries give nothing else."""


class StorageError(OSError):
    """What a run would keep could not be written, or not be read.

    Attributes:
        errno: the system's number, or None where it is not known.
        strerror: what failed, and what is kept all the same.
        filename: the directory or file.
    """

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}"


def errno_of(error: BaseException) -> int | None:
    """The system's number of the error that is behind an exception; None for none.

    Orbax and TensorStore give a full disk as an `OSError`, or as a `ValueError` that
    has the number, or the system's words, in its text.
    """
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        if isinstance(cause, OSError) and cause.errno:
            return cause.errno
        text = str(cause)
        if number := re.search(r"os_error_code='(\d+)'", text):
            return int(number[1])
        for code in TOLD:
            if os.strerror(code) in text:
                return code
        seen.append(cause)
        cause = cause.__cause__ or cause.__context__
    return None


@contextmanager
def failing_storage(path: Path, what: str) -> Iterator[None]:
    """Give whatever fails in writing a path as a `StorageError`.

    Args:
        path: of the file or directory.
        what: was not done, and what is kept; goes on after "so that".

    Raises:
        StorageError: for errors of the system, and for those that libraries make of
            them.
    """
    try:
        yield
    except StorageError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        number = errno_of(error)
        # Nothing that is written here is of the user's choice, so no `ValueError` is
        # about it; but one may be the last word of another process of the job.
        if is_loss(error) or (number is None and isinstance(error, RuntimeError)):
            raise
        reason = os.strerror(number) if number else _first_line(error)
        raise StorageError(number, f"{reason}, so that {what}", str(path)) from error


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
