import dataclasses
import tracemalloc

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxrobust.data import (
    DataError,
    Dataset,
    as_float,
    load_arrays,
    of_classes,
    require_learnable,
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
            ({"images": np.zeros((0, 2, 2, 1), np.uint8)}, "give at least one image"),
            ({"images": np.zeros((3, 2, 2, 1), np.int64)}, "uint8 or float32"),
            ({"images": np.zeros((3, 2, 2, 1), np.uint16)}, "float32, got 'uint16'"),
            ({"images": np.zeros((3, 2, 2, 1), ">f8")}, "float32, got 'float64'"),
            ({"images": np.zeros((3, 2, 2, 1), bool)}, "float32, got 'bool'"),
            ({"images": np.zeros((3, 2, 2, 1), object)}, "float32, got 'object'"),
            ({"images": np.full((3, 2, 2, 1), 1.5, np.float32)}, r"in \[0, 1\] when"),
            ({"images": np.full((3, 2, 2, 1), -0.5, np.float32)}, r"in \[0, 1\] when"),
            ({"images": np.full((3, 2, 2, 1), np.nan, np.float32)}, r"in \[0, 1\]"),
            ({"images": np.full((3, 2, 2, 1), 1.5, ">f4")}, r"got \[1\.5, 1\.5\]"),
            ({"labels": np.array([0, 1], np.int32)}, "integers of shape"),
            ({"labels": np.array([[0], [1], [1]])}, r"int64 of shape \(3, 1\)"),
            ({"labels": np.array(1)}, r"int64 of shape \(\)"),
            ({"labels": np.array([0.0, 1.0, 1.0])}, "got float64 of shape"),
            ({"labels": np.array([False, True, True])}, "got bool of shape"),
            ({"labels": np.array([0, 1, 1], object)}, "got object of shape"),
            ({"labels": np.array([0, 1, 2], np.int32)}, r"`labels` must be in \[0, 2"),
            ({"labels": np.array([0, 1, -1], np.int32)}, r"got \[-1, 1\]"),
            ({"labels": np.array([0, 1, 2**32])}, r"got \[0, 4294967296\]"),
            (
                {"labels": np.array([0, 1, 2**64 - 1], np.uint64)},
                r", 184467440737\d+\]",
            ),
            ({"num_classes": 1}, r"`num_classes` must be in \[2, 1048576\], got 1 for"),
            ({"num_classes": 2**30 + 1}, r"`num_classes` .* got 1073741825 for"),
        ],
    )
    def test_broken_promises_are_errors(self, changes, message):
        with pytest.raises(DataError, match=message):
            tiny(**changes)

    @pytest.mark.parametrize(
        "kind", ["int64", ">i4", ">i8", "uint8", "uint64", "int8", "<u2"]
    )
    def test_integer_labels_of_any_type_become_int32(self, kind):
        labels = tiny(labels=np.array([0, 1, 1], kind)).labels
        assert labels.dtype == np.int32 and labels.dtype.isnative
        np.testing.assert_array_equal(labels, [0, 1, 1])

    def test_arrays_of_jax_become_those_of_numpy(self):
        images = np.arange(12, dtype=np.float32).reshape(3, 2, 2, 1) / 12
        data = tiny(
            images=jax.numpy.asarray(images),
            labels=jax.numpy.asarray([1, 0, 1], jax.numpy.uint8),
        )
        assert (type(data.images), type(data.labels)) == (np.ndarray, np.ndarray)
        assert (data.images.dtype, data.labels.dtype) == (np.float32, np.int32)
        np.testing.assert_array_equal(data.images, images)
        np.testing.assert_array_equal(data.labels, [1, 0, 1])

    def test_big_endian_images_keep_their_values(self):
        images = np.arange(12, dtype=np.float32).reshape(3, 2, 2, 1) / 12
        kept = tiny(images=images.astype(">f4")).images
        assert kept.dtype == np.float32
        np.testing.assert_array_equal(kept, images)

    def test_a_number_of_classes_of_numpy_becomes_a_python_number(self):
        assert type(tiny(num_classes=np.int64(2)).num_classes) is int

    @pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (4, 5, 9), (2, 9, 5)])
    def test_channels_before_the_pixels_are_refused(self, shape):
        channels, height, width = shape
        message = f"{channels} channels of {height} x {width} pixels; .*transpose"
        first = np.zeros((3, *shape), np.uint8)
        with pytest.raises(DataError, match=message):
            tiny(images=first)
        # The two ways out that the message names.
        assert tiny(images=first.transpose(0, 2, 3, 1)).images.shape[3] == channels
        assert tiny(images=first.swapaxes(1, 2)).images.shape[1:] == (
            *(height, channels, width),
        )

    @pytest.mark.parametrize(
        "shape", [(1, 1, 784), (2, 2, 3), (28, 28, 2), (64, 64, 13), (3, 32, 4)]
    )
    def test_images_may_be_low_or_have_many_channels(self, shape):
        images = np.zeros((3, *shape), np.uint8)
        assert tiny(images=images).images.shape == images.shape

    def test_images_may_touch_both_ends_of_the_range(self):
        images = np.array([0, 1], np.float32).reshape(2, 1, 1, 1)
        tiny(images=images, labels=np.array([0, 1], np.int32))

    def test_cannot_be_changed_in_place(self):
        with pytest.raises(dataclasses.FrozenInstanceError):
            tiny().title = "other"

    def test_a_copy_with_changes_is_checked_as_well(self):
        assert dataclasses.replace(tiny(), title="other").title == "other"
        with pytest.raises(DataError, match=r"got \[7, 7\] for tiny"):
            dataclasses.replace(tiny(), labels=np.full(3, 7))


GRAY = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)


class TestOf:
    """Arrays of the caller, whose labels are any integers."""

    @given(
        st.lists(
            st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 2),
            min_size=2,
            max_size=8,
        ).filter(lambda labels: len(set(labels)) > 1)
    )
    @pytest.mark.filterwarnings("ignore:the labels of own")
    def test_labels_are_numbered_in_sorted_order_and_remembered(self, labels):
        images = np.zeros((len(labels), 2, 2), np.uint8)
        data = Dataset.of(images, np.array(labels, np.int64))
        assert list(data.classes) == sorted(set(labels))
        assert [data.classes[label] for label in data.labels] == labels
        assert (data.labels.dtype, data.num_classes) == (np.int32, len(set(labels)))

    def test_labels_beyond_int64_are_numbered_as_well(self):
        labels = np.array([2**64 - 1, 3, 3, 2**63], np.uint64)
        data = Dataset.of(GRAY, labels, classes=np.unique(labels))
        assert data.classes == (3, 2**63, 2**64 - 1)
        np.testing.assert_array_equal(data.labels, [2, 0, 0, 1])

    def test_new_numbers_are_told_unless_the_caller_knows(self):
        labels = np.array([8, -1, 8, 3])
        with pytest.warns(UserWarning, match=r"labels of mine .* -1, 3, 8; another"):
            data = Dataset.of(GRAY, labels, name="mine")
        assert "3 classes (-1, 3, 8)" in repr(data)
        # Warnings are errors in tests.
        known = Dataset.of(GRAY, labels, classes=np.unique(labels))
        assert known.fingerprint == data.fingerprint
        Dataset.of(GRAY, np.array([2, 0, 1, 1]))

    @pytest.mark.parametrize("labels", [[0, 1, 2, 2], [5, -7, 9, 9]])
    def test_another_split_is_numbered_likewise_whatever_occurs_there(self, labels):
        labels = np.array(labels)
        train = Dataset.of(GRAY, labels, classes=np.unique(labels))
        test = Dataset.of(GRAY[:2], labels[[2, 2]], classes=train.classes)
        np.testing.assert_array_equal(test.labels, train.labels[[2, 2]])
        assert test.num_classes == train.num_classes == 3
        with pytest.raises(DataError, match=r"`labels` must be among .*, got 11 for"):
            Dataset.of(GRAY[:2], np.array([labels[0], 11]), classes=train.classes)

    def test_a_number_of_classes_leaves_labels_as_they_are(self):
        data = Dataset.of(GRAY, np.array([3, 8, 8, 3]), num_classes=10)
        np.testing.assert_array_equal(data.labels, [3, 8, 8, 3])
        assert (data.num_classes, data.classes) == (10, None)

    def test_words_are_names_of_the_classes(self):
        words = ("cat", "dog", "gnu")
        data = Dataset.of(GRAY, np.array([0, 1, 1, 0]), classes=words)
        assert (data.classes, data.num_classes) == (words, 3)
        assert "3 classes (cat, dog, gnu)" in repr(data)

    @pytest.mark.parametrize("kind", ["f2", "f4", ">f4", "f8"])
    def test_floats_become_float32_and_gray_images_get_a_channel(self, kind):
        images = (GRAY / 64).astype(kind)
        data = Dataset.of(images, [0, 1, 0, 1])
        assert (data.images.dtype, data.images.shape) == (np.float32, (4, 4, 3, 1))
        np.testing.assert_array_equal(data.images[..., 0], images)

    def test_arrays_of_jax_are_taken(self):
        data = Dataset.of(jax.numpy.asarray(GRAY), jax.numpy.asarray([0, 1, 0, 1]))
        assert type(data.images) is type(data.labels) is np.ndarray
        np.testing.assert_array_equal(data.images[..., 0], GRAY)

    @pytest.mark.parametrize(
        "changes, message",
        [
            ({"labels": [0.0, 1, 0, 1]}, r"`labels` must be integers .* got float64"),
            ({"labels": [True, False] * 2}, "got bool of shape"),
            ({"labels": ["a", "b"] * 2}, "`labels` must be integers .* got str"),
            ({"labels": [0, 1]}, r"of shape \(4,\), got int64 of shape \(2,\)"),
            ({"labels": [3, 3, 3, 3], "classes": [3]}, "got 1 for mine; number the"),
            ({"images": GRAY[:0], "labels": np.zeros(0, int)}, "at least one image"),
            ({"images": GRAY.astype(int)}, "uint8 or float32, got 'int64' for mine"),
            ({"images": GRAY / 2}, "divide by 255"),
            ({"images": GRAY[0, 0]}, "integers of shape|non-empty array"),
            ({"classes": [0, 1, 2], "num_classes": 4}, "each of the 4 classes"),
            ({"classes": [0, 1, 1]}, "something else, .* got 3: 0, 1, 1 for mine"),
            ({"classes": ["a", "b", 3]}, "all by integers or all by words"),
            ({"classes": ["a"] * 2}, "something else"),
            ({"num_classes": 1}, r"`num_classes` must be in \[2"),
        ],
    )
    def test_what_cannot_be_used_is_refused(self, changes, message):
        fields = {"images": GRAY, "labels": [0, 1, 1, 0], "title": "mine", **changes}
        with pytest.raises(DataError, match=message):
            Dataset.of(**fields)

    def test_a_repr_is_one_short_line(self):
        labels = np.arange(1437) % 10
        images = np.zeros((1437, 8, 8, 1), np.float32)
        data = Dataset.of(images, labels, name="digits", title="digits (8x8)")
        assert repr(data) == (
            "Dataset('digits', 'digits (8x8)': 1,437 images 8x8x1 float32, 10 classes)"
        )
        many = Dataset.of(images, 2 * labels, classes=range(0, 200, 2))
        assert repr(many).endswith("100 classes (0, 2, 4, 6, 8, ...))")


def noise(seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)
    return tiny(images=images, labels=np.array([0, 2, 1, 1, 0]), num_classes=3)


def mapped(path, array):
    np.save(path, array)
    return np.load(path, mmap_mode="r")


class TestFingerprint:
    def test_has_sixteen_hexadecimal_digits(self):
        assert len(noise().fingerprint) == 16
        int(noise().fingerprint, 16)

    def test_does_not_depend_on_where_and_how_the_numbers_lie(self, tmp_path):
        plain = noise()
        floats = (plain.images / 255).astype(np.float32)
        strided = np.repeat(floats, 2, axis=2)[:, :, ::2]
        big = floats.astype(">f4")
        same = [
            floats,
            np.asfortranarray(floats),
            strided,
            floats[::-1].copy()[::-1],
            big,
            jax.numpy.asarray(floats),
            mapped(tmp_path / "c.npy", floats),
            mapped(tmp_path / "f.npy", np.asfortranarray(floats)),
        ]
        assert not strided.flags.c_contiguous
        found = {
            dataclasses.replace(plain, images=images).fingerprint for images in same
        }
        kinds = [np.int64, np.uint8, ">i4", "<i2"]
        found |= {
            dataclasses.replace(
                plain, images=floats, labels=plain.labels.astype(kind)
            ).fingerprint
            for kind in kinds
        }
        assert len(found) == 1

    def test_does_not_depend_on_names(self):
        renamed = dataclasses.replace(noise(), name="other", title="another")
        assert renamed.fingerprint == noise().fingerprint

    def test_depends_on_everything_that_is_trained_on(self):
        plain = noise()
        images, labels = plain.images, plain.labels
        pixel, label = images.copy(), labels.copy()
        pixel[-1, -1, -1, -1] ^= 1
        label[-1] = 1
        others = [
            plain,
            noise(seed=1),
            dataclasses.replace(plain, images=pixel),
            dataclasses.replace(plain, labels=label),
            dataclasses.replace(plain, num_classes=4),
            dataclasses.replace(plain, images=images[::-1], labels=labels[::-1]),
            dataclasses.replace(plain, images=images.reshape(5, 6, 4, 3)),
            dataclasses.replace(plain, images=np.asarray(as_float(images))),
            dataclasses.replace(plain, images=images[:4], labels=labels[:4]),
        ]
        assert len({other.fingerprint for other in others}) == len(others)

    def test_images_in_a_file_are_never_all_in_memory(self, tmp_path):
        shape = (512, 128, 256, 4)
        images = np.lib.format.open_memmap(tmp_path / "i.npy", "w+", np.uint8, shape)
        data = tiny(images=images, labels=np.arange(512) % 2)
        tracemalloc.start()
        found = data.fingerprint
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < images.nbytes / 2
        whole = dataclasses.replace(data, images=np.zeros(shape, np.uint8))
        assert whole.fingerprint == found


class TestRequireLearnable:
    def test_one_class_is_refused_whatever_the_number_of_classes(self):
        with pytest.raises(DataError, match="two classes to train on, got only 3 for"):
            require_learnable(tiny(labels=np.full(3, 3), num_classes=10))

    def test_a_subset_of_the_classes_is_enough(self):
        require_learnable(tiny(labels=np.array([3, 8, 3]), num_classes=10))

    @pytest.mark.parametrize(
        "images, got",
        [
            (np.eye(2, dtype=np.uint8), "got at most 1 as uint8"),
            (np.eye(2, dtype=np.float32) / 255, r"got at most 0\.0039\d+ as float32"),
        ],
    )
    def test_images_all_but_black_are_refused(self, images, got):
        images = np.broadcast_to(images[None, ..., None], (3, 2, 2, 1))
        with pytest.raises(DataError, match=got):
            require_learnable(tiny(images=images))
        # What was meant is taken.
        require_learnable(tiny(images=images * np.array(255, images.dtype)))

    def test_one_brighter_pixel_of_many_images_is_enough(self):
        images = np.ones((1000, 2, 2, 1), np.uint8)
        images[501, 1, 0] = 2
        require_learnable(tiny(images=images, labels=np.arange(1000) % 2))

    def test_black_images_are_taken_for_what_they_are(self):
        require_learnable(tiny())


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


class TestAsFloat:
    @pytest.mark.exact
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
