"""The compiled functions of an evaluation, and the devices that divide their work.

One program answers clean images, one serves all attacks of a stage: examples, radii and
turns are arguments, so nothing is compiled twice.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import (
    Mesh,
    NamedSharding,
    PartitionSpec,
    Sharding,
    SingleDeviceSharding,
)

from jaxrobust.attacks import judge
from jaxrobust.attacks.builders import turn_of
from jaxrobust.data import as_float
from jaxrobust.evaluation.engine.builders import Structure, put_together
from jaxrobust.evaluation.engine.sharing import Reference
from jaxrobust.evaluation.preflight import among_strangers, require_classes
from jaxrobust.precision import JUDGED, MatmulPrecision, at_precision
from jaxrobust.threat import ThreatModel
from jaxrobust.types import (
    Images,
    Labels,
    LogitsFn,
    Params,
    PerExampleFlag,
    PRNGKey,
)

__all__ = [
    "Data",
    "Placement",
    "attack_program",
    "clean_program",
    "counting_program",
    "placement",
]

Data = tuple[jax.Array, jax.Array]
"""Images and labels of all examples."""


class Placement(NamedTuple):
    """Devices, which divide every bucket and never talk to each other.

    Attributes:
        place: puts what all of them need on all of them.
        divide: `(function, *split) -> compiled function`, of arguments that the devices
            divide or have in full, as `split` says.
        whole: how arguments lie that every device has in full.
        parts: how those lie that the devices divide.
        num_devices: how many there are.
        platform: cpu, gpu or tpu.
        kind: as their maker calls them, such as TPU v5 lite.
    """

    place: Callable[[Any], Any]
    divide: Callable[..., Callable[..., Any]]
    whole: Sharding
    parts: Sharding
    num_devices: int
    platform: str
    kind: str


def placement(devices: Sequence[Any] | None = None) -> Placement:
    """The local devices as they are now, or others.

    Args:
        devices: None for the local ones. For those of a topology that is not there
            programs can be compiled, from shapes that lie as `whole` and `parts` say.
    """
    devices = jax.local_devices() if devices is None else devices
    platform, kind = devices[0].platform, devices[0].device_kind
    if len(devices) == 1:
        where = SingleDeviceSharding(devices[0])

        def alone(function: Callable[..., Any], *split: bool) -> Callable[..., Any]:
            del split
            return jax.jit(function)

        return Placement(jax.device_put, alone, where, where, 1, platform, kind)
    mesh = Mesh(np.array(devices), ("items",))
    specs = {False: PartitionSpec(), True: PartitionSpec("items")}

    def divided(function: Callable[..., Any], *split: bool) -> Callable[..., Any]:
        shared = jax.shard_map(
            function,
            mesh=mesh,
            in_specs=tuple(specs[is_divided] for is_divided in split),
            out_specs=specs[True],
            check_vma=False,
        )
        return jax.jit(shared)

    whole, parts = (NamedSharding(mesh, specs[is_split]) for is_split in (False, True))
    place = partial(jax.device_put, device=whole)
    return Placement(place, divided, whole, parts, len(devices), platform, kind)


def clean_program(
    apply: Reference, *, num_classes: int, devices: tuple[Any, ...]
) -> Callable[..., tuple[jax.Array, jax.Array, jax.Array]]:
    """The compiled function that answers clean images.

    Returns:
        `(weights, data, chosen, is_stranger) -> (is_correct, is_finite, logits)`; a
        stranger's place is taken by an image unlike the first one.
    """

    def clean(
        weights: Params, data: Data, chosen: jax.Array, is_stranger: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        images, labels = data
        shown = among_strangers(images[chosen], is_stranger, images[0])
        logits = apply()(weights)(as_float(shown))
        require_classes(logits.shape, len(chosen), num_classes)
        is_finite = jnp.all(jnp.isfinite(logits), axis=-1)
        return ~judge(logits, labels[chosen]), is_finite, logits

    judged = at_precision(JUDGED, clean)
    return placement(devices).divide(judged, False, False, True, True)


def attack_program(
    apply: Reference,
    *functions: Reference,
    structure: Structure,
    varies: tuple[bool, ...],
    threat: type[ThreatModel],
    keeps_images: bool,
    matmul_precision: MatmulPrecision,
    is_judged_again: bool,
    devices: tuple[Any, ...],
) -> Callable[..., tuple[jax.Array, ...]]:
    """The compiled function that serves all models, radii and turns of a stage.

    Args:
        apply: refers to the model, from its weights.
        functions: refer to the functions of the builder of the attack.
        structure: of that builder.
        varies: which of its numbers follow the radius.
        threat: whose ball is searched.
        keeps_images: whether the images that were found are returned.
        matmul_precision: of the attack.
        is_judged_again: whether the image counts that it found, at `JUDGED`, rather
            than what the attack says of it; see `Plan.is_judged_again`.
        devices: what the program is made for.

    Returns:
        `(key, weights, data, chosen, turns, epsilons, shared, varying) -> (is_broken,
        is_gradient_finite, is_inside, is_unconfirmed)`, and the images if they are
        kept. The last two arguments are lists of numbers: those that are the same at
        every radius, and one for each item of those that are not. Unconfirmed is what
        the attack took for its success, and the judgement at `JUDGED` did not.
    """

    def judged(logits_fn: LogitsFn, image: Images, label: Labels) -> PerExampleFlag:
        return judge(logits_fn(image), label)

    def attacked(
        base_key: PRNGKey,
        weights: Params,
        data: Data,
        chosen: jax.Array,
        turns: jax.Array,
        epsilons: jax.Array,
        shared: list[jax.Array],
        varying: list[jax.Array],
    ) -> tuple[jax.Array, ...]:
        images, labels = data

        def attack_one(
            index: jax.Array,
            turn: jax.Array,
            epsilon: jax.Array,
            varying: list[jax.Array],
        ) -> tuple[jax.Array, ...]:
            key = jax.random.fold_in(jax.random.fold_in(base_key, turn), index)
            groups = iter(shared), iter(varying)
            numbers = [next(groups[is_varying]) for is_varying in varies]
            values = [function() for function in functions]
            build = turn_of(put_together(structure, values, numbers), turn)
            ball = threat(epsilon)
            search = at_precision(matmul_precision, build(ball))
            image, label = as_float(images[index][None]), labels[index][None]
            logits_fn = apply()(weights)
            result = search(key, logits_fn, image, label)
            is_broken = result.is_adversarial
            if is_judged_again:
                judgement = at_precision(JUDGED, judged)
                is_broken = judgement(logits_fn, result.images, label)
            is_inside = ball.contains(result.images, image)
            is_unconfirmed = result.is_adversarial & ~is_broken
            flags = (is_broken, result.is_gradient_finite, is_inside, is_unconfirmed)
            flags = tuple(flag[0] for flag in flags)
            return (*flags, result.images[0]) if keeps_images else flags

        # A number for each item costs masks, as in a loop of so many steps.
        return jax.vmap(attack_one)(chosen, turns, epsilons, varying)

    split = (False, False, False, True, True, True, False, True)
    return placement(devices).divide(attacked, *split)


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
            analysis = forward.lower(weights, images[:1]).cost_analysis()
            # Not every backend counts; an image of ordinary size is then assumed.
            counted[key] = float((analysis or {}).get("flops", 0.0)) or 1e7
        return counted[key]

    return count
