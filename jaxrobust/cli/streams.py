"""Standard output and error that never end the work which they tell of.

A pipe whose reader has gone, a full disk under a log, a closed descriptor or an
encoding without Greek letters are no reasons to lose hours of training. Every program
of the library runs inside `lasting_streams`; nothing else has to think of it.
"""

import errno
import io
import logging
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

__all__ = ["lasting_streams", "require_printed"]


class _Lasting(io.FileIO):
    """A descriptor to write to, which drops what it cannot take."""

    def __init__(self, descriptor: int):
        super().__init__(descriptor, "w", closefd=False)
        self.failure: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            # None: it would have to wait, and was told not to, by another program.
            while (count := super().write(data)) is None:
                select.select((), (self,), ())
            return count
        except OSError as error:
            self._note(error)
            return len(data)

    def _note(self, error: OSError) -> None:
        # Who closes a pipe has read enough.
        is_first, self.failure = self.failure is None, error
        if is_first and error.errno != errno.EPIPE and self.fileno() == 1:
            print(
                f"jaxrobust: standard output cannot be written ({error.strerror}); the "
                "work goes on without it",
                file=sys.stderr,
            )


def _lasting(descriptor: int, stream: TextIO | None, errors: str) -> TextIO:
    """What takes the place of a standard stream; None if it was closed from the start.

    Lines are passed on as they are printed: a log says how far the work is.
    """
    if stream is None:
        return _nowhere(descriptor)
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Lasting(descriptor)),
        encoding=stream.encoding,
        errors=errors,
        line_buffering=True,
    )


def _nowhere(descriptor: int) -> TextIO:
    """A stream to nowhere, in the place of a descriptor that is closed.

    The next file to be opened would get its number, and all that libraries have to say
    would be written into that file.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.fstat(descriptor)
    except OSError:
        os.dup2(nowhere, descriptor)
    return open(nowhere, "w", encoding="utf-8", closefd=nowhere != descriptor)


@contextmanager
def lasting_streams() -> Iterator[None]:
    """Standard output and error that drop what they cannot take, until the block ends.

    Characters that the encoding of standard output lacks are replaced. Streams that are
    not those of the process, as in tests, stay as they are.

    A program that has said how it ends has said all: nothing is logged after the block.
    Threads of a save that failed end with the interpreter, and what they log then would
    follow the message that tells of the failure.
    """
    before = sys.stdout, sys.stderr
    if sys.stdout is sys.__stdout__:
        sys.stdout = _lasting(1, sys.stdout, "replace")
    if sys.stderr is sys.__stderr__:
        sys.stderr = _lasting(2, sys.stderr, "backslashreplace")
    try:
        yield
    finally:
        if sys.stderr is not before[1]:
            logging.disable()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


def require_printed() -> None:
    """Fail if something printed was dropped, where it is all that there is to keep.

    Raises:
        OSError: what standard output failed with; not for a reader that went away.
    """
    sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    failure = raw.failure if isinstance(raw, _Lasting) else None
    if failure is not None and failure.errno != errno.EPIPE:
        raise OSError(failure.errno, failure.strerror, "standard output")
