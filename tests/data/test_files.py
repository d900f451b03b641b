"""Data sets in files of the caller, of which both splits are looked at."""

import io
import os
import warnings
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrobust.data import DataError, load_arrays

GRAY = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
BOTH = np.array([0, 1])


@pytest.fixture
def save(tmp_path):
    """A writer of a .npz file in `tmp_path`; returns its path."""

    def save(file="some.npz", **arrays):
        path = tmp_path / file
        path.parent.mkdir(exist_ok=True)
        np.savez(path, **arrays)
        return str(path)

    return save


@pytest.fixture(params=["npz", "npy"])
def write(request, tmp_path):
    """A writer of one split of a data set in either form; returns its directory."""

    def write(split, image, label):
        path = tmp_path / "mine"
        path.mkdir(exist_ok=True)
        if request.param == "npz":
            np.savez(path / f"{split}.npz", image=image, label=label)
        else:
            np.save(path / f"{split}_image.npy", image)
            np.save(path / f"{split}_label.npy", label)
        return str(path)

    return write


class TestNpz:
    def test_bytes_without_channels_get_one(self, save):
        path = save(image=GRAY, label=np.array([1, 0], np.uint8))
        data = load_arrays(path, "test")
        assert (data.name, data.title, data.num_classes) == (path, path, 2)
        np.testing.assert_array_equal(data.images, GRAY[..., None])
        np.testing.assert_array_equal(data.labels, [1, 0])

    @pytest.mark.parametrize("kind", ["f2", "f4", ">f4", "f8", ">f8", "g"])
    def test_floats_become_float32(self, save, kind):
        path = save(image=np.full((2, 2, 2, 3), 0.25, kind), label=BOTH)
        images = load_arrays(path, "train").images
        assert (images.dtype, images.shape) == (np.float32, (2, 2, 2, 3))
        np.testing.assert_array_equal(images, np.float32(0.25))

    def test_compressed_files_are_read(self, save, tmp_path):
        np.savez_compressed(tmp_path / "some.npz", image=GRAY, label=BOTH)
        images = load_arrays(str(tmp_path / "some.npz"), "test").images
        np.testing.assert_array_equal(images, GRAY[..., None])

    def test_missing_file_is_an_error(self, save, tmp_path):
        save("mine/train.npz", image=GRAY, label=BOTH)
        with pytest.raises(DataError, match=r"got no .*test\.npz"):
            load_arrays(str(tmp_path / "mine"), "test")
        with pytest.raises(DataError, match=r"got no .*other\.npz"):
            load_arrays(str(tmp_path / "other.npz"), "test")

    def test_wrong_keys_are_an_error(self, save):
        path = save(x=GRAY, label=BOTH)
        with pytest.raises(DataError, match=r"array 'label', got \['label', 'x'\]"):
            load_arrays(path, "test")

    @pytest.mark.parametrize("second", ["image.npy", "image"])
    def test_two_members_of_one_name_are_an_error(self, save, second):
        path = save(image=GRAY, label=BOTH)
        with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as archive:
            warnings.simplefilter("ignore")  # zipfile says so, too
            content = io.BytesIO()
            np.save(content, GRAY + 1)
            archive.writestr(second, content.getvalue())
        with pytest.raises(DataError, match=r"got \['image', 'image', 'label'\]"):
            load_arrays(path, "test")

    def test_truncated_file_is_an_error(self, save, tmp_path):
        path = save(image=GRAY, label=BOTH)
        whole = (tmp_path / "some.npz").read_bytes()
        (tmp_path / "some.npz").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DataError, match=r"some\.npz` must be a whole \.npz"):
            load_arrays(path, "test")

    @pytest.mark.parametrize("content", [b"", b"no zip", b"\x93NUMPY\x01\x00"])
    def test_a_file_of_another_kind_is_an_error(self, tmp_path, content):
        (tmp_path / "some.npz").write_bytes(content)
        with pytest.raises(DataError, match=r"must be a whole \.npz .*BadZipFile"):
            load_arrays(str(tmp_path / "some.npz"), "test")

    def test_pickled_objects_are_refused(self, save):
        path = save(image=np.array([{}], object), label=BOTH)
        with pytest.raises(DataError, match="without pickled objects"):
            load_arrays(path, "test")

    def test_an_array_longer_than_its_file_is_refused_before_there_is_room_for_it(
        self, tmp_path
    ):
        content = io.BytesIO()
        header = {"descr": "|u1", "fortran_order": False, "shape": (2, 2**25, 2**25)}
        np.lib.format.write_array_header_1_0(content, header)
        labels = io.BytesIO()
        np.save(labels, BOTH)
        with zipfile.ZipFile(tmp_path / "some.npz", "w") as archive:
            archive.writestr("image.npy", content.getvalue())
            archive.writestr("label.npy", labels.getvalue())
        with pytest.raises(DataError, match="128 bytes instead of 2251799813685376"):
            load_arrays(str(tmp_path / "some.npz"), "test")

    @settings(max_examples=100, deadline=None)
    @given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
    def test_a_flipped_bit_is_an_error_or_makes_no_difference(
        self, tmp_path_factory, place, bit
    ):
        content = io.BytesIO()
        np.savez(content, image=GRAY, label=BOTH)
        damaged = bytearray(content.getvalue())
        damaged[int(place * len(damaged))] ^= 1 << bit
        path = tmp_path_factory.getbasetemp() / "flipped.npz"
        path.write_bytes(damaged)
        try:
            data = load_arrays(str(path), "test")
        except DataError as error:
            assert "flipped.npz" in str(error)
        else:
            np.testing.assert_array_equal(data.images, GRAY[..., None])
            np.testing.assert_array_equal(data.labels, BOTH)

    @pytest.mark.parametrize(
        "image, label, message",
        [
            (GRAY, np.array([0.0, 1.0]), "`label` in .* integers .* got float64"),
            (GRAY, np.array([False, True]), "`label` in .* integers .* got bool"),
            (GRAY, np.array(["a", "b"]), "`label` in .* integers .* got str"),
            (GRAY, np.eye(2, dtype=int), r"got int64 of shape \(2, 2\)"),
            (GRAY, np.array(0), r"got int64 of shape \(\)"),
            (GRAY, np.arange(3), r"integers of shape \(2,\), .* of shape \(3,\)"),
            (GRAY, np.array([-1, 1]), "must be at least 0, got -1"),
            (GRAY.astype(np.int64), BOTH, "uint8 or float32, got 'int64'"),
            (GRAY.astype(np.uint16), BOTH, "uint8 or float32, got 'uint16'"),
            (GRAY > 3, BOTH, "uint8 or float32, got 'bool'"),
            (GRAY / 23 * 1j, BOTH, "uint8 or float32, got 'complex128'"),
            (np.full((2, 2, 2), 255.0), BOTH, "divide by 255"),
            (np.full((2, 2, 2), 1e300), BOTH, r"got \[inf, inf\]"),
            (np.full((2, 2, 2), np.nan), BOTH, r"got \[nan, nan\]"),
            (np.zeros((2, 2)), BOTH, "non-empty array"),
            (np.zeros((2, 2, 2, 2, 2)), BOTH, "non-empty array"),
            (np.zeros(()), BOTH, "at least one image"),
            (np.zeros((0, 2, 2)), np.zeros(0, int), "at least one image"),
            (np.zeros((2, 3, 32, 32)), BOTH, "3 channels of 32 x 32 pixels"),
            (GRAY % 2, BOTH, "brighter than 1/255 of white, got at most 1 as uint8"),
        ],
    )
    def test_wrong_arrays_are_errors(self, save, image, label, message):
        with pytest.raises(DataError, match=message):
            load_arrays(save(image=image, label=label), "test")


class TestNpy:
    def test_a_label_file_that_is_missing_is_named(self, tmp_path):
        np.save(tmp_path / "train_image.npy", GRAY)
        with pytest.raises(DataError, match=r"train_label\.npy` .*FileNotFound"):
            load_arrays(str(tmp_path), "train")

    def test_a_split_that_is_missing_is_named(self, tmp_path):
        np.save(tmp_path / "train_image.npy", GRAY)
        np.save(tmp_path / "train_label.npy", BOTH)
        with pytest.raises(DataError, match=r"test_label\.npy` .*FileNotFound"):
            load_arrays(str(tmp_path), "test")

    @pytest.mark.parametrize("part", ["image", "label"])
    @pytest.mark.parametrize("change", [-1, 1])
    def test_a_file_of_another_length_than_it_says_is_refused(
        self, tmp_path, part, change
    ):
        np.save(tmp_path / "train_image.npy", GRAY)
        np.save(tmp_path / "train_label.npy", BOTH)
        file = tmp_path / f"train_{part}.npy"
        os.truncate(file, file.stat().st_size + change)
        with pytest.raises(DataError, match=rf"train_{part}\.npy` .* bytes instead of"):
            load_arrays(str(tmp_path), "train")

    @pytest.mark.parametrize("part", ["image", "label"])
    def test_an_archive_under_the_name_of_an_array_is_refused(self, tmp_path, part):
        np.save(tmp_path / "train_image.npy", GRAY)
        np.save(tmp_path / "train_label.npy", BOTH)
        np.savez(tmp_path / "other.npz", GRAY)
        (tmp_path / "other.npz").rename(tmp_path / f"train_{part}.npy")
        with pytest.raises(DataError, match=rf"train_{part}\.npy` must be a whole"):
            load_arrays(str(tmp_path), "train")

    def test_pixels_in_another_byte_order_are_refused_in_words(self, tmp_path):
        np.save(tmp_path / "train_image.npy", (GRAY / 23).astype(">f4"))
        np.save(tmp_path / "train_label.npy", BOTH.astype(">i8"))
        with pytest.raises(DataError, match=r"byte order of this machine.*got '>f4'"):
            load_arrays(str(tmp_path), "train")

    def test_images_in_columns_order_are_taken_as_they_are(self, tmp_path):
        np.save(tmp_path / "train_image.npy", np.asfortranarray(GRAY))
        np.save(tmp_path / "train_label.npy", BOTH)
        images = load_arrays(str(tmp_path), "train").images
        assert isinstance(images, np.memmap)
        np.testing.assert_array_equal(images, GRAY[..., None])

    def test_both_forms_in_one_directory_are_refused(self, tmp_path):
        np.save(tmp_path / "train_image.npy", GRAY)
        np.save(tmp_path / "train_label.npy", BOTH)
        np.savez(tmp_path / "test.npz", image=GRAY, label=BOTH)
        for split in ("train", "test"):
            with pytest.raises(DataError, match=r"got test\.npz and train_image\.npy"):
                load_arrays(str(tmp_path), split)


class TestSplits:
    """Both are looked at, whichever is asked for, in either form."""

    @pytest.fixture(params=["train", "test"])
    def split(self, request):
        return request.param

    def test_each_has_its_own_examples_and_all_have_the_same_classes(self, write):
        write("train", GRAY, BOTH)
        path = write("test", GRAY[:1] + 1, BOTH[:1])
        train, test = load_arrays(path, "train"), load_arrays(path, "test")
        np.testing.assert_array_equal(train.images, GRAY[..., None])
        np.testing.assert_array_equal(test.images, GRAY[:1, ..., None] + 1)
        assert (train.num_classes, test.num_classes) == (2, 2)

    def test_images_of_another_shape_are_refused(self, write, split):
        write("train", GRAY, BOTH)
        path = write("test", GRAY[:, :, :3], BOTH)
        message = r"uint8 of shape \(3, [34], 1\), got uint8 of shape \(3, [34], 1\)"
        with pytest.raises(DataError, match=message) as error:
            load_arrays(path, split)
        error.match("test" if split == "train" else "train")

    def test_images_of_another_type_are_refused(self, write, split):
        write("train", GRAY, BOTH)
        path = write("test", (GRAY / 23).astype(np.float32), BOTH)
        message = "got float32 of" if split == "train" else "got uint8 of"
        with pytest.raises(DataError, match=message):
            load_arrays(path, split)

    def test_a_channel_of_its_own_is_no_other_shape(self, write, split):
        write("train", GRAY, BOTH)
        path = write("test", GRAY[..., None], BOTH)
        assert load_arrays(path, split).images.shape == (2, 3, 4, 1)

    def test_an_empty_split_is_refused(self, write, split):
        write("train", GRAY, BOTH)
        path = write("test", GRAY[:0], BOTH[:0])
        with pytest.raises(DataError, match=r"test\S*` must hold at least one image"):
            load_arrays(path, split)

    def test_labels_of_the_other_split_are_checked_as_well(self, write, split):
        write("train", GRAY, BOTH)
        path = write("test", GRAY, BOTH - 1)
        with pytest.raises(DataError, match=r"test\S* must be at least 0, got -1"):
            load_arrays(path, split)

    def test_a_single_class_is_refused(self, write, split):
        write("train", GRAY, np.array([1, 1]))
        path = write("test", GRAY, BOTH)
        with pytest.raises(
            DataError, match=r"train\S* must be .*two classes, got only"
        ):
            load_arrays(path, split)

    def test_labels_from_one_are_refused_with_the_remedy(self, write, split):
        write("train", np.zeros((10, 2, 2), np.uint8), np.arange(1, 11))
        path = write("test", np.zeros((2, 2, 2), np.uint8), np.array([1, 10]))
        message = "class from 0 to 10, .* got none of 0; subtract 1 from the labels"
        with pytest.raises(DataError, match=message):
            load_arrays(path, split)

    def test_classes_that_only_the_test_split_has_are_refused(self, write, split):
        write("train", GRAY, BOTH)
        path = write("test", GRAY, np.array([1, 3]))
        message = "class from 0 to 3, .* got none of 2, 3; remove what training has"
        with pytest.raises(DataError, match=message):
            load_arrays(path, split)

    @pytest.mark.parametrize("large", [2**30, 2**31, 2**32 + 1, 2**63 - 1])
    def test_a_number_that_is_no_class_is_refused(self, write, split, large):
        write("train", GRAY, np.array([0, large]))
        path = write("test", GRAY, BOTH)
        message = f"from 0 to {large}, .* got none of 1, 2, 3, 4, 5, ...; remove"
        with pytest.raises(DataError, match=message):
            load_arrays(path, split)

    def test_the_remedy_for_gaps_makes_a_data_set_that_is_taken(self, write, split):
        train, test = np.array([3, 8]), np.array([8, 8])
        write("train", GRAY, train)
        path = write("test", GRAY, test)
        with pytest.raises(DataError, match=r"searchsorted\(numpy\.unique\(train_lab"):
            load_arrays(path, split)
        write("train", GRAY, np.searchsorted(np.unique(train), train))
        write("test", GRAY, np.searchsorted(np.unique(train), test))
        assert load_arrays(path, split).num_classes == 2

    def test_a_test_split_alone_may_lack_classes(self, write):
        path = write("test", GRAY, np.array([0, 4]))
        assert load_arrays(path, "test").num_classes == 5

    def test_reading_one_split_leaves_the_pixels_of_the_other_alone(
        self, tmp_path, monkeypatch
    ):
        for split in ("train", "test"):
            np.savez(tmp_path / f"{split}.npz", image=GRAY, label=BOTH)
        read, shapes = np.lib.format.read_array, []

        def counting(stream, **options):
            found = read(stream, **options)
            shapes.append(found.shape)
            return found

        monkeypatch.setattr(np.lib.format, "read_array", counting)
        load_arrays(str(tmp_path), "train")
        assert sorted(shapes) == [(2,), (2,), (2, 3, 4)]


def test_a_name_that_the_system_refuses_is_an_error_with_its_reason():
    with pytest.raises(DataError, match=r"files that can be read.* too long"):
        load_arrays("x" * 5000, "test")


def test_an_unknown_home_is_an_unknown_name():
    with pytest.raises(DataError, match="must be one of digits"):
        load_arrays("~nobody-of-this-name/data", "test")
