"""Files that are never seen half done."""

import errno
import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

__all__ = ["open_whole", "require_writable", "write_whole"]

PART = ".part"
"""What the name of a file under way ends with; a killed writer may leave some."""


@contextmanager
def open_whole(path: Path | str, *, is_new: bool = False) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of `path` when the block ends well.

    Until then, and if the block or the disk fails, `path` stays what it was. The name
    of the part under way is of this call alone, so that two writers do not meet in it.

    Args:
        path: of the file; its directory is made if missing.
        is_new: leave a file alone that is there when the block ends.

    Raises:
        FileExistsError: if there is one that is to be left alone.
        OSError: if it cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _part_of(path)
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            _move_to_new(part, path)
        else:
            part.replace(path)
    except BaseException as error:
        # The first failure is the one to tell.
        with suppress(OSError):
            part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            # A full disk does not say where; of the part nobody has heard.
            if error.filename in (None, str(part)):
                error.filename = str(path)
        raise
    _sync_directory(path.parent)


def write_whole(
    path: Path | str, content: bytes | str, *, is_new: bool = False
) -> None:
    """Replace a file, at once and as a whole; see `open_whole`."""
    with open_whole(path, is_new=is_new) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def require_writable(path: Path | str) -> None:
    """Have storage fail before the work whose result goes there, not after it.

    Makes the directory if it is missing, and writes a few bytes beside the path, which
    are removed again; `path` itself is not touched.

    Args:
        path: of a file that is, or will be, written.

    Raises:
        OSError: naming what cannot be written.
    """
    path = Path(path)
    # Too long a name is told by a look at it; that there is no file is well.
    with suppress(FileNotFoundError):
        if stat.S_ISDIR(path.stat().st_mode):
            raise _failure(errno.EISDIR, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _part_of(path)
    try:
        part.write_bytes(b"can this be written?")
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _part_of(path: Path) -> Path:
    # Not the whole name, so that this one is not too long where that is not; a
    # character has up to four bytes.
    return path.with_name(f"{path.name[:32]}.{uuid.uuid4().hex}{PART}")


def _move_to_new(part: Path, path: Path) -> None:
    """Give a file its name, unless another file has it."""
    try:
        # A second name for it: it fails where there is one, and a rename would not.
        os.link(part, path)
    except FileExistsError:
        raise _failure(errno.EEXIST, path) from None
    except OSError:
        # Some file systems give a file one name only.
        if path.exists():
            raise _failure(errno.EEXIST, path) from None
        part.replace(path)
    else:
        part.unlink()


def _failure(number: int, path: Path) -> OSError:
    return OSError(number, os.strerror(number), str(path))


def _sync_directory(directory: Path) -> None:
    """Have the new name survive a loss of power, where the system can promise that."""
    with suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
