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
    "is_prepared",
    "newest_version",
    "resolve",
]

FILE_FORMAT = "array_record"


@dataclasses.dataclass(frozen=True)
class Spec:
    """What a data set looks like, as is known or its metadata say.

    Attributes:
        title: for reports.
        shape: of an image: height, width, channels.
        num_classes: None if only the labels say.
    """

    title: str
    shape: tuple[int, ...]
    num_classes: int | None


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
        spec: shape and number of classes.
        image: the name of the images in an example.
        label: the name of the labels.
        encodings: that pictures in the records may have, of "png" and "jpeg"; none if
            they lie there as plain arrays.
        shards: for each split, its record files and how many examples each holds.
        remedy: how to mend the data set if it does not keep its promises.
    """

    path: Path
    title: str
    spec: Spec
    image: str
    label: str
    encodings: tuple[str, ...]
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


_NAME = re.compile(r"([A-Za-z]\w*)(?:/([^/:]+))?(?::(\d+\.\d+\.\d+))?")
"""A data set as tfds names it: name, configuration, version."""


def _version_of(name: str, data_dir: DataDir) -> Path | None:
    """The version directory that a name means, the newest one if it says none."""
    parts = _NAME.fullmatch(name)
    if parts is None:
        return None
    base, config, version = parts.groups()
    path = data_dir.path / base
    if config is None and newest_version(path) is None:
        config = _default_config(path)
    if config is not None:
        path = path / config
    if version is None:
        return newest_version(path)
    return path / version if (path / version / "dataset_info.json").is_file() else None


def _default_config(path: Path) -> str | None:
    """The configuration that tfds noted as the usual one of a data set."""
    try:
        noted = json.loads((path / ".config" / "metadata.json").read_text())
        return noted["default_config_name"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_prepared(name: str, data_dir: DataDir) -> bool:
    """Whether something of this name lies in a data directory, whole or not."""
    return _version_of(name, data_dir) is not None


def find(
    name: str, data_dir: DataDir, splits: Sequence[str] = ("train", "test")
) -> Prepared:
    """Finds a prepared data set of which at least `splits` are whole.

    Args:
        name: as tfds has it: a name, with `/CONFIG` and `:VERSION` behind or not.
        data_dir: where it lies.
        splits: that must be there.

    Raises:
        DataError: if it is missing, incomplete, in another file format, not of the
            shape and number of classes that its name stands for, or does not hold
            images as bytes of one shape with integer labels.
    """
    path = _version_of(name, data_dir)
    if path is None:
        raise DataError(
            f"`name` must be a data set that has been prepared, got {name!r} without "
            f"{data_dir.path / name / '<version>' / 'dataset_info.json'} (data "
            f"directory {data_dir.origin}); run `{data_dir.command(name)}`."
        )
    base = re.split("[/:]", name)[0]
    if base in PREPARED:
        remedy = f"delete {path} and run `{data_dir.command(base)}`"
    else:
        remedy = (
            f"delete {path} and prepare it again by TensorFlow Datasets "
            f"(`download_and_prepare(file_format={FILE_FORMAT!r})`)"
        )
    info = _read_json(path / "dataset_info.json", remedy)
    features = _read_json(path / "features.json", remedy)
    try:
        formats = [info["fileFormat"], *info.get("alternativeFileFormats", [])]
        names = [split["name"] for split in info["splits"]]
        if len(set(names)) < len(names):
            raise ValueError(f"splits {', '.join(names)}")
        shards = {
            split["name"]: _shards(f"{path / base}-{split['name']}", split)
            for split in info["splits"]
        }
        fields = features["featuresDict"]["features"]
        image, label = _keys(info, fields)
        is_picture = "image" in fields[image]
        pixels = fields[image]["image" if is_picture else "tensor"]
        kind = pixels.get("dtype", "uint8")
        shape = tuple(int(n) for n in pixels["shape"]["dimensions"])
        num_classes = _num_classes(fields[label])
        # As tfds has it: for what is said to be of no encoding, arrays become png,
        # while files are taken as they are.
        encoding = pixels.get("encodingFormat", "").lower() if is_picture else None
        if encoding not in ("png", "jpeg", "", None):
            raise ValueError(f"images encoded as {encoding!r}")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"`{path}` must hold the metadata of an image classification data set, got "
            f"{type(error).__name__}: {error} on reading its json files; {remedy}."
        ) from error
    if FILE_FORMAT not in formats:
        raise DataError(
            f"`{path}` must be in the file format {FILE_FORMAT!r}, which can be read "
            f"without TensorFlow, got {formats[0]!r}; {remedy}."
        )
    spec = PREPARED.get(base) or Spec(name, shape, num_classes)
    if (shape, num_classes) != (spec.shape, spec.num_classes):
        raise DataError(
            f"`{path}` must hold images of shape {spec.shape} in {spec.num_classes} "
            f"classes, got {shape} in {num_classes}; {remedy}."
        )
    if kind != "uint8" or len(shape) != 3 or min(shape) < 1:
        raise DataError(
            f"`{path}` must hold images as bytes (uint8) of one shape (height, width, "
            f"channels), got {kind} of {_shown(shape)}; bring them to one size and "
            "give a function that returns them, path/to/file.py:NAME."
        )
    for split in splits:
        if split not in shards and base not in PREPARED:
            raise DataError(
                f"`{path}` must have the split {split!r}, got {', '.join(names)}; give "
                "a function that returns the examples of another one, "
                "path/to/file.py:NAME."
            )
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
    encodings = {
        None: (),
        "": ("png",) if base in PREPARED else ("png", "jpeg"),
    }.get(encoding, (str(encoding),))
    return Prepared(path, title, spec, image, label, encodings, shards, remedy)


def _keys(info: dict[str, Any], fields: dict[str, Any]) -> tuple[str, str]:
    """The names of image and label in an example.

    Raises:
        ValueError: if there are none.
    """
    noted = info.get("supervisedKeys", {}).get("tuple", {}).get("items", [])
    keys = [each.get("featureKey") for each in noted] or ["image", "label"]
    if len(keys) != 2 or not set(keys) <= set(fields):
        raise ValueError(f"examples of {', '.join(fields)}, no image and label")
    image, label = keys
    if not {"image", "tensor"} & set(fields[image]):
        raise ValueError(f"{image!r} that is no image")
    return image, label


def _num_classes(field: dict[str, Any]) -> int | None:
    """Number of classes; None for integers of which the metadata say no more.

    Raises:
        ValueError: for labels that are no integers.
    """
    if "classLabel" in field:
        return int(field["classLabel"]["numClasses"])
    kind = field.get("tensor", {})
    is_integer = re.fullmatch(r"u?int\d+", kind.get("dtype", ""))
    if not is_integer or kind.get("shape", {}).get("dimensions"):
        raise ValueError(
            f"labels that are no integers ({field.get('pythonClassName')})"
        )
    return None


def _shown(shape: Sequence[int]) -> str:
    return f"({', '.join('?' if n < 0 else str(n) for n in shape)})"


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
