"""Convolutions in other formulations: the same numbers, and only where these do."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxrobust.bounds import interval_pass, linear_margins
from jaxrobust.bounds.convolving import convolved, is_plain
from jaxrobust.networks import cnn4
from jaxrobust.threat import LinfBall


def equation_of(images, kernel, strides, pads, numbers, **options):
    def convolve(images, kernel):
        return lax.conv_general_dilated(
            images, kernel, strides, pads, dimension_numbers=numbers, **options
        )

    (equation,) = jax.make_jaxpr(convolve)(images, kernel).eqns
    return equation, convolve(images, kernel)


def arrays(numbers, size=(3, 3), sides=(7, 8), dtype=np.float32):
    rng = np.random.default_rng(0)
    image = {"N": 2, "H": sides[0], "W": sides[1], "C": 3}
    places = {"H": size[0], "W": size[1], "I": 3, "O": 4}
    images = rng.normal(size=[image[each] for each in numbers[0]]).astype(dtype)
    kernel = rng.normal(size=[places[each] for each in numbers[1]]).astype(dtype)
    return jnp.asarray(images), jnp.asarray(kernel)


@pytest.mark.parametrize(
    "numbers",
    [
        ("NHWC", "HWIO", "NHWC"),
        ("NCHW", "OIHW", "NCHW"),
        ("NCHW", "HWOI", "NHWC"),
    ],
)
@pytest.mark.parametrize(
    ("strides", "pads"), [((1, 1), "SAME"), ((2, 2), [(1, 0), (0, 2)])]
)
def test_axes_lie_where_the_equation_says(numbers, strides, pads):
    images, kernel = arrays(numbers)
    equation, expected = equation_of(images, kernel, strides, pads, numbers)
    assert is_plain(equation)
    found = convolved(equation, images, kernel)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("strides", "pads", "options"),
    [
        ((1, 2), "SAME", {}),
        ((1, 1), [(-1, 0), (0, 0)], {}),
        ((1, 1), "SAME", {"rhs_dilation": (2, 2)}),
        ((1, 1), [(1, 1), (1, 1)], {"lhs_dilation": (2, 1)}),
        ((1, 1), "SAME", {"preferred_element_type": jnp.float64}),
    ],
)
def test_others_are_computed_as_they_are_written(strides, pads, options):
    numbers = ("NHWC", "HWIO", "NHWC")
    with jax.enable_x64(True):
        equation, _ = equation_of(*arrays(numbers), strides, pads, numbers, **options)
    assert not is_plain(equation)
    equation, _ = equation_of(*arrays(numbers, size=(3, 2)), (1, 1), "SAME", numbers)
    assert not is_plain(equation)


@pytest.mark.parametrize("rounding", ["nearest", "outward"])
@pytest.mark.parametrize("bound", ["interval", "linear"])
def test_only_what_rounds_to_nearest_leaves_jax_s_convolutions(bound, rounding, key):
    # In loops these are slow on a CPU, and training computes in loops.
    images, labels = jnp.ones((2, 8, 8, 1)), jnp.array([1, 2])
    network = cnn4(widen_factor=1 / 8)
    logits_fn = partial(network.apply, network.init(key, images))
    bounds = {
        "interval": interval_pass,
        "linear": partial(linear_margins, intermediate="interval"),
    }
    compute = partial(bounds[bound], logits_fn, LinfBall(0.1), rounding=rounding)

    def least(images):
        # Logits themselves are those of the network, whose `auto` knows the platform.
        found = compute(images, labels)
        return found.margins if bound == "interval" else found

    lowered = jax.jit(least).lower(images).as_text()
    assert ("convolution" in lowered) == (rounding == "outward")
