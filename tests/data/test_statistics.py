"""Statistics of data sets are those of their formulas, by brute force and by hand."""

import dataclasses
import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from jaxrobust.data import (
    DataError,
    Dataset,
    apply_variant,
    inter_class_distance,
    load_arrays,
    log2_volume,
    log2_volume_limits,
    pixel_ends,
    pixel_histogram,
    pixel_label_correlation,
)
from jaxrobust.data.distances import Space


def dataset_of(images, labels, num_classes=None):
    images = np.asarray(images)
    if images.ndim == 1:
        images = images.reshape(-1, 1, 1, 1)
    count = num_classes or int(np.max(labels)) + 1
    labels = np.asarray(labels, np.int32)
    return Dataset(
        name="own", title="own", images=images, labels=labels, num_classes=count
    )


def random_dataset(seed, kind="bytes", *, size=40, num_classes=3):
    rng = np.random.default_rng(seed)
    shape = (size, 3, 2, 2)
    if kind == "bytes":
        images = rng.integers(0, 256, shape).astype(np.uint8)
    elif kind == "extremes":
        images = rng.choice([0, 1], shape).astype(np.float32)
    elif kind == "near":  # what float32 cannot subtract as squares
        images = np.float32(0.9) + rng.normal(scale=1e-3, size=shape)
        images = images.astype(np.float32)
    else:
        images = rng.random(shape, np.float32)
    labels = rng.integers(0, num_classes, size)
    labels[:num_classes] = range(num_classes)
    return dataset_of(images, labels, num_classes)


def unit(dataset):
    """Pixels in double precision, an image in a row."""
    rows = dataset.images.reshape(len(dataset), -1)
    values = rows.astype(np.float64)
    return values / 255 if rows.dtype == np.uint8 else values


def brute_force(dataset, share=0.1):
    points, labels = unit(dataset), dataset.labels
    distances = cdist(points, points)
    examples = np.empty(len(points))
    for index, row in enumerate(distances):
        others = np.sort(row[labels != labels[index]])
        examples[index] = others[: max(1, round(share * len(others)))].mean()
    classes = np.full(dataset.num_classes, np.nan)
    for label in np.unique(labels):
        own = np.sort(examples[labels == label])
        classes[label] = own[: max(1, round(share * len(own)))].mean()
    return np.nanmean(classes), classes, examples


KINDS = ("bytes", "extremes", "near", "floats")


class TestInterClassDistance:
    def test_of_points_on_a_line_by_hand(self):
        """0 0.1 0.3 against 0.6 1: with a tenth of so few, the nearest alone."""
        data = dataset_of(np.float32([0, 0.1, 0.3, 0.6, 1.0]), [0, 0, 0, 1, 1])
        found = inter_class_distance(data)
        np.testing.assert_allclose(found.per_example, [0.6, 0.5, 0.3, 0.3, 0.7], 1e-6)
        np.testing.assert_allclose(found.per_class, [0.3, 0.3], 1e-6)
        # A half: both of class 1 are one point, and one and a half of class 0 are two.
        found = inter_class_distance(data, share=0.5)
        np.testing.assert_allclose(found.per_example, [0.6, 0.5, 0.3, 0.4, 0.8], 1e-6)
        np.testing.assert_allclose(found.per_class, [0.4, 0.4], 1e-6)
        found = inter_class_distance(data, share=1)
        np.testing.assert_allclose(found.per_class, [2 / 3, 2 / 3], 1e-6)

    @given(
        kind=st.sampled_from(KINDS),
        seed=st.integers(0, 2**32 - 1),
        share=st.floats(0.02, 1),
        block_size=st.sampled_from([1, 7, 64]),
    )
    def test_is_that_of_brute_force(self, kind, seed, share, block_size):
        data = random_dataset(seed, kind)
        found = inter_class_distance(data, share=share, block_size=block_size)
        value, classes, examples = brute_force(data, share)
        np.testing.assert_allclose(found.per_example, examples, atol=1e-6)
        np.testing.assert_allclose(found.per_class, classes, atol=1e-6)
        assert found.value == pytest.approx(value, abs=1e-6)

    @given(kind=st.sampled_from(KINDS), seed=st.integers(0, 2**32 - 1))
    def test_the_order_of_examples_and_names_of_classes_do_not_matter(self, kind, seed):
        data, rng = random_dataset(seed, kind), np.random.default_rng(seed)
        order, names = rng.permutation(len(data)), rng.permutation(data.num_classes)
        other = dataset_of(data.images[order], names[data.labels[order]], 3)
        mine, found = inter_class_distance(data), inter_class_distance(other)
        assert found.value == pytest.approx(mine.value, abs=1e-6)
        np.testing.assert_allclose(
            found.per_example, mine.per_example[order], atol=1e-6
        )
        np.testing.assert_allclose(found.per_class[names], mine.per_class, atol=1e-6)

    @given(scale=st.floats(0.01, 1), seed=st.integers(0, 2**32 - 1))
    def test_grows_as_the_images_do(self, scale, seed):
        data = random_dataset(seed, "floats")
        small = dataclasses.replace(data, images=data.images * np.float32(scale))
        expected = scale * inter_class_distance(data).value
        assert inter_class_distance(small).value == pytest.approx(expected, abs=1e-5)

    @pytest.mark.exact
    def test_of_bytes_is_the_same_to_the_bit_in_blocks_of_any_size(self):
        data = random_dataset(0, size=90)
        values = [
            inter_class_distance(data, block_size=size).per_example
            for size in (None, 1, 11, 90)
        ]
        for other in values[1:]:
            np.testing.assert_array_equal(other, values[0])

    @pytest.mark.exact
    def test_of_bytes_is_that_of_the_floats_they_stand_for(self):
        data = random_dataset(1)
        floats = dataclasses.replace(data, images=data.images / np.float32(255))
        np.testing.assert_array_equal(
            inter_class_distance(floats).per_example,
            inter_class_distance(data).per_example,
        )

    def test_examples_that_coincide_are_hardly_apart(self):
        images = np.random.default_rng(3).random((2, 28, 28, 1), np.float32)
        data = dataset_of(np.concatenate([images, images]), [0, 0, 1, 1])
        assert inter_class_distance(data).value < 1e-6

    def test_bytes_of_more_dimensions_than_float32_sums_exactly(self):
        rng = np.random.default_rng(4)
        images = rng.integers(0, 256, (30, 23, 31, 3)).astype(np.uint8)
        data = dataset_of(images, np.arange(30) % 2)
        np.testing.assert_allclose(
            inter_class_distance(data).per_example, brute_force(data)[2], rtol=1e-13
        )

    def test_a_class_without_examples_has_none_and_counts_for_nothing(self):
        data = random_dataset(5)
        wider = dataclasses.replace(data, num_classes=5)
        found, expected = inter_class_distance(wider), inter_class_distance(data)
        np.testing.assert_array_equal(found.per_class[:3], expected.per_class)
        assert np.isnan(found.per_class[3:]).all()
        assert found.value == expected.value

    def test_says_how_far_it_is(self):
        seen = []
        data = random_dataset(6)
        inter_class_distance(data, block_size=4, progress=lambda *at: seen.append(at))
        assert seen == sorted(seen) and seen[-1] == (40, 40) and len(seen) >= 10

    def test_prints_one_line(self):
        found = inter_class_distance(random_dataset(7))
        assert repr(found) == (
            f"InterClassDistance(value={found.value}, per_class=float64[3], "
            "per_example=float64[40])"
        )

    def test_what_has_no_distance_is_refused(self):
        one = dataset_of(np.zeros((4, 2, 2, 1), np.uint8), [1, 1, 1, 1])
        with pytest.raises(DataError, match="at least two classes"):
            inter_class_distance(one)
        for share in (0, 1.1, math.nan):
            with pytest.raises(ValueError, match=r"`share` must be in \(0, 1\]"):
                inter_class_distance(random_dataset(0), share=share)
        with pytest.raises(ValueError, match="`block_size` must be at least 1"):
            inter_class_distance(random_dataset(0), block_size=0)


def test_blocks_in_double_precision_measure_near_points():
    rng = np.random.default_rng(8)
    points = (0.5 + rng.normal(scale=1e-3, size=(50, 784))).astype(np.float32)
    space = Space(points, "l2", is_double=True)
    found = space.measured(space.block(np.arange(10)))
    wide = points.astype(np.float64)
    np.testing.assert_allclose(found, cdist(wide[:10], wide), atol=1e-6)
    # Searches for neighbors are as right as those of float32.
    places = np.argsort(cdist(wide, wide), axis=1)[:, :4]
    block = space.block(np.arange(50))
    np.testing.assert_array_equal(
        space.nearest(np.arange(50), block, 4).indices, places
    )
    with pytest.raises(ValueError, match="`norm` must be l2"):
        Space(points, "l1", is_double=True)


def volume_by_brute_force(dataset, epsilon):
    total = 0.0
    for image in unit(dataset):
        for pixel in image.tolist():
            total += math.log2(min(pixel + epsilon, 1) - max(pixel - epsilon, 0))
    return total / len(dataset)


class TestLog2Volume:
    @pytest.mark.parametrize("pixel", [0, 255])
    def test_of_a_pixel_in_a_corner(self, pixel):
        data = dataset_of(np.uint8([pixel, pixel]), [0, 1])
        assert log2_volume(data, 0.3) == math.log2(0.3)
        assert log2_volume(data, 0.3) == pytest.approx(-1.736966, abs=1e-6)
        assert log2_volume(data, 8 / 255) == math.log2(8 / 255)

    def test_of_a_pixel_inside(self):
        data = dataset_of(np.float32([0.5, 0.5]), [0, 1])
        assert log2_volume(data, 0.3) == math.log2(0.6)
        # What the range leaves of a ball that is larger.
        assert log2_volume(data, 0.5) == log2_volume(data, 0.7) == 0
        assert log2_volume(data, 40.0) == 0

    @pytest.mark.parametrize(
        ("shape", "epsilon", "lowest", "highest"),
        [
            ((28, 28, 1), 0.3, -1361.781, -577.781),
            ((32, 32, 3), 8 / 255, -15342.654, -12270.654),
        ],
    )
    def test_limits_are_those_of_mnist_and_cifar(self, shape, epsilon, lowest, highest):
        data = dataset_of(np.zeros((2, *shape), np.uint8), [0, 1])
        found = log2_volume_limits(data, epsilon)
        np.testing.assert_allclose(found, (lowest, highest), atol=5e-4)
        assert log2_volume(data, epsilon) == pytest.approx(lowest, abs=5e-4)
        free = log2_volume(data, epsilon, is_bounded=False)
        assert free == pytest.approx(highest, abs=5e-4)

    @given(
        kind=st.sampled_from(KINDS),
        seed=st.integers(0, 2**32 - 1),
        epsilon=st.floats(1e-4, 1.5),
    )
    def test_is_that_of_brute_force_and_within_its_limits(self, kind, seed, epsilon):
        data = random_dataset(seed, kind)
        found = log2_volume(data, epsilon)
        limits = log2_volume_limits(data, epsilon)
        assert limits.lowest <= found <= limits.highest
        assert found == pytest.approx(volume_by_brute_force(data, epsilon), abs=1e-5)
        assert found <= log2_volume(data, epsilon, is_bounded=False)
        if kind == "extremes":
            assert found == pytest.approx(limits.lowest, abs=1e-9)

    def test_limits_are_reached_whatever_the_radius(self):
        for epsilon in (0.1, 0.5, 0.8, 1.0, 3.0):
            corner = dataset_of(np.uint8([0, 255]), [0, 1])
            center = dataset_of(np.float32([0.5, 0.5]), [0, 1])
            limits = log2_volume_limits(corner, epsilon)
            assert limits == (log2_volume(corner, epsilon), limits.highest)
            assert limits == (limits.lowest, log2_volume(center, epsilon))

    @pytest.mark.parametrize("epsilon", [0, 0.0, -0.1, math.nan, math.inf])
    def test_a_ball_without_volume_is_refused(self, epsilon):
        data = random_dataset(0)
        for asked in (log2_volume, log2_volume_limits):
            with pytest.raises(ValueError, match=r"`epsilon` must be in \(0, inf\)"):
                asked(data, epsilon)


class TestPixels:
    @given(kind=st.sampled_from(KINDS), seed=st.integers(0, 2**32 - 1))
    def test_histogram_and_ends_are_those_of_numpy(self, kind, seed):
        data = random_dataset(seed, kind)
        values = unit(data)
        for num_bins in (1, 7, 256):
            counts, edges = np.histogram(values, num_bins, (0, 1))
            found = pixel_histogram(data, num_bins)
            np.testing.assert_array_equal(found.counts, counts)
            np.testing.assert_allclose(found.edges, edges, atol=1e-15)
        ends = pixel_ends(data)
        np.testing.assert_allclose(
            ends,
            (values.min(), values.max(), (values == 0).mean(), (values == 1).mean()),
            atol=1e-7,
        )

    def test_every_byte_has_its_bin(self):
        data = dataset_of(np.arange(256, dtype=np.uint8), np.arange(256) % 2)
        for each in (data, apply_variant(data, "scale(1)")):
            np.testing.assert_array_equal(pixel_histogram(each).counts, 1)

    def test_many_blocks_are_one_set(self, monkeypatch):
        monkeypatch.setattr("jaxrobust.data.statistics.BLOCK", 25)
        for kind in KINDS:
            data = random_dataset(0, kind)
            assert pixel_histogram(data, 9).counts.sum() == data.images.size
            whole = volume_by_brute_force(data, 0.2)
            assert log2_volume(data, 0.2) == pytest.approx(whole, abs=1e-5)
            assert pixel_ends(data).highest == pytest.approx(unit(data).max())
            one_hot = data.labels == 1
            expected = np.corrcoef(unit(data)[:, 3], one_hot)[0, 1]
            found = pixel_label_correlation(data)[1].ravel()[3]
            assert found == pytest.approx(expected, abs=1e-6)

    def test_no_bins_are_refused(self):
        with pytest.raises(ValueError, match="`num_bins` must be at least 1"):
            pixel_histogram(random_dataset(0), 0)


class TestPixelLabelCorrelation:
    @given(kind=st.sampled_from(KINDS), seed=st.integers(0, 2**32 - 1))
    def test_is_that_of_numpy(self, kind, seed):
        data = random_dataset(seed, kind)
        found = pixel_label_correlation(data)
        assert found.shape == (3, *data.images.shape[1:])
        values = unit(data)
        for label in range(3):
            for pixel in range(values.shape[1]):
                expected = np.corrcoef(values[:, pixel], data.labels == label)[0, 1]
                place = found[label].ravel()[pixel]
                assert place == pytest.approx(expected, abs=1e-6)

    def test_of_two_classes_is_that_with_the_label(self):
        data = random_dataset(2, num_classes=2)
        signs = 2 * data.labels - 1
        found = pixel_label_correlation(data)
        np.testing.assert_allclose(found[0], -found[1], atol=1e-12)
        expected = np.corrcoef(unit(data)[:, 0], signs)[0, 1]
        assert found[1].ravel()[0] == pytest.approx(expected, abs=1e-6)

    def test_what_does_not_vary_is_correlated_with_nothing(self):
        # 0.1 has no exact mean, so that what is left of it is no 0.
        images = np.full((30, 1, 3, 1), 0.1, np.float32)
        labels = np.arange(30) % 3
        images[:, 0, 1, 0] = labels == 2
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = pixel_label_correlation(dataset_of(images, labels, 5))
        np.testing.assert_array_equal(found[:, 0, [0, 2], 0], 0)
        np.testing.assert_allclose(found[:3, 0, 1, 0], [-0.5, -0.5, 1], atol=1e-12)
        np.testing.assert_array_equal(found[3:], 0)


@pytest.fixture
def mnist(real_mnist):
    return load_arrays("mnist", "test", data_dir=real_mnist.parent.parent)


@pytest.mark.mnist
@pytest.mark.slow
def test_of_mnist_the_volumes_are_those_of_ding_et_al(mnist):
    """Table 6 has -1361 and -1297; the smoothed ones are those of the text's filter."""
    assert log2_volume(mnist, 0.3) == pytest.approx(-1297.26, abs=0.005)
    for variant, volume in {
        "binary": -1361.78,
        "smooth(2)": -1266.36,
        "smooth(5)": -1188.10,
    }.items():
        found = log2_volume(apply_variant(mnist, variant), 0.3)
        assert found == pytest.approx(volume, abs=0.005)


@pytest.mark.mnist
@pytest.mark.slow
def test_of_mnist_the_classes_are_as_far_apart_as_they_are(mnist):
    assert inter_class_distance(mnist).value == pytest.approx(7.309, abs=0.001)
    binary = apply_variant(mnist, "binary")
    assert inter_class_distance(binary).value == pytest.approx(8.637, abs=0.001)
    # Without whole numbers: the same images, not quite.
    scaled = apply_variant(mnist, "scale(0.5)")
    assert inter_class_distance(scaled).value == pytest.approx(7.309 / 2, abs=0.001)
