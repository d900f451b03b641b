import json
import os
import shutil
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrobust.data import DataError, load_arrays


class TestDigits:
    def test_splits_are_disjoint_and_are_the_whole(self):
        from sklearn.datasets import load_digits

        train, test = load_arrays("digits", "train"), load_arrays("digits", "test")
        assert (len(train), len(test)) == (1437, 360)
        both = np.concatenate([train.images, test.images]).reshape(1797, 64) * 16
        order, bundled = np.lexsort(both.T), load_digits().data
        np.testing.assert_array_equal(both[order], bundled[np.lexsort(bundled.T)])

    def test_test_split_is_stratified(self):
        counts = np.bincount(load_arrays("digits", "test").labels)
        assert counts.min() >= 35 and counts.max() <= 37

    def test_pixels_are_sixteenths_in_the_unit_interval(self):
        images = load_arrays("digits", "train").images
        assert (images.shape[1:], images.dtype) == ((8, 8, 1), np.float32)
        assert set(np.unique(images * 16)) == set(range(17))

    def test_split_is_fixed(self):
        labels = load_arrays("digits", "test").labels[:12]
        np.testing.assert_array_equal(labels, [7, 6, 3, 7, 7, 3, 2, 8, 9, 3, 2, 6])

    def test_who_changes_digits_changes_nobody_elses(self):
        mine = load_arrays("digits", "test")
        mine.images[:], mine.labels[:] = 7, 7
        fresh = load_arrays("digits", "test")
        assert fresh.images.max() == 1 and len(np.unique(fresh.labels)) == 10


class TestNames:
    def test_unknown_name_lists_the_known_ones_and_suggests_one(self):
        with pytest.raises(DataError, match=r"digits, mnist, .* did you mean 'mnist'"):
            load_arrays("MNITS", "test")

    def test_name_like_no_other_gets_no_suggestion(self):
        with pytest.raises(DataError, match="got 'q'; use one of these"):
            load_arrays("q", "test")

    def test_unknown_split_is_an_error(self):
        with pytest.raises(DataError, match="`split` must be 'train' or 'test'"):
            load_arrays("digits", "validation")


class TestDataDirectory:
    def test_argument_precedes_both_variables(self, monkeypatch, tmp_path):
        monkeypatch.setenv("JAXROBUST_DATA_DIR", str(tmp_path / "b"))
        with pytest.raises(DataError, match=r"/a/mnist.* given as `data_dir`\).*/a`"):
            load_arrays("mnist", "test", data_dir=tmp_path / "a")

    def test_own_variable_precedes_that_of_tfds(self, monkeypatch, tmp_path):
        monkeypatch.setenv("JAXROBUST_DATA_DIR", str(tmp_path / "b"))
        monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "c"))
        with pytest.raises(DataError, match=r"/b/mnist.* from JAXROBUST_DATA_DIR"):
            load_arrays("mnist", "test")

    def test_variable_of_tfds_precedes_the_default(self, monkeypatch, tmp_path):
        monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "c"))
        with pytest.raises(DataError, match=r"/c/mnist.* from TFDS_DATA_DIR"):
            load_arrays("mnist", "test")

    def test_default_is_that_of_tfds(self):
        with pytest.raises(DataError, match=r"home/tensorflow_datasets/mnist.*default"):
            load_arrays("mnist", "test")

    def test_an_unknown_home_is_no_traceback(self):
        with pytest.raises(DataError, match="has been prepared"):
            load_arrays("mnist", "test", data_dir="~nobody-of-this-name/data")

    def test_command_quotes_a_path_with_spaces(self, tmp_path):
        with pytest.raises(DataError, match=r"prepare mnist --data-dir '.*my data'`"):
            load_arrays("mnist", "test", data_dir=tmp_path / "my data")

    def test_missing_data_never_reaches_tfds(self, monkeypatch, tmp_path):
        monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
        with pytest.raises(DataError, match="has been prepared"):
            load_arrays("mnist", "test", data_dir=tmp_path)


class TestPrepared:
    def test_images_and_labels_come_back_in_the_order_of_the_shards(
        self, prepared_mnist, random_shard, tmp_path
    ):
        prepared_mnist()
        shards = [random_shard(7), random_shard(5, seed=1)]
        train = load_arrays("mnist", "train", data_dir=tmp_path)
        images = np.concatenate([images for images, _ in shards])
        np.testing.assert_array_equal(train.images, images)
        np.testing.assert_array_equal(
            train.labels, np.concatenate([labels for _, labels in shards])
        )
        assert (train.name, train.title, train.num_classes) == ("mnist", "MNIST", 10)
        assert (train.images.dtype, train.labels.dtype) == (np.uint8, np.int32)

    def test_tensorflow_is_not_imported(self, prepared_mnist, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "tensorflow", None)
        prepared_mnist()
        load_arrays("mnist", "test", data_dir=tmp_path)

    @pytest.mark.parametrize("count", [1, 2, 3, 5])
    def test_shares_are_the_split(self, prepared_mnist, tmp_path, count):
        prepared_mnist()
        whole = load_arrays("mnist", "train", data_dir=tmp_path)
        parts = [
            load_arrays("mnist", "train", data_dir=tmp_path, share=(index, count))
            for index in range(count)
        ]
        for field in ("images", "labels"):
            found = np.concatenate([getattr(part, field) for part in parts])
            np.testing.assert_array_equal(found, getattr(whole, field))

    def test_more_shares_than_examples_are_an_error(self, prepared_mnist, tmp_path):
        prepared_mnist()
        for name, size in (("mnist", 6), ("digits", 360)):
            with pytest.raises(DataError, match=f"at most {size} parts, .* one of 361"):
                load_arrays(name, "test", data_dir=tmp_path, share=(0, 361))

    def test_newest_complete_version_is_read(
        self, prepared_mnist, random_shard, tmp_path
    ):
        for version, seed in [("3.0.9", 3), ("3.0.10", 4), ("3.0.11.incompleteX", 5)]:
            splits = {"test": [random_shard(4, seed=seed)]}
            prepared_mnist(version=version, splits=splits)
        test = load_arrays("mnist", "test", data_dir=tmp_path)
        np.testing.assert_array_equal(test.images, random_shard(4, seed=4)[0])

    @pytest.mark.parametrize(
        "description, title",
        [
            (
                "Re-encoded as JPEG, quality 75: not exact",
                "CIFAR-10 (JPEG 75)",
            ),
            ("Re-encoded (Quality=90)", "CIFAR-10 (JPEG 90)"),
            ("CIFAR-10, 60,000 images", "CIFAR-10 (JPEG)"),
            ("Of high quality, 32x32 pixels", "CIFAR-10 (JPEG)"),
            ("JPEG of quality 2020", "CIFAR-10 (JPEG)"),
            ("JPEG, quality=100.", "CIFAR-10 (JPEG 100)"),
        ],
    )
    def test_title_admits_a_lossy_encoding(
        self, prepared_mnist, random_shard, tmp_path, description, title
    ):
        prepared_mnist(
            name="cifar10",
            splits={"test": [random_shard(3, (32, 32, 3))]},
            encoding="jpeg",
            description=description,
        )
        assert load_arrays("cifar10", "test", data_dir=tmp_path).title == title

    def test_lossless_images_keep_the_title_whatever_the_description(
        self, prepared_mnist, random_shard, tmp_path
    ):
        splits = {"test": [random_shard(3, (32, 32, 3))]}
        prepared_mnist(name="cifar10", splits=splits, description="JPEG, quality 75")
        assert load_arrays("cifar10", "test", data_dir=tmp_path).title == "CIFAR-10"

    def test_absl_keeps_its_level_and_says_nothing(
        self, prepared_mnist, tmp_path, caplog
    ):
        prepared_mnist()
        load_arrays("mnist", "test", data_dir=tmp_path)
        assert "OpenCV" not in caplog.text

    @pytest.mark.parametrize("module", ["tensorflow_datasets", "array_record.python"])
    def test_missing_reader_is_named(
        self, prepared_mnist, tmp_path, monkeypatch, module
    ):
        prepared_mnist()
        monkeypatch.delitem(
            sys.modules, "array_record.python.array_record_module", raising=False
        )
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(DataError, match=rf"'{module}.*' cannot be imported; run"):
            load_arrays("mnist", "test", data_dir=tmp_path)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory, write_prepared):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (250, 28, 28, 1), dtype=np.uint8)
    directory = tmp_path_factory.mktemp("pristine")
    path = write_prepared(directory, splits={"test": [(images, np.arange(250) % 10)]})
    file = path / "mnist-test.array_record-00000-of-00001"
    return directory, file, file.read_bytes(), images


class TestDamage:
    """Every kind of damage names the file and the way to mend it."""

    MENDING = r"delete \S*3\.0\.1 and run `jaxrobust data prepare mnist --data-dir"

    @pytest.mark.parametrize(
        "changes, message",
        [
            ({"shape": (32, 32, 3)}, r"shape \(28, 28, 1\) in 10 .* \(32, 32, 3\)"),
            ({"num_classes": 47}, r"got \(28, 28, 1\) in 47"),
            ({"file_format": "tfrecord"}, "'array_record', .* got 'tfrecord'"),
            ({"promised": [5]}, "ValueError: 6 examples instead of 5"),
            ({"promised": [7]}, "ValueError: 6 examples instead of 7"),
            ({"promised": [6, 6]}, "split 'test', got none of mnist-test.array_record"),
            ({"promised": [0]}, "got none of its examples"),
            ({"promised": [-6]}, r"ValueError: shards of \[-6\] examples"),
            ({"promised": [10**15]}, "6 examples instead of 1000000000000000"),
            ({"encoding": "gif"}, "images encoded as 'gif'"),
            ({"encoding": 7, "written": "png"}, "got AttributeError"),
        ],
    )
    def test_broken_promise_of_the_metadata(
        self, prepared_mnist, random_shard, tmp_path, changes, message
    ):
        prepared_mnist(splits={"test": [random_shard(6)]}, **changes)
        with pytest.raises(DataError, match=message) as error:
            load_arrays("mnist", "test", data_dir=tmp_path)
        error.match(self.MENDING)

    def test_image_of_another_size(self, prepared_mnist, random_shard, tmp_path):
        splits = {"test": [random_shard(3, (27, 28, 1))]}
        prepared_mnist(splits=splits, shape=(28, 28, 1))
        with pytest.raises(DataError, match=r"mnist-test\S*-00000") as error:
            load_arrays("mnist", "test", data_dir=tmp_path)
        error.match(self.MENDING)

    @pytest.mark.parametrize("label", [10, -1, 2**32 + 3])
    def test_label_out_of_range(self, prepared_mnist, random_shard, tmp_path, label):
        images, _ = random_shard(2)
        prepared_mnist(splits={"test": [(images, [3, label])]})
        message = f"mnist-test.*: the label {label} among 10 classes"
        with pytest.raises(DataError, match=message) as error:
            load_arrays("mnist", "test", data_dir=tmp_path)
        error.match(self.MENDING)

    def test_two_splits_of_one_name(self, prepared_mnist, tmp_path):
        path = prepared_mnist() / "dataset_info.json"
        info = json.loads(path.read_text())
        info["splits"].append({**info["splits"][1], "shardLengths": []})
        path.write_text(json.dumps(info))
        with pytest.raises(DataError, match="splits train, test, test"):
            load_arrays("mnist", "test", data_dir=tmp_path)

    @pytest.mark.parametrize(
        "shape, written, admitted, message",
        [
            ((32, 32, 3), "jpeg", "png", "another format instead of png"),
            ((32, 32, 3), "png", "jpeg", "another format instead of jpeg"),
            ((32, 32, 3), "bmp", "png", "another format instead of png"),
            # Decoded without a word: 300 becomes 44.
            ((28, 28, 1), "16 bits", "png", "png of other pixels"),
            # The places of its colors in a table, taken for gray values.
            ((28, 28, 1), "palette", "png", "png of other pixels"),
        ],
    )
    def test_pictures_in_another_form_than_the_title_admits(
        self, tmp_path, prepared_mnist, shape, written, admitted, message
    ):
        name = "mnist" if shape[0] == 28 else "cifar10"
        some = np.full((2, *shape), 200, np.uint8)
        prepared_mnist(
            name=name,
            splits={"test": [(some, [3, 4])]},
            encoding=admitted,
            written=written,
        )
        with pytest.raises(DataError, match=f"{name}-test.*{message}"):
            load_arrays(name, "test", data_dir=tmp_path)

    @pytest.mark.parametrize(
        "file, content, message",
        [
            ("dataset_info.json", "{", "readable json file, got JSONDecodeError"),
            ("dataset_info.json", "[]", "must hold the metadata"),
            ("dataset_info.json", "{}", "got KeyError: 'fileFormat'"),
            ("features.json", "{}", "got KeyError: 'featuresDict'"),
            ("features.json", None, "readable json file, got FileNotFoundError"),
        ],
    )
    def test_unreadable_metadata(
        self, prepared_mnist, tmp_path, file, content, message
    ):
        path = prepared_mnist() / file
        path.unlink()
        if content is not None:
            path.write_text(content)
        with pytest.raises(DataError, match=message) as error:
            load_arrays("mnist", "test", data_dir=tmp_path)
        error.match(self.MENDING)

    def test_metadata_that_only_tfds_can_refuse(self, prepared_mnist, tmp_path):
        path = prepared_mnist() / "features.json"
        features = json.loads(path.read_text())
        features["featuresDict"]["features"]["image"]["pythonClassName"] = "no.Such"
        path.write_text(json.dumps(features))
        with pytest.raises(DataError, match=r"mnist/3\.0\.1` must be complete"):
            load_arrays("mnist", "test", data_dir=tmp_path)

    def test_only_the_split_asked_for_need_be_there(self, prepared_mnist, tmp_path):
        path = prepared_mnist()
        (path / "mnist-train.array_record-00001-of-00002").unlink()
        load_arrays("mnist", "test", data_dir=tmp_path)
        with pytest.raises(DataError, match=r"none of mnist-train\S*-00001"):
            load_arrays("mnist", "train", data_dir=tmp_path)

    def test_damage_in_the_second_shard_names_the_second_shard(
        self, prepared_mnist, tmp_path
    ):
        path = prepared_mnist() / "mnist-train.array_record-00001-of-00002"
        path.write_bytes(path.read_bytes()[:-70_000])
        with pytest.raises(DataError, match=r"`[^`]*train\S*-00001-of-00002`"):
            load_arrays("mnist", "train", data_dir=tmp_path)

    @settings(max_examples=50, deadline=None)
    @given(place=st.floats(0, 1, exclude_max=True), length=st.integers(1, 300))
    def test_flipped_bytes_are_an_error_or_make_no_difference(
        self, pristine, place, length
    ):
        directory, file, whole, images = pristine
        damaged = bytearray(whole)
        start = int(place * len(whole))
        for index in range(start, min(start + length, len(whole))):
            damaged[index] ^= 0xFF
        file.write_bytes(damaged)
        try:
            test = load_arrays("mnist", "test", data_dir=directory)
        except DataError as error:
            assert file.name in str(error)
        else:
            np.testing.assert_array_equal(test.images, images)

    @settings(max_examples=25, deadline=None)
    @given(share=st.floats(0, 1, exclude_max=True))
    def test_truncated_file_is_an_error(self, pristine, share):
        directory, file, whole, _ = pristine
        file.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(DataError, match=file.name):
            load_arrays("mnist", "test", data_dir=directory)


@pytest.mark.mnist
class TestRealMnist:
    @pytest.fixture
    def copy(self, real_mnist, tmp_path):
        path = tmp_path / "mnist" / real_mnist.name
        path.mkdir(parents=True)
        for file in real_mnist.iterdir():
            if "-train." not in file.name:
                shutil.copyfile(file, path / file.name)
        return next(path.glob("mnist-test.*-00000-of-*"))

    def test_test_split_is_the_official_one(self, real_mnist):
        test = load_arrays("mnist", "test", data_dir=real_mnist.parents[1])
        assert test.images.shape == (10_000, 28, 28, 1)
        # Counts of the digits 0..9 in t10k-labels-idx1-ubyte (LeCun and Cortes).
        expected = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
        assert np.bincount(test.labels).tolist() == expected

    def test_truncated_copy_is_an_error(self, copy, tmp_path):
        os.truncate(copy, copy.stat().st_size // 2)
        with pytest.raises(DataError, match=r"mnist-test\S*` must be .*; delete \S*"):
            load_arrays("mnist", "test", data_dir=tmp_path)

    def test_flipped_byte_inside_an_image_is_an_error(self, copy, tmp_path):
        content = bytearray(copy.read_bytes())
        # In the data of the first whole PNG after the middle of the file.
        image = content.index(b"IDAT", len(content) // 2) + 20
        content[image] ^= 0x01
        copy.write_bytes(content)
        with pytest.raises(DataError, match="chunk data hash mismatch"):
            load_arrays("mnist", "test", data_dir=tmp_path)


class TestOthers:
    """Prepared data sets of which this library knows nothing beforehand."""

    SHAPE = (6, 5, 3)

    def write(self, write_prepared, directory, name="own", labels=None, **changes):
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (6, *self.SHAPE), np.uint8)
        labels = np.array([0, 2, 1, 1, 0, 2]) if labels is None else np.array(labels)
        splits = {"train": [(images, labels)], "test": [(images[:2], labels[:2])]}
        options = {"num_classes": 3, "splits": splits, **changes}
        return images, write_prepared(directory, name, version="1.0.0", **options)

    def integers(self, path):
        """Labels become integers of which the metadata say no more."""
        file = path / "features.json"
        features = json.loads(file.read_text())
        features["featuresDict"]["features"]["label"] = {
            "pythonClassName": "tensorflow_datasets.core.features.scalar.Scalar",
            "tensor": {"shape": {}, "dtype": "int64", "encoding": "none"},
        }
        file.write_text(json.dumps(features))

    def test_any_name_is_read_without_tensorflow(
        self, write_prepared, tmp_path, monkeypatch
    ):
        images, _ = self.write(write_prepared, tmp_path)
        import tensorflow_datasets  # noqa: F401

        monkeypatch.setitem(sys.modules, "tensorflow", None)
        for name in ("own", "own:1.0.0"):
            train = load_arrays(name, "train", data_dir=tmp_path)
            np.testing.assert_array_equal(train.images, images)
            np.testing.assert_array_equal(train.labels, [0, 2, 1, 1, 0, 2])
            assert (train.name, train.title, train.num_classes) == (name, name, 3)
        part = load_arrays("own", "train", data_dir=tmp_path, share=(1, 4))
        np.testing.assert_array_equal(part.images, images[1:3])

    def test_a_configuration_is_named_or_the_usual_one(self, write_prepared, tmp_path):
        images, path = self.write(write_prepared, tmp_path)
        (tmp_path / "own" / "small").mkdir()
        path.rename(tmp_path / "own" / "small" / "1.0.0")
        for name in ("own/small", "own/small:1.0.0"):
            found = load_arrays(name, "train", data_dir=tmp_path)
            np.testing.assert_array_equal(found.images, images)
        with pytest.raises(DataError, match="must be one of digits"):
            load_arrays("own", "train", data_dir=tmp_path)
        (tmp_path / "own" / ".config").mkdir()
        noted = tmp_path / "own" / ".config" / "metadata.json"
        noted.write_text('{"default_config_name": "small"}')
        assert len(load_arrays("own", "train", data_dir=tmp_path)) == 6

    def test_integer_labels_are_numbered_by_those_of_training(
        self, write_prepared, tmp_path
    ):
        labels = [7, -3, 9, 7, 7, -3]
        images, path = self.write(write_prepared, tmp_path, labels=labels)
        self.integers(path)
        train = load_arrays("own", "train", data_dir=tmp_path)
        np.testing.assert_array_equal(train.images, images)
        np.testing.assert_array_equal(train.labels, [1, 0, 2, 1, 1, 0])
        test = load_arrays("own", "test", data_dir=tmp_path, share=(1, 2))
        np.testing.assert_array_equal(test.labels, [0])
        assert train.classes == test.classes == (-3, 7, 9)

    @pytest.mark.parametrize(
        "changes, message",
        [
            ({"shape": (-1, -1, 3)}, r"of one shape .* got uint8 of \(\?, \?, 3\)"),
            ({"file_format": "tfrecord"}, "got 'tfrecord'; delete .* TensorFlow Data"),
            ({"num_classes": 2}, "the label 2 among 2 classes"),
        ],
    )
    def test_what_cannot_be_used_is_refused(
        self, write_prepared, tmp_path, changes, message
    ):
        self.write(write_prepared, tmp_path, **changes)
        with pytest.raises(DataError, match=message):
            load_arrays("own", "train", data_dir=tmp_path)

    def test_a_split_that_is_missing_is_named_among_those_there(
        self, write_prepared, tmp_path, random_shard
    ):
        splits = {"validation": [random_shard(3)]}
        write_prepared(tmp_path, "own", version="1.0.0", splits=splits)
        with pytest.raises(DataError, match="have the split 'train', got validation"):
            load_arrays("own", "train", data_dir=tmp_path)
