"""What a network is: two pure functions over explicit values.

Everything that trains, attacks or evaluates knows a network by this contract alone.
What makes one of a module of some library is in a file for each library.
"""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust.keys import seeded

__all__ = ["Network", "Variables", "in_mode", "require_network"]


class Variables(NamedTuple):
    """All that a network holds; two trees of arrays.

    Attributes:
        params: what gradients train.
        state: everything else that changes in training, such as the running
            statistics of batch normalization; empty for most networks without it.
    """

    params: Any
    state: Any


@dataclasses.dataclass(frozen=True)
class Network:
    """A network as a pair of pure functions.

    Compiled programs are kept by it: two that are equal must compute the same. Both
    functions see the whole batch, and are traced by jax (`jit`, `vmap`, `grad`).

    Attributes:
        init: `(key, images) -> Variables`, fresh ones; the images
            `(batch, height, width, channels)`, of pixels in [0, 1], lend their shape.
        apply: `(variables, images, *, train, key) -> (logits, Variables)`, logits
            `(batch, classes)`. With `train` the state moves on, and what is random
            (dropout) comes from `key`; without, the variables are returned as they
            are, and `key` is None.
    """

    init: Callable[..., Any]
    apply: Callable[..., Any]


MODES = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "inference": False,
}
"""Arguments by which modules are told their mode, and what they are in training."""


def in_mode(function: Callable[..., Any], train: bool) -> dict[str, Any]:
    """The arguments that put a call of a module into a mode; none if it takes none."""
    names = inspect.signature(function).parameters
    return {name: train == value for name, value in MODES.items() if name in names}


def _forms(tree: Any) -> dict[str, str]:
    return {
        jax.tree_util.keystr(path): f"{leaf.dtype.name}{list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _require_pair(what: str, found: Any) -> Variables:
    if not (isinstance(found, tuple) and len(found) == 2):
        raise TypeError(
            f"`network` must give (params, state) {what}, got "
            f"{type(found).__name__}; give an empty dictionary for no state."
        )
    return Variables(*found)


def require_network(
    network: Network, image_shape: tuple[int, ...], num_classes: int
) -> dict[str, str]:
    """Refuse a network that breaks the contract, before anything is computed.

    Args:
        network: to be traced, in training and in evaluation mode.
        image_shape: `(height, width, channels)`.
        num_classes: number of logits.

    Returns:
        Type and shape of each of its arrays, by name.

    Raises:
        TypeError: for values of another kind.
        ValueError: for logits of another shape, or a state whose form changes.
    """
    key = jax.eval_shape(lambda: seeded(0))
    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    variables = _require_pair("from `init`", jax.eval_shape(network.init, key, images))

    def training(variables: Variables, images: Any, key: Any) -> Any:
        return network.apply(variables, images, train=True, key=key)

    def evaluation(variables: Variables, images: Any) -> Any:
        return network.apply(variables, images, train=False, key=None)

    for found in (
        jax.eval_shape(training, variables, images, key),
        jax.eval_shape(evaluation, variables, images),
    ):
        if not (isinstance(found, tuple) and len(found) == 2):
            raise TypeError(
                "`network` must give (logits, variables) from `apply`, got "
                f"{type(found).__name__}; return both."
            )
        logits, after = found[0], _require_pair("from `apply`", found[1])
        shape = getattr(logits, "shape", None)
        is_float = shape is not None and jnp.issubdtype(logits.dtype, jnp.floating)
        if shape != (2, num_classes) or not is_float:
            got = f"{logits.dtype.name}{list(shape)}" if shape is not None else logits
            raise ValueError(
                f"`network` must give logits (batch, {num_classes}) of floating point "
                f"for the {num_classes} classes of the data, got {got} for a batch of "
                "2; make it with as many outputs as there are classes."
            )
        before, now = _forms(variables.state), _forms(after.state)
        changed = [name for name in before | now if before.get(name) != now.get(name)]
        if changed:
            name = changed[0]
            raise ValueError(
                "`network` must keep the form of its state, got "
                f"{now.get(name, 'nothing')} for {before.get(name, 'nothing')} at "
                f"{name}; return arrays of the same types and shapes from `apply`."
            )
    return _forms(variables)
