from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrobust.data import (
    ColorJitter,
    Composed,
    PadCropFlip,
    RandomResizedCrop,
    Rotate,
    augmentation_of,
    compose,
    pad_crop_flip,
)
from jaxrobust.data.augmentation import rotated

HEIGHT, WIDTH = 4, 5


def distinct_images(batch_size, dtype=np.uint8, channels=2):
    """Images without a zero pixel in which no two windows look the same."""
    size = HEIGHT * WIDTH * channels
    rng = np.random.default_rng(0)
    rows = [rng.permutation(size) + 1 for _ in range(batch_size)]
    images = np.reshape(rows, (batch_size, HEIGHT, WIDTH, channels))
    return (images if dtype == np.uint8 else images / size).astype(dtype)


def all_crops(image, padding):
    """Every window by NumPy alone: (top, left, is_flipped) -> pixels."""
    height, width, channels = image.shape
    shape = (height + 2 * padding, width + 2 * padding, channels)
    padded = np.zeros(shape, image.dtype)
    padded[padding : padding + height, padding : padding + width] = image
    crops = {}
    for top in range(2 * padding + 1):
        for left in range(2 * padding + 1):
            window = padded[top : top + height, left : left + width]
            crops[top, left, False] = window
            crops[top, left, True] = window[:, ::-1]
    return crops


def draws(results, images, padding):
    """For each example the (top, left, is_flipped) that explain it."""
    return [
        [key for key, crop in all_crops(image, padding).items() if (crop == r).all()]
        for r, image in zip(np.asarray(results), images, strict=True)
    ]


augment = jax.jit(pad_crop_flip, static_argnames=("padding", "flip"))


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    padding=st.integers(0, 2),
    dtype=st.sampled_from([np.uint8, np.float32]),
)
def test_every_result_is_a_possible_crop_of_its_own_image(seed, padding, dtype):
    images = distinct_images(16, dtype)
    results = augment(jax.random.key(seed), images, padding=padding)
    assert (results.shape, results.dtype) == (images.shape, dtype)
    assert all(draws(results, images, padding))


def test_all_offsets_and_flips_occur_about_equally_often():
    images = distinct_images(4096)
    results = augment(jax.random.key(0), images, padding=1)
    counts = {}
    for possible in draws(results, images, padding=1):
        (draw,) = possible
        counts[draw] = counts.get(draw, 0) + 1
    assert len(counts) == 18
    # Six standard deviations of a binomial count with mean 4096 / 18.
    expected = 4096 / 18
    assert max(abs(n - expected) for n in counts.values()) < 6 * expected**0.5


def test_without_flip_no_image_is_mirrored():
    images = distinct_images(64)
    results = augment(jax.random.key(0), images, padding=1, flip=False)
    assert not any(d[2] for possible in draws(results, images, 1) for d in possible)


def test_without_padding_and_flip_nothing_changes():
    images = distinct_images(8)
    results = augment(jax.random.key(0), images, padding=0, flip=False)
    np.testing.assert_array_equal(results, images)


def test_same_key_gives_the_same_result_and_another_key_another():
    images = distinct_images(32)
    first, second = jax.random.split(jax.random.key(0))
    np.testing.assert_array_equal(augment(first, images), augment(first, images))
    assert (np.asarray(augment(first, images)) != augment(second, images)).any()


def test_jit_changes_nothing():
    images = distinct_images(8)
    key = jax.random.key(3)
    np.testing.assert_array_equal(augment(key, images), pad_crop_flip(key, images))


def test_result_is_independent_of_the_dtype():
    key, images = jax.random.key(1), distinct_images(8)
    as_floats = augment(key, images.astype(np.float32))
    np.testing.assert_array_equal(augment(key, images), as_floats)


@pytest.mark.slow
def test_runs_under_vmap_and_strict_promotion():
    images = jnp.asarray(distinct_images(6)).reshape(2, 3, HEIGHT, WIDTH, 2)
    keys = jax.random.split(jax.random.key(0), 2)
    with jax.numpy_dtype_promotion("strict"):
        results = jax.vmap(partial(pad_crop_flip, padding=2))(keys, images)
    for result, key, image in zip(results, keys, images, strict=True):
        np.testing.assert_array_equal(result, pad_crop_flip(key, image, padding=2))


def test_padding_must_not_be_negative():
    with pytest.raises(ValueError, match="`padding` must be at least 0, got -1"):
        pad_crop_flip(jax.random.key(0), distinct_images(1), padding=-1)


def test_images_must_have_four_axes():
    with pytest.raises(ValueError, match=r"`images` must be of shape \(batch, height"):
        pad_crop_flip(jax.random.key(0), distinct_images(1)[0])


def noise(batch_size=6, shape=(8, 8, 3), dtype=np.uint8, seed=0):
    images = np.random.default_rng(seed).integers(0, 256, (batch_size, *shape), "u1")
    return images if dtype == np.uint8 else (images / 255).astype(dtype)


RANDOM = [
    PadCropFlip(),
    PadCropFlip(padding=1, flip=False),
    Rotate(180),
    ColorJitter(1, 1, 1),
    RandomResizedCrop(),
    compose(Rotate(10), PadCropFlip(2), ColorJitter(), RandomResizedCrop(0.5)),
]
IDENTITIES = [
    PadCropFlip(0, False),
    Rotate(0),
    ColorJitter(0, 0, 0),
    RandomResizedCrop(1, 1),
    compose(),
]


@jax.jit
def applied(augmentation, key, pixels):
    """The numbers of an augmentation are traced, its words are structure."""
    return augmentation(key, pixels)


class TestContract:
    @pytest.mark.parametrize("dtype", [np.uint8, np.float32, jnp.bfloat16])
    @pytest.mark.parametrize("augmentation", RANDOM, ids=str)
    def test_shape_type_and_range_are_kept(self, augmentation, dtype):
        for seed, images in enumerate([noise(), np.full((6, 8, 8, 3), 255, "u1")]):
            pixels = images if dtype == np.uint8 else (images / 255).astype(dtype)
            found = np.asarray(applied(augmentation, jax.random.key(seed), pixels))
            assert (found.shape, found.dtype) == (pixels.shape, pixels.dtype)
            assert found.min() >= 0 and found.max() <= pixels.max()
            if seed == 0:
                assert (found != pixels).any()

    @pytest.mark.parametrize("dtype", [np.uint8, np.float32])
    @pytest.mark.parametrize("augmentation", IDENTITIES, ids=str)
    def test_the_least_of_each_changes_nothing_at_all(self, augmentation, dtype):
        images = noise(dtype=dtype)
        for change in (applied, lambda each, *rest: each(*rest)):
            found = change(augmentation, jax.random.key(0), images)
            np.testing.assert_array_equal(found, images)

    @pytest.mark.parametrize("augmentation", RANDOM, ids=str)
    def test_every_example_has_its_own_draw_which_the_key_decides(self, augmentation):
        images = np.repeat(noise(1, dtype=np.float32), 16, axis=0)
        first, second = jax.random.split(jax.random.key(0))
        found = np.asarray(applied(augmentation, first, images))
        assert len(np.unique(found, axis=0)) > 4
        np.testing.assert_array_equal(found, applied(augmentation, first, images))
        assert (found != np.asarray(applied(augmentation, second, images))).any()

    @pytest.mark.parametrize(
        "kind, levels",
        [(Rotate, [1.0, 30.0]), (ColorJitter, [0.1, 0.5]), (RandomResizedCrop, [0.5])],
    )
    def test_one_program_serves_all_numbers(self, kind, levels):
        key, images = jax.random.key(0), noise(dtype=np.float32)
        apply = jax.jit(chex.assert_max_traces(lambda each: each(key, images), n=1))
        for level in [0.25, *levels]:
            found = apply(kind(level))
            np.testing.assert_allclose(found, kind(level)(key, images), atol=1e-5)

    @pytest.mark.parametrize("augmentation", RANDOM, ids=str)
    def test_gray_images_and_sides_of_two_lengths_are_taken(self, augmentation):
        images = noise(shape=(6, 9, 1))
        found = applied(augmentation, jax.random.key(0), images)
        assert found.shape == images.shape

    @pytest.mark.parametrize("augmentation", RANDOM[:-1], ids=str)
    def test_a_single_image_is_refused(self, augmentation):
        with pytest.raises(
            ValueError, match=r"`images` must be of shape \(batch, height"
        ):
            augmentation(jax.random.key(0), noise()[0])

    @pytest.mark.parametrize(
        "make, message",
        [
            (lambda: PadCropFlip(-1), "`padding` must be at least 0, got -1"),
            (lambda: PadCropFlip(1.5), r"`padding` must be a whole number, got 1\.5"),
            (lambda: Rotate(-1), r"`max_degrees` must be in \[0, 180\], got -1"),
            (lambda: ColorJitter(1.5), r"`brightness` must be in \[0, 1\], got 1\.5"),
            (lambda: ColorJitter(0, -1), r"`contrast` must be in"),
            (lambda: ColorJitter(0, 0, 2), r"`saturation` must be in"),
            (lambda: RandomResizedCrop(0), r"`min_area` must be in \(0, 1\], got 0"),
            (lambda: RandomResizedCrop(1, 0.5), r"`max_ratio` must be in \[1, 100\]"),
        ],
    )
    def test_numbers_out_of_range_are_refused(self, make, message):
        with pytest.raises(ValueError, match=message):
            make()


class TestRotate:
    @pytest.mark.parametrize("turns", [-1, 1, 2, 3])
    def test_quarter_turns_are_those_of_numpy(self, turns):
        images = noise(shape=(7, 7, 2), dtype=np.float32)
        found = rotated(images, jnp.full(len(images), 90.0 * turns))
        expected = np.rot90(images, turns, axes=(1, 2))
        np.testing.assert_allclose(found, expected, atol=1e-5)

    @pytest.mark.parametrize("shape", [(8, 8, 1), (6, 9, 3)])
    def test_other_angles_are_those_of_scipy(self, shape):
        images = noise(5, shape, np.float32)
        degrees = np.array([-77.0, -20.0, 3.0, 45.0, 160.0])
        expected = [
            scipy.ndimage.rotate(
                image.astype(float), angle, reshape=False, order=1, mode="grid-constant"
            )
            for image, angle in zip(images, degrees, strict=True)
        ]
        found = rotated(images, jnp.asarray(degrees, jnp.float32))
        np.testing.assert_allclose(found, expected, atol=1e-4)

    def test_angles_are_uniform_in_both_directions(self):
        # A bright pixel right of the center tells by how far it was turned.
        images = np.zeros((2000, 41, 41, 1), np.float32)
        images[:, 20, 39] = 1
        found = np.asarray(applied(Rotate(60), jax.random.key(0), images))[..., 0]
        rows, columns = np.mgrid[:41, :41] - 20
        mass = found.sum(axis=(1, 2))
        up = -(found * rows).sum(axis=(1, 2)) / mass
        right = (found * columns).sum(axis=(1, 2)) / mass
        angles = np.degrees(np.arctan2(up, right))
        assert np.abs(angles).max() <= 61
        assert scipy.stats.kstest(angles, "uniform", (-60, 120)).pvalue > 1e-3


class TestColorJitter:
    def test_brightness_multiplies_each_image(self):
        images = np.full((500, 2, 2, 3), 0.5, np.float32)
        found = np.asarray(applied(ColorJitter(0.5, 0, 0), jax.random.key(0), images))
        factors = found[:, 0, 0, 0] / 0.5
        np.testing.assert_allclose(found, images * factors[:, None, None, None])
        assert scipy.stats.kstest(factors, "uniform", (0.5, 1)).pvalue > 1e-3

    def test_contrast_moves_pixels_from_the_mean_gray(self):
        images = np.random.default_rng(0).uniform(0.4, 0.6, (50, 4, 4, 3)).astype("f4")
        found = np.asarray(applied(ColorJitter(0, 1, 0), jax.random.key(0), images))
        gray = (images @ np.array([0.299, 0.587, 0.114])).mean(axis=(1, 2))
        gray = gray[:, None, None, None]
        factors = ((found - gray) / (images - gray))[:, :1, :1, :1]
        np.testing.assert_allclose(found, gray + factors * (images - gray), atol=1e-5)
        assert factors.min() < 0.2 and factors.max() > 1.8

    def test_saturation_moves_pixels_from_their_own_gray(self):
        images = np.random.default_rng(0).uniform(0.4, 0.6, (50, 4, 4, 3)).astype("f4")
        found = np.asarray(applied(ColorJitter(0, 0, 1), jax.random.key(0), images))
        weights = np.array([0.299, 0.587, 0.114])
        np.testing.assert_allclose(found @ weights, images @ weights, atol=1e-6)
        gray = (images @ weights)[..., None]
        away, factors = images - gray, []
        for one, other in zip(away, found - gray, strict=True):
            factors.append((one * other).sum() / (one * one).sum())
            np.testing.assert_allclose(other, factors[-1] * one, atol=1e-6)
        assert min(factors) < 0.2 and max(factors) > 1.8

    def test_gray_images_have_no_saturation_to_change(self):
        images = noise(shape=(4, 4, 1))
        found = applied(ColorJitter(0, 0, 1), jax.random.key(0), images)
        np.testing.assert_array_equal(found, images)

    def test_images_of_other_channels_are_refused(self):
        with pytest.raises(ValueError, match="gray or of three colors"):
            ColorJitter()(jax.random.key(0), noise(shape=(4, 4, 4)))


@pytest.fixture(scope="module")
def windows():
    """First place and length of 2000 windows, rows and columns, from ramps."""
    size = 16
    ramp = (np.arange(size, dtype=np.float32) + 0.5) / size
    rows, columns = np.meshgrid(ramp, ramp, indexing="ij")
    image = np.stack([rows, columns, rows], axis=-1)
    images = np.repeat(image[None], 2000, axis=0)
    crop = RandomResizedCrop(0.25, 2.0)
    found = np.asarray(applied(crop, jax.random.key(0), images))
    # Linear interpolation keeps a ramp a ramp, but next to the border.
    down, right = found[:, 3:13, 8, 0], found[:, 8, 3:13, 1]
    for line in (down, right):
        np.testing.assert_allclose(np.diff(line, n=2), 0, atol=2e-6)
    slopes = np.stack([np.diff(line)[:, 4] for line in (down, right)], axis=1)
    middles = np.stack([line[:, 4:6].mean(axis=1) for line in (down, right)], 1)
    sizes = slopes * size
    return middles - sizes / 2, sizes


class TestRandomResizedCrop:
    def test_windows_lie_inside_the_image(self, windows):
        starts, sizes = windows
        assert starts.min() > -1e-4 and (starts + sizes).max() < 1 + 1e-4

    def test_areas_and_ratios_are_uniform_where_no_side_was_cut(self, windows):
        _, sizes = windows
        is_whole = sizes.max(axis=1) < 0.999
        area, ratio = sizes.prod(axis=1), sizes[:, 1] / sizes[:, 0]
        assert 0.25 - 1e-3 < area.min() < 0.27 and area.max() > 0.95
        assert 0.5 - 1e-2 < ratio.min() < 0.53 and 1.9 < ratio.max() < 2 + 1e-2
        # Up to an area of 1/2 no ratio cuts a side.
        small = is_whole & (area < 0.5)
        logs = np.log2(ratio[small])
        assert scipy.stats.kstest(logs, "uniform", (-1, 2)).pvalue > 1e-3
        assert scipy.stats.kstest(area[small], "uniform", (0.25, 0.25)).pvalue > 1e-3
        assert np.mean(area < 0.5) == pytest.approx(1 / 3, abs=0.06)


OWN = """
import jax.numpy as jnp

def invert(key, pixels):
    return 255 - pixels if pixels.dtype == jnp.uint8 else 1 - pixels

def dimmed(level):
    def dim(key, pixels):
        return (pixels * level).astype(pixels.dtype)
    return dim
"""


class TestNames:
    @pytest.mark.parametrize("dtype", [np.uint8, np.float32])
    @pytest.mark.exact
    def test_crop_flip_is_to_the_bit_what_augment_has_been(self, dtype):
        key, images = jax.random.key(5), noise(32, (8, 8, 3), dtype)
        expected = jax.jit(pad_crop_flip)(key, images)
        found = applied(augmentation_of("crop-flip"), key, images)
        np.testing.assert_array_equal(found, expected)

    @pytest.mark.parametrize(
        "text, expected",
        [
            ("none", Composed()),
            ("crop-flip", PadCropFlip(4, True)),
            ("crop-flip(2, flip=false)", PadCropFlip(2, False)),
            ("rotate(15)", Rotate(15)),
            ("color-jitter(contrast=0.5)", ColorJitter(0.25, 0.5, 0.25)),
            ("random-resized-crop(0.5)", RandomResizedCrop(0.5)),
            (
                "rotate(1e+1) + crop-flip+color-jitter",
                Composed((Rotate(10), PadCropFlip(), ColorJitter())),
            ),
        ],
    )
    def test_text_gives_what_python_gives(self, text, expected):
        found = augmentation_of(text)
        assert found == expected and hash(found) == hash(expected)

    @pytest.mark.parametrize(
        "text, message",
        [
            ("rotate", r"must give rotate the numbers \(max_degrees\), got 'rotate'"),
            ("crop-flop", r"one of none, crop-flip, .* did you mean 'crop-flip'\?"),
            ("crop-flip+", "one of none, crop-flip, .* got ''"),
            ("rotate(15)+mixup", "one of none, crop-flip, .* got 'mixup'"),
            ("crop-flip(0.5)", "`padding` must be a whole number"),
        ],
    )
    def test_what_cannot_be_read_is_refused_in_words(self, text, message):
        with pytest.raises(ValueError, match=message):
            augmentation_of(text)

    def test_functions_of_the_callers_own(self, tmp_path):
        (tmp_path / "own.py").write_text(OWN)
        own = f"{tmp_path}/own.py"
        text = f"{own}:invert+{own}:dimmed(0.5)"
        images = noise()
        found = applied(augmentation_of(text), jax.random.key(0), images)
        np.testing.assert_array_equal(found, ((255 - images) * 0.5).astype("u1"))
        one = augmentation_of(f"{own}:invert")
        assert one == augmentation_of(f"{own}:invert") and not jax.tree.leaves(one)

    def test_parts_have_keys_of_their_own(self):
        def draw(key, pixels):
            return jax.random.uniform(key, pixels.shape)

        def add(key, pixels):
            return pixels - jax.random.uniform(key, pixels.shape)

        images = noise(2, dtype=np.float32)
        assert (np.asarray(compose(draw, add)(jax.random.key(0), images)) != 0).all()

    def test_what_cannot_be_called_is_refused(self):
        with pytest.raises(TypeError, match=r"must be a function .* got int \(int\)"):
            compose(3)
