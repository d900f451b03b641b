"""JSON and arrays on disk with a checksum, so that damage is noticed.

A file system, a network or an editor may change a file after it was written. Whatever
decides a number is therefore sealed, and a file whose content does not fit its seal is
refused by name rather than believed.
"""

import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxrobust.keeping.hashes import fingerprint, mark
from jaxrobust.keeping.writing import open_whole, write_whole

__all__ = [
    "DamagedFileError",
    "plain",
    "read_arrays",
    "read_json",
    "seal",
    "write_arrays",
    "write_json",
]

CHECKSUM, HEADER = "checksum", "header"


class DamagedFileError(ValueError):
    """A file is not what was written."""

    def __init__(self, path: Path, what: str, remedy: str):
        super().__init__(f"{str(path)!r} is damaged: {what}; {remedy}.")


def plain(value: Any) -> Any:
    """A value as JSON gives it back: no tuples, no numpy, None for what is not finite.

    JSON has neither infinity nor NaN, and files are for any reader of JSON.
    """
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def seal(record: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON-like record with a checksum of all the rest, as its last entry."""
    given = {name: value for name, value in record.items() if name != CHECKSUM}
    rest = json.loads(json.dumps(given))
    return {**rest, CHECKSUM: mark(rest)}


def _is_sealed_by_another_name(record: dict[str, Any]) -> bool:
    """Whether the last entry is the checksum of the rest, under a damaged name."""
    if not record:
        return False
    rest = dict(record)
    _, last = rest.popitem()
    return last == mark(rest)


def _opened(path: Path, record: Any, *, must_be_sealed: bool, remedy: str) -> Any:
    """The record without its seal, which must fit."""
    if not isinstance(record, dict):
        raise DamagedFileError(path, "it holds no JSON object", remedy)
    found = record.pop(CHECKSUM, None)
    if found is None and not must_be_sealed:
        if _is_sealed_by_another_name(record):
            what = f"the name of its {CHECKSUM} is damaged"
            raise DamagedFileError(path, what, remedy)
        return record
    if found != mark(record):
        what = "it has no checksum" if found is None else "its checksum does not fit"
        raise DamagedFileError(path, what, remedy)
    return record


def write_json(
    path: Path | str, record: Mapping[str, Any], *, indent: int | None = 2
) -> None:
    """Replace a file by a sealed record, at once and as a whole."""
    write_whole(path, json.dumps(seal(record), indent=indent) + "\n")


def read_json(
    path: Path | str,
    *,
    must_be_sealed: bool = False,
    remedy: str = "restore it from a copy, or, if it was changed on purpose, take its "
    f'entry "{CHECKSUM}" out',
) -> dict[str, Any]:
    """The record in a file that `write_json` wrote, without its checksum.

    Args:
        path: of the file.
        must_be_sealed: refuse a file without a checksum, which older versions wrote.
        remedy: what the reader of the error can do.

    Raises:
        DamagedFileError: naming the file, if it is no JSON, or not what was written.
        OSError: if it is missing, or cannot be read.
    """
    path = Path(path)
    try:
        record = json.loads(path.read_bytes())
    except ValueError as error:  # of JSON, or of UTF-8
        raise DamagedFileError(path, f"it is no JSON ({error})", remedy) from error
    return _opened(path, record, must_be_sealed=must_be_sealed, remedy=remedy)


def write_arrays(
    path: Path | str,
    arrays: Mapping[str, np.ndarray],
    header: Mapping[str, Any] | None = None,
) -> None:
    """Replace an npz file by sealed arrays and a JSON-like header, as a whole."""
    sealed = seal({**(header or {}), "arrays": fingerprint(dict(arrays))})
    content = np.frombuffer(json.dumps(sealed).encode(), np.uint8)
    with open_whole(path) as file:
        np.savez(file, allow_pickle=False, **{HEADER: content}, **arrays)


def read_arrays(
    path: Path | str, *, remedy: str = "remove it to begin anew"
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the header in a file that `write_arrays` wrote.

    Raises:
        DamagedFileError: naming the file, if it is not what was written.
        OSError: if it is missing, or cannot be read.
    """
    path = Path(path)
    # From memory, since `np.load` leaves a damaged file open.
    content = io.BytesIO(path.read_bytes())
    try:
        with np.load(content, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        header = json.loads(bytes(arrays.pop(HEADER)))
    # What the readers of zip and npy files raise depends on the byte that is wrong.
    except Exception as error:
        what = f"it cannot be read ({error or type(error).__name__})"
        raise DamagedFileError(path, what, remedy) from error
    header = _opened(path, header, must_be_sealed=True, remedy=remedy)
    if header.pop("arrays", None) != fingerprint(arrays):
        raise DamagedFileError(path, "the checksum of its arrays does not fit", remedy)
    return arrays, header
