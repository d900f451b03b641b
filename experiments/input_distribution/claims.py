"""What Ding et al. say of their figures, held against these results.

    python -m experiments input_distribution/claims --preset cpu

Each claim is a rule on numbers that the tables and figures of the same preset computed:
held, not held, or not decided where the numbers are missing or nearer to each other
than models of other seeds are.

Presets:
    smoke: the models of `table2 --preset smoke`, of which one claim is decided.
    cpu, paper: the models of these presets of Tables 1 to 4 and Figures 3 and 4, which
        are trained once; with `--shown-only` those that are known.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean, stdev
from typing import Any, NamedTuple

from experiments.input_distribution import (
    figure3,
    figure4,
    table1,
    table2,
    table3,
    table4,
)
from experiments.input_distribution.apart import distance
from experiments.input_distribution.capacity import Widths
from experiments.input_distribution.comparing import Variants, by_variant
from experiments.input_distribution.figure5 import correlation
from experiments.input_distribution.published import TABLE2, TABLE4, WIDTHS4
from experiments.input_distribution.variants import BINARY, CIFAR, ORIGINAL, titled
from experiments.workspace import Workspace

HELD, NOT_HELD, NOT_DECIDED = "held", "not held", "not decided"

Rows = Sequence[Mapping[str, Any]]


class Claim(NamedTuple):
    """What the paper says, and what is found.

    Attributes:
        claim: in words, so that it could be wrong.
        here: the numbers of these results.
        paper: those of the paper.
        verdict: "held", "not held" or "not decided".
    """

    claim: str
    here: str
    paper: str
    verdict: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """The experiments whose models the claims are about; None for those left out."""

    variants: Variants
    """Of Table 2."""
    scaled: table1.Config | None = None
    levels: Variants | None = None
    """Of Table 3."""
    widths: Widths | None = None
    """Of Table 4."""
    sizes: figure4.Config | None = None
    fashion: Variants | None = None
    """Of Figure 3."""
    saturated: tuple[str, ...] = ()
    """Variants of CIFAR-10 whose distances are measured."""


def _config(preset: str) -> Config:
    return Config(
        variants=table2.PRESETS[preset],
        scaled=table1.PRESETS[preset],
        levels=table3.PRESETS[preset],
        widths=table4.PRESETS[preset],
        sizes=figure4.PRESETS[preset],
        fashion=figure3.PRESETS[preset],
        saturated=CIFAR,
    )


PRESETS = {
    "smoke": Config(variants=table2.PRESETS["smoke"]),
    "cpu": _config("cpu"),
    "paper": _config("paper"),
}


def judged(holds: bool | None) -> str:
    """The verdict; None where numbers are missing."""
    if holds is None:
        return NOT_DECIDED
    return HELD if holds else NOT_HELD


@dataclasses.dataclass(frozen=True)
class Number:
    """A share over seeds, in percent."""

    shares: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return 100 * fmean(self.shares)

    @property
    def deviation(self) -> float:
        """Standard deviation over the seeds; NaN for a single one."""
        return 100 * stdev(self.shares) if len(self.shares) > 1 else float("nan")

    def __str__(self) -> str:
        return f"{self.mean:.1f}"


def is_above(first: Number, second: Number) -> str:
    """Whether the first is the larger one, if it is by more than the seeds differ."""
    gap = first.mean - second.mean
    spread = max(first.deviation, second.deviation)
    if spread == spread and abs(gap) <= spread:
        return NOT_DECIDED
    return judged(gap > 0)


def _numbers(rows: Rows, field: str) -> dict[str, Number]:
    """By variant, of the rows of Table 2."""
    return {
        row["variant"]: Number(tuple(each[field] for each in row["models"]))
        for row in rows
    }


# Tables 2 and 7.


def flat(rows: Rows) -> Claim:
    """Standard training is as accurate on all variants, PGD training is not robust."""
    clean, robust = (
        [number.mean for number in _numbers(rows, field).values()]
        for field in ("standard_accuracy", "robust_accuracy")
    )
    ranges = [max(values) - min(values) for values in (clean, robust)]
    return Claim(
        "clean accuracy hardly depends on the variant, robust accuracy does",
        f"ranges of {ranges[0]:.1f} and {ranges[1]:.1f} points",
        "0.8 and 15.0 points",
        judged(5 * ranges[0] < ranges[1] if len(rows) > 1 else None),
    )


def pairs(rows: Rows) -> list[Claim]:
    """Neighbors of Table 2: is the former the more robust one, here as in the paper?"""
    found = []
    numbers = _numbers(rows, "robust_accuracy")
    for first, second in pairwise(numbers):
        width = rows[0]["models"][0]["width"]
        paper = _paper(first, width), _paper(second, width)
        if None in paper:
            continue
        # The claim is the order that the paper's own numbers have.
        order = (first, second) if paper[0] >= paper[1] else (second, first)
        found.append(
            Claim(
                f"{titled(order[0])} more robust than {titled(order[1])}",
                f"{numbers[order[0]]}, {numbers[order[1]]}",
                f"{max(paper):g}, {min(paper):g}",
                is_above(numbers[order[0]], numbers[order[1]]),
            )
        )
    return found


def _paper(variant: str, width: float) -> Any:
    """Robust accuracy of the paper at the width, or at the full one."""
    if width in WIDTHS4 and variant in TABLE4["robust"]:
        return TABLE4["robust"][variant][1][WIDTHS4.index(width)]
    return TABLE2[variant][2] if variant in TABLE2 else None


def box(rows: Rows) -> Claim:
    """What attacks gain where they may leave the pixel range."""
    inside = _numbers(rows, "robust_accuracy")
    outside = _numbers(rows, "robust_without_box")
    lost = {name: inside[name].mean - outside[name].mean for name in inside}
    others = [points for name, points in lost.items() if name != BINARY]
    if not others or BINARY not in lost:
        holds, here = None, "no models"
    else:
        holds = max(others) < 0.5 and lost[BINARY] > max(others)
        here = f"{lost[BINARY]:.1f} points, the others at most {max(others):.1f}"
    return Claim(
        "attacks that may leave [0, 1] break no more images, but for binarized ones",
        here,
        "2.0 points, the others at most 0.1",
        judged(holds),
    )


# Table 1 and Figure 5.


def equally_far(rows: Rows) -> list[Claim]:
    """Classes that are equally far apart are not equally robust."""
    found = []
    for row in rows:
        smoothed, original, binary = (
            100 * model["robust_accuracy"] for model in row["models"]
        )
        paper = table1.PUBLISHED.get(row["size"])
        if paper is None:
            continue
        found.append(
            Claim(
                f"at the distance of smooth {row['size']}, binarized images are more "
                "robust than original ones, and these than smoothed ones",
                f"{binary:.1f}, {original:.1f}, {smoothed:.1f}",
                f"{paper[5]:g}, {paper[3]:g}, {paper[1]:g}",
                judged(binary > original > smoothed),
            )
        )
    return found


def distances(apart: Mapping[str, float]) -> list[Claim]:
    """What smoothing and binarizing do to the distance between classes of MNIST."""
    smoothed = [its for name, its in apart.items() if name.startswith("smooth")]
    printed = {3: 7.12, 4: 7.01, 5: 6.85}
    is_whole = len(smoothed) == 7 and {ORIGINAL, BINARY} <= set(apart)
    found = [
        Claim(
            "the more images are smoothed, the nearer are their classes",
            ", ".join(f"{its:.2f}" for its in smoothed),
            ", ".join(f"{its:g}" for its in printed.values()) + " for sizes 3 to 5",
            judged(_is_falling(smoothed) if is_whole else None),
        ),
    ]
    if not is_whole:
        return found
    others = max(its for name, its in apart.items() if name != BINARY)
    near, far = apart[ORIGINAL], apart["smooth(2)"]
    return [
        *found,
        Claim(
            "classes of binarized images are by far the furthest apart",
            f"{apart[BINARY]:.2f}, the next {others:.2f}",
            "8.67, the next below 7.4",
            judged(apart[BINARY] > others + 1),
        ),
        Claim(
            "classes of original images are nearer than those of smooth 2",
            f"{near:.2f}, {far:.2f}",
            "a figure only",
            judged(near < far),
        ),
    ]


def predicts(rows: Rows) -> Claim:
    """Whether robust accuracy goes with the distance."""
    found = correlation(rows)
    here, holds = "too few variants", None
    if found is not None:
        holds = found.low > 0
        between = f"{found.low:.2f} to {found.high:.2f}"
        here = f"rank correlation {found.value:.2f}, {between}"
    return Claim(
        "robust accuracy goes with the distance between classes",
        here,
        "a figure only",
        judged(holds),
    )


def saturation_apart(apart: Sequence[float]) -> Claim:
    """Of CIFAR-10 in the order of the levels."""
    return Claim(
        "the more CIFAR-10 is saturated, the further apart are its classes",
        f"{apart[0]:.2f} to {apart[-1]:.2f}" if apart else "not measured",
        "a figure only",
        judged(_is_falling(apart[::-1]) if apart else None),
    )


def _is_falling(values: Sequence[float]) -> bool:
    return all(first > second for first, second in pairwise(values))


# Table 3.


def saturated(rows: Rows) -> list[Claim]:
    """What saturation does to models of CIFAR-10."""
    clean = _numbers(rows, "clean_accuracy")
    robust = _numbers(rows, "robust_accuracy")
    order = [name for name in CIFAR if name in robust]
    means = [robust[name].mean for name in order]
    last = CIFAR[-1]
    has_last = len(order) > 1 and last in robust
    gap = clean[last].mean - robust[last].mean if has_last else float("nan")
    early = "saturate(16)"
    has_early = has_last and early in robust
    return [
        Claim(
            "the more CIFAR-10 is saturated, the more robust are its models",
            ", ".join(f"{mean:.1f}" for mean in means) or "no models",
            "33.0 to 79.9",
            judged(_is_falling(means[::-1]) if len(order) > 2 else None),
        ),
        Claim(
            "at infinite saturation robust accuracy is the clean one of PGD training",
            f"{gap:.1f} points apart" if has_last else "no models",
            "0.3 points apart",
            judged(gap < 1 if has_last else None),
        ),
        Claim(
            "at level 16 the robust accuracy is that of infinite saturation",
            f"{robust[early]}, {robust[last]}" if has_early else "no models",
            "79.4, 79.7",
            judged(robust[last].mean - robust[early].mean < 1 if has_early else None),
        ),
    ]


# Table 4 and Figure 4.


def widths(rows: Rows) -> list[Claim]:
    """What MNIST's models of other widths have in common."""
    fitted = [100 * row["standard_train_accuracy"] for row in rows]
    curves = _curves(rows, "width")
    rising = [
        _is_falling(list(reversed(list(its.values())))) for its in curves.values()
    ]
    wide = {name: its for name, its in curves.items() if {1.0, 2.0} <= set(its)}
    return [
        Claim(
            "standard training fits the training set at every width",
            f"at least {min(fitted):.1f} %" if fitted else "no models",
            "at least 99.6 %",
            judged(min(fitted) > 99 if fitted else None),
        ),
        Claim(
            "up to the full width wider networks are more robust",
            _listed(curves) or "no models",
            "rising, but original 95.2 at half of the width and 95.1 at the full one",
            judged(all(rising) if rising else None),
        ),
        Claim(
            "robust accuracy levels off at the full width",
            _listed({name: curves[name] for name in wide})
            or "no models of the full and twice the width",
            "-0.7 to 3.8 points more at twice the width",
            judged(
                all(its[2.0] - its[1.0] < 1 for its in wide.values()) if wide else None
            ),
        ),
    ]


def sizes(rows: Rows) -> list[Claim]:
    """What models of fewer training images have in common."""
    curves = _curves(rows, "train_size")
    ends = [its for its in curves.values() if {27_000, None} <= set(its)]
    lost = {
        name: its[None] - its[1000]
        for name, its in curves.items()
        if {1000, None} <= set(its)
    }
    is_whole = {BINARY, ORIGINAL} <= set(lost)
    return [
        Claim(
            "27,000 images give MNIST's robust accuracy of all",
            f"{max(its[None] - its[27_000] for its in ends):.1f} points more by all"
            if ends
            else "no models of 27,000",
            "a figure only",
            judged(all(its[None] - its[27_000] < 1 for its in ends) if ends else None),
        ),
        Claim(
            "binarized images lose less by 1,000 training images than original ones",
            f"{lost[BINARY]:.1f}, {lost[ORIGINAL]:.1f} points"
            if is_whole
            else "no models",
            "a figure only",
            judged(lost[BINARY] < lost[ORIGINAL] if is_whole else None),
        ),
    ]


def _curves(rows: Rows, field: str) -> dict[str, dict[Any, float]]:
    """By variant robust test accuracy, in percent, against a number."""
    found: dict[str, dict[Any, float]] = {}
    for row in rows:
        share = 100 * row["robust_accuracy"]
        found.setdefault(row["variant"], {})[row[field]] = share
    return found


def _listed(curves: Mapping[str, Mapping[Any, float]]) -> str:
    return "; ".join(
        f"{titled(name)} {', '.join(f'{share:.1f}' for share in its.values())}"
        for name, its in curves.items()
    )


# Figure 3, and what only an accelerator decides.


def edges(rows: Rows) -> list[Claim]:
    """Fashion-MNIST beside its edges."""
    standard = _numbers(rows, "standard_accuracy")
    clean = _numbers(rows, "clean_accuracy")
    robust = _numbers(rows, "robust_accuracy")
    is_whole = {ORIGINAL, figure3.EDGES} <= set(robust)
    lost = {name: clean[name].mean - robust[name].mean for name in robust}
    return [
        Claim(
            "edges of Fashion-MNIST are harder to classify than the images",
            f"{standard[figure3.EDGES]}, {standard[ORIGINAL]} by standard training"
            if is_whole
            else "no models",
            "a figure only",
            judged(
                standard[figure3.EDGES].mean < standard[ORIGINAL].mean
                if is_whole
                else None
            ),
        ),
        Claim(
            "edges lose little accuracy to the attack, as binarized MNIST; "
            "Fashion-MNIST loses much, as CIFAR-10",
            f"{lost[figure3.EDGES]:.1f}, {lost[ORIGINAL]:.1f} points"
            if is_whole
            else "no models",
            "a figure only",
            judged(4 * lost[figure3.EDGES] < lost[ORIGINAL] if is_whole else None),
        ),
    ]


FOR_ACCELERATORS = (
    Claim(
        "wider networks of CIFAR-10 are less robust up to saturation 3, more from 4 on",
        "no models of widths 1 and 4",
        "original 45.5 and 43.2; saturation 8 74.9 and 78.1",
        NOT_DECIDED,
    ),
    Claim(
        "CIFAR-10's robust accuracy goes on rising with the training images",
        "no models",
        "a figure only",
        NOT_DECIDED,
    ),
    Claim(
        "clean accuracy is flat in gamma, both accuracies of PGD training are not",
        "no models",
        "a figure only",
        NOT_DECIDED,
    ),
)
"""Of models that two cores do not train; `paper` presets do."""


def run(config: Config, workspace: Workspace) -> Mapping[str, Any]:
    """Hold the claims against all models that are known or can be trained."""
    variants = config.variants
    models = variants.rows(variants.cases, workspace)
    rows = by_variant(models)
    claims = [flat(rows), *pairs(rows), box(rows)]
    if config.scaled is not None:
        claims += equally_far(table1.scaled(config.scaled, workspace))
    if config.saturated:
        claims += _of_distances(config, rows, workspace)
    if config.levels is not None:
        known = config.levels.known(config.levels.cases, workspace)
        claims += saturated(by_variant(known))
    if config.widths is not None:
        cases = config.widths.cases(workspace.seed)
        claims += widths(config.widths.known(cases, workspace))
    if config.sizes is not None:
        cases = config.sizes.cases(workspace.seed)
        claims += sizes(config.sizes.known(cases, workspace))
    if config.fashion is not None:
        known = config.fashion.known(config.fashion.cases, workspace)
        claims += [*edges(by_variant(known)), *FOR_ACCELERATORS]
    counts = sorted({len(row["models"]) for row in rows})
    verdicts = [claim.verdict for claim in claims]
    totals = ", ".join(
        f"{verdicts.count(each)} {each}" for each in (HELD, NOT_HELD, NOT_DECIDED)
    )
    note = (
        f"{totals}. Accuracies in percent, of {variants.width:g} of the width where "
        f"nothing else is said, mean over {', '.join(map(str, counts))} seeds; the "
        "paper's pairs are of the same width. Not decided: models are missing, or two "
        "numbers are nearer than the standard deviation over seeds."
    )
    found = [claim._asdict() for claim in claims]
    return {
        "title": "Claims about input distributions",
        "rows": found,
        "notes": [note],
        "tables": {"Claims": results_table({"rows": found})},
    }


def _of_distances(config: Config, rows: Rows, workspace: Workspace) -> list[Claim]:
    """Claims of Figure 5."""
    dataset = config.variants.dataset
    apart = {
        variant: distance(dataset, variant, workspace)
        for variant in config.variants.variants
    }
    robust = _numbers(rows, "robust_accuracy")
    both = [
        {"distance": apart[name], "robust_accuracy": number.mean}
        for name, number in robust.items()
    ]
    far = [distance("cifar10", name, workspace) for name in config.saturated]
    return [*distances(apart), predicts(both), saturation_apart(far)]


def results_table(result: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the claims, also from a committed results file."""
    lines = [[row[field] for field in Claim._fields] for row in result["rows"]]
    return [["claim", "here", "paper", "verdict"], *lines]
