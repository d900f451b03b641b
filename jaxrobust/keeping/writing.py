"""Files that are never seen half done."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

__all__ = ["open_whole", "write_whole"]

PART = ".part"
"""What the name of a file under way ends with; a killed writer may leave some."""


@contextmanager
def open_whole(path: Path | str) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of `path` when the block ends well.

    Until then, and if the block or the disk fails, `path` stays what it was. The name
    of the part under way is of this call alone, so that two writers do not meet in it.

    Args:
        path: of the file; its directory is made if missing.

    Raises:
        OSError: if it cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name[:64]}.{uuid.uuid4().hex}{PART}")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException as error:
        # The first failure is the one to tell.
        with suppress(OSError):
            part.unlink(missing_ok=True)
        # A disk that is full is told without the file that it is full for.
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)
        raise
    _sync_directory(path.parent)


def write_whole(path: Path | str, content: bytes | str) -> None:
    """Replace a file, at once and as a whole; see `open_whole`."""
    with open_whole(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def _sync_directory(directory: Path) -> None:
    """Have the new name survive a loss of power, where the system can promise that."""
    with suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
