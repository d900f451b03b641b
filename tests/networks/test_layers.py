import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxrobust.networks import Conv, max_pool


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(
    ("size", "strides", "pool"),
    [
        *((1, 1, False), (3, 2, False), (5, 1, False)),
        *((3, 1, True), (5, 1, True), (2, 1, True), (3, 2, True)),
    ],
)
def test_both_formulations_are_flax_convolution_and_pooling(
    size, strides, pool, padding, key
):
    peer = nn.Conv(4, (size, size), strides, padding)
    images = jax.random.normal(key, (2, 9, 12, 3))
    # A bias that is not 0 shows whether pooling and adding it commute.
    params = peer.init(key, images)["params"] | {"bias": jnp.arange(4.0)}
    weights = jax.random.normal(jax.random.key(8), (400,))

    def peer_fn(params, images):
        maps = peer.apply({"params": params}, images)
        return nn.max_pool(maps, (2, 2), (2, 2)) if pool else maps

    def total(apply):
        def scalar(params, images):
            maps = apply(params, images)
            return jnp.sum(maps * jnp.resize(weights, maps.shape))

        return jax.value_and_grad(scalar, argnums=(0, 1))

    expected = total(peer_fn)(params, images)
    for formulation in ("direct", "patches"):
        ours = Conv(
            4, size, strides, padding=padding, pool=pool, formulation=formulation
        )
        found = total(lambda p, x, ours=ours: ours.apply({"params": p}, x))
        jax.tree.map(
            lambda one, other: np.testing.assert_allclose(one, other, atol=1e-4),
            found(params, images),
            expected,
        )


def test_initial_parameters_do_not_know_the_formulation(key):
    images = jnp.zeros((1, 8, 8, 2))
    one, other = (
        Conv(4, 3, pool=True, formulation=name).init(key, images)
        for name in ("direct", "patches")
    )
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.exact
@pytest.mark.parametrize("size", [2, 3])
def test_pooling_drops_the_remainder_at_the_edge(size, key):
    maps = jax.random.normal(key, (2, 7, 8, 3))
    expected = nn.max_pool(maps, (size, size), (size, size))
    for formulation in ("direct", "patches"):
        np.testing.assert_array_equal(max_pool(maps, size, formulation), expected)


@pytest.mark.parametrize(
    ("formulation", "expected"),
    [("direct", [[1.0, 0.0], [0.0, 0.0]]), ("patches", [[0.25, 0.25], [0.25, 0.25]])],
)
def test_ties_share_the_gradient_or_send_it_to_the_first(formulation, expected):
    maps = jnp.ones((1, 2, 2, 1))
    gradient = jax.grad(lambda maps: max_pool(maps, 2, formulation).sum())(maps)
    np.testing.assert_allclose(gradient[0, :, :, 0], expected)


def test_ties_of_a_fused_convolution_share_the_gradient():
    module = Conv(1, 1, pool=True, use_bias=False, formulation="patches")
    params = {"params": {"kernel": jnp.ones((1, 1, 1, 1))}}
    gradient = jax.grad(lambda x: module.apply(params, x).sum())(jnp.ones((1, 2, 2, 1)))
    np.testing.assert_allclose(gradient, 0.25)
