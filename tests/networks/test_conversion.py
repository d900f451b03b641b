"""What may be handed over as a network, and what may not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxrobust.networks import LeNet, Linear, Network, as_network, require_network


def init(key, images):
    return {"scale": jnp.ones(3)}, {}


def apply(variables, images, *, train, key):
    flat = images.reshape(images.shape[0], -1)
    return flat[:, :3] * variables[0]["scale"][None], variables


MODULE = Linear(3)


@pytest.mark.parametrize(
    "value",
    [
        MODULE,
        Linear,
        functools.partial(Linear, num_classes=3),
        lambda: MODULE,
        lambda num_classes: Linear(num_classes),
        lambda classes: Linear(classes),
        lambda num_classes: functools.partial(Linear, num_classes=num_classes),
        lambda num_classes: Linear,
        lambda num_classes, widen=1: Linear(num_classes),
        as_network(MODULE, 3),
    ],
)
def test_modules_classes_and_functions_make_the_same_network(value):
    network = as_network(value, 3)
    assert network == as_network(MODULE, 3) and hash(network) == hash(
        as_network(MODULE, 3)
    )


@pytest.mark.parametrize("value", [(init, apply), Network(init, apply)])
def test_a_pair_of_functions_is_a_network(value, images):
    network = as_network(value, 3)
    assert network == Network(init, apply)
    require_network(network, (5, 4, 1), 3)
    variables = network.init(jax.random.key(0), images)
    logits, _ = network.apply(variables, images, train=False, key=None)
    np.testing.assert_array_equal(logits, images.reshape(4, -1)[:, :3])


@pytest.mark.parametrize(
    "value",
    [
        None,
        "lenet",
        3,
        (init, None),
        (init, apply, init),
        lambda num_classes: "a network",
        lambda num_classes: lambda images: images,
        int,
    ],
)
def test_anything_else_is_refused_by_what_is_accepted(value):
    with pytest.raises(TypeError, match=r"must be a Flax Linen, .*\(init, apply\)"):
        as_network(value, 3)


class Wants(nn.Module):
    depth: int

    @nn.compact
    def __call__(self, images):
        return images


@pytest.mark.parametrize("value", [Wants, lambda num_classes, depth: None])
def test_what_wants_to_know_more_is_refused(value):
    with pytest.raises(ValueError, match=r"alone, got .* which wants depth; hand over"):
        as_network(value, 3)


def test_a_module_that_cannot_be_hashed_is_refused():
    class Holding(nn.Module):
        mean: np.ndarray

    with pytest.raises(TypeError, match=r"must be hashable, .* got Holding"):
        as_network(Holding(np.zeros(3)), 3)


def broken(**changes):
    functions = {"init": init, "apply": apply} | changes
    return Network(**functions)


@pytest.mark.parametrize(
    ("network", "error", "message"),
    [
        (
            as_network(LeNet(num_classes=4, kernel_size=1, padding="SAME"), 3),
            ValueError,
            r"logits \(batch, 3\) of floating point .* got float32\[2, 4\]",
        ),
        (
            broken(init=lambda key, images: jnp.ones(3)),
            TypeError,
            r"must give \(params, state\) from `init`",
        ),
        (
            broken(apply=lambda v, images, *, train, key: images[:, :3, 0, 0]),
            TypeError,
            r"must give \(logits, variables\) from `apply`",
        ),
        (
            broken(apply=lambda v, images, *, train, key: (images[:, :3, 0, 0], 0)),
            TypeError,
            r"must give \(params, state\) from `apply`",
        ),
        (
            broken(apply=lambda v, images, *, train, key: (jnp.ones((2, 3), int), v)),
            ValueError,
            r"floating point .* got int32\[2, 3\]",
        ),
        (
            broken(
                apply=lambda v, images, *, train, key: (
                    images[:, :3, 0, 0],
                    (v[0], {"new": jnp.zeros(2)} if train else v[1]),
                )
            ),
            ValueError,
            r"keep the form of its state, got float32\[2\] for nothing at \['new'\]",
        ),
    ],
)
def test_networks_that_break_the_contract_are_refused(network, error, message):
    with pytest.raises(error, match=message):
        require_network(network, (5, 4, 1), 3)
