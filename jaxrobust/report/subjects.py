"""What a report is about: runs with their images, radii and the runs beside them.

Everything that can be wrong with a request is found here, before anything is computed.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from jaxrobust.arguments import require, require_count, require_in
from jaxrobust.attacks import AttackBuilder, fab
from jaxrobust.attacks.builders import described
from jaxrobust.data import Dataset, Split, subset
from jaxrobust.evaluation import Attacks, Flag, check_model, standard_ensemble
from jaxrobust.evaluation.certificates import named_methods
from jaxrobust.evaluation.checklist_config import NORMS
from jaxrobust.evaluation.choosing import require_attacks
from jaxrobust.evaluation.flags import attack_flags
from jaxrobust.evaluation.norms import instead, lacks_norm
from jaxrobust.evaluation.robustness import named_attacks
from jaxrobust.keeping import fingerprint
from jaxrobust.precision import MatmulPrecision, require_precision
from jaxrobust.threat import norm_name, threat_of
from jaxrobust.training import (
    Run,
    RunError,
    check_data,
    data_of,
    load_run,
    load_run_data,
    trained_norm,
)

__all__ = [
    "NUM_SURFACES",
    "PARTS",
    "Part",
    "ReportConfig",
    "Subject",
    "description",
    "looked_at",
    "subjects",
]

Part = Literal["accuracy", "curve", "checklist", "pictures", "training"]
PARTS: tuple[Part, ...] = get_args(Part)

NUM_IMAGES = 1000
NUM_SURFACES = 3

CURVE = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 1, 5 / 4, 3 / 2)
"""Radii of the curve over the largest one of the tables: dense where a model that was
trained without an adversary falls, and beyond what any was trained for."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """What a report measures, and how; the defaults suit MNIST on a CPU.

    Raises:
        ValueError: for a radius, count or part out of range.
    """

    parts: tuple[Part, ...] = PARTS
    """What to put into it: accuracy (ensemble), curve (accuracy against epsilon,
    smallest perturbations), checklist, pictures, training."""
    attacks: Attacks = dataclasses.field(default_factory=standard_ensemble)
    """Of the accuracies, each on what the others left: builders, as `evaluate` takes
    them. If there is one only, the checklist judges a run of it; of several, PGD."""
    epsilons: tuple[float, ...] | None = None
    """Radii of the tables, in units of [0, 1] pixels; by default those that the runs on
    the same data were trained at last."""
    norm: str | None = None
    """Norm of the ball: linf, l2, l1, l0, or one of your own, path.py:NAME; by default
    that of the training."""
    num_images: int | None = None
    """Images of the accuracies, the first of each class, in proportion; by default
    1000, or all if there are fewer."""
    num_minimal_images: int = 200
    """Images whose smallest perturbation is looked for; at most `num_images`."""
    num_checklist_images: int = 100
    """Images of the checklist; at most `num_images`."""
    num_pictures: int = 8
    """Images shown; the loss round the first 3 is drawn."""
    num_points: int = 41
    """Points along each side of a loss surface; odd, so that the image is one."""
    num_strength_images: int = 20
    """Images on which each attack is run alone, at all radii of the curve, to say how
    good it is; at most `num_images`, and 0 for no such table."""
    num_steps: int = 100
    """Steps of what the report runs beside the attacks: PGD, in the curve, the
    pictures and the checklist, and FAB."""
    certify: tuple[str, ...] = ()
    """Methods that prove, each on what those before it left, so that the accuracies
    say what is certified beside what attacks leave: interval, crown-ibp, crown,
    alpha-crown; or one of your own, path.py:NAME. By default none."""
    split: Split = "test"
    """Split of the data set that each run was trained on."""
    seed: int = 0
    """Of everything random."""
    matmul_precision: MatmulPrecision = "default"
    """Of matrix products in attacks: default (the fastest: TF32 on a GPU, bfloat16 on a
    TPU), high or highest (float32). The same numbers on a CPU. Images, clean ones and
    those that attacks found, are judged at highest."""

    def __post_init__(self):
        counts = ("num_minimal_images", "num_checklist_images", "num_pictures")
        counts += ("num_steps",)
        require_precision(self.matmul_precision)
        remedy = "see the help of `jaxrobust report`"
        are_known = bool(self.parts) and set(self.parts) <= set(PARTS)
        rule = f"some of {', '.join(PARTS)}"
        require(are_known, "parts", rule, self.parts, remedy)
        object.__setattr__(self, "attacks", named_attacks(self.attacks))
        if self.certify:
            named_methods(self.certify)
            rule = "left out without the part accuracy, where it is shown"
            is_shown = "accuracy" in self.parts
            require(is_shown, "certify", rule, self.certify, "add it to `parts`")
        if self.norm is not None:
            norm_name(self.norm)
        if self.num_images is not None:
            require_count("num_images", self.num_images, remedy)
        strength = "num_strength_images"
        require_count(strength, self.num_strength_images, "0 leaves it out", least=0)
        for name in counts:
            require_count(name, getattr(self, name), remedy)
        require_count("num_points", self.num_points, remedy, least=3)
        is_odd = self.num_points % 2 == 1
        require(is_odd, "num_points", "odd", self.num_points, remedy)
        if self.epsilons is not None:
            rule = "at least one radius, or None"
            require(len(self.epsilons) > 0, "epsilons", rule, self.epsilons, remedy)
            remedy = "the accuracy on clean images is in every report"
            require_in("epsilons", self.epsilons, "(0, inf)", remedy)

    def has(self, part: Part) -> bool:
        """Whether a part was asked for."""
        return part in self.parts

    @property
    def builders(self) -> dict[str, AttackBuilder]:
        """The attacks by name."""
        return named_attacks(self.attacks)

    def as_json(self) -> dict[str, Any]:
        """The settings, of plain types; attacks by the flags that choose them.

        Where no flags do, `attacks` tells what they are.
        """
        settings = {key: value for key, value in vars(self).items() if key != "attacks"}
        flags = attack_flags(self.builders)
        if flags is not None:
            return settings | {"attack": flags.attack, "set": dict(flags.set)}
        attacks = {name: described(build) for name, build in self.builders.items()}
        return settings | {"attacks": attacks}


class Subject(NamedTuple):
    """One run, and what is to be measured of it.

    Attributes:
        name: of the run in the report; no two runs share one.
        run: with its weights.
        dataset: the images it is measured on, all that the report uses.
        norm: of all balls.
        epsilon: radius at which it is judged.
        reason: why that one.
        epsilons: radii of the tables, ascending, `epsilon` among them.
        curve_epsilons: radii of the curve, ascending, those of the tables among them.
        base: the run whose weights it was started from, None if that is not known.
        sources: runs that the checklist transfers images from, if there is no base.
        flags: what makes an evaluation of it doubtful, once it was looked at.
    """

    name: str
    run: Run
    dataset: Dataset
    norm: str
    epsilon: float
    reason: str
    epsilons: tuple[float, ...]
    curve_epsilons: tuple[float, ...]
    base: Run | None
    sources: dict[str, Run]
    flags: tuple[Flag, ...]

    @property
    def data(self) -> str:
        """Subjects with the same data are drawn in the same figures."""
        return self.run.problem.title


def _as_printed(radius: float) -> float:
    """Radii are told apart by what tables and JSON call them."""
    return float(f"{radius:g}")


def _trained_at(run: Run) -> float:
    """The radius of the last epoch whose weights were kept; 0 for clean images."""
    kept = [each for each in run.records if not each.get("is_jump")]
    if kept:
        return _as_printed(kept[-1]["epsilon"])
    return _as_printed(run.config.phases[-1].epsilon.end)


def _names(directories: Sequence[Path]) -> list[str]:
    """The ends of the paths, as long as it takes to tell them apart."""
    parts = [directory.resolve().parts for directory in directories]
    length = 1
    while len({each[-length:] for each in parts}) < len(parts):
        length += 1
    return ["/".join(each[-length:]) for each in parts]


def _norm_of(runs: Sequence[Run], config: ReportConfig, trust_code: bool) -> str:
    if config.norm is None:
        return trained_norm([run.config for run in runs], trust_code=trust_code)
    trained = {
        norm_name(run.config.phases[-1].norm): run
        for run in runs
        if _trained_at(run) > 0
    }
    others = [run for norm, run in trained.items() if norm != config.norm]
    if others and config.epsilons is None:
        norm = norm_name(others[0].config.phases[-1].norm)
        raise ValueError(
            f"`epsilons` must be given with --norm {config.norm}, got none, and "
            f"{str(others[0].directory)!r} was trained in {norm}; radii do not "
            "mean the same in both."
        )
    return config.norm


def _require_parts(config: ReportConfig, norm: str) -> None:
    """Refuse parts whose attacks the norm does not have."""
    lacking = []
    if config.has("curve") and lacks_norm(fab, norm):
        lacking.append("curve (FAB finds the smallest perturbations)")
    if config.has("checklist") and norm not in NORMS:
        lacking.append("checklist (ZOO, Square and corners)")
    left = [part for part in config.parts if not any(part in it for it in lacking)]
    require(
        not lacking,
        "parts",
        f"without {' and '.join(lacking)} in {norm}, which has no such attacks",
        config.parts,
        f"give --parts {' '.join(left) or 'accuracy'}; {instead(norm)}",
    )


def _judged_at(
    run: Run, alike: Sequence[Run], norm: str, epsilons: Sequence[float] | None
) -> tuple[float, str]:
    """The radius at which a run is judged, and why."""
    trained = _trained_at(run)
    if epsilons is not None:
        if trained in map(_as_printed, epsilons):
            return trained, "the radius it was trained at last"
        return max(epsilons), "the largest that was asked for"
    if trained > 0:
        return trained, "the radius it was trained at last"
    others = [_trained_at(each) for each in alike]
    if max(others) > 0:
        why = "the largest that another run here was trained at"
        return max(others), f"trained without an adversary, so {why}"
    usual = threat_of(norm).usual_epsilon(run.problem.image_shape)
    if usual is None:
        raise ValueError(
            f"`epsilons` must be given for {str(run.directory)!r}, which was trained "
            f"without an adversary, got none, and no radius is usual in {norm}; give "
            "--epsilons."
        )
    why = f"the usual one for such images in {norm}"
    return _as_printed(usual), f"trained without an adversary, so {why}"


def _load(runs: Sequence[Run], config: ReportConfig, **where: Any) -> Dataset:
    """The images of runs on the same data."""
    dataset = load_run_data(runs[0], config.split, **where)
    for run in runs[1:]:
        check_data(run, dataset, **where)
    count = config.num_images
    if count is None:
        count = min(NUM_IMAGES, len(dataset))
    remedy = f"leave it out for {min(NUM_IMAGES, len(dataset))} of {dataset.title}"
    require_count("num_images", count, remedy, most=len(dataset))
    return subset(dataset, count)


def _base_of(run: Run) -> Run | None:
    """The run that this one started from, if it is still there and fits."""
    started = [phase for phase in run.config.phases if phase.start_from]
    if not started:
        return None
    source, checkpoint = started[-1].start_from, started[-1].start_checkpoint
    assert source is not None
    # What the base names is not imported: if it is not of the catalogue, its network is
    # that of the run.
    network = None if run.config.model.is_known else run.network
    try:
        base = load_run(source, network=network, checkpoint=checkpoint)
    except RunError:
        return None
    return base if base.problem[1:] == run.problem[1:] else None


def subjects(
    runs: Sequence[Run],
    config: ReportConfig,
    *,
    dataset: str | None = None,
    data_dir: Path | None = None,
    trust_code: bool = False,
) -> list[Subject]:
    """Find everything that is to be measured, and refuse what cannot be.

    Runs on different data may stand side by side: each is measured at the radii of the
    runs on the same data.

    Args:
        runs: different ones, at least one.
        config: what is asked for.
        dataset: see `write_report`.
        data_dir: where prepared data sets lie.
        trust_code: whether to run what a run names as its data or variant.

    Raises:
        ValueError: if nothing can be shown of a run, if one was trained on other data,
            or if the radii, the norm or the number of images are such that an
            evaluation would be worthless.
    """
    names = _names([run.directory for run in runs])
    norm = _norm_of(runs, config, trust_code)
    threat = threat_of(norm)
    _require_parts(config, norm)
    found: list[Subject] = []
    for name, run in zip(names, runs, strict=True):
        if config.has("training") and not run.records:
            raise ValueError(
                f"`runs` must have epochs to show, got {str(run.directory)!r} with "
                "none; train it first, or leave `training` out of --parts."
            )
        alike = [each for each in runs if _data_key(each) == _data_key(run)]
        same = [each for each in found if _data_key(each.run) == _data_key(run)]
        if same:
            images = same[0].dataset
        else:
            where = {"name": dataset, "data_dir": data_dir, "trust_code": trust_code}
            images = _load(alike, config, **where)
        judged = [_judged_at(each, alike, norm, config.epsilons)[0] for each in alike]
        tables = {_as_printed(each) for each in config.epsilons or judged}
        widest = threat.diameter(run.problem.image_shape)
        for radius in tables:
            threat.require_epsilon(radius, run.problem.image_shape)
            require(
                radius < widest,
                "epsilons",
                f"below {widest:g} in {norm} for {run.problem.title}",
                radius,
                "that ball holds every image",
            )
        shares = (threat.nearby_epsilon(share * max(tables)) for share in CURVE)
        curve = {_as_printed(radius) for radius in shares} | tables
        if config.has("accuracy") and not same:
            require_attacks(
                config.builders,
                sorted(tables),
                norm=norm,
                image_shape=run.problem.image_shape,
                num_classes=images.num_classes,
            )
        epsilon, reason = _judged_at(run, alike, norm, config.epsilons)
        base = _base_of(run) if config.has("checklist") else None
        beside = {
            other: each
            for other, each in zip(names, runs, strict=True)
            if each is not run and each.problem[1:] == run.problem[1:]
        }
        subject = Subject(
            name=name,
            run=run,
            dataset=images,
            norm=norm,
            epsilon=_as_printed(epsilon),
            reason=reason,
            epsilons=tuple(sorted(tables)),
            curve_epsilons=tuple(sorted(each for each in curve if each <= widest)),
            base=base,
            sources={} if base is not None else beside,
            flags=(),
        )
        found.append(subject)
    return found


def _data_key(run: Run) -> tuple:
    return data_of(run), run.config.variant, run.problem


def looked_at(subject: Subject) -> Subject:
    """The subject with what makes an evaluation of it doubtful.

    Raises:
        ValueError: for what makes it worthless; see `check_model`.
    """
    try:
        flags = check_model(
            subject.run.logits_fn,
            subject.dataset,
            norm=subject.norm,
            epsilons=subject.epsilons,
        )
    except ValueError as error:
        raise ValueError(f"{subject.run.directory}: {error}") from error
    return subject._replace(flags=tuple(flags))


def description(subject: Subject) -> dict[str, Any]:
    """What decides the numbers of a subject, as JSON."""
    return {
        "name": subject.name,
        "directory": str(subject.run.directory),
        "checkpoint": subject.run.checkpoint,
        "weights": fingerprint(subject.run.weights),
        "images": subject.dataset.fingerprint,
        "norm": subject.norm,
        "epsilon": subject.epsilon,
        "epsilons": list(subject.epsilons),
        "curve_epsilons": list(subject.curve_epsilons),
        "base": None if subject.base is None else str(subject.base.directory),
    }
