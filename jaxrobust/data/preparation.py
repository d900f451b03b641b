"""What data there is on this machine, and how to get more; the network is used here."""

import dataclasses
import importlib.util
import os

from jaxrobust.data.arrays import DataError
from jaxrobust.data.prepared import (
    FILE_FORMAT,
    PREPARED,
    find,
    newest_version,
    resolve,
)
from jaxrobust.data.sources import DATASETS, DIGITS_TITLE

__all__ = ["DatasetStatus", "prepare", "status"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetStatus:
    """Whether a known data set can be read.

    Attributes:
        name: what `load_arrays` calls it.
        title: the name for reports.
        where: its directory, or "bundled with scikit-learn".
        is_ready: whether its metadata and all its record files are there; damage inside
            a record file only shows on reading.
        detail: number of examples, or what is missing and how to mend it.
    """

    name: str
    title: str
    where: str
    is_ready: bool
    detail: str


def status(data_dir: str | os.PathLike[str] | None = None) -> list[DatasetStatus]:
    """Looks for every known data set, reading metadata only.

    Args:
        data_dir: as for `load_arrays`.

    Returns:
        One entry for each name of `DATASETS`, in that order.
    """
    return [_status(name, data_dir) for name in DATASETS]


def prepare(name: str, data_dir: str | os.PathLike[str] | None = None) -> DatasetStatus:
    """Downloads a data set from its original source and prepares it for reading.

    Nothing is done for "digits", nor if the data set is there already.

    Args:
        name: one of `DATASETS`.
        data_dir: as for `load_arrays`.

    Raises:
        DataError: if the name is unknown, TensorFlow is missing, an unreadable version
            is in the way, or downloading or preparing fails.
    """
    if name not in DATASETS:
        raise DataError(
            f"`name` must be one of {', '.join(DATASETS)}, got {name!r}; other data "
            "can be read from .npz files."
        )
    if name == "digits":
        return _status(name, data_dir)
    directory = resolve(data_dir)
    if newest_version(directory.path / name) is not None:
        # tfds would leave a broken version untouched and report success.
        find(name, directory)
        return _status(name, data_dir)
    if importlib.util.find_spec("tensorflow") is None:
        raise DataError(
            f"`name` must be a data set that is prepared already, got {name!r} and no "
            "TensorFlow, which is needed to prepare it; run "
            '`pip install "jaxrobust[prepare]"`, or copy the prepared directory '
            f"{directory.path / name} from another machine."
        )
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(
            name, data_dir=str(directory.path), file_format=FILE_FORMAT
        )
        builder.download_and_prepare()
    except Exception as error:
        raise DataError(
            f"`name` must be a data set that can be downloaded and prepared now, got "
            f"{name!r} and {type(error).__name__}: {error}; check the network "
            f"connection, or copy the prepared directory {directory.path / name} from "
            "another machine."
        ) from error
    find(name, directory)
    return _status(name, data_dir)


def _status(name: str, data_dir: str | os.PathLike[str] | None) -> DatasetStatus:
    if name == "digits":
        return DatasetStatus(
            name=name,
            title=DIGITS_TITLE,
            where="bundled with scikit-learn",
            is_ready=True,
            detail="train 1,437, test 360; nothing to prepare",
        )
    directory = resolve(data_dir)
    title, where = PREPARED[name].title, str(directory.path / name)
    is_ready = False
    if newest_version(directory.path / name) is None:
        detail = f"not prepared; run `{directory.command(name)}`"
    else:
        try:
            prepared = find(name, directory)
        except DataError as error:
            detail = str(error)
        else:
            title, where, is_ready = prepared.title, str(prepared.path), True
            detail = ", ".join(
                f"{split} {prepared.size(split):,}" for split in ("train", "test")
            )
    return DatasetStatus(
        name=name, title=title, where=where, is_ready=is_ready, detail=detail
    )
