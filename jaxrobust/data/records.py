"""Examples read from the record files that tfds prepared, without TensorFlow.

array_record keeps a checksum of every record and refuses a damaged one, so damage is
always an error and never a wrong pixel.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from jaxrobust.data.arrays import DataError, Dataset, part_of_range
from jaxrobust.data.prepared import FILE_FORMAT, PREPARED, DataDir, find

__all__ = ["read"]


@contextmanager
def _quiet_absl() -> Iterator[None]:
    """Hides tfds's advice to install OpenCV, which is of no use to the reader."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def read(
    name: str, split: str, data_dir: DataDir, share: tuple[int, int] = (0, 1)
) -> Dataset:
    """Reads the examples of a split, or a share of them, of a prepared data set.

    Raises:
        DataError: as `find` does, or if a record file is damaged or does not hold as
            many examples as promised, or if tfds or array_record is not installed.
    """
    prepared = find(name, data_dir, [split])
    spec = PREPARED[name]
    try:
        # Only here: seconds to import, and not needed for the other sources.
        import tensorflow_datasets as tfds
        from array_record.python.array_record_module import ArrayRecordReader
    except ImportError as error:
        raise DataError(
            f"`name` must be 'digits' or a .npz path on this machine, got {name!r} "
            f"although {error.name!r} cannot be imported; run "
            '`pip install tensorflow-datasets array_record "importlib_resources>=6"`.'
        ) from error
    chosen = part_of_range(prepared.size(split), share)
    images = np.empty((chosen.stop - chosen.start, *spec.shape), np.uint8)
    labels = np.empty(len(images), np.int32)
    start = 0
    file = prepared.path
    try:
        with _quiet_absl():
            builder: Any = tfds.builder_from_directory(file, file_format=FILE_FORMAT)
            source = builder.as_data_source(split=split)
            # One shard at a time, so that an error can name the file.
            for file, length in prepared.shards[split]:
                stop = start + length
                first, last = max(start, chosen.start), min(stop, chosen.stop)
                if first >= last:
                    start = stop
                    continue
                reader = ArrayRecordReader(str(file))
                if reader.num_records() != length:
                    raise ValueError(
                        f"{reader.num_records()} examples instead of {length}"
                    )
                reader.close()
                records = source.__getitems__(range(first, last))
                batch = np.stack([record["image"] for record in records])
                if batch.shape[1:] != spec.shape or batch.dtype != np.uint8:
                    raise ValueError(f"images {batch.dtype.name} {batch.shape[1:]}")
                mine = slice(first - chosen.start, last - chosen.start)
                images[mine] = batch
                labels[mine] = [record["label"] for record in records]
                start = stop
    # array_record, tfds and the image decoders each have errors of their own.
    except Exception as error:
        raise DataError(
            f"`{file}` must be complete and undamaged, got {type(error).__name__}: "
            f"{error}; {prepared.remedy}."
        ) from error
    return Dataset(
        name=name,
        title=prepared.title,
        images=images,
        labels=labels,
        num_classes=spec.num_classes,
    )
