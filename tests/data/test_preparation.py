import importlib.util
import sys

import pytest

from jaxrobust.data import DATASETS, DataError, prepare, status


@pytest.fixture
def with_tensorflow(monkeypatch):
    """As if TensorFlow were installed; nothing here really imports it."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: name == "tensorflow" or find_spec(name, *rest),
    )


@pytest.fixture
def without_tensorflow(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "tensorflow" else find_spec(name, *rest),
    )


@pytest.fixture
def builder(monkeypatch):
    """Stands in for `tfds.builder`: records its arguments, then runs `action`."""
    import tensorflow_datasets as tfds

    class Builder:
        calls = ()
        action = staticmethod(lambda: None)

        def __call__(self, *args, **kwargs):
            self.calls += ((args, kwargs),)
            return self

        def download_and_prepare(self):
            self.action()

    builder = Builder()
    monkeypatch.setattr(tfds, "builder", builder)
    return builder


def entry(name, **kwargs):
    return next(entry for entry in status(**kwargs) if entry.name == name)


class TestStatus:
    def test_has_one_entry_for_each_name(self, tmp_path):
        assert [entry.name for entry in status(tmp_path)] == list(DATASETS)

    def test_digits_are_always_ready(self, tmp_path):
        digits = entry("digits", data_dir=tmp_path)
        assert digits.is_ready
        assert digits.where == "bundled with scikit-learn"
        assert "train 1,437, test 360" in digits.detail

    def test_missing_data_set_says_how_to_get_it(self, tmp_path):
        mnist = entry("mnist", data_dir=tmp_path)
        assert not mnist.is_ready
        assert mnist.where == str(tmp_path / "mnist")
        assert f"prepare mnist --data-dir {tmp_path}`" in mnist.detail

    def test_prepared_data_set_shows_its_sizes(self, prepared_mnist, tmp_path):
        path = prepared_mnist()
        mnist = entry("mnist", data_dir=tmp_path)
        assert (mnist.is_ready, mnist.where) == (True, str(path))
        assert (mnist.title, mnist.detail) == ("MNIST", "train 12, test 6")

    def test_lossy_encoding_shows_in_the_title(self, prepared_mnist, tmp_path):
        prepared_mnist(encoding="jpeg", description="quality 75")
        assert entry("mnist", data_dir=tmp_path).title == "MNIST (JPEG 75)"

    def test_lost_record_file_is_named(self, prepared_mnist, tmp_path):
        file = prepared_mnist() / "mnist-train.array_record-00000-of-00002"
        file.unlink()
        mnist = entry("mnist", data_dir=tmp_path)
        assert not mnist.is_ready
        assert file.name in mnist.detail

    def test_directory_comes_from_the_environment(
        self, prepared_mnist, tmp_path, monkeypatch
    ):
        prepared_mnist()
        monkeypatch.setenv("JAXROBUST_DATA_DIR", str(tmp_path))
        assert entry("mnist").is_ready

    def test_tfds_is_not_needed(self, prepared_mnist, tmp_path, monkeypatch):
        prepared_mnist()
        monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
        assert entry("mnist", data_dir=tmp_path).is_ready


class TestPrepare:
    def test_digits_need_nothing(self, without_tensorflow):
        assert "nothing to prepare" in prepare("digits").detail

    def test_unknown_name_is_an_error(self):
        with pytest.raises(DataError, match="`name` must be one of digits, mnist"):
            prepare("imagenet")

    def test_missing_tensorflow_names_the_extra(self, without_tensorflow, tmp_path):
        with pytest.raises(DataError, match=r'pip install "jaxrobust\[prepare\]"'):
            prepare("mnist", tmp_path)

    def test_asks_tfds_for_array_record_files_in_the_directory(
        self, builder, with_tensorflow, prepared_mnist, tmp_path
    ):
        builder.action = prepared_mnist
        assert prepare("mnist", tmp_path).is_ready
        expected = {"data_dir": str(tmp_path), "file_format": "array_record"}
        assert builder.calls == ((("mnist",), expected),)

    def test_data_set_that_is_there_is_left_alone(
        self, builder, without_tensorflow, prepared_mnist, tmp_path
    ):
        prepared_mnist()
        assert prepare("mnist", tmp_path).detail == "train 12, test 6"
        assert builder.calls == ()

    def test_broken_version_in_the_way_is_an_error(
        self, builder, with_tensorflow, prepared_mnist, tmp_path
    ):
        prepared_mnist(file_format="tfrecord")
        with pytest.raises(DataError, match=r"'array_record'.* delete \S*3\.0\.1 and"):
            prepare("mnist", tmp_path)
        assert builder.calls == ()

    def test_failed_download_says_why(self, builder, with_tensorflow, tmp_path):
        def fail():
            raise ConnectionError("no route to host")

        builder.action = fail
        with pytest.raises(DataError, match="ConnectionError: no route to host; check"):
            prepare("mnist", tmp_path)

    def test_preparation_that_leaves_nothing_is_an_error(
        self, builder, with_tensorflow, tmp_path
    ):
        with pytest.raises(DataError, match="has been prepared, got 'mnist' without"):
            prepare("mnist", tmp_path)
