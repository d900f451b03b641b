import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxrobust.data import VARIANTS, apply_variant, binarize, load_arrays

UNIT_IMAGES = hnp.arrays(
    np.float32, (2, 3, 3, 1), elements=st.floats(0, 1, width=32, allow_nan=False)
)


class TestBinarize:
    def test_bytes_become_one_from_128_on(self):
        pixels = np.arange(256, dtype=np.uint8)
        np.testing.assert_array_equal(binarize(pixels), np.arange(256) >= 128)

    def test_bytes_agree_with_the_nearest_of_zero_and_one(self):
        pixels = np.arange(256, dtype=np.uint8)
        np.testing.assert_array_equal(binarize(pixels), np.rint(pixels / 255))

    @pytest.mark.parametrize(
        "pixel, expected", [(0.0, 0), (7 / 16, 0), (0.5, 1), (9 / 16, 1), (1.0, 1)]
    )
    def test_floats_become_one_from_the_tie_on(self, pixel, expected):
        assert binarize(np.full((1,), pixel, np.float32))[0] == expected

    def test_digits_with_a_pixel_at_the_tie_round_it_up(self):
        digits = load_arrays("digits", "test").images
        tied = digits == 0.5
        assert tied.any() and (np.asarray(binarize(digits))[tied] == 1).all()

    @given(UNIT_IMAGES)
    def test_result_is_binary_float32_and_a_fixed_point(self, images):
        result = binarize(images)
        assert result.dtype == np.float32
        assert set(np.unique(result)) <= {0, 1}
        np.testing.assert_array_equal(binarize(result), result)

    @given(UNIT_IMAGES)
    def test_no_pixel_moves_by_more_than_a_half(self, images):
        assert np.abs(np.asarray(binarize(images)) - images).max() <= 0.5

    def test_jit_changes_nothing(self):
        images = load_arrays("digits", "test").images
        np.testing.assert_array_equal(jax.jit(binarize)(images), binarize(images))


class TestApplyVariant:
    def test_binary_changes_images_and_title_only(self):
        digits = load_arrays("digits", "test")
        binary = apply_variant(digits, "binary")
        assert binary.title == "digits (8x8) (binarized)"
        assert binary.name == digits.name
        assert isinstance(binary.images, np.ndarray)
        np.testing.assert_array_equal(binary.images, binarize(digits.images))
        np.testing.assert_array_equal(binary.labels, digits.labels)

    def test_original_changes_nothing(self):
        digits = load_arrays("digits", "test")
        original = apply_variant(digits, "original")
        assert original.title == digits.title
        np.testing.assert_array_equal(original.images, digits.images)

    @pytest.mark.parametrize("variant", VARIANTS)
    def test_every_variant_keeps_shape_and_range(self, variant):
        digits = load_arrays("digits", "test")
        assert apply_variant(digits, variant).images.shape == digits.images.shape

    def test_unknown_variant_lists_the_known_ones(self):
        with pytest.raises(ValueError, match="one of original, binary, got 'edges'"):
            apply_variant(load_arrays("digits", "test"), "edges")
