"""Small prepared data sets, written without TensorFlow as tfds would write them."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def _encode(image, label, encoding):
    from tensorflow_datasets.proto import tf_example_pb2

    picture = io.BytesIO()
    squeezed = image[..., 0] if image.shape[-1] == 1 else image
    if encoding == "16 bits":
        Image.fromarray(squeezed.astype(np.uint16) + 100).save(picture, "PNG")
    elif encoding == "palette":
        Image.fromarray(squeezed).convert("P").save(picture, "PNG")
    else:
        Image.fromarray(squeezed).save(picture, encoding.upper())
    example = tf_example_pb2.Example()
    example.features.feature["image"].bytes_list.value.append(picture.getvalue())
    example.features.feature["label"].int64_list.value.append(int(label))
    return example.SerializeToString()


def _write_prepared(
    data_dir,
    name="mnist",
    *,
    version="3.0.1",
    splits=None,
    shape=None,
    num_classes=10,
    encoding="png",
    written=None,
    description="Synthetic.",
    file_format="array_record",
    promised=None,
):
    """Writes `splits`, name -> shards, a shard being (images, labels).

    `shape`, `num_classes`, `promised` (shard lengths) and `encoding`, where pictures
    are `written` in another one, let the metadata lie.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    path = Path(data_dir) / name / version
    path.mkdir(parents=True)
    some_image = next(iter(splits.values()))[0][0][0]
    for split, shards in splits.items():
        for index, (images, labels) in enumerate(shards):
            stem = f"{name}-{split}.array_record-{index:05d}-of-{len(shards):05d}"
            writer = ArrayRecordWriter(str(path / stem), "group_size:1")
            for image, label in zip(images, labels, strict=True):
                writer.write(_encode(image, label, written or encoding))
            writer.close()
    info = {
        "name": name,
        "version": version,
        "description": description,
        "fileFormat": file_format,
        "splits": [
            {
                "name": split,
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "shardLengths": [
                    str(n) for n in promised or [len(labels) for _, labels in shards]
                ],
            }
            for split, shards in splits.items()
        ],
    }
    prefix = "tensorflow_datasets.core.features."
    dimensions = [str(n) for n in shape or some_image.shape]
    features = {
        "pythonClassName": prefix + "features_dict.FeaturesDict",
        "featuresDict": {
            "features": {
                "image": {
                    "pythonClassName": prefix + "image_feature.Image",
                    "image": {
                        "dtype": "uint8",
                        "encodingFormat": encoding,
                        "shape": {"dimensions": dimensions},
                    },
                },
                "label": {
                    "pythonClassName": prefix + "class_label_feature.ClassLabel",
                    "classLabel": {"numClasses": str(num_classes)},
                },
            }
        },
    }
    (path / "dataset_info.json").write_text(json.dumps(info))
    (path / "features.json").write_text(json.dumps(features))
    return path


def _random_shard(size, shape=(28, 28, 1), seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (size, *shape), dtype=np.uint8)
    return images, (np.arange(size) + seed) % 10


@pytest.fixture(autouse=True)
def _no_data_directory_from_outside(request, monkeypatch, tmp_path):
    if request.node.get_closest_marker("mnist"):
        return
    monkeypatch.delenv("JAXROBUST_DATA_DIR", raising=False)
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def random_shard():
    """Random images and labels, the same for the same seed."""
    return _random_shard


@pytest.fixture(scope="session")
def write_prepared():
    """The writer itself, for fixtures of a wider scope."""
    return _write_prepared


@pytest.fixture
def prepared_mnist(tmp_path):
    """A writer of one synthetic MNIST in `tmp_path`; returns its version directory."""

    def write(**changes):
        splits = {
            "train": [_random_shard(7), _random_shard(5, seed=1)],
            "test": [_random_shard(6, seed=2)],
        }
        return _write_prepared(tmp_path, **{"splits": splits, **changes})

    return write


@pytest.fixture
def real_mnist():
    """The version directory of the real MNIST, where a machine has it."""
    for variable in ("JAXROBUST_DATA_DIR", "TFDS_DATA_DIR"):
        if value := os.environ.get(variable):
            found = sorted(Path(value).glob("mnist/*.*.*/dataset_info.json"))
            if found:
                return found[-1].parent
    pytest.skip("no prepared MNIST in JAXROBUST_DATA_DIR or TFDS_DATA_DIR")
