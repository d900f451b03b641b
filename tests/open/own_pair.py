"""A network of one's own: two plain functions, and a count of the steps as state."""

import jax
import jax.numpy as jnp


def init(key, images):
    weights = jax.random.normal(key, (images[0].size, 10)) / images[0].size ** 0.5
    return {"weights": weights, "bias": jnp.zeros(10)}, {"steps": jnp.int32(0)}


def apply(variables, images, *, train, key):
    params, state = variables
    if train:
        images *= jax.random.bernoulli(key, 0.9, images.shape)
        state = {"steps": state["steps"] + 1}
    flat = images.reshape(images.shape[0], -1)
    return flat @ params["weights"] + params["bias"][None], (params, state)


Net = (init, apply)
