"""Clean and robust accuracy over every example, for any list of models and radii.

An example is robust at a radius if the model is right on the clean image and no
restart of the attack changes that, at this radius or at a smaller one of the list.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.arguments import require, require_choice, require_count, require_in
from jaxrobust.attacks import Attack, num_steps_for, pgd
from jaxrobust.attacks.base import Keep
from jaxrobust.data import Dataset
from jaxrobust.evaluation.packing import Plan, Progress, Search, Stage, run_plan
from jaxrobust.losses import LossName
from jaxrobust.threat import THREATS, ThreatModel, require_epsilon
from jaxrobust.types import LogitsFn, Params

__all__ = [
    "Evaluation",
    "EvaluationConfig",
    "evaluate",
    "evaluate_models",
    "pgd_stage",
]


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
    search: Search = "every"
    """every: each radius in ascending order, up to the first that breaks an example.
    bisect: the middle of the radii in question, about log2 as many attacks; both
    neighbors of the answer are attacked, but what withstands a radius is taken to
    withstand the smaller ones, which a model with masked gradients may not."""
    batch_size: int = 250
    """Images attacked at once; rounded up to a multiple of the local devices."""
    seed: int = 0
    """Of the random starts."""

    def __post_init__(self):
        require_choice("norm", self.norm, tuple(THREATS))
        remedy = "it is in units of [0, 1] pixels, such as 0.01"
        require_in("step_size", self.step_size, "(0, inf)", remedy)
        if self.num_steps is not None:
            remedy = "None takes as many as the radius needs"
            require_count("num_steps", self.num_steps, remedy)
        require_count("num_restarts", self.num_restarts, "1 runs the attack once")
        require_choice("search", self.search, get_args(Search))
        require_count("batch_size", self.batch_size, "250 is the default")
        for epsilon in self.epsilons:
            require_epsilon(self.norm, epsilon)

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

    def __repr__(self) -> str:
        accuracies = [f"clean {self.clean_accuracy:.2%}"]
        accuracies += [f"{key:g}: {at:.2%}" for key, at in self.robust_accuracy.items()]
        text = f"{self.num_examples:,} examples: {', '.join(accuracies)}"
        if self.num_bad_gradients:
            text += f"; {self.num_bad_gradients:,} attacks with bad gradients"
        return f"{type(self).__name__}({text})"

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


@lru_cache(maxsize=16)
def _plain_pgd(step_size: float, loss: LossName, keep: Keep) -> Callable[..., Attack]:
    """One function for equal settings, so that programs can be told to be the same."""

    def build(threat: ThreatModel, turn: jax.Array, num_steps: jax.Array) -> Attack:
        del turn
        return pgd(
            threat, step_size=step_size, num_steps=num_steps, loss=loss, keep=keep
        )

    return build


def pgd_stage(config: EvaluationConfig, attack_for: AttackFor | None = None) -> Stage:
    """The PGD of a configuration as a stage, drawing as `evaluate_models` does.

    Args:
        config: attack and restarts; its radii and seed are the plan's.
        attack_for: see `evaluate_models`.
    """
    if attack_for is None:
        build = _plain_pgd(config.step_size, config.loss, config.keep)
    else:

        def build(threat: ThreatModel, turn: jax.Array, num_steps: jax.Array) -> Attack:
            del turn
            return attack_for(jnp.asarray(threat.epsilon), num_steps)

    steps = config.num_steps
    return Stage(
        "pgd",
        config.num_restarts,
        build,
        num_steps=config.num_steps_at if steps is None else steps,
        stream=0,
        num_passes=3 * max(map(config.num_steps_at, config.epsilons), default=0) + 1,
    )


def check_same_shapes(weights: Sequence[Params]) -> None:
    """Refuse a list that one program cannot serve."""
    remedy = "give a list of pytrees of arrays"
    require(bool(weights), "weights", "one model or more", weights, remedy)

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


def is_function_of_weights(weights: Sequence[Params]) -> bool:
    """Whether what a model answers follows from its weights, as far as can be seen.

    A model that is given without any may close over weights that change between two
    calls; its programs are not kept.
    """
    return bool(jax.tree.leaves(list(weights)))


def flags_by_radius(
    num_robust: np.ndarray, plan: Plan, epsilons: Sequence[float]
) -> dict[float, np.ndarray]:
    """Which examples withstand all attacks, by radius in the order asked for."""
    return {radius: num_robust > plan.epsilons.index(radius) for radius in epsilons}


def evaluate_models(
    apply: Callable[[Any], LogitsFn],
    weights: Sequence[Params],
    dataset: Dataset,
    config: EvaluationConfig,
    *,
    attack_for: AttackFor | None = None,
    journal: Path | str | None = None,
    report: Callable[[str], None] | None = None,
    progress: Callable[[Progress], None] | None = None,
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
            takes images in [0, 1] to logits. A pure function: a later call with the
            same one uses the programs compiled for it.
        weights: pytrees of arrays of the same shapes, such as `(params, state)`.
        dataset: examples; each counts exactly once.
        config: radii, attack and restarts.
        attack_for: `(epsilon, num_steps) -> attack`, both traced; None for the PGD of
            the configuration. The attack sees batches of one image, mapped.
        journal: file in which progress is kept, so that the same call goes on after
            it was killed, with the same answer; None to keep none. It tells another
            model, data set or configuration, but not another `attack_for`.
        report: told each finished radius, in ascending order.
        progress: told how far the evaluation is, after each bucket.
        compact: whether attacks that cannot change the answer are left out; False
            makes every attack of every example, for the same answer.

    Returns:
        Flags for each example, one result for each model.

    Raises:
        ValueError: if `compact` is False for a bisection; if `weights` is empty, or
            if the models differ in the structure, shapes or types of their weights;
            if a radius is in another unit than the images, a model has another number
            of classes than the data, or answers clean images with something not
            finite, or by the other images of the batch; if the journal is damaged or
            that of another evaluation.
        InUseError: if another process uses the journal.
    """
    weights = list(weights)
    check_same_shapes(weights)
    require(
        config.search != "bisect" or compact,
        "compact",
        "True for a bisection",
        compact,
        "`search` must be 'every' to make every attack",
    )
    plan = Plan(
        stages=(pgd_stage(config, attack_for),),
        epsilons=tuple(sorted(set(config.epsilons))),
        norm=config.norm,
        seed=config.seed,
        batch_size=config.batch_size,
        is_compact=compact,
        search=config.search,
        is_shared=attack_for is None and is_function_of_weights(weights),
    )
    tallies = run_plan(
        apply,
        weights,
        dataset,
        plan,
        journal=journal,
        settings=dataclasses.asdict(config),
        report=report,
        progress=progress,
    )
    return [
        Evaluation(
            tally.is_correct,
            flags_by_radius(tally.num_robust[-1], plan, config.epsilons),
            int(tally.num_bad.sum()),
        )
        for tally in tallies
    ]


def evaluate(
    logits_fn: LogitsFn,
    dataset: Dataset,
    config: EvaluationConfig,
    *,
    attack_for: AttackFor | None = None,
    journal: Path | str | None = None,
    report: Callable[[str], None] | None = None,
) -> Evaluation:
    """Attack every example of a data set; `evaluate_models` for one model.

    Args:
        logits_fn: model in evaluation mode; images in [0, 1] to logits.
        dataset: examples; each counts exactly once.
        config: radii, attack and restarts.
        attack_for: `(epsilon, num_steps) -> attack`, both traced; None for the PGD of
            the configuration. The attack sees batches of one image, mapped.
        journal: see `evaluate_models`; the model is known again by its answers.
        report: told each finished radius, in ascending order.

    Returns:
        Flags for each example. An example broken at one radius counts as broken at
        every larger one of the list.
    """
    (found,) = evaluate_models(
        lambda _: logits_fn,
        [()],
        dataset,
        config,
        attack_for=attack_for,
        journal=journal,
        report=report,
    )
    return found
