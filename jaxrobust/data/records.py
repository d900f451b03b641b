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


def _require_encoding(record: bytes, encoding: str) -> None:
    """Refuse pictures in another form than the title of the data set admits.

    What is refused would be decoded without a word: a lossy picture where lossless ones
    are promised, 16 bits cut to 8, numbers of a palette taken for gray values.

    Raises:
        ValueError: says what was found.
    """
    png = record.find(b"\x89PNG\r\n\x1a\n")
    if encoding == "jpeg":
        found = "jpeg" if png < 0 and b"\xff\xd8\xff" in record else "another format"
    elif png < 0:
        found = "another format"
    else:
        # The signature has 8 bytes; the first chunk has its length, its name, width and
        # height, 4 bytes each, and then these two.
        depth, color = record[png + 24 : png + 26]
        found = "png" if (depth, color & 1) == (8, 0) else "png of other pixels"
    if found != encoding:
        raise ValueError(f"pictures in {found} instead of {encoding}")


def read(
    name: str, split: str, data_dir: DataDir, share: tuple[int, int] = (0, 1)
) -> Dataset:
    """Reads the examples of a split, or a share of them, of a prepared data set.

    Raises:
        DataError: as `find` does, or if a record file is damaged or does not hold as
            many examples as promised, or other ones, or if tfds or array_record is not
            installed, or the share has no examples.
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
    parts, start = [], 0
    for file, length in prepared.shards[split]:
        first, last = max(start, chosen.start), min(start + length, chosen.stop)
        if first < last:
            parts.append((file, length, range(first - start, last - start)))
        start += length
    file = prepared.path
    try:
        with _quiet_absl():
            builder: Any = tfds.builder_from_directory(file, file_format=FILE_FORMAT)
            decode = builder.info.features.deserialize_example_np
            # Before there is room made for them: a number in the metadata may be wrong.
            for file, length, _ in parts:
                reader = ArrayRecordReader(str(file))
                if reader.num_records() != length:
                    raise ValueError(
                        f"{reader.num_records()} examples instead of {length}"
                    )
                reader.close()
            images = np.empty((chosen.stop - chosen.start, *spec.shape), np.uint8)
            labels = np.empty(len(images), np.int64)
            position = 0
            # One shard at a time, so that an error can name the file.
            for file, _, places in parts:
                reader = ArrayRecordReader(str(file))
                for record in reader.read(list(places)):
                    _require_encoding(record, prepared.encoding)
                    example = decode(record)
                    image, label = example["image"], int(example["label"])
                    if image.shape != spec.shape or image.dtype != np.uint8:
                        raise ValueError(f"images {image.dtype.name} {image.shape}")
                    if not 0 <= label < spec.num_classes:
                        raise ValueError(
                            f"the label {label} among {spec.num_classes} classes"
                        )
                    images[position], labels[position] = image, label
                    position += 1
                reader.close()
    except MemoryError:
        raise
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
