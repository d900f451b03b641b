import dataclasses
import json
import os
import shutil
import sys

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrobust.data import (
    DataError,
    Dataset,
    as_float,
    load_arrays,
    of_classes,
    subset,
)


def tiny(**changes):
    fields = {
        "name": "tiny",
        "title": "tiny",
        "images": np.zeros((3, 2, 2, 1), np.uint8),
        "labels": np.array([0, 1, 1], np.int32),
        "num_classes": 2,
    }
    return Dataset(**{**fields, **changes})


class TestDataset:
    def test_length_is_the_number_of_examples(self):
        assert len(tiny()) == 3

    @pytest.mark.parametrize(
        "changes, message",
        [
            ({"images": np.zeros((3, 2, 2), np.uint8)}, "non-empty array"),
            ({"images": np.zeros((0, 2, 2, 1), np.uint8)}, "non-empty array"),
            ({"images": np.zeros((3, 2, 2, 1), np.int64)}, "uint8 or float32"),
            ({"images": np.full((3, 2, 2, 1), 1.5, np.float32)}, r"in \[0, 1\] when"),
            ({"images": np.full((3, 2, 2, 1), -0.5, np.float32)}, r"in \[0, 1\] when"),
            ({"images": np.full((3, 2, 2, 1), np.nan, np.float32)}, r"in \[0, 1\]"),
            ({"labels": np.array([0, 1], np.int32)}, "int32 of shape"),
            ({"labels": np.array([0, 1, 1])}, "int32 of shape"),
            ({"labels": np.array([0, 1, 2], np.int32)}, r"`labels` must be in \[0, 2"),
            ({"labels": np.array([0, 1, -1], np.int32)}, r"got \[-1, 1\]"),
        ],
    )
    def test_broken_promises_are_errors(self, changes, message):
        with pytest.raises(DataError, match=message):
            tiny(**changes)

    def test_images_may_touch_both_ends_of_the_range(self):
        images = np.array([0, 1], np.float32).reshape(2, 1, 1, 1)
        tiny(images=images, labels=np.array([0, 1], np.int32))


def numbered(labels):
    """A data set in which the images tell the examples apart."""
    labels = np.asarray(labels, np.int32)
    images = np.arange(len(labels), dtype=np.float32) / len(labels)
    return tiny(images=images.reshape(-1, 1, 1, 1), labels=labels, num_classes=4)


@st.composite
def labels_and_size(draw):
    labels = draw(st.lists(st.integers(0, 3), min_size=1, max_size=60))
    return labels, draw(st.integers(1, len(labels)))


class TestSubset:
    @given(labels_and_size())
    def test_has_the_size_asked_for_in_the_order_of_the_whole(self, case):
        labels, size = case
        whole = numbered(labels)
        part = subset(whole, size)
        places = np.rint(part.images.ravel() * len(whole)).astype(int)
        assert len(part) == size
        assert (np.diff(places) > 0).all()
        np.testing.assert_array_equal(part.labels, whole.labels[places])

    @given(labels_and_size())
    def test_keeps_the_share_of_every_class_to_within_one_example(self, case):
        labels, size = case
        part = subset(numbered(labels), size)
        share = np.bincount(labels, minlength=4) * size / len(labels)
        assert (np.abs(np.bincount(part.labels, minlength=4) - share) < 1.5).all()

    @given(labels_and_size())
    def test_takes_the_first_examples_of_each_class(self, case):
        labels, size = case
        whole = numbered(labels)
        part = subset(whole, size)
        for label in range(4):
            mine = part.images[part.labels == label]
            first = whole.images[whole.labels == label][: len(mine)]
            np.testing.assert_array_equal(mine, first)

    @given(labels_and_size())
    def test_lies_inside_every_larger_subset(self, case):
        labels, size = case
        whole = numbered(labels)
        larger = subset(whole, min(size + 1, len(whole)))
        assert np.isin(subset(whole, size).images, larger.images).all()

    def test_full_size_gives_the_whole(self):
        whole = load_arrays("digits", "test")
        np.testing.assert_array_equal(subset(whole, 360).images, whole.images)

    @pytest.mark.parametrize("size", [0, -1, 4])
    def test_impossible_sizes_are_errors(self, size):
        with pytest.raises(ValueError, match=r"`size` must be in \[1, 3\]"):
            subset(tiny(), size)


class TestOfClasses:
    @given(labels_and_size(), st.sets(st.integers(0, 3), min_size=1))
    def test_keeps_all_examples_of_the_classes_and_no_other(self, case, classes):
        labels, _ = case
        whole = numbered(labels)
        wanted = classes & set(labels)
        if wanted != classes:
            with pytest.raises(ValueError, match="`classes` must be among"):
                of_classes(whole, sorted(classes))
            return
        part = of_classes(whole, sorted(classes))
        places = [place for place, label in enumerate(labels) if label in classes]
        np.testing.assert_array_equal(part.images, whole.images[places])
        np.testing.assert_array_equal(part.labels, whole.labels[places])

    def test_no_class_is_an_error(self):
        with pytest.raises(ValueError, match=r"`classes` must be among .*got \(\)"):
            of_classes(tiny(), [])


@pytest.mark.exact
class TestAsFloat:
    def test_every_byte_rounds_as_exact_division_does(self):
        pixels = np.arange(256, dtype=np.uint8)
        expected = (pixels.astype(np.float64) / 255).astype(np.float32)
        np.testing.assert_array_equal(as_float(pixels), expected)
        np.testing.assert_array_equal(jax.jit(as_float)(pixels), expected)

    @pytest.mark.parametrize("dtype", [jax.numpy.float32, jax.numpy.bfloat16])
    def test_floats_pass_unchanged(self, dtype):
        images = jax.random.uniform(jax.random.key(0), (2, 3)).astype(dtype)
        result = jax.jit(as_float)(images)
        assert result.dtype == dtype
        np.testing.assert_array_equal(result, images)


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


class TestNpz:
    @pytest.fixture
    def save(self, tmp_path):
        def save(file="some.npz", **arrays):
            path = tmp_path / file
            path.parent.mkdir(exist_ok=True)
            np.savez(path, **arrays)
            return str(path)

        return save

    def test_bytes_without_channels_get_one(self, save):
        images = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
        path = save(image=images, label=np.array([0, 4], np.uint8))
        data = load_arrays(path, "test")
        assert (data.name, data.title, data.num_classes) == (path, path, 5)
        np.testing.assert_array_equal(data.images, images[..., None])
        np.testing.assert_array_equal(data.labels, [0, 4])

    def test_floats_become_float32(self, save):
        path = save(image=np.full((1, 2, 2, 3), 0.1), label=np.array([1]))
        images = load_arrays(path, "train").images
        assert (images.dtype, images.shape) == (np.float32, (1, 2, 2, 3))

    def test_directory_has_its_splits_and_one_number_of_classes(self, save, tmp_path):
        image = np.zeros((2, 3, 3), np.uint8)
        save("mine/train.npz", image=image, label=np.array([0, 6]))
        save("mine/test.npz", image=image + 1, label=np.array([0, 1]))
        test = load_arrays(str(tmp_path / "mine"), "test")
        assert (test.num_classes, test.images.max()) == (7, 1)
        assert load_arrays(str(tmp_path / "mine"), "train").images.max() == 0

    def test_missing_file_is_an_error(self, save, tmp_path):
        save("mine/train.npz", image=np.zeros((1, 2, 2)), label=np.array([0]))
        with pytest.raises(DataError, match=r"got no .*test\.npz"):
            load_arrays(str(tmp_path / "mine"), "test")
        with pytest.raises(DataError, match=r"got no .*other\.npz"):
            load_arrays(str(tmp_path / "other.npz"), "test")

    def test_wrong_keys_are_an_error(self, save):
        path = save(x=np.zeros((1, 2, 2)), label=np.array([0]))
        with pytest.raises(DataError, match=r"'image' and 'label', got \['label', 'x"):
            load_arrays(path, "test")

    def test_truncated_file_is_an_error(self, save, tmp_path):
        path = save(image=np.zeros((1, 2, 2)), label=np.array([0]))
        whole = (tmp_path / "some.npz").read_bytes()
        (tmp_path / "some.npz").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DataError, match=r"some\.npz` must be a whole \.npz"):
            load_arrays(path, "test")

    def test_pickled_objects_are_refused(self, save):
        path = save(image=np.array([{}], object), label=np.array([0]))
        with pytest.raises(DataError, match="without pickled objects"):
            load_arrays(path, "test")

    @pytest.mark.parametrize(
        "image, label, message",
        [
            (np.zeros((1, 2, 2)), np.array([0.0]), "`label` in .* must be integers"),
            (np.zeros((1, 2, 2), np.int64), np.array([0]), "uint8 or float32"),
            (np.full((1, 2, 2), 255.0), np.array([0]), "divide by 255"),
            (np.zeros((1, 2)), np.array([0]), "non-empty array"),
            (np.zeros((2, 2, 2)), np.array([0]), "int32 of shape"),
            (np.zeros((0, 2, 2)), np.zeros(0, int), "non-empty array"),
            (np.zeros((1, 2, 2)), np.array([2**32]), "must fit into int32"),
        ],
    )
    def test_wrong_arrays_are_errors(self, save, image, label, message):
        with pytest.raises(DataError, match=message):
            load_arrays(save(image=image, label=label), "test")


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

    def test_label_out_of_range(self, prepared_mnist, random_shard, tmp_path):
        images, _ = random_shard(2)
        prepared_mnist(splits={"test": [(images, [3, 10])]})
        with pytest.raises(DataError, match="`labels` must be in"):
            load_arrays("mnist", "test", data_dir=tmp_path)

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


def test_dataset_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        tiny().title = "other"
