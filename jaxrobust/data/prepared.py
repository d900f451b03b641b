"""What tfds has prepared on this machine, judged by metadata alone.

tfds itself is never asked whether a data set is there, because it would try to download
a missing one; the files `dataset_info.json` and `features.json` say all that is needed.
"""

import dataclasses
import json
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxrobust.data.arrays import DataError

__all__ = [
    "FILE_FORMAT",
    "PREPARED",
    "DataDir",
    "Prepared",
    "Spec",
    "find",
    "newest_version",
    "resolve",
]

FILE_FORMAT = "array_record"


@dataclasses.dataclass(frozen=True)
class Spec:
    """What a known data set must look like."""

    title: str
    shape: tuple[int, int, int]
    num_classes: int


PREPARED: dict[str, Spec] = {
    "mnist": Spec("MNIST", (28, 28, 1), 10),
    "fashion_mnist": Spec("Fashion-MNIST", (28, 28, 1), 10),
    "kmnist": Spec("KMNIST", (28, 28, 1), 10),
    "cifar10": Spec("CIFAR-10", (32, 32, 3), 10),
    "cifar100": Spec("CIFAR-100", (32, 32, 3), 100),
    "svhn_cropped": Spec("SVHN (cropped)", (32, 32, 3), 10),
}


@dataclasses.dataclass(frozen=True)
class DataDir:
    """The directory that holds prepared data sets, and who named it."""

    path: Path
    origin: str

    def command(self, name: str) -> str:
        """The command that prepares `name` in this directory."""
        return f"jaxrobust data prepare {name} --data-dir {shlex.quote(str(self.path))}"


def resolve(data_dir: str | os.PathLike[str] | None = None) -> DataDir:
    """The argument, else JAXROBUST_DATA_DIR, TFDS_DATA_DIR, ~/tensorflow_datasets."""
    value, origin = "~/tensorflow_datasets", "by default"
    for variable in ("TFDS_DATA_DIR", "JAXROBUST_DATA_DIR"):
        if os.environ.get(variable):
            value, origin = os.environ[variable], f"from {variable}"
    if data_dir is not None:
        value, origin = data_dir, "given as `data_dir`"
    # Unlike `Path.expanduser` this leaves the name of an unknown user alone.
    return DataDir(Path(os.path.expanduser(value)), origin)


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What the metadata of one prepared data set promises.

    Attributes:
        path: its version directory, such as `DATA_DIR/mnist/3.0.1`.
        title: the title for reports; says so when the images were re-encoded.
        encoding: of the images in the records: "png" or "jpeg".
        shards: for each split, its record files and how many examples each holds.
        remedy: how to mend the data set if it does not keep its promises.
    """

    path: Path
    title: str
    encoding: str
    shards: dict[str, list[tuple[Path, int]]]
    remedy: str

    def size(self, split: str) -> int:
        """Number of examples in a split."""
        return sum(length for _, length in self.shards[split])


def newest_version(path: Path) -> Path | None:
    """The newest complete version directory of a data set, if there is one."""
    versions = {
        tuple(map(int, file.parent.name.split("."))): file.parent
        for file in path.glob("*/dataset_info.json")
        # tfds writes to `3.0.1.incompleteXYZ` until a data set is complete.
        if re.fullmatch(r"\d+\.\d+\.\d+", file.parent.name)
    }
    return versions[max(versions)] if versions else None


def find(
    name: str, data_dir: DataDir, splits: Sequence[str] = ("train", "test")
) -> Prepared:
    """Finds a prepared data set of which at least `splits` are whole.

    Raises:
        DataError: if it is missing, incomplete, in another file format, or not of the
            shape and number of classes that its name stands for.
    """
    path = newest_version(data_dir.path / name)
    if path is None:
        raise DataError(
            f"`name` must be a data set that has been prepared, got {name!r} without "
            f"{data_dir.path / name / '<version>' / 'dataset_info.json'} (data "
            f"directory {data_dir.origin}); run `{data_dir.command(name)}`."
        )
    remedy = f"delete {path} and run `{data_dir.command(name)}`"
    info = _read_json(path / "dataset_info.json", remedy)
    features = _read_json(path / "features.json", remedy)
    try:
        formats = [info["fileFormat"], *info.get("alternativeFileFormats", [])]
        names = [split["name"] for split in info["splits"]]
        if len(set(names)) < len(names):
            raise ValueError(f"splits {', '.join(names)}")
        shards = {
            split["name"]: _shards(f"{path / name}-{split['name']}", split)
            for split in info["splits"]
        }
        fields = features["featuresDict"]["features"]
        image = fields["image"]["image"]
        shape = tuple(int(n) for n in image["shape"]["dimensions"])
        num_classes = int(fields["label"]["classLabel"]["numClasses"])
        # As tfds has it, which writes nothing for the usual one.
        encoding = image.get("encodingFormat", "").lower() or "png"
        if encoding not in ("png", "jpeg"):
            raise ValueError(f"images encoded as {encoding!r}")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"`{path}` must hold the metadata of an image classification data set, got "
            f"{type(error).__name__}: {error} on reading its json files; {remedy}."
        ) from error
    spec = PREPARED[name]
    if FILE_FORMAT not in formats:
        raise DataError(
            f"`{path}` must be in the file format {FILE_FORMAT!r}, which can be read "
            f"without TensorFlow, got {formats[0]!r}; {remedy}."
        )
    if (shape, num_classes) != (spec.shape, spec.num_classes):
        raise DataError(
            f"`{path}` must hold images of shape {spec.shape} in {spec.num_classes} "
            f"classes, got {shape} in {num_classes}; {remedy}."
        )
    for split in splits:
        files = shards.get(split, [])
        lost = [file.name for file, _ in files if not file.is_file()]
        if lost or not sum(length for _, length in files):
            raise DataError(
                f"`{path}` must hold every file of the split {split!r}, got none of "
                f"{', '.join(lost) or 'its examples'}; {remedy}."
            )
    title = spec.title
    if encoding == "jpeg":
        # A quality is a number of its own in 1..100, as "32x32" is not.
        quality = re.search(
            r"quality\D{0,3}(100|[1-9]\d?)\b", str(info.get("description")), re.I
        )
        title += f" (JPEG {quality[1]})" if quality else " (JPEG)"
    return Prepared(path, title, encoding, shards, remedy)


def _read_json(path: Path, remedy: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"`{path}` must be a readable json file, got "
            f"{type(error).__name__}: {error}; {remedy}."
        ) from error


def _shards(stem: str, split: dict[str, Any]) -> list[tuple[Path, int]]:
    lengths = [int(length) for length in split.get("shardLengths", [])]
    if min(lengths, default=0) < 0:
        raise ValueError(f"shards of {lengths} examples")
    return [
        (Path(f"{stem}.{FILE_FORMAT}-{index:05d}-of-{len(lengths):05d}"), length)
        for index, length in enumerate(lengths)
    ]
