"""The transpose of a strided convolution is that of JAX."""

import jax
import numpy as np
import pytest
from jax import lax

from jaxrobust.bounds.program import trace
from jaxrobust.bounds.strided import strided_transpose


def of_numbers(numbers, strides, pads, size, sides=(8, 7), as_written=True, **options):
    """A convolution step, its own transpose and JAX's, of one cotangent."""
    rng = np.random.default_rng(0)
    channels, features = 3, 4
    places = {"H": size[0], "W": size[1], "I": channels, "O": features}
    kernel = rng.normal(size=[places[each] for each in numbers[1]]).astype(np.float32)
    image = {"N": 1, "H": sides[0], "W": sides[1], "C": channels}
    shape = tuple(image[each] for each in numbers[0])

    def convolved(images):
        return lax.conv_general_dilated(
            images, kernel, strides, pads, dimension_numbers=numbers, **options
        )

    def logits_fn(images):
        return convolved(images).reshape(1, -1)

    form = jax.ShapeDtypeStruct(shape, np.float32)
    step = next(
        each
        for each in trace(logits_fn, form, as_written=as_written).steps
        if each.primitive == "conv_general_dilated"
    )
    rows = rng.normal(size=step.shape).astype(np.float32)
    (expected,) = jax.linear_transpose(convolved, form)(rows)
    return strided_transpose(step), rows, expected


@pytest.mark.parametrize("as_written", [True, False])
@pytest.mark.parametrize(
    "numbers, strides, pads, size",
    [
        (("NHWC", "HWIO", "NHWC"), (2, 2), "SAME", (4, 4)),
        (("NHWC", "HWIO", "NHWC"), (2, 3), "VALID", (3, 3)),
        (("NHWC", "HWIO", "NHWC"), (2, 1), [(2, 0), (1, 3)], (5, 2)),
        (("NHWC", "HWIO", "NHWC"), (2, 2), "VALID", (1, 1)),
        (("NCHW", "OIHW", "NCHW"), (3, 2), [(1, 1), (0, 2)], (2, 4)),
        (("NCHW", "OIHW", "NHWC"), (2, 2), "SAME", (3, 3)),
    ],
)
def test_it_is_the_transpose(numbers, strides, pads, size, as_written):
    transpose, rows, expected = of_numbers(
        numbers, strides, pads, size, as_written=as_written
    )
    assert transpose is not None
    np.testing.assert_allclose(transpose(rows), expected, rtol=1e-5, atol=1e-5)


def test_others_are_left_to_jax():
    numbers = ("NHWC", "HWIO", "NHWC")
    for strides, options in (
        ((1, 1), {}),
        ((2, 2), {"rhs_dilation": (2, 2)}),
    ):
        transpose, _, _ = of_numbers(numbers, strides, "VALID", (2, 2), **options)
        assert transpose is None
