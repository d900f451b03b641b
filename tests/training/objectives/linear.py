"""A linear network and a batch, small enough for formulas worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.networks import Network, Variables
from jaxrobust.training.recipe.model import Model

COUNT, SHAPE, CLASSES = 6, (3, 3, 1), 4
KEY = jax.random.key(7)


def init(key, images):
    kernel = jax.random.normal(key, (images[0].size, CLASSES))
    return Variables({"bias": jnp.zeros(CLASSES), "kernel": kernel}, {})


def apply(variables, images, *, train, key):
    del train, key
    flat = images.reshape(images.shape[0], -1)
    params = variables.params
    return flat @ params["kernel"] + params["bias"][None], variables


NETWORK = Network(init, apply)


def batch(seed=0):
    rng = np.random.default_rng(seed)
    images = rng.uniform(0.3, 0.7, size=(COUNT, *SHAPE)).astype("float32")
    return jnp.asarray(images), jnp.asarray(rng.integers(0, CLASSES, size=COUNT))


def model(seed=0):
    rng = np.random.default_rng(seed)
    kernel = rng.normal(size=(9, CLASSES)).astype("float32")
    bias = (0.2 * rng.normal(size=CLASSES)).astype("float32")
    params = {"bias": jnp.asarray(bias), "kernel": jnp.asarray(kernel)}
    return Model(NETWORK, Variables(params, {}))


def loss_and_gradient(objective, threat, images, labels, key=KEY, at=None):
    """What a step of training takes from an objective, through the trainer's way."""
    at = model() if at is None else at

    def loss(params):
        return objective(key, at.with_params(params), threat, images, labels)[0]

    return jax.value_and_grad(loss)(at.params)


class ByHand:
    """The same network, its losses and their gradients, in float64."""

    def __init__(self, images, params=None):
        params = model().params if params is None else params
        self.kernel = np.asarray(params["kernel"], np.float64)
        self.bias = np.asarray(params["bias"], np.float64)
        self.flat = np.asarray(images, np.float64).reshape(len(images), -1)
        logits = self.flat @ self.kernel + self.bias
        share = np.exp(logits - logits.max(axis=1, keepdims=True))
        self.share = share / share.sum(axis=1, keepdims=True)

    def cross_entropies(self, labels):
        return -np.log(self.share[np.arange(len(labels)), np.asarray(labels)])

    def errors(self, labels):
        """Gradients of the cross-entropies in the logits."""
        return self.share - np.eye(CLASSES)[np.asarray(labels)]

    def input_gradients(self, labels):
        return self.errors(labels) @ self.kernel.T

    def gradient(self, errors):
        """In the parameters, of a mean whose terms have these gradients in logits."""
        errors = errors / len(errors)
        return {"bias": errors.sum(axis=0), "kernel": self.flat.T @ errors}


def added(*gradients):
    return jax.tree.map(lambda *each: sum(each), *gradients)


def assert_near(found, expected, atol=2e-5):
    loss, gradient = found
    np.testing.assert_allclose(loss, expected[0], atol=atol)
    assert sorted(gradient) == sorted(expected[1])
    for name, value in expected[1].items():
        np.testing.assert_allclose(gradient[name], value, atol=atol, err_msg=name)
