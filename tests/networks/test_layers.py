import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxrobust.networks import Conv, max_pool

FORMULATIONS = ("direct", "patches", "phases")


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(
    ("size", "strides", "pool"),
    [
        *((1, 1, False), (3, 2, False), (5, 1, False)),
        *((3, 1, True), (5, 1, True), (2, 1, True), (3, 2, True)),
    ],
)
def test_all_formulations_are_flax_convolution_and_pooling(
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
    for formulation in FORMULATIONS[: 3 if pool else 2]:
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
    first, *others = (
        Conv(4, 3, pool=True, formulation=name).init(key, images)
        for name in FORMULATIONS
    )
    for other in others:
        jax.tree.map(np.testing.assert_array_equal, first, other)


@pytest.mark.exact
@pytest.mark.parametrize("size", [2, 3])
def test_pooling_drops_the_remainder_at_the_edge(size, key):
    maps = jax.random.normal(key, (2, 7, 8, 3))
    expected = nn.max_pool(maps, (size, size), (size, size))
    np.testing.assert_array_equal(max_pool(maps, size), expected)


def test_all_maxima_of_a_window_have_equal_shares_of_the_gradient():
    """All four, three, two and one; a remainder at an edge has none."""
    windows = [[[1, 1], [1, 1]], [[1, 1], [0, 1]], [[0, 2], [2, 1]], [[0, 0], [0, 3]]]
    maps = jnp.concatenate(jnp.float32(windows), axis=1)
    shares = [[1 / 4] * 4, [1 / 3, 1 / 3, 0, 1 / 3], [0, 0.5, 0.5, 0], [0, 0, 0, 1]]
    expected = np.concatenate(np.reshape(shares, (4, 2, 2)), axis=1)

    def gradient_of(pooled):
        maps_with_edge = jnp.pad(maps, ((0, 0), (0, 1)))[None, :, :, None]
        return jax.grad(lambda maps: pooled(maps).sum())(maps_with_edge)[0, :, :, 0]

    ways = [max_pool]
    for formulation in FORMULATIONS:
        module = Conv(1, 1, pool=True, use_bias=False, formulation=formulation)
        params = {"params": {"kernel": jnp.ones((1, 1, 1, 1))}}
        ways.append(lambda maps, m=module, p=params: m.apply(p, maps))
    for pooled in ways:
        gradient = gradient_of(pooled)
        np.testing.assert_allclose(gradient[:, :-1], expected, rtol=1e-6)
        assert not np.any(gradient[:, -1])
