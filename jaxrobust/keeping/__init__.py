"""What is kept on disk: written whole, checked when it is read, claimed by one process.

A file is there as a whole or not at all, whenever its writer was killed; it says by a
checksum whether it is still what was written; and whoever writes into a directory holds
a claim on it, so that no two processes do.
"""

from jaxrobust.keeping.claims import InUseError, UnclaimedWarning, claimed
from jaxrobust.keeping.failures import describe_failure, require_local
from jaxrobust.keeping.hashes import difference, fingerprint, mark, versions
from jaxrobust.keeping.kept import Kept
from jaxrobust.keeping.sealed import (
    DamagedFileError,
    plain,
    read_arrays,
    read_json,
    seal,
    write_arrays,
    write_json,
)
from jaxrobust.keeping.writing import open_whole, require_writable, write_whole

__all__ = [
    "DamagedFileError",
    "InUseError",
    "Kept",
    "UnclaimedWarning",
    "claimed",
    "describe_failure",
    "difference",
    "fingerprint",
    "mark",
    "open_whole",
    "plain",
    "read_arrays",
    "read_json",
    "require_local",
    "require_writable",
    "seal",
    "versions",
    "write_arrays",
    "write_json",
    "write_whole",
]
