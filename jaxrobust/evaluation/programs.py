"""The compiled functions of an evaluation, and the devices that divide their work.

One program answers clean images, one serves all attacks of a stage: examples, radii and
turns are arguments, so nothing is compiled twice.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxrobust.attacks import judge
from jaxrobust.data import as_float
from jaxrobust.evaluation.preflight import among_strangers, require_classes
from jaxrobust.evaluation.sharing import Reference
from jaxrobust.threat import THREATS
from jaxrobust.types import Params, PRNGKey

__all__ = [
    "Data",
    "Placement",
    "attack_program",
    "bucket_size",
    "clean_program",
    "counting_program",
    "placement",
]

Data = tuple[jax.Array, jax.Array]
"""Images and labels of all examples."""


class Placement(NamedTuple):
    """The local devices, which divide every bucket and never talk to each other."""

    place: Callable[[Any], Any]
    divide: Callable[..., Callable[..., Any]]
    num_devices: int
    platform: str


def placement() -> Placement:
    """The local devices as they are now."""
    devices = jax.local_devices()
    platform = devices[0].platform
    if len(devices) == 1:

        def alone(function: Callable[..., Any], *split: bool) -> Callable[..., Any]:
            del split
            return jax.jit(function)

        return Placement(jax.device_put, alone, 1, platform)
    mesh = Mesh(np.array(devices), ("items",))
    specs = {False: PartitionSpec(), True: PartitionSpec("items")}

    def divided(function: Callable[..., Any], *split: bool) -> Callable[..., Any]:
        shared = jax.shard_map(
            function,
            mesh=mesh,
            in_specs=tuple(specs[each] for each in split),
            out_specs=specs[True],
            check_vma=False,
        )
        return jax.jit(shared)

    place = partial(jax.device_put, device=NamedSharding(mesh, specs[False]))
    return Placement(place, divided, len(devices), platform)


def clean_program(
    apply: Reference, *, num_classes: int, devices: tuple[Any, ...]
) -> Callable[..., tuple[jax.Array, jax.Array, jax.Array]]:
    """The compiled function that answers clean images.

    Returns:
        `(weights, data, chosen, is_stranger) -> (is_correct, is_finite, logits)`; a
        stranger's place is taken by an image unlike the first one.
    """
    del devices

    def clean(
        weights: Params, data: Data, chosen: jax.Array, is_stranger: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        images, labels = data
        shown = among_strangers(images[chosen], is_stranger, images[0])
        logits = apply()(weights)(as_float(shown))
        require_classes(logits.shape, len(chosen), num_classes)
        is_finite = jnp.all(jnp.isfinite(logits), axis=-1)
        return ~judge(logits, labels[chosen]), is_finite, logits

    return placement().divide(clean, False, False, True, True)


def attack_program(
    apply: Reference,
    build: Reference,
    *,
    norm: str,
    steps: str,
    devices: tuple[Any, ...],
) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """The compiled function that serves all models, radii and turns of a stage.

    Args:
        apply: refers to the model, from its weights.
        build: refers to what builds the attack of the stage.
        norm: of the ball.
        steps: whether `build` is given "none", "one" number, or one for "each" item.
        devices: what the program is made for.

    Returns:
        `(key, weights, data, chosen, turns, epsilons, num_steps) -> (is_broken,
        is_gradient_finite)`; `num_steps` is one number, or one for each item if it
        follows the radius.
    """
    del devices

    def attacked(
        base_key: PRNGKey,
        weights: Params,
        data: Data,
        chosen: jax.Array,
        turns: jax.Array,
        epsilons: jax.Array,
        num_steps: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        images, labels = data

        def attack_one(
            index: jax.Array, turn: jax.Array, epsilon: jax.Array, count: jax.Array
        ) -> tuple[jax.Array, jax.Array]:
            key = jax.random.fold_in(jax.random.fold_in(base_key, turn), index)
            settings = () if steps == "none" else (count,)
            search = build()(THREATS[norm](epsilon), turn, *settings)
            image, label = as_float(images[index][None]), labels[index][None]
            found = search(key, apply()(weights), image, label)
            return found.is_adversarial[0], found.is_gradient_finite[0]

        # A number of steps for each item costs masks in the attack's loop.
        steps_axis = 0 if steps == "each" else None
        each = jax.vmap(attack_one, in_axes=(0, 0, 0, steps_axis))
        return each(chosen, turns, epsilons, num_steps)

    split = (False, False, False, True, True, True, steps == "each")
    return placement().divide(attacked, *split)


def counting_program(apply: Reference) -> Callable[[Params, np.ndarray], float]:
    """`(weights, images) -> operations` of the model on one image, as XLA counts them.

    Nothing is compiled, and what was counted once is remembered.
    """
    forward = jax.jit(lambda weights, image: apply()(weights)(as_float(image)))
    counted: dict[Any, float] = {}

    def count(weights: Params, images: np.ndarray) -> float:
        leaves, structure = jax.tree.flatten((weights, images[:1]))
        key = structure, *((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
        if key not in counted:
            found = forward.lower(weights, images[:1]).cost_analysis()
            # Not every backend counts; an image of ordinary size is then assumed.
            counted[key] = float((found or {}).get("flops", 0.0)) or 1e7
        return counted[key]

    return count


_SECONDS = 5.0
"""What a bucket shall take about, where its size is not given."""

_SPEED = {"cpu": 2e11, "gpu": 1e13, "tpu": 1e13}
"""Operations a second of a small network, roughly; measured sizes would differ from
run to run, and with them the rounding of matrix products."""

_LARGEST = {"cpu": 256, "gpu": 2048, "tpu": 2048}


def bucket_size(num_passes: int, operations: float, platform: str) -> int:
    """A power of two of items that takes some seconds, whatever the machine's mood."""
    wanted = _SPEED.get(platform, 1e10) * _SECONDS / (max(num_passes, 1) * operations)
    wanted = min(max(wanted, 1.0), _LARGEST.get(platform, 256))
    return 1 << int(np.log2(wanted))
