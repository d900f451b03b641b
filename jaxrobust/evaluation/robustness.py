"""Clean and robust accuracy over every example, for any list of models and radii.

An example is robust at a radius if the model is right on the clean image and no
restart of the attack changes that, at this radius or at a smaller one of the list.

Every example thus faces a fixed sequence of attacks, radius by radius and restart by
restart, and one number says all about it: how many it withstands before the first that
breaks it. The attacks that are still wanted are packed into buckets of one size, which
may mix radii and restarts, so one program serves them all. What an attack draws depends
on the seed, the restart and the example alone, so packing changes no answer.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxrobust.attacks import Attack, judge, num_steps_for, pgd
from jaxrobust.attacks.base import Keep
from jaxrobust.data import Dataset, as_float
from jaxrobust.losses import LossName
from jaxrobust.threat import THREATS
from jaxrobust.types import LogitsFn, Params, PRNGKey

__all__ = ["Evaluation", "EvaluationConfig", "evaluate", "evaluate_models"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """The PGD evaluation; the default is LP-T1's (200 steps) with restarts.

    Raises:
        ValueError: for a radius, step size or count out of range.
    """

    epsilons: tuple[float, ...] = (0.3,)
    """Radii, in units of [0, 1] pixels."""
    norm: str = "linf"
    """Norm of the ball: linf or l2."""
    step_size: float = 0.01
    """Length of a step, in the same unit."""
    num_steps: int | None = 200
    """Steps of each restart; None takes floor(2.5 * epsilon / step_size)."""
    num_restarts: int = 5
    """Random starts for each example."""
    loss: LossName = "cross_entropy"
    """What the attack climbs."""
    keep: Keep = "last"
    """Iterate that counts."""
    batch_size: int = 250
    """Images attacked at once; rounded up to a multiple of the local devices."""
    seed: int = 0
    """Of the random starts."""

    def __post_init__(self):
        for epsilon in self.epsilons:
            THREATS["linf"](epsilon)
        checks = (
            ("norm", self.norm in THREATS, f"one of {', '.join(THREATS)}"),
            ("step_size", self.step_size > 0, "positive"),
            (
                "num_steps",
                self.num_steps is None or self.num_steps >= 1,
                "at least 1 or None",
            ),
            ("num_restarts", self.num_restarts >= 1, "at least 1"),
            ("batch_size", self.batch_size >= 1, "at least 1"),
        )
        for name, is_right, rule in checks:
            if not is_right:
                raise ValueError(
                    f"`{name}` must be {rule}, got {getattr(self, name)!r}; "
                    "see the help of `jaxrobust evaluate`."
                )

    def num_steps_at(self, epsilon: float) -> int:
        """Number of steps at a radius."""
        if self.num_steps is not None:
            return self.num_steps
        return int(num_steps_for(epsilon, self.step_size))


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Which examples a model gets right, cleanly and under attack.

    Attributes:
        is_clean_correct: `(examples,)`.
        is_robust: for each radius, in the order asked for, `(examples,)`; a subset of
            `is_clean_correct` that never grows with the radius.
        num_bad_gradients: attacks, up to the first that breaks an example, that met a
            gradient that is not finite: their outcome is not to be trusted.
    """

    is_clean_correct: np.ndarray
    is_robust: dict[float, np.ndarray]
    num_bad_gradients: int = 0

    @property
    def num_examples(self) -> int:
        """Number of examples, each counted once."""
        return len(self.is_clean_correct)

    @property
    def clean_accuracy(self) -> float:
        """Share of clean images classified rightly, in [0, 1]."""
        return float(np.mean(self.is_clean_correct))

    @property
    def robust_accuracy(self) -> dict[float, float]:
        """Share of images still classified rightly at each radius, in [0, 1]."""
        return {radius: float(np.mean(flag)) for radius, flag in self.is_robust.items()}

    def as_row(self) -> dict[str, Any]:
        """The accuracies with radii as printed, such as "0.4"."""
        robust = {f"{key:g}": value for key, value in self.robust_accuracy.items()}
        return {"clean_accuracy": self.clean_accuracy, "robust_accuracy": robust}


AttackFor = Callable[[jax.Array, jax.Array], Attack]
Data = tuple[jax.Array, jax.Array]


class _Program(NamedTuple):
    """The two compiled functions that serve all models, radii and restarts.

    Attributes:
        clean: `(weights, data, chosen) -> is_correct`; the data are images and labels.
        attacked: `(key, weights, data, chosen, restarts, epsilons, num_steps) ->
            (is_broken, is_gradient_finite)`; `num_steps` is one number, or one for
            each item if it follows the radius.
        place: copies arrays to every device that takes part.
        num_devices: that a bucket is divided between; divides its size.
    """

    clean: Callable[..., jax.Array]
    attacked: Callable[..., tuple[jax.Array, jax.Array]]
    place: Callable[[Any], Any]
    num_devices: int


def _program(
    apply: Callable[[Any], LogitsFn], config: EvaluationConfig, attack_for: AttackFor
) -> _Program:
    def clean(weights: Params, data: Data, chosen: jax.Array) -> jax.Array:
        images, labels = data
        return ~judge(apply(weights)(as_float(images[chosen])), labels[chosen])

    def attacked(
        base_key: PRNGKey,
        weights: Params,
        data: Data,
        chosen: jax.Array,
        restarts: jax.Array,
        epsilons: jax.Array,
        num_steps: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        images, labels = data

        def attack_one(
            index: jax.Array, restart: jax.Array, epsilon: jax.Array, steps: jax.Array
        ) -> tuple[jax.Array, jax.Array]:
            key = jax.random.fold_in(jax.random.fold_in(base_key, restart), index)
            search = attack_for(epsilon, steps)
            image, label = as_float(images[index][None]), labels[index][None]
            found = search(key, apply(weights), image, label)
            return found.is_adversarial[0], found.is_gradient_finite[0]

        # A number of steps for each item costs masks in the attack's loop.
        steps_axis = 0 if config.num_steps is None else None
        each = jax.vmap(attack_one, in_axes=(0, 0, 0, steps_axis))
        return each(chosen, restarts, epsilons, num_steps)

    devices = jax.local_devices()
    if len(devices) == 1:
        return _Program(jax.jit(clean), jax.jit(attacked), jax.device_put, 1)
    mesh = Mesh(np.array(devices), ("items",))
    whole, split = PartitionSpec(), PartitionSpec("items")
    steps = split if config.num_steps is None else whole
    shard = partial(jax.shard_map, mesh=mesh, check_vma=False)
    return _Program(
        jax.jit(shard(clean, in_specs=(whole, whole, split), out_specs=split)),
        jax.jit(
            shard(
                attacked,
                in_specs=(whole, whole, whole, split, split, split, steps),
                out_specs=(split, split),
            )
        ),
        partial(jax.device_put, device=NamedSharding(mesh, whole)),
        len(devices),
    )


def _next_items(
    num_sent: np.ndarray, limit: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Up to `size` items: examples, and which of its attacks each one faces.

    Those least far come first. If there are fewer examples than places, they face
    several of their attacks at once: the places would be padding otherwise, and an
    attack after one that succeeds changes no answer.

    Args:
        num_sent: attacks that each example was sent to, `(examples,)`; counted on.
        limit: how many it has to face as far as is known, `(examples,)`.
        size: places in the bucket.
    """
    examples, turns = np.zeros(0, int), np.zeros(0, int)
    while (room := size - len(examples)) and (num_sent < limit).any():
        waiting = np.flatnonzero(num_sent < limit)
        group = waiting[np.argsort(num_sent[waiting], kind="stable")][:room]
        examples = np.concatenate([examples, group])
        turns = np.concatenate([turns, num_sent[group]])
        num_sent[group] += 1
    return examples, turns


def _evaluate_one(
    program: _Program,
    weights: Params,
    data: Data,
    config: EvaluationConfig,
    *,
    compact: bool,
    report: Callable[[str], None],
) -> Evaluation:
    """Every example of a data set, for one model."""
    num_examples = len(data[1])
    size = min(config.batch_size, num_examples)
    size += -size % program.num_devices

    is_correct = np.zeros(num_examples, bool)
    for start in range(0, num_examples, size):
        group = np.arange(start, min(start + size, num_examples))
        found = program.clean(weights, data, np.resize(group, size))
        is_correct[group] = np.asarray(found)[: len(group)]

    # Not the configured generator: under `vmap` "rbg" would draw for the bucket.
    base_key = program.place(jax.random.key(config.seed, impl="threefry2x32"))
    radii = sorted(set(config.epsilons))
    each_epsilon = np.repeat(np.array(radii, np.float32), config.num_restarts)
    steps = [config.num_steps_at(radius) for radius in radii]
    each_steps = np.repeat(np.array(steps, np.int32), config.num_restarts)
    num_turns = len(each_epsilon)
    # Attacks that each example withstands before the first that breaks it.
    num_withstood = np.where(is_correct, num_turns, 0)
    num_sent = np.zeros(num_examples, int)
    is_bad = np.zeros((num_examples, num_turns), bool)
    num_reported = 0

    def is_robust(index: int) -> np.ndarray:
        return num_withstood >= (index + 1) * config.num_restarts

    while True:
        limit = num_withstood if compact else np.full(num_examples, num_turns)
        is_open = num_sent < limit
        num_done = num_sent[is_open].min() if is_open.any() else num_turns
        while num_reported < num_done // config.num_restarts:
            share = np.mean(is_robust(num_reported))
            report(f"epsilon {radii[num_reported]:g}: robust accuracy {share:.2%}")
            num_reported += 1
        examples, turns = _next_items(num_sent, limit, size)
        count = len(examples)
        if not count:
            break
        padded = np.resize(turns, size)
        is_broken, is_finite = program.attacked(
            base_key,
            weights,
            data,
            np.resize(examples, size),
            padded % config.num_restarts,
            each_epsilon[padded],
            each_steps[padded] if config.num_steps is None else each_steps[0],
        )
        broken = np.asarray(is_broken)[:count]
        np.minimum.at(num_withstood, examples[broken], turns[broken])
        is_bad[examples, turns] = ~np.asarray(is_finite)[:count]

    # The attack that breaks an example counts, those after it do not.
    is_counted = np.arange(num_turns) <= num_withstood[:, None]
    flags = {radius: is_robust(index) for index, radius in enumerate(radii)}
    return Evaluation(
        is_correct,
        {radius: flags[radius] for radius in config.epsilons},
        int(np.sum(is_bad & is_counted & is_correct[:, None])),
    )


def _check_same_shapes(weights: Sequence[Params]) -> None:
    """Refuse a list that one program cannot serve."""
    if not weights:
        raise ValueError(
            "`weights` must hold at least one model, got an empty list; "
            "give a list of pytrees of arrays."
        )

    def shapes(tree: Params) -> dict[str, str]:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {
            jax.tree_util.keystr(
                path
            ): f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}"
            for path, leaf in leaves
        }

    first = shapes(weights[0])
    for index, tree in enumerate(weights[1:], start=1):
        now = shapes(tree)
        for name in dict.fromkeys([*first, *now]):
            one, other = (side.get(name, "nothing") for side in (first, now))
            if one != other:
                raise ValueError(
                    f"`weights` must all have the shapes of the first, got {other} "
                    f"against {one} at {name} of number {index}; evaluate networks "
                    "of different shapes one after another."
                )
        if jax.tree.structure(tree) != jax.tree.structure(weights[0]):
            raise ValueError(
                "`weights` must all have the structure of the first, got "
                f"{jax.tree.structure(tree)} as number {index}; "
                "give all models the same containers."
            )


def evaluate_models(
    apply: Callable[[Any], LogitsFn],
    weights: Sequence[Params],
    dataset: Dataset,
    config: EvaluationConfig,
    *,
    attack_for: AttackFor | None = None,
    report: Callable[[str], None] | None = None,
    compact: bool = True,
) -> list[Evaluation]:
    """Attack every example of a data set, for each of several models.

    One program is compiled for all models, radii and restarts. Radii are taken in
    ascending order, and an example broken at one radius counts as broken at every
    larger one of the list, where it is not attacked: the perturbation found lies in
    the larger ball too. So accuracy never rises with the radius, and the answer at a
    radius may depend on the smaller ones in the list. Outcomes are otherwise
    independent of each other, of `config.batch_size` and of how attacks are packed, up
    to the rounding of the device's matrix products.

    Several local devices share each bucket, without talking to each other.

    Args:
        apply: from the weights of one model to the model in evaluation mode, which
            takes images in [0, 1] to logits.
        weights: pytrees of arrays of the same shapes, such as `(params, batch_stats)`.
        dataset: examples; each counts exactly once.
        config: radii, attack and restarts.
        attack_for: `(epsilon, num_steps) -> attack`, both traced; None for the PGD of
            the configuration. The attack sees batches of one image, mapped.
        report: told each finished radius, in ascending order.
        compact: whether attacks that cannot change the answer are left out; False
            makes every attack of every example, for the same answer.

    Returns:
        Flags for each example, one result for each model.

    Raises:
        ValueError: if `weights` is empty, or if the models differ in the structure,
            shapes or types of their weights.
    """
    weights = list(weights)
    _check_same_shapes(weights)

    def plain_pgd(epsilon: jax.Array, num_steps: jax.Array) -> Attack:
        return pgd(
            THREATS[config.norm](epsilon),
            step_size=config.step_size,
            num_steps=num_steps,
            loss=config.loss,
            keep=config.keep,
        )

    program = _program(apply, config, attack_for or plain_pgd)
    data = program.place((jnp.asarray(dataset.images), jnp.asarray(dataset.labels)))
    results = []
    for index, tree in enumerate(weights):
        name = f"model {index + 1} of {len(weights)}, " if len(weights) > 1 else ""

        def tell(text: str, name: str = name) -> None:
            if report is not None:
                report(name + text)

        found = _evaluate_one(
            program, program.place(tree), data, config, compact=compact, report=tell
        )
        results.append(found)
    return results


def evaluate(
    logits_fn: LogitsFn,
    dataset: Dataset,
    config: EvaluationConfig,
    *,
    attack_for: AttackFor | None = None,
    report: Callable[[str], None] | None = None,
) -> Evaluation:
    """Attack every example of a data set; `evaluate_models` for one model.

    Args:
        logits_fn: model in evaluation mode; images in [0, 1] to logits.
        dataset: examples; each counts exactly once.
        config: radii, attack and restarts.
        attack_for: `(epsilon, num_steps) -> attack`, both traced; None for the PGD of
            the configuration. The attack sees batches of one image, mapped.
        report: told each finished radius, in ascending order.

    Returns:
        Flags for each example. An example broken at one radius counts as broken at
        every larger one of the list.
    """
    (found,) = evaluate_models(
        lambda _: logits_fn, [()], dataset, config, attack_for=attack_for, report=report
    )
    return found
