"""What is measured of one run: plain numbers and arrays, each kept once it is there.

Nothing here draws or writes a page. Each measurement is a function of a subject and the
configuration; `assess` asks for those that a report has and keeps what they answer.
"""

import dataclasses
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.attacks import PGD, AttackBuilder, fab
from jaxrobust.attacks.builders import builder_name, described, settings_of, settled
from jaxrobust.attacks.combinators import restarts_of
from jaxrobust.data import Dataset, as_float, subset
from jaxrobust.evaluation import (
    Certification,
    ChecklistConfig,
    accuracy_under_attack,
    certify_models,
    checklist,
    evaluate_models,
    labelled_by_model,
    minimal_epsilons,
    success_by_class,
    wilson_interval,
)
from jaxrobust.evaluation.engine.sharing import Reference, shared_program
from jaxrobust.evaluation.flags import shortened
from jaxrobust.evaluation.input_space import (
    input_gradients,
    loss_surface,
    random_directions,
    saliency,
    steepest_directions,
)
from jaxrobust.keeping import fingerprint, plain
from jaxrobust.keys import seeded
from jaxrobust.precision import JUDGED, at_precision
from jaxrobust.report.storage import Storage
from jaxrobust.report.strength import strength
from jaxrobust.report.subjects import (
    NUM_SURFACES,
    ReportConfig,
    Subject,
    description,
)
from jaxrobust.threat import threat_of
from jaxrobust.training import applied

__all__ = ["QUANTILES", "Assessment", "assess"]

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)

TRAVEL = 2.5
"""Lengths of all steps of PGD together, in radii, as in Shaeiri et al., 2020."""

CURVE_ATTACK = "pgd-of-the-curve"

_BATCH = 250
"""Images attacked at once by the program that the curve and predictions share."""


class Assessment(NamedTuple):
    """What was measured of a subject; None where it was not asked for.

    Attributes:
        subject: the run.
        accuracy: shares and their intervals, attacks, classes, both definitions of
            accuracy under attack, and robustness with respect to predictions.
        strength: how good each attack is.
        curve: accuracy against epsilon.
        smallest: perturbations that FAB found.
        checklist: verdict and checks.
        certified: what is proven, and how many of these images attacks broke.
        pictures: arrays of the images, gradients, perturbations and surfaces.
    """

    subject: Subject
    accuracy: dict[str, Any] | None
    strength: dict[str, Any] | None
    curve: dict[str, Any] | None
    smallest: dict[str, Any] | None
    checklist: dict[str, Any] | None
    pictures: dict[str, np.ndarray] | None
    certified: dict[str, Any] | None


def _pgd(subject: Subject, config: ReportConfig) -> PGD:
    """The steps are made for the widest radius, so that one program serves all."""
    step_size = TRAVEL * max(subject.curve_epsilons) / config.num_steps
    return PGD(step_size=step_size, num_steps=config.num_steps, keep="best")


def _strength(
    subject: Subject, config: ReportConfig, report: Callable[[str], None]
) -> dict[str, Any]:
    """Of the attacks, and of the PGD of the curve, so that none stands alone."""
    return strength(
        subject,
        {**config.builders, CURVE_ATTACK: _pgd(subject, config)},
        num_images=config.num_strength_images,
        seed=config.seed,
        matmul_precision=config.matmul_precision,
        report=report,
    )


def _judged(
    subject: Subject, config: ReportConfig
) -> tuple[AttackBuilder, str, PGD, int]:
    """What the checklist judges, in words too, the PGD beside it, and many steps."""
    step_size = TRAVEL * subject.epsilon / config.num_steps
    pgd = PGD(step_size=step_size, num_steps=config.num_steps)
    attack: AttackBuilder = pgd
    if len(config.builders) == 1:
        (attack,) = config.builders.values()
        attack, _ = restarts_of(attack)
    attack = settled(attack, subject.epsilon)
    name = "PGD" if isinstance(attack, PGD) else builder_name(attack)
    steps = settings_of(attack).get("num_steps")
    if not isinstance(steps, int):
        return attack, name, pgd, 20 * config.num_steps
    return attack, f"{name} with {steps} steps", pgd, 20 * steps


def _accuracy(
    subject: Subject,
    config: ReportConfig,
    journal: Path,
    report: Callable[[str], None],
) -> dict[str, Any]:
    dataset, epsilon = subject.dataset, subject.epsilon
    (found,) = evaluate_models(
        applied(subject.run.network),
        [subject.run.weights],
        dataset,
        config.builders,
        subject.epsilons,
        norm=subject.norm,
        matmul_precision=config.matmul_precision,
        seed=config.seed,
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
    return dataclasses.asdict(found.row()) | {
        "classes": classes,
        "under_attack": under_attack,
        "images": {
            "label": dataset.labels,
            "is_clean_correct": found.is_clean_correct.astype(int),
            "broken_by": {
                f"{radius:g}": by
                for radius, by in zip(found.epsilons, found.broken_by, strict=True)
            },
        },
    }


def _certification(
    subject: Subject, config: ReportConfig, journal: Path
) -> dict[str, Any]:
    """What is proven, as arrays; without the seconds, which differ each time."""
    (found,) = certify_models(
        applied(subject.run.network),
        [subject.run.weights],
        subject.dataset,
        subject.epsilons,
        norm=subject.norm,
        methods=config.certify,
        journal=journal,
    )
    names = ("is_clean_correct", "proven_epsilon", "num_bounds", "methods")
    return {name: np.asarray(getattr(found, name)) for name in names}


def _restored(subject: Subject, arrays: dict[str, np.ndarray]) -> Certification:
    """The inverse of `_certification`."""
    return Certification(
        epsilons=subject.epsilons,
        norm=subject.norm,
        is_clean_correct=arrays["is_clean_correct"],
        methods=tuple(map(str, arrays["methods"])),
        proven_epsilon=arrays["proven_epsilon"],
        num_bounds=tuple(map(int, arrays["num_bounds"])),
        seconds=(0.0,) * len(arrays["methods"]),
    )


def _certified(found: Certification, accuracy: dict[str, Any]) -> dict[str, Any]:
    """What a report says of certificates beside what attacks did."""
    row = dataclasses.asdict(found.row())
    for method in row["methods"]:
        del method["seconds"]
    printed = [f"{radius:g}" for radius in found.epsilons]
    broken = [np.array(accuracy["images"]["broken_by"][each]) >= 0 for each in printed]
    counts = np.sum(found.is_certified & np.array(broken), axis=1)
    by = dict(zip(printed, found.certified_by, strict=True))
    return row | {
        "num_broken": dict(zip(printed, counts, strict=True)),
        "images": {"certified_by": by},
    }


def _predictions(
    subject: Subject, config: ReportConfig, journal: Path
) -> dict[str, Any]:
    """As `robustness_wrt_predictions`, by the program of the curve."""
    apply, weights = applied(subject.run.network), subject.run.weights
    dataset = labelled_by_model(apply(weights), subject.dataset)
    (found,) = evaluate_models(
        apply,
        [weights],
        dataset,
        _pgd(subject, config),
        [subject.epsilon],
        norm=subject.norm,
        batch_size=_BATCH,
        matmul_precision=config.matmul_precision,
        seed=config.seed,
        journal=journal,
    )
    (stays,) = found.is_robust
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
    attack = _pgd(subject, config)
    (found,) = evaluate_models(
        applied(subject.run.network),
        [subject.run.weights],
        subject.dataset,
        attack,
        subject.curve_epsilons,
        norm=subject.norm,
        batch_size=_BATCH,
        matmul_precision=config.matmul_precision,
        seed=config.seed,
        journal=journal,
        report=report,
    )
    flags = [found.is_clean_correct, *found.is_robust]
    count = found.num_examples
    return {
        "num_images": count,
        "step_size": attack.step_size,
        "num_steps": attack.num_steps,
        "epsilons": [0.0, *found.epsilons],
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
        attack=partial(fab, num_steps=config.num_steps),
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
    subject: Subject,
    config: ReportConfig,
    certification: Certification | None,
    report: Callable[[str], None],
) -> dict[str, Any]:
    attack, name, pgd, long_steps = _judged(subject, config)
    asked = ChecklistConfig(
        attack=attack,
        reference=pgd,
        epsilon=subject.epsilon,
        norm=subject.norm,
        long_steps=long_steps,
        num_images=min(config.num_checklist_images, len(subject.dataset)),
        seed=config.seed,
        matmul_precision=config.matmul_precision,
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
        certification=certification,
        report=hear,
    )
    return {
        "verdict": found.verdict,
        "base": None if base is None else base.directory.name,
        "sources": list(subject.sources),
        "judged": name,
        "config": {
            **vars(asked),
            "attack": described(asked.attack),
            "reference": described(asked.reference),
        },
        "checks": found.as_rows(),
    }


def _picture_program(
    apply: Reference, *, norm: str, num_steps: int, num_points: int
) -> Callable[..., dict[str, jax.Array]]:
    @jax.jit
    @partial(at_precision, JUDGED)
    def program(weights, images, labels, key, epsilon, radius):
        logits_fn = apply()(weights)
        threat = threat_of(norm)(epsilon)
        step_size = TRAVEL * epsilon / num_steps
        attack = PGD(step_size=step_size, num_steps=num_steps, keep="best")
        moved = saliency(
            logits_fn, images, labels, attack=attack, threat=threat, key=key
        )
        few = slice(NUM_SURFACES)
        # The same for every run: the key and the images are.
        random = random_directions(key, images[few])
        steepest = steepest_directions(logits_fn, images[few], labels[few])
        size = threat.diameter(images.shape[1:])
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
        seeded(config.seed),
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
    budget = {name: it for name, it in config.as_json().items() if name != "parts"}
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

    accuracy = curve = smallest = found = pictures = compared = None
    certification = certified = None
    attacks = ", ".join(shortened(list(config.builders)))
    if config.certify:
        certification = _restored(
            subject,
            told(
                f"certificates ({', '.join(config.certify)})",
                storage.arrays,
                "certified",
                lambda: _certification(subject, config, journal("certified")),
            ),
        )
    if config.has("accuracy"):
        accuracy = numbers(
            "accuracy",
            f"accuracy ({attacks}), {len(subject.dataset)} images",
            lambda: _accuracy(subject, config, journal("accuracy"), report),
        )
        accuracy["predictions"] = numbers(
            "predictions",
            "robustness with respect to predictions",
            lambda: _predictions(subject, config, journal("predictions")),
        )
        if certification is not None:
            certified = plain(_certified(certification, accuracy))
        if config.num_strength_images:
            compared = numbers(
                "strength",
                "how good each attack is",
                lambda: _strength(subject, config, report),
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
            lambda: _checklist(subject, config, certification, report),
        )
    return Assessment(
        *(subject, accuracy, compared, curve, smallest, found, pictures, certified)
    )
