"""Storage that fails, and places that are no files, in words."""

import errno
import os
import re
from pathlib import Path

from jaxrobust.arguments import require

__all__ = ["describe_failure", "require_local"]

REMEDIES = {
    errno.ENOSPC: "free some room there, or choose a place on another disk",
    errno.EDQUOT: "free some of your quota, or choose a place on another disk",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EROFS: "choose a place that can be written",
    errno.EACCES: "ask for the permission, or choose another place",
    errno.EPERM: "ask for the permission, or choose another place",
    errno.ENOTDIR: "choose a place whose directories are directories",
    errno.EISDIR: "name a file rather than a directory",
    errno.EEXIST: "choose another name",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOENT: "see whether it is there, and the directory that it lies in",
    errno.EIO: "see whether the disk is sound",
    errno.ESTALE: "see whether the network's file system is sound",
}


def describe_failure(error: OSError) -> str:
    """One line of what failed, where, and what to do; no traceback helps with that."""
    reason = error.strerror or str(error) or type(error).__name__
    places = [str(each) for each in (error.filename, error.filename2) if each]
    where = " -> ".join(places)
    remedy = REMEDIES.get(
        error.errno or 0, "see to it, and give the same command again"
    )
    return f"{where + ': ' if where else ''}{reason}; {remedy}."


def require_local(name: str, path: Path | str | None) -> None:
    """Refuse a URL where a path is wanted, which would become a folder of that name.

    Args:
        name: the argument, for the message.
        path: as it was given. A `Path` of `gs://bucket/run` has lost a slash, and is
            known all the same.

    Raises:
        ValueError: for a path that begins with a scheme such as gs: or s3:.
    """
    text = "" if path is None else os.fspath(path)
    is_address = re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", text)
    require(
        not is_address or Path(text).exists(),
        name,
        "a path of the local file system",
        text,
        "mount the bucket (gcsfuse, mountpoint-s3, rclone) and give the path where it "
        "is mounted",
    )
