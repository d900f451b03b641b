"""How good each attack is: how near it comes alone to the best of all of them.

A robust accuracy is that of the strongest attack, and says nothing of the others. Here
each is run alone on a few images, at the radii of the curve.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxrobust.attacks import AttackBuilder, count_passes
from jaxrobust.attacks.builders import settled, turn_of
from jaxrobust.data import Dataset, as_float, subset
from jaxrobust.evaluation import (
    Evaluation,
    area_under_accuracy,
    evaluate_models,
    optimality,
)
from jaxrobust.keys import seeded
from jaxrobust.precision import MatmulPrecision
from jaxrobust.report.subjects import Subject
from jaxrobust.threat import threat_of
from jaxrobust.training import applied

__all__ = ["WEAK", "distances", "strength"]

WEAK = 0.9
"""Optimality below which an attack is called weak. With about 1000 passes the strong
attacks of AttackBench (Cinà et al., 2025, arXiv:2404.19460) reach .9 and more in their
norms; ours, the paper has no threshold."""


def strength(
    subject: Subject,
    attacks: Mapping[str, AttackBuilder],
    *,
    num_images: int,
    seed: int,
    matmul_precision: MatmulPrecision = "default",
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Optimality and cost of each attack, run alone.

    Args:
        subject: the run.
        attacks: builders by name, of which the best on each image is the measure.
        num_images: the first of each class, in proportion; at most all.
        seed: of what the attacks draw.
        matmul_precision: of the attacks.
        report: told each finished radius of each attack.

    Returns:
        Plain numbers: the radii, the images and how many of them any attack broke, and
        of each attack its name, its `optimality` in [0, 1], the `area` under its
        accuracy against epsilon, the `passes` made for each image (a gradient counted
        as two more), and `is_weak`.
    """
    dataset = subset(subject.dataset, min(num_images, len(subject.dataset)))
    radii = subject.curve_epsilons
    alone: dict[str, Evaluation] = {}
    for name, build in attacks.items():
        (alone[name],) = evaluate_models(
            applied(subject.run.network),
            [subject.run.weights],
            dataset,
            {name: build},
            radii,
            norm=subject.norm,
            # Only where each image falls counts.
            search="bisect",
            matmul_precision=matmul_precision,
            seed=seed,
            report=report,
        )
    found = {name: distances(evaluation) for name, evaluation in alone.items()}
    best = np.min(list(found.values()), axis=0)
    shares = optimality(found, widest=radii[-1])
    rows = [
        {
            "name": name,
            "optimality": shares[name],
            "area": area_under_accuracy(found[name], widest=radii[-1]),
            "passes": _passes(evaluation, attacks[name], subject, dataset),
            "is_weak": shares[name] < WEAK,
        }
        for name, evaluation in alone.items()
    ]
    return {
        "num_images": len(dataset),
        "epsilons": list(radii),
        "num_broken": int(np.sum((best > 0) & np.isfinite(best))),
        "attacks": rows,
    }


def distances(evaluation: Evaluation) -> np.ndarray:
    """The smallest radius that broke each example, `(examples,)`.

    Returns:
        0 where the clean image is lost, inf where no radius of the evaluation broke it.
    """
    radii = np.array(evaluation.epsilons)[:, None]
    smallest = np.min(np.where(evaluation.is_robust, np.inf, radii), axis=0)
    return np.where(evaluation.is_clean_correct, smallest, 0.0)


def _passes(
    evaluation: Evaluation, build: AttackBuilder, subject: Subject, dataset: Dataset
) -> float:
    """Passes for each image, those of an attack that does not tell them counted."""
    (count,), (passes,) = evaluation.num_attacks, evaluation.num_passes
    if count and not passes:
        epsilon = subject.epsilon
        turn = turn_of(settled(build, epsilon), 0)(threat_of(subject.norm)(epsilon))
        few = as_float(jnp.asarray(dataset.images[:2])), jnp.asarray(dataset.labels[:2])
        key = seeded(0)
        made = count_passes(turn, subject.run.logits_fn, *few, key=key)
        passes = count * (made.forward + 2 * made.backward)
    return passes / evaluation.num_examples
