"""Convolutions by transforms, against float64 and against what transforms must do."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from jaxrobust.convolutions.winograd import conv_by_winograd, is_faster, transforms
from jaxrobust.data import load_arrays
from jaxrobust.networks import Conv


@pytest.mark.parametrize(("outputs", "size"), [(4, 5), (4, 3), (2, 3), (4, 2), (2, 2)])
def test_transforms_convolve_in_exact_numbers(outputs, size):
    matrices = transforms(outputs, size)
    rng = np.random.default_rng(0)
    tile = rng.integers(-9, 9, outputs + size - 1)
    kernel = rng.integers(-9, 9, size)
    found = matrices.outputs @ ((matrices.kernel @ kernel) * (matrices.inputs @ tile))
    np.testing.assert_allclose(found, np.correlate(tile, kernel), atol=1e-11)
    assert abs(matrices.inputs).max(axis=1).tolist() == [1] * (outputs + size - 1)


def in_float64(images, kernel, pads, pool, weights):
    """Outputs and both gradients of their weighted sum, in numpy.

    Maxima that are equal in exact arithmetic are equal but for 1e-10 here.
    """
    images, kernel = np.float64(images), np.float64(kernel)
    size = kernel.shape[0]
    padded = np.pad(images, ((0, 0), *pads, (0, 0)))
    views = sliding_window_view(padded, (size, size), axis=(1, 2))
    maps = np.einsum("bhwcij,ijcf->bhwf", views, kernel, optimize=True)
    back = np.zeros_like(maps)
    if pool:
        batch, height, width, features = maps.shape
        rows, columns = height // 2, width // 2
        windows = maps[:, : 2 * rows, : 2 * columns]
        windows = windows.reshape(batch, rows, 2, columns, 2, features)
        maps = windows.max(axis=(2, 4))
        is_largest = windows >= maps[:, :, None, :, None] - 1e-10
        shares = is_largest / is_largest.sum(axis=(2, 4), keepdims=True)
        shares = shares * weights[:, :, None, :, None]
        back[:, : 2 * rows, : 2 * columns] = shares.reshape(
            batch, 2 * rows, 2 * columns, features
        )
    else:
        back += weights
    of_kernel = np.einsum("bhwcij,bhwf->ijcf", views, back, optimize=True)
    of_images = np.zeros_like(padded)
    for i in range(size):
        for j in range(size):
            height, width = back.shape[1:3]
            of_images[:, i : i + height, j : j + width] += back @ kernel[i, j].T
    (top, bottom), (left, right) = pads
    height, width = of_images.shape[1:3]
    inner = of_images[:, top : height - bottom, left : width - right]
    return maps, inner, of_kernel


def drawn(shape, seed):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def assert_near_float64(images, kernel, pads, pool, outputs=4):
    sides = [
        side + sum(pad) - kernel.shape[0] + 1
        for side, pad in zip(images.shape[1:3], pads, strict=True)
    ]
    if pool:
        sides = [side // 2 for side in sides]
    weights = drawn((len(images), *sides, kernel.shape[-1]), 3)
    if pool:
        # What float32 cannot tell from a tie counts for nothing.
        maps, *_ = in_float64(images, kernel, pads, False, np.zeros(1))
        maps = maps[:, : 2 * sides[0], : 2 * sides[1]]
        windows = maps.reshape(len(maps), sides[0], 2, sides[1], 2, -1)
        gaps = windows.max(axis=(2, 4), keepdims=True) - windows
        is_doubtful = (gaps > 1e-10) & (gaps < 1e-4 * np.abs(maps).max())
        weights *= ~is_doubtful.any(axis=(2, 4))
        assert np.mean(weights != 0) > 0.9

    @jax.jit
    def ours(images, kernel):
        def apply(images, kernel):
            return conv_by_winograd(images, kernel, pads, pool=pool, outputs=outputs)

        maps, transpose = jax.vjp(apply, images, kernel)
        return maps, *transpose(weights)

    exact = in_float64(images, kernel, pads, pool, weights)
    for found, expected in zip(ours(images, kernel), exact, strict=True):
        assert found.dtype == jnp.float32
        error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
        assert error < 1e-4


@pytest.mark.parametrize("pads", [((0, 0), (0, 0)), ((2, 2), (1, 2))])
@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize(("outputs", "size"), [(4, 5), (4, 3), (2, 3), (4, 2)])
def test_float32_is_near_float64(outputs, size, pool, pads):
    images = drawn((2, 13, 10, 3), 1)
    assert_near_float64(images, drawn((size, size, 3, 4), 2), pads, pool, outputs)


@pytest.mark.parametrize(("size", "channels"), [(5, 1), (5, 16), (3, 16)])
def test_float32_is_near_float64_where_images_are_constant(size, channels):
    # As MNIST's, a background of one value with a stroke across; with more channels
    # what a first layer with biases makes of it.
    images = np.zeros((2, 14, 14, channels), np.float32) + (channels > 1) * np.abs(
        drawn((channels,), 4)
    )
    images[:, 5:8, 3:9] += np.abs(drawn((2, 3, 6, channels), 1))
    kernel = drawn((size, size, channels, 8), 2)
    assert_near_float64(images, kernel, ((2, 2), (2, 2)), True)


@pytest.mark.slow
@pytest.mark.mnist
def test_float32_is_near_float64_on_mnist():
    if "TFDS_DATA_DIR" not in os.environ:
        pytest.skip("no prepared data")
    images = load_arrays("mnist", "test").images[:2].astype(np.float32) / 255
    pads = ((2, 2), (2, 2))
    kernel = drawn((5, 5, 1, 16), 2) / 5
    assert_near_float64(images, kernel, pads, True)
    maps, *_ = in_float64(images, kernel, pads, True, np.ones((1, 1, 1, 1)))
    maps = np.maximum(maps + 0.1, 0).astype(np.float32)
    assert_near_float64(maps, drawn((5, 5, 16, 8), 2), pads, True)
    assert_near_float64(maps, drawn((3, 3, 16, 8), 2), pads, False)


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_constant_images_share_the_gradient_among_the_places_of_a_window(value):
    kernel = drawn((5, 5, 16, 16), 2)
    images = jnp.full((1, 12, 12, 16), value)

    def total(images, places):
        moved = images + places
        maps = conv_by_winograd(moved, kernel, ((0, 0), (0, 0)), pool=True)
        return jnp.sum(maps)

    found = jax.jit(jax.grad(total))(images, jnp.zeros_like(images))
    # A quarter of every output's kernel wherever an output has it.
    ones = np.full((1, 8, 8, 16), 0.25)
    expected = np.zeros((1, 12, 12, 16))
    for i in range(5):
        for j in range(5):
            expected[:, i : i + 8, j : j + 8] += ones @ np.float64(kernel[i, j]).T
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_where_transforms_are_faster_has_bounds():
    same, valid = ((2, 2), (2, 2)), ((0, 0), (0, 0))

    def chosen(side, channels, features, pads=same, size=5, strides=1, dtype="float32"):
        image, kernel = (9, side, side, channels), (size, size, channels, features)
        return is_faster(image, kernel, pads, strides, jnp.dtype(dtype))

    assert chosen(14, 32, 64)
    assert chosen(12, 32, 64, valid)
    assert not chosen(11, 32, 64, valid)
    assert not chosen(14, 8, 16)
    assert not chosen(28, 1, 32)
    assert chosen(32, 16, 16, ((1, 1), (1, 1)), 3)
    assert not chosen(32, 16, 16, ((1, 1), (1, 1)), 3, strides=2)
    assert not chosen(32, 16, 16, ((0, 0), (0, 0)), 1)
    assert not chosen(14, 32, 64, dtype="bfloat16")
    assert not chosen(14, 32, 64, dtype="float64")


def maps_of(formulation, images, features, size, **options):
    conv = Conv(features, size, formulation=formulation, use_bias=False, **options)
    kernel = drawn((size, size, images.shape[-1], features), 2)
    return jax.jit(conv.apply)({"params": {"kernel": kernel}}, images)


@pytest.mark.parametrize(("size", "strides"), [(5, 1), (3, 2), (1, 1)])
def test_layers_take_the_transforms_where_they_can(size, strides):
    images = drawn((2, 8, 9, 3), 1)
    found, expected = (
        maps_of(name, images, 4, size, strides=strides, pool=True)
        for name in ("winograd", "patches")
    )
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.array_equal(found, expected) == ((size, strides) != (5, 1))


def test_auto_takes_the_transforms_on_a_cpu():
    images = drawn((1, 8, 8, 16), 1)
    names = ("auto", "winograd", "patches")
    found, transformed, patches = (maps_of(name, images, 16, 3) for name in names)
    np.testing.assert_array_equal(found, transformed)
    assert not np.array_equal(found, patches)
