"""What is measured of one run: plain numbers and arrays, each kept once it is there.

Nothing here draws or writes a page. Each measurement is a function of a subject and the
configuration; `assess` asks for those that a report has and keeps what they answer.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.attacks import fab, pgd
from jaxrobust.data import Dataset, as_float, subset
from jaxrobust.evaluation import (
    ChecklistConfig,
    EnsembleConfig,
    EvaluationConfig,
    accuracy_under_attack,
    checklist,
    evaluate_ensemble_models,
    evaluate_models,
    labelled_by_model,
    minimal_epsilons,
    pgd_stage,
    success_by_class,
    wilson_interval,
)
from jaxrobust.evaluation.input_space import (
    input_gradients,
    loss_surface,
    random_directions,
    saliency,
    steepest_directions,
)
from jaxrobust.evaluation.sharing import Reference, shared_program
from jaxrobust.keeping import fingerprint
from jaxrobust.report.storage import Storage
from jaxrobust.report.subjects import (
    NUM_SURFACES,
    ReportConfig,
    Subject,
    description,
)
from jaxrobust.report.tables import evaluation_row
from jaxrobust.threat import THREATS
from jaxrobust.training import applied

__all__ = ["QUANTILES", "Assessment", "assess"]

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)

TRAVEL = 2.5
"""Lengths of all steps of PGD together, in radii: LP-A1."""


class Assessment(NamedTuple):
    """What was measured of a subject; None where it was not asked for.

    Attributes:
        subject: the run.
        accuracy: shares and their intervals, stages, classes, both definitions of
            SW-A3, and robustness with respect to predictions.
        curve: accuracy against epsilon.
        smallest: perturbations that FAB found.
        checklist: verdict and checks.
        pictures: arrays of the images, gradients, perturbations and surfaces.
    """

    subject: Subject
    accuracy: dict[str, Any] | None
    curve: dict[str, Any] | None
    smallest: dict[str, Any] | None
    checklist: dict[str, Any] | None
    pictures: dict[str, np.ndarray] | None


def _pgd(
    subject: Subject,
    config: ReportConfig,
    epsilons: tuple[float, ...],
    num_restarts: int = 1,
) -> EvaluationConfig:
    """The steps are made for the widest radius, so that one program serves all."""
    return EvaluationConfig(
        epsilons=epsilons,
        norm=subject.norm,
        step_size=TRAVEL * max(subject.curve_epsilons) / config.num_steps,
        num_steps=config.num_steps,
        num_restarts=num_restarts,
        keep="best",
        seed=config.seed,
    )


def _accuracy(
    subject: Subject,
    config: ReportConfig,
    journal: Path,
    report: Callable[[str], None],
) -> dict[str, Any]:
    dataset, epsilon = subject.dataset, subject.epsilon
    stages = None
    if config.attack == "pgd":
        restarts = 5 if config.num_restarts is None else config.num_restarts
        stages = (pgd_stage(_pgd(subject, config, subject.epsilons, restarts)),)
    ensemble = EnsembleConfig(
        epsilons=subject.epsilons,
        norm=subject.norm,
        num_steps=config.num_steps,
        num_queries=config.num_queries,
        num_restarts=config.num_restarts or 1,
        seed=config.seed,
    )
    (found,) = evaluate_ensemble_models(
        applied(subject.run.network),
        [subject.run.weights],
        dataset,
        ensemble,
        stages=stages,
        journal=journal,
        report=report,
    )
    classes = {
        label: {
            "num_correct": each.num_correct,
            "num_broken": each.num_broken,
            "share": each.share,
            "interval": each.interval(),
        }
        for label, each in success_by_class(found, dataset.labels, epsilon).items()
    }
    under_attack = {
        f"{radius:g}": {
            "all": accuracy_under_attack(found, radius),
            "among_correct": accuracy_under_attack(found, radius, among_correct=True),
        }
        for radius in subject.epsilons
    }
    return evaluation_row(found) | {
        "classes": classes,
        "under_attack": under_attack,
        "images": {
            "label": dataset.labels,
            "is_clean_correct": found.is_clean_correct.astype(int),
            "broken_by": {f"{key:g}": by for key, by in found.broken_by.items()},
        },
    }


def _predictions(
    subject: Subject, config: ReportConfig, journal: Path
) -> dict[str, Any]:
    """SN-A1, as `robustness_wrt_predictions`, by the program of the curve."""
    apply, weights = applied(subject.run.network), subject.run.weights
    dataset = labelled_by_model(apply(weights), subject.dataset)
    attack = _pgd(subject, config, (subject.epsilon,))
    (found,) = evaluate_models(apply, [weights], dataset, attack, journal=journal)
    stays = found.is_robust[subject.epsilon]
    return {
        "epsilon": subject.epsilon,
        "num_images": len(stays),
        "robust_accuracy": float(np.mean(stays)),
        "robust_interval": wilson_interval(int(stays.sum()), len(stays)),
    }


def _curve(
    subject: Subject,
    config: ReportConfig,
    journal: Path,
    report: Callable[[str], None],
) -> dict[str, Any]:
    attack = _pgd(subject, config, subject.curve_epsilons)
    (found,) = evaluate_models(
        applied(subject.run.network),
        [subject.run.weights],
        subject.dataset,
        attack,
        journal=journal,
        report=report,
    )
    flags = [found.is_clean_correct, *found.is_robust.values()]
    count = found.num_examples
    return {
        "num_images": count,
        "step_size": attack.step_size,
        "num_steps": attack.num_steps,
        "epsilons": [0.0, *found.is_robust],
        "robust_accuracy": [float(np.mean(each)) for each in flags],
        "robust_interval": [wilson_interval(int(each.sum()), count) for each in flags],
    }


def _part_of(dataset: Dataset, count: int) -> Dataset:
    return subset(dataset, min(count, len(dataset)))


def _smallest(subject: Subject, config: ReportConfig) -> dict[str, Any]:
    dataset = _part_of(subject.dataset, config.num_minimal_images)
    found = minimal_epsilons(
        subject.run.logits_fn,
        dataset,
        norm=subject.norm,
        attack=lambda threat: fab(threat, num_steps=config.num_steps),
        seed=config.seed,
    )
    quantiles = {
        f"{share:g}": float(np.quantile(found.epsilons, share, method="lower"))
        for share in QUANTILES
    }
    return {
        "num_images": len(dataset),
        "median": found.median,
        "quantiles": quantiles,
        "epsilons": found.epsilons,
    }


def _checklist(
    subject: Subject, config: ReportConfig, report: Callable[[str], None]
) -> dict[str, Any]:
    asked = ChecklistConfig(
        epsilon=subject.epsilon,
        norm=subject.norm,
        step_size=TRAVEL * subject.epsilon / config.num_steps,
        num_steps=config.num_steps,
        long_steps=20 * config.num_steps,
        num_images=min(config.num_checklist_images, len(subject.dataset)),
        num_queries=min(config.num_queries, 1000),
        seed=config.seed,
    )
    said = []

    def hear(attack: str) -> None:
        # The checklist names every run by its settings; of a series one line is enough.
        kind = re.split(r" (?=\d)", attack, maxsplit=1)[0]
        if said[-1:] != [kind]:
            report(kind)
        said.append(kind)

    base = subject.base
    found = checklist(
        subject.run.logits_fn,
        subject.dataset,
        asked,
        base_fn=None if base is None else base.logits_fn,
        source_fns={name: each.logits_fn for name, each in subject.sources.items()},
        report=hear,
    )
    return {
        "verdict": found.verdict,
        "base": None if base is None else base.directory.name,
        "sources": list(subject.sources),
        "config": dict(vars(asked)),
        "checks": found.as_rows(),
    }


def _picture_program(
    apply: Reference, *, norm: str, num_steps: int, num_points: int
) -> Callable[..., dict[str, jax.Array]]:
    @jax.jit
    def program(weights, images, labels, key, epsilon, radius):
        logits_fn = apply()(weights)
        threat = THREATS[norm](epsilon)
        step_size = TRAVEL * epsilon / num_steps
        attack = pgd(threat, step_size=step_size, num_steps=num_steps, keep="best")
        moved = saliency(logits_fn, images, labels, attack=attack, key=key)
        few = slice(NUM_SURFACES)
        # The same for every run: the key and the images are.
        random = random_directions(key, images[few])
        steepest = steepest_directions(logits_fn, images[few], labels[few])
        size = 1.0 if norm == "linf" else images[0].size ** 0.5
        surfaces = [
            loss_surface(
                logits_fn,
                *(image, label, along / size, across / size),
                radius=radius,
                num_points=num_points,
            )
            for image, label, along, across in zip(
                images[few], labels[few], steepest, random, strict=True
            )
        ]
        return {
            "images": images,
            "labels": labels,
            "predictions": jnp.argmax(logits_fn(images), axis=-1),
            "gradients": input_gradients(logits_fn, images, labels),
            "perturbations": moved.perturbations,
            "perturbed": moved.images,
            "perturbed_predictions": jnp.argmax(logits_fn(moved.images), axis=-1),
            "losses": jnp.stack([each.losses for each in surfaces]),
            "is_wrong": jnp.stack([each.predictions for each in surfaces])
            != labels[few, None, None],
            "offsets": surfaces[0].offsets,
        }

    return program


def _pictures(subject: Subject, config: ReportConfig) -> dict[str, jax.Array]:
    chosen = _part_of(subject.dataset, config.num_pictures)
    program = shared_program(
        _picture_program,
        applied(subject.run.network),
        norm=subject.norm,
        num_steps=config.num_steps,
        num_points=config.num_points,
    )
    return program(
        subject.run.weights,
        as_float(jnp.asarray(chosen.images)),
        jnp.asarray(chosen.labels),
        jax.random.key(config.seed, impl="threefry2x32"),
        jnp.float32(subject.epsilon),
        # The axes of all runs on the same data are the same.
        jnp.float32(max(subject.epsilons)),
    )


def assess(
    subject: Subject,
    config: ReportConfig,
    storage: Storage,
    *,
    number: int,
    say: Callable[[str], None],
) -> Assessment:
    """Measure what a report has of one run, or take what is kept of it.

    Args:
        subject: the run.
        config: what is asked for.
        storage: where results are kept, and the journals of evaluations.
        number: of the run in the report, from 1.
        say: told what is being done, in lines.
    """
    # What a report shows decides none of its numbers.
    budget = {name: value for name, value in vars(config).items() if name != "parts"}
    settings: dict[str, Any] = {"subject": description(subject), "config": budget}

    def report(line: str) -> None:
        say(f"  {line}")

    def told(
        what: str, keep: Callable[..., Any], name: str, compute: Callable[[], Any]
    ) -> Any:
        """What is kept, or computed after saying so."""
        computed = []

        def compute_aloud() -> Any:
            computed.append(what)
            say(f"{subject.name}: {what}")
            return compute()

        found = keep(f"{number}-{name}", settings, compute_aloud)
        if not computed:
            say(f"{subject.name}: {what}, kept")
        return found

    def journal(name: str) -> Path:
        return storage.path(f"{number}-{name}-journal", settings, ".npz")

    def numbers(name: str, what: str, compute: Callable[[], Any]) -> Any:
        return told(what, storage.numbers, name, compute)

    accuracy = curve = smallest = found = pictures = None
    if config.has("accuracy"):
        accuracy = numbers(
            "accuracy",
            f"accuracy ({config.attack}), {len(subject.dataset)} images",
            lambda: _accuracy(subject, config, journal("accuracy"), report),
        )
        accuracy["predictions"] = numbers(
            "predictions",
            "robustness with respect to predictions",
            lambda: _predictions(subject, config, journal("predictions")),
        )
    if config.has("curve"):
        curve = numbers(
            "curve",
            f"accuracy at {len(subject.curve_epsilons)} radii",
            lambda: _curve(subject, config, journal("curve"), report),
        )
        smallest = numbers(
            "smallest", "smallest perturbations", lambda: _smallest(subject, config)
        )
    if config.has("pictures"):
        pictures = told(
            "pictures",
            storage.arrays,
            "pictures",
            lambda: _pictures(subject, config),
        )
    if config.has("checklist"):
        # The last part whose key is made, so that the others do not depend on these.
        beside = [subject.base] if subject.base else subject.sources.values()
        settings["beside"] = [fingerprint(each.weights) for each in beside]
        found = numbers(
            "checklist",
            f"checklist at epsilon {subject.epsilon:g}",
            lambda: _checklist(subject, config, report),
        )
    return Assessment(subject, accuracy, curve, smallest, found, pictures)
