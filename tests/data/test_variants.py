import dataclasses

import chex
import jax
import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxrobust.cli.numbers import numbers
from jaxrobust.data import (
    VARIANTS,
    Binarize,
    ComposedVariant,
    DataError,
    Dataset,
    Edges,
    Gamma,
    Original,
    Saturate,
    Scale,
    Smooth,
    apply_variant,
    as_float,
    levels_of,
    load_arrays,
    variant_of,
    with_level,
)
from jaxrobust.pytrees import Pytree
from jaxrobust.training import TrainConfig

UNIT_IMAGES = hnp.arrays(
    np.float32, (2, 3, 3, 1), elements=st.floats(0, 1, width=32, allow_nan=False)
)

binarize = Binarize()


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

    def test_another_threshold_may_be_chosen(self):
        pixels = np.array([0, 0.25, 0.5, 1], np.float32)
        np.testing.assert_array_equal(Binarize(0.25)(pixels), [0, 1, 1, 1])


LEVELS = [Saturate(p=4), Smooth(size=3), Gamma(exponent=0.6), Scale(factor=0.9)]
IDENTITIES = [Saturate(p=2), Smooth(size=1), Gamma(exponent=1), Scale(factor=1)]


class TestFormulas:
    """Against values that were worked out by hand or by SciPy."""

    @pytest.mark.parametrize(
        "p, expected",
        [
            (1, [0, 0.18, 0.5, 0.625, 0.82, 1]),
            (1.5, [0, 0.128673, 0.5, 0.698425, 0.871327, 1]),
            (4, [0, 0.052786, 0.5, 0.853553, 0.947214, 1]),
            (16, [0, 0.013754, 0.5, 0.958502, 0.986246, 1]),
            (256, [0, 0.000871, 0.5, 0.997300, 0.999129, 1]),
            (float("inf"), [0, 0, 0.5, 1, 1, 1]),
        ],
    )
    def test_saturation(self, p, expected):
        pixels = np.array([0, 0.1, 0.5, 0.75, 0.9, 1], np.float32)
        np.testing.assert_allclose(Saturate(p)(pixels), expected, atol=1e-6)

    @pytest.mark.parametrize("size", [2, 3, 4, 7, 12])
    def test_smoothing_is_the_larger_of_the_pixel_and_the_mean(self, size):
        images = np.random.default_rng(0).integers(0, 256, (3, 9, 7, 2), np.uint8)
        floats = images / 255
        mean = scipy.ndimage.uniform_filter(
            floats, (1, size, size, 1), mode="constant", origin=0
        )
        found = Smooth(size)(images)
        np.testing.assert_allclose(found, np.maximum(floats, mean), atol=1e-6)

    def test_gamma_and_scale(self):
        pixel = np.full((1, 1, 1, 1), 0.25, np.float32)
        np.testing.assert_allclose(Gamma(0.7)(pixel), 0.378929, atol=1e-6)
        np.testing.assert_allclose(Scale(0.8)(pixel), 0.3, atol=1e-7)


class TestLevels:
    @given(UNIT_IMAGES)
    def test_levels_that_say_so_change_nothing_at_all(self, images):
        for identity in IDENTITIES:
            np.testing.assert_array_equal(identity(images), images)

    @given(UNIT_IMAGES, st.floats(1, 50))
    def test_results_are_floats_in_the_unit_interval(self, images, level):
        for variant in (
            Saturate(level),
            Smooth(int(level)),
            Gamma(level),
            Scale(1 / level),
        ):
            found = np.asarray(variant(images))
            assert found.dtype == np.float32 and found.shape == images.shape
            assert found.min() >= 0 and found.max() <= 1

    @pytest.mark.parametrize(
        "kind, levels",
        [
            (Binarize, [0.25, 0.5]),
            (Saturate, [1.0, 2.0, 4.0, float("inf")]),
            (Smooth, [1, 2, 5]),
            (Gamma, [0.6, 1.0, 2.0]),
            (Scale, [0.0, 0.9, 1.0]),
        ],
    )
    def test_one_program_serves_all_levels(self, kind, levels):
        images = np.random.default_rng(0).uniform(size=(2, 5, 5, 1)).astype("f4")
        apply = jax.jit(chex.assert_max_traces(lambda change: change(images), n=1))
        for level in levels:
            np.testing.assert_allclose(
                apply(kind(level)), kind(level)(images), atol=1e-6
            )

    @pytest.mark.parametrize("variant", [Original(), Binarize(0.5), *LEVELS], ids=str)
    def test_are_hashable_and_equal_where_they_are_the_same(self, variant):
        same = dataclasses.replace(variant)
        assert variant == same and hash(variant) == hash(same)

    @pytest.mark.parametrize(
        "make, message",
        [
            (
                lambda: Saturate(0),
                r"`p` must be in \(0, inf\], got 0; 2 changes nothing",
            ),
            (lambda: Saturate(float("nan")), "`p` must be in .* got nan"),
            (lambda: Smooth(0), r"`size` must be in \[1, 65536\], got 0"),
            (lambda: Smooth(2.5), r"`size` must be a whole number, got 2\.5"),
            (lambda: Gamma(-1), "`exponent` must be in"),
            (lambda: Scale(1.1), r"`factor` must be in \[0, 1\], got 1\.1"),
            (lambda: Binarize(0), r"`threshold` must be in \(0, 1\], got 0"),
        ],
    )
    def test_a_level_out_of_range_is_refused(self, make, message):
        with pytest.raises(ValueError, match=message):
            make()


OWN = """
import dataclasses
from jaxrobust.pytrees import Pytree

def negative(images):
    return 1 - images

def half(images):
    return images[:, ::2, ::2]

def wrong(images):
    return images * 300.0

@dataclasses.dataclass(frozen=True)
class Dim(Pytree):
    level: float = 0.5
    def __call__(self, images):
        return images * self.level

number = 3
"""


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return str(path)


class TestNames:
    @pytest.mark.parametrize(
        "text, expected",
        [
            ("original", Original()),
            ("binary", Binarize(0.5)),
            ("binary(0.25)", Binarize(0.25)),
            ("saturate(4)", Saturate(4)),
            (" saturate ( p = inf ) ", Saturate(float("inf"))),
            ("smooth(3)", Smooth(3)),
            ("scale(9e-1)", Scale(0.9)),
            ("smooth:3", Smooth(3)),
            ("edges", Edges(1.0)),
            ("binary + scale:0.5", ComposedVariant((Binarize(0.5), Scale(0.5)))),
            ("scale(1e+0)+binary", ComposedVariant((Scale(1.0), Binarize(0.5)))),
        ],
    )
    def test_text_gives_what_python_gives(self, text, expected):
        assert variant_of(text) == expected

    @pytest.mark.parametrize(
        "text, message",
        [
            ("saturate", r"must give saturate the numbers \(p\), got 'saturate'"),
            ("saturate(1, 2)", r"must give saturate the numbers \(p\)"),
            ("saturate(q=1)", r"must give saturate the numbers \(p\).* missing .*'p'"),
            ("saturate(a)", r"numbers in its parentheses, got 'a' in"),
            ("saturate(4", r"must be one of original"),
            ("satrate(4)", r"did you mean 'saturate'\?"),
            ("saturate(0)", r"`p` must be in"),
            ("binary+saturate:0", r"`p` must be in"),
            ("binary+", r"must be one of original"),
            ("edges:0", r"`sigma` must be in"),
            ("", r"must be one of original"),
        ],
    )
    def test_what_cannot_be_read_is_refused_in_words(self, text, message):
        with pytest.raises(ValueError, match=message):
            variant_of(text)

    def test_functions_and_classes_of_the_callers_own(self, own):
        images = np.full((1, 2, 2, 1), 0.25, np.float32)
        for name, expected in [("negative", 0.75), ("Dim", 0.125), ("Dim(0.4)", 0.1)]:
            found = variant_of(f"{own}:{name}")
            np.testing.assert_allclose(found(images), expected)
            assert isinstance(found, Pytree) and found == variant_of(f"{own}:{name}")
            assert hash(found) == hash(variant_of(f"{own}:{name}"))
        assert jax.tree.leaves(variant_of(f"{own}:Dim(0.4)")) == [0.4]

    def test_what_is_no_function_is_refused(self, own):
        with pytest.raises(TypeError, match=r"must be a function or its name, got int"):
            variant_of(f"{own}:number")


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

    def test_unknown_variant_lists_the_known_ones(self):
        with pytest.raises(ValueError, match=r"original, binary, .*, got 'fog'; use"):
            apply_variant(load_arrays("digits", "test"), "fog")

    @pytest.mark.parametrize(
        "name, title",
        [
            ("saturate(4)", "digits (8x8) (saturated 4)"),
            ("saturate(inf)", "digits (8x8) (saturated inf)"),
            ("smooth(3)", "digits (8x8) (smoothed 3)"),
            ("gamma(0.7)", "digits (8x8) (gamma 0.7)"),
            ("scale(0.97)", "digits (8x8) (scaled 0.97)"),
            ("binary(0.25)", "digits (8x8) (binarized at 0.25)"),
            ("smooth:2+binary", "digits (8x8) (smoothed 2) (binarized)"),
            ("edges:1", "digits (8x8) (edges 1)"),
        ],
    )
    def test_the_title_says_the_level(self, name, title):
        digits = load_arrays("digits", "test")
        found = apply_variant(digits, name)
        assert found.title == title
        expected = variant_of(name)(digits.images)
        np.testing.assert_array_equal(found.images, expected)

    def test_values_are_taken_as_well_as_names(self, own):
        digits = load_arrays("digits", "test")
        by_name = apply_variant(digits, f"{own}:negative")
        assert by_name.title == f"digits (8x8) ({own}:negative)"

        def negative(images):
            return (1 - images).astype(np.float64)

        by_value = apply_variant(digits, negative)
        assert by_value.title == "digits (8x8) (negative)"
        for found in (by_name, by_value):
            np.testing.assert_array_equal(found.images, 1 - digits.images)
        smaller = apply_variant(digits, f"{own}:half")
        assert smaller.images.shape == (360, 4, 4, 1)

    def test_results_that_are_no_pixels_are_refused(self, own):
        with pytest.raises(DataError, match=r"\[0, 1\] when they are floats, got"):
            apply_variant(load_arrays("digits", "test"), f"{own}:wrong")

    @pytest.mark.parametrize("variant", VARIANTS)
    def test_bytes_and_floats_become_the_same(self, variant):
        images = np.arange(256, dtype=np.uint8).reshape(4, 8, 8, 1)
        level = {"original": "", "binary": ""}.get(variant, "(0.9)")
        name = variant + (level if variant != "smooth" else "(3)")
        bytes_, floats = (
            apply_variant(Dataset.of(pixels, np.array([0, 1, 0, 1])), name).images
            for pixels in (images, np.asarray(as_float(images)))
        )
        np.testing.assert_allclose(as_float(bytes_), floats, atol=1e-6)


class TestComposed:
    def test_parts_come_from_left_to_right(self):
        images = np.array([0.2, 0.6], np.float32).reshape(1, 1, 2, 1)
        scaled = variant_of("binary+scale:0.5")(images)
        np.testing.assert_allclose(np.ravel(scaled), [0.25, 0.75])
        binary = variant_of("scale:0.5+binary")(images)
        np.testing.assert_allclose(np.ravel(binary), [0, 1])

    def test_levels_are_those_of_all_parts(self):
        assert levels_of("smooth:3+scale:0.5") == {"size": 3, "factor": 0.5}
        assert levels_of("edges:2+scale:0.5") == {"factor": 0.5}
        assert levels_of("scale:0.5+binary+scale:0.9") == {"threshold": 0.5}

    def test_one_level_is_changed_and_written_in_one_spelling(self):
        changed = with_level("smooth:3+saturate:4", "p", 8.0)
        assert changed == "smooth(3)+saturate(8)"
        with pytest.raises(ValueError, match=r"variant\.size, variant\.p"):
            with_level("smooth:3+saturate:4", "factor", 1)

    def test_configurations_write_down_one_spelling(self):
        config = TrainConfig(variant="smooth:3 + own.py:fog(2)+binary")
        assert config.variant == "smooth(3)+own.py:fog(2)+binary"

    def test_those_of_other_levels_are_of_one_structure(self):
        first, second = (variant_of(f"binary+scale:{a}") for a in (0.5, 0.9))
        assert jax.tree.structure(first) == jax.tree.structure(second)
        assert jax.tree.leaves(first) == [0.5, 0.5]


class TestEdges:
    def test_the_border_of_a_square_is_found_in_its_channel(self):
        images = np.zeros((2, 24, 24, 2), np.float32)
        images[1, 8:16, 8:16, 1] = 1
        found = np.asarray(Edges()(images))
        assert set(np.unique(found)) == {0.0, 1.0} and found.dtype == np.float32
        assert not found[0].any() and not found[1, ..., 0].any()
        rows, columns = np.nonzero(found[1, ..., 1])
        # Within two pixels of the border, all the way round; corners are cut.
        inside = np.abs(np.stack([rows, columns]) - 11.5).max(axis=0)
        assert np.all(np.abs(inside - 4) <= 2)
        assert {*range(10, 14)} <= {*rows[columns < 10]} & {*rows[columns > 13]}

    def test_traced_images_are_refused_in_words(self):
        with pytest.raises(TypeError, match="applied to arrays, got images that are"):
            jax.jit(Edges())(np.zeros((1, 8, 8, 1), np.float32))

    def test_without_scikit_image_it_is_refused_before_anything_runs(self, monkeypatch):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(ModuleNotFoundError, match=r"jaxrobust\[edges\]"):
            variant_of("edges")


def test_levels_on_the_command_line_may_be_infinite():
    assert numbers("--sweep variant.p", ["1", "3/2", "inf"]) == (1, 1.5, np.inf)
    for text in ("-inf", "nan", "1:inf:3"):
        with pytest.raises(ValueError, match="must be numbers such as"):
            numbers("--sweep variant.p", [text])
