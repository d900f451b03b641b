"""Convolutions as matrix products, against sums of products in numpy."""

import jax
import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from jaxrobust.convolutions import conv_by_patches, conv_on_cpu


def in_numpy(images, kernel, strides, pads):
    size = kernel.shape[0]
    padded = np.pad(np.float64(images), ((0, 0), *pads, (0, 0)))
    views = sliding_window_view(padded, (size, size), axis=(1, 2))
    views = views[:, ::strides, ::strides]
    return np.einsum("bhwcij,ijcf->bhwf", views, np.float64(kernel))


@pytest.mark.parametrize("convolve", [conv_by_patches, conv_on_cpu])
@pytest.mark.parametrize(
    ("sides", "size", "strides", "pads"),
    [
        ((8, 8), 4, 2, [(1, 1), (1, 1)]),
        ((7, 9), 4, 2, [(1, 2), (0, 1)]),  # a row is left over
        ((9, 9), 6, 3, [(0, 0), (0, 0)]),
        ((7, 8), 2, 2, [(0, 1), (0, 0)]),
        ((7, 8), 3, 2, [(1, 1), (0, 1)]),  # the stride does not divide the size
        ((8, 9), 3, 1, [(1, 1), (1, 1)]),
    ],
)
def test_it_is_the_sum_over_windows(convolve, sides, size, strides, pads):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, *sides, 16)).astype(np.float32)
    kernel = rng.normal(size=(size, size, 16, 16)).astype(np.float32)
    expected = in_numpy(images, kernel, strides, pads)
    found, pull = jax.vjp(lambda *pair: convolve(*pair, strides, pads), images, kernel)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)
    # What is linear in each factor: <z, f(x, k)> = <x, df/dx z> = <k, df/dk z>.
    weights = rng.normal(size=expected.shape).astype(np.float32)
    total = np.sum(weights * expected)
    for value, gradient in zip((images, kernel), pull(weights), strict=True):
        assert np.sum(value * np.float64(gradient)) == pytest.approx(total, rel=1e-4)
