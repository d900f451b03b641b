"""Examples read from the record files that tfds prepared, without TensorFlow.

array_record keeps a checksum of every record and refuses a damaged one, so damage is
always an error and never a wrong pixel.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from jaxrobust.data.arrays import DataError, Dataset, Split, numbered
from jaxrobust.data.parts import part_of, part_of_range
from jaxrobust.data.prepared import FILE_FORMAT, DataDir, Prepared, find
from jaxrobust.data.splits import SPLITS, Header, Part, join

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


def _require_encoding(record: bytes, encodings: tuple[str, ...]) -> None:
    """Refuse pictures in another form than the title of the data set admits.

    What is refused would be decoded without a word: a lossy picture where lossless ones
    are promised, 16 bits cut to 8, numbers of a palette taken for gray values.

    Raises:
        ValueError: says what was found.
    """
    png, jpeg = record.find(b"\x89PNG\r\n\x1a\n"), b"\xff\xd8\xff" in record
    found = "another format"
    if png < 0 and jpeg:
        found = "jpeg" if "jpeg" in encodings else found
    elif png >= 0 and "png" in encodings:
        # The signature has 8 bytes; the first chunk has its length, its name, width and
        # height, 4 bytes each, and then these two.
        depth, color = record[png + 24 : png + 26]
        found = "png" if (depth, color & 1) == (8, 0) else "png of other pixels"
    if encodings and found not in encodings:
        raise ValueError(f"pictures in {found} instead of {' or '.join(encodings)}")


def read(
    name: str, split: Split, data_dir: DataDir, share: tuple[int, int] = (0, 1)
) -> Dataset:
    """Reads the examples of a split, or a share of them, of a prepared data set.

    Raises:
        DataError: as `find` does, or if a record file is damaged or does not hold as
            many examples as promised, or other ones, or if tfds or array_record is not
            installed, or the share has no examples.
    """
    prepared = find(name, data_dir, [split])
    try:
        # Only here: seconds to import, and not needed for the other sources.
        import array_record.python.array_record_module  # noqa: F401
        import tensorflow_datasets  # noqa: F401
    except ImportError as error:
        raise DataError(
            f"`name` must be 'digits' or a .npz path on this machine, got {name!r} "
            f"although {error.name!r} cannot be imported; run "
            '`pip install tensorflow-datasets array_record "importlib_resources>=6"`.'
        ) from error
    if prepared.spec.num_classes is None:
        whole = _read_numbered(name, split, prepared, data_dir)
        return part_of(whole, share)
    images, labels = _examples(prepared, split, share)
    return Dataset(
        name=name,
        title=prepared.title,
        images=images,
        labels=labels,
        num_classes=prepared.spec.num_classes,
    )


def _read_numbered(
    name: str, split: Split, prepared: Prepared, data_dir: DataDir
) -> Dataset:
    """A split of which only the labels say what classes there are: any integers."""
    splits: list[Split] = [
        each for each in SPLITS if each == split or each in prepared.shards
    ]
    find(name, data_dir, splits)
    labels = {each: _labels(prepared, each) for each in splits}
    classes = np.unique(labels["train" if "train" in labels else split]).tolist()

    def part(each: Split) -> Part:
        shape = (len(labels[each]), *prepared.spec.shape)
        of = f" for {prepared.path} ({each})"
        return Part(
            f"{prepared.path} ({each})",
            Header(shape, np.dtype(np.uint8)),
            numbered(labels[each], classes, of),
            lambda: _examples(prepared, each, (0, 1))[0],
        )

    return join(
        {each: part(each) for each in splits},
        split,
        name=name,
        title=prepared.title,
        num_classes=len(classes),
        classes=classes,
    )


def _labels(prepared: Prepared, split: str) -> np.ndarray:
    """All labels of a split, for which no picture is decoded."""
    from tensorflow_datasets.proto import tf_example_pb2

    messages: Any = tf_example_pb2

    def read(record: bytes) -> int:
        features = messages.Example.FromString(record).features
        (label,) = features.feature[prepared.label].int64_list.value
        return label

    found: list[int] = []
    _visit(
        prepared, split, (0, 1), lambda _: lambda _, record: found.append(read(record))
    )
    return np.asarray(found)


def _examples(
    prepared: Prepared, split: str, share: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of a share of a split."""
    import tensorflow_datasets as tfds

    spec = prepared.spec
    arrays: list[np.ndarray] = []

    def start(count: int) -> Callable[[int, bytes], None]:
        builder: Any = tfds.builder_from_directory(
            prepared.path, file_format=FILE_FORMAT
        )
        decode = builder.info.features.deserialize_example_np
        images = np.empty((count, *spec.shape), np.uint8)
        labels = np.empty(count, np.int64)
        arrays.extend((images, labels))

        def visit(place: int, record: bytes) -> None:
            _require_encoding(record, prepared.encodings)
            example = decode(record)
            image, label = example[prepared.image], int(example[prepared.label])
            if image.shape != spec.shape or image.dtype != np.uint8:
                raise ValueError(f"images {image.dtype.name} {image.shape}")
            if spec.num_classes is not None and not 0 <= label < spec.num_classes:
                raise ValueError(f"the label {label} among {spec.num_classes} classes")
            images[place], labels[place] = image, label

        return visit

    _visit(prepared, split, share, start)
    images, labels = arrays
    return images, labels


def _visit(
    prepared: Prepared,
    split: str,
    share: tuple[int, int],
    start: Callable[[int], Callable[[int, bytes], None]],
) -> None:
    """Shows each record of a share, and its place in it, to a visitor.

    Args:
        prepared: the data set.
        split: which of its splits.
        share: which part of the split.
        start: makes the visitor, given the number of records to come, once all files
            are known to hold as many as promised.

    Raises:
        DataError: naming the file, if one is damaged or the visitor fails.
    """
    from array_record.python.array_record_module import ArrayRecordReader

    chosen = part_of_range(prepared.size(split), share)
    parts, first_of_file = [], 0
    for file, length in prepared.shards[split]:
        last_of_file = first_of_file + length
        first = max(first_of_file, chosen.start)
        last = min(last_of_file, chosen.stop)
        if first < last:
            places = range(first - first_of_file, last - first_of_file)
            parts.append((file, length, places))
        first_of_file = last_of_file
    file = prepared.path
    try:
        with _quiet_absl():
            # Before there is room made for them: a number in the metadata may be wrong.
            for file, length, _ in parts:
                reader = ArrayRecordReader(str(file))
                if reader.num_records() != length:
                    raise ValueError(
                        f"{reader.num_records()} examples instead of {length}"
                    )
                reader.close()
            file = prepared.path
            visit = start(chosen.stop - chosen.start)
            position = 0
            # One shard at a time, so that an error can name the file.
            for file, _, places in parts:
                reader = ArrayRecordReader(str(file))
                for record in reader.read(list(places)):
                    visit(position, record)
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
