from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrobust.data import pad_crop_flip

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


def test_runs_under_vmap_and_strict_promotion():
    images = jnp.asarray(distinct_images(6)).reshape(2, 3, HEIGHT, WIDTH, 2)
    keys = jax.random.split(jax.random.key(0), 2)
    with jax.numpy_dtype_promotion("strict"):
        results = jax.vmap(partial(pad_crop_flip, padding=2))(keys, images)
    for result, key, image in zip(results, keys, images, strict=True):
        np.testing.assert_array_equal(result, pad_crop_flip(key, image, padding=2))


def test_padding_must_not_be_negative():
    with pytest.raises(ValueError, match="`padding` must be non-negative, got -1"):
        pad_crop_flip(jax.random.key(0), distinct_images(1), padding=-1)


def test_images_must_have_four_axes():
    with pytest.raises(ValueError, match=r"`images` must be \(batch, height"):
        pad_crop_flip(jax.random.key(0), distinct_images(1)[0])
