"""The standard ensemble: different strong attacks, each on what the others left.

AutoAttack's order (Croce & Hein, 2020, arXiv:2003.01690): Auto-PGD on the
cross-entropy, targeted Auto-PGD on the difference of logits ratio, targeted FAB, and
Square, which needs no gradient. Anything that one of them breaks is broken.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrobust.arguments import require, require_count
from jaxrobust.attacks import Attack, aimed, auto_pgd, fab
from jaxrobust.attacks.gradient_free import square
from jaxrobust.data import Dataset
from jaxrobust.evaluation.packing import Plan, Progress, Stage, run_plan
from jaxrobust.evaluation.robustness import (
    Evaluation,
    check_same_shapes,
    flags_by_radius,
    is_function_of_weights,
)
from jaxrobust.losses import targeted_dlr
from jaxrobust.threat import ThreatModel, require_epsilon
from jaxrobust.types import Labels, LogitsFn, Params

__all__ = [
    "STAGES",
    "EnsembleConfig",
    "EnsembleEvaluation",
    "evaluate_ensemble",
    "evaluate_ensemble_models",
    "standard_stages",
]

STAGES = ("apgd-ce", "apgd-t", "fab-t", "square", "apgd-dlr", "fab")
"""Names of stages; the first four are the standard, in its order."""

CLEAN_WRONG, ROBUST = -2, -1


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnsembleConfig:
    """The standard ensemble; the defaults are AutoAttack's.

    Raises:
        ValueError: for a radius, count or stage out of range.
    """

    epsilons: tuple[float, ...] = (0.3,)
    """Radii, in units of [0, 1] pixels."""
    norm: str = "linf"
    """Norm of the ball: linf or l2."""
    num_steps: int = 100
    """Steps of Auto-PGD and FAB."""
    num_targets: int = 9
    """Target classes of apgd-t and fab-t, the likeliest first; at most all wrong ones
    are taken."""
    num_queries: int = 5000
    """Squares that Square tries; those that would change nothing cost no pass."""
    num_restarts: int = 1
    """Runs of each attack, for each target."""
    batch_size: int | None = None
    """Images attacked at once; rounded up to a multiple of the local devices. None
    takes, for each stage, as many as keep the device busy for some seconds."""
    seed: int = 0
    """Of everything random."""
    stages: tuple[str, ...] = STAGES[:4]
    """Attacks in the order in which they are run: apgd-ce, apgd-t, fab-t, square,
    apgd-dlr, fab."""

    def __post_init__(self):
        for name in ("num_steps", "num_targets", "num_queries", "num_restarts"):
            remedy = "leave out a stage to do without it"
            require_count(name, getattr(self, name), remedy)
        if self.batch_size is not None:
            require_count("batch_size", self.batch_size, "None chooses one")
        for name in self.stages:
            rule = f"among {', '.join(STAGES)}"
            require(name in STAGES, "stages", rule, name, "choose some of these")
        require(
            len(set(self.stages)) == len(self.stages) > 0,
            "stages",
            "at least one attack, each named once",
            self.stages,
            "use num_restarts to run them more often",
        )
        for epsilon in self.epsilons:
            require_epsilon(self.norm, epsilon)


@dataclasses.dataclass(frozen=True, repr=False)
class EnsembleEvaluation(Evaluation):
    """Which examples withstand all stages, and which stage broke the others.

    Attributes:
        stages: names, in the order in which they were run.
        broken_by: for each radius, in the order asked for, `(examples,)`: the place in
            `stages` of the first that broke the example there or at a smaller radius;
            -1 if none did, -2 if the model is wrong on the clean image.
        num_attacks: by stage, attacks made.
        num_passes: by stage, about how many forward passes they took, a gradient
            counted as two more.
    """

    stages: tuple[str, ...] = ()
    broken_by: dict[float, np.ndarray] = dataclasses.field(default_factory=dict)
    num_attacks: dict[str, int] = dataclasses.field(default_factory=dict)
    num_passes: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def robust_accuracy_after(self) -> dict[str, dict[float, float]]:
        """By stage and radius, the share in [0, 1] that this and earlier ones left."""
        return {
            name: {
                radius: float(np.mean((broken == ROBUST) | (broken > index)))
                for radius, broken in self.broken_by.items()
            }
            for index, name in enumerate(self.stages)
        }

    def as_row(self) -> dict[str, Any]:
        """The accuracies with radii as printed, and what is left after each stage."""
        after = {
            name: {f"{radius:g}": share for radius, share in shares.items()}
            for name, shares in self.robust_accuracy_after.items()
        }
        stages = [
            {
                "stage": name,
                "robust_accuracy": after[name],
                "num_attacks": self.num_attacks[name],
                "num_passes": self.num_passes[name],
            }
            for name in self.stages
        ]
        return {**super().as_row(), "stages": stages}


def _aimed(
    aim: Callable[[ThreatModel, Labels], Attack], num_targets: int
) -> Callable[[ThreatModel, jax.Array], Attack]:
    """The targets take turns, the likeliest first; then all of them once more."""

    def build(threat: ThreatModel, turn: jax.Array) -> Attack:
        return aimed(lambda targets: aim(threat, targets), turn % num_targets)

    return build


# The same functions for equal settings, so that programs can be told to be the same.
@lru_cache(maxsize=16)
def standard_stages(config: EnsembleConfig, num_classes: int) -> tuple[Stage, ...]:
    """The stages that a configuration asks for.

    Args:
        config: names and settings of the stages.
        num_classes: at least 2. There are at most `num_classes - 1` targets; with two
            or three classes the difference of logits ratio falls back on the margin.

    Raises:
        ValueError: if there are fewer than two classes.
    """
    remedy = "with one class nothing can be mistaken"
    require_count("num_classes", num_classes, remedy, least=2)
    steps, restarts = config.num_steps, config.num_restarts
    num_targets = min(config.num_targets, num_classes - 1)

    def climb(threat: ThreatModel, turn: jax.Array) -> Attack:
        del turn
        return auto_pgd(threat, num_steps=steps)

    def climb_ratio(threat: ThreatModel, turn: jax.Array) -> Attack:
        del turn
        return auto_pgd(threat, num_steps=steps, loss="dlr")

    def climb_to(threat: ThreatModel, targets: Labels) -> Attack:
        return auto_pgd(threat, num_steps=steps, loss=targeted_dlr(targets))

    # The first run starts at the image; further ones must draw, or they repeat it.
    draws = restarts > 1

    def boundary(threat: ThreatModel, turn: jax.Array) -> Attack:
        del turn
        return fab(threat, num_steps=steps, random_start=draws)

    def boundary_to(threat: ThreatModel, targets: Labels) -> Attack:
        return fab(threat, num_steps=steps, targets=targets, random_start=draws)

    def squares(threat: ThreatModel, turn: jax.Array) -> Attack:
        del turn
        return square(threat, num_queries=config.num_queries)

    aims = num_targets * restarts
    cost = 3 * steps + 1
    streams = {name: number for number, name in enumerate(STAGES, start=1)}
    stages = {
        "apgd-ce": (restarts, climb, cost),
        "apgd-t": (aims, _aimed(climb_to, num_targets), cost),
        "fab-t": (aims, _aimed(boundary_to, num_targets), cost + steps),
        "square": (restarts, squares, config.num_queries),
        "apgd-dlr": (restarts, climb_ratio, cost),
        # The distance to every class needs a gradient for each.
        "fab": (restarts, boundary, (2 * num_classes + 2) * steps),
    }
    return tuple(
        Stage(name, turns, build, stream=streams[name], num_passes=passes)
        for name in config.stages
        for turns, build, passes in (stages[name],)
    )


def evaluate_ensemble_models(
    apply: Callable[[Any], LogitsFn],
    weights: Sequence[Params],
    dataset: Dataset,
    config: EnsembleConfig,
    *,
    stages: Sequence[Stage] | None = None,
    journal: Path | str | None = None,
    report: Callable[[str], None] | None = None,
    progress: Callable[[Progress], None] | None = None,
    compact: bool = True,
) -> list[EnsembleEvaluation]:
    """Run the ensemble on every example of a data set, for each of several models.

    One program a stage is compiled for all models, radii, targets and restarts. A stage
    only attacks the examples that are still robust, at the radii at which they are. An
    example is robust at a radius if the model is right on the clean image and no
    attack of any stage broke it there or at a smaller radius of the list: so neither
    the order of the stages nor a further one can raise the accuracy, and what a stage
    draws does not depend on the others.

    Args:
        apply: see `evaluate_models`.
        weights: pytrees of arrays of the same shapes.
        dataset: examples; each counts exactly once.
        config: radii, attacks and their settings.
        stages: to be run in place of those that the configuration names; names must
            differ.
        journal: file in which progress is kept, so that the same call goes on after
            it was killed, with the same answer; None to keep none.
        report: told each finished radius of each stage.
        progress: told how far the evaluation is, after each bucket.
        compact: False makes every attack of every example, for the same answer.

    Returns:
        One result for each model.

    Raises:
        ValueError: see `evaluate_models`; and for stages of the same name.

    References:
        Croce & Hein, 2020, arXiv:2003.01690, Section 5.
    """
    weights = list(weights)
    check_same_shapes(weights)
    if stages is None:
        chosen = standard_stages(config, dataset.num_classes)
    else:
        chosen = tuple(stages)
    names = tuple(stage.name for stage in chosen)
    require(
        len(set(names)) == len(names) > 0,
        "stages",
        "at least one and of different names",
        names,
        "a stage's name says what it draws",
    )
    plan = Plan(
        stages=chosen,
        epsilons=tuple(sorted(set(config.epsilons))),
        norm=config.norm,
        seed=config.seed,
        batch_size=config.batch_size,
        is_compact=compact,
        is_shared=stages is None and is_function_of_weights(weights),
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
    results = []
    for tally in tallies:
        broken_by = {}
        for radius in config.epsilons:
            place = plan.epsilons.index(radius)
            # Before the first stage, and after each.
            stands = tally.num_robust > place
            broken = np.where(stands[-1], ROBUST, np.argmin(stands, axis=0) - 1)
            broken_by[radius] = np.where(tally.is_correct, broken, CLEAN_WRONG)
        counts = {
            name: int(count)
            for name, count in zip(names, tally.num_attacks, strict=True)
        }
        results.append(
            EnsembleEvaluation(
                tally.is_correct,
                flags_by_radius(tally.num_robust[-1], plan, config.epsilons),
                int(tally.num_bad.sum()),
                names,
                broken_by,
                counts,
                {each.name: counts[each.name] * each.num_passes for each in chosen},
            )
        )
    return results


def evaluate_ensemble(
    logits_fn: LogitsFn,
    dataset: Dataset,
    config: EnsembleConfig,
    *,
    stages: Sequence[Stage] | None = None,
    journal: Path | str | None = None,
    report: Callable[[str], None] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> EnsembleEvaluation:
    """Run the ensemble on every example; `evaluate_ensemble_models` for one model.

    Args:
        logits_fn: model in evaluation mode; images in [0, 1] to logits.
        dataset: examples; each counts exactly once.
        config: radii, attacks and their settings.
        stages: see `evaluate_ensemble_models`.
        journal: see `evaluate_ensemble_models`; the model is known again by its
            answers.
        report: told each finished radius of each stage.
        progress: told how far the evaluation is, after each bucket.

    Returns:
        Flags for each example, and which stage broke it.
    """
    (found,) = evaluate_ensemble_models(
        lambda _: logits_fn,
        [()],
        dataset,
        config,
        stages=stages,
        journal=journal,
        report=report,
        progress=progress,
    )
    return found
