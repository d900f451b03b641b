"""What a report says: the sections of the page, made of what was measured."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxrobust.evaluation.certificates import broken_note
from jaxrobust.evaluation.flags import shortened
from jaxrobust.precision import JUDGED, precision_note, unconfirmed_note
from jaxrobust.report.assessment import CURVE_ATTACK, QUANTILES, Assessment
from jaxrobust.report.drawing import Drawing
from jaxrobust.report.page import (
    Section,
    code,
    details,
    figure,
    heading,
    listing,
    paragraph,
    table,
)
from jaxrobust.report.strength import WEAK
from jaxrobust.report.subjects import Part, ReportConfig
from jaxrobust.report.tables import (
    attack_table,
    interval_table,
    method_table,
    percent,
    share_with_interval,
)
from jaxrobust.report.training import state_of, training_table
from jaxrobust.threat import threat_of

__all__ = ["lead", "sections"]

_NAMES = {
    "standard": "the standard ensemble (Auto-PGD on two losses, FAB, Square)",
    "pgd": "PGD",
}


def lead(assessments: Sequence[Assessment], config: ReportConfig) -> list[str]:
    """What a reader in a hurry has to know: a line for each run."""
    several = len({each.subject.data for each in assessments}) > 1
    header = ["run"]
    header += ["checklist"] * config.has("checklist")
    header += ["robust"] * config.has("accuracy")
    header += ["certified"] * bool(config.certify)
    header += ["clean"] * config.has("accuracy")
    header += ["at"] + ["data"] * several
    header += ["training"] * config.has("training")
    cells, notes = [header], []
    for each in assessments:
        subject, run = each.subject, each.subject.run
        radius = f"{subject.epsilon:g}"
        line = [subject.name]
        if each.checklist is not None:
            line.append(each.checklist["verdict"])
        if each.accuracy is not None:
            kinds = [("robust", each.accuracy)]
            kinds += [("certified", each.certified)] if each.certified else []
            line += [
                share_with_interval(
                    found[f"{kind}_accuracy"][radius], found[f"{kind}_interval"][radius]
                )
                for kind, found in kinds
            ]
            found = each.accuracy
            line.append(
                share_with_interval(found["clean_accuracy"], found["clean_interval"])
            )
        symbol = threat_of(subject.norm).symbol
        line += [f"ε = {radius} ({symbol})"] + [subject.data] * several
        if config.has("training"):
            line.append(f"{state_of(run)}, epoch {run.records[-1]['epoch']}")
        cells.append(line)
        notes += _doubts(each)
    pieces = [table(cells)]
    if config.has("accuracy"):
        counts = {each.accuracy["num_images"] for each in assessments if each.accuracy}
        titles = " and of ".join(dict.fromkeys(e.subject.data for e in assessments))
        pieces.append(
            paragraph(
                f"Accuracies over {_either(counts)} images of the {config.split} split "
                f"of {titles}, with 95 % Wilson intervals. Robust: still "
                f"classified rightly after {_long(config)}. Radii are in "
                "units of [0, 1] pixels."
            )
        )
    if config.certify:
        pieces.append(paragraph(_bracket(config)))
    if config.has("checklist"):
        text = (
            f"The checklist asks whether the accuracy under {_judged(assessments)} can "
            "be believed, not whether it is high: it fails where a model hides its "
            "weakness or that attack is too weak for it."
        )
        if config.has("accuracy") and "standard" in shortened(list(config.builders)):
            text += " The ensemble may be right even so, since its attacks differ."
        pieces.append(paragraph(text))
    trained = precision_note(
        "the runs were trained",
        [(e.subject.name, e.subject.run.config.matmul_precision) for e in assessments],
    )
    if trained is not None:
        notes.append(f"{trained[0].upper()}{trained[1:]}.")
    if notes:
        pieces.append(listing(notes))
    return pieces


def _bracket(config: ReportConfig) -> str:
    return (
        f"Certified: proven by {', '.join(config.certify)} to be classified rightly "
        "whatever the attack. The truth lies between certified and robust."
    )


def _judged(assessments: Sequence[Assessment]) -> str:
    found = [each.checklist["judged"] for each in assessments if each.checklist]
    return " or ".join(dict.fromkeys(found))


def _either(counts: set[int]) -> str:
    return " or ".join(str(count) for count in sorted(counts))


def _doubts(assessment: Assessment) -> list[str]:
    """What a reader has to know of a run beside its numbers."""
    subject = assessment.subject
    name, notes = subject.name, []
    if not subject.run.is_complete:
        notes.append(f"{name}: not finished; this is its newest state.")
    if not subject.reason.startswith("the radius it was trained"):
        notes.append(f"{name}: judged at ε = {subject.epsilon:g}: {subject.reason}.")
    notes += [f"{name}: {flag.name}: {flag.message}." for flag in subject.flags]
    if assessment.accuracy and assessment.accuracy["num_bad_gradients"]:
        count = assessment.accuracy["num_bad_gradients"]
        notes.append(
            f"{name}: {count} attacks met gradients that are not finite; its robust "
            "accuracy is not to be trusted."
        )
    attacks = assessment.accuracy["attacks"] if assessment.accuracy else ()
    if count := sum(attack["num_unconfirmed"] for attack in attacks):
        notes.append(f"{name}: {unconfirmed_note(count)}")
    broken = assessment.certified["num_broken"] if assessment.certified else {}
    notes += [
        f"{name}: {broken_note(count, radius)}"
        for radius, count in broken.items()
        if count
    ]
    found = assessment.strength
    if found:
        asked = [row for row in found["attacks"] if row["name"] != CURVE_ATTACK]
        if all(row["is_weak"] for row in asked):
            names = ", ".join(row["name"] for row in asked)
            notes.append(
                f"{name}: only weak attacks judged it ({names}), beside the PGD of the "
                "curve; its robust accuracy is too high."
            )
    if assessment.checklist:
        failed = [
            f"{check['source']} ({check['name'].replace('_', ' ')})"
            for check in assessment.checklist["checks"]
            if check["verdict"] == "fail"
        ]
        if failed:
            notes.append(f"{name}: the checklist fails at {', '.join(failed)}.")
    return notes


def sections(
    assessments: Sequence[Assessment],
    config: ReportConfig,
    drawings: Sequence[Drawing],
    directory: Path,
    origin: Mapping[str, Any],
) -> list[Section]:
    """The parts that were asked for, in order, and how it was all made.

    Args:
        assessments: of all runs.
        config: what is asked for.
        drawings: the figures there are.
        directory: where they lie.
        origin: settings, versions, device and command, as in `report.json`.
    """

    def figures(part: Part) -> list[str]:
        return [
            # Lines are sharp at any size, and pictures are smaller as pixels.
            figure(
                directory / f"{each.name}{'.png' if each.is_picture else '.svg'}",
                each.caption,
            )
            for each in drawings
            if each.part == part
        ]

    found = []
    if config.has("accuracy"):
        found.append(Section("Accuracy", _accuracy(assessments, config)))
    if config.has("curve"):
        found.append(
            Section(
                "Accuracy against epsilon",
                [*figures("curve"), *_curve_tables(assessments)],
            )
        )
    if config.has("checklist"):
        found.append(Section("Checklist", _checklists(assessments)))
    if config.has("pictures"):
        found.append(Section("Looking inside", figures("pictures")))
    if config.has("training"):
        runs = [each.subject.run for each in assessments]
        cells = training_table(runs, [each.subject.name for each in assessments])
        above = table(cells, "Last epoch, on training data")
        found.append(Section("Training", [above, *figures("training")]))
    found.append(Section("How this was made", _origin(assessments, origin)))
    return found


def _accuracy(assessments: Sequence[Assessment], config: ReportConfig) -> list[str]:
    rows: list[dict[str, Any]] = [
        {"model": each.subject.name, **(each.accuracy or {})}
        | ({"certified": each.certified} if each.certified else {})
        for each in assessments
    ]
    pieces = [table(interval_table(rows), f"Accuracy under {_short(config)}")]
    for row in rows:
        # What is left after each attack says which of them mattered.
        cells = attack_table(row)
        cells[0].append("passes")
        cells[1].append("")
        for line, attack in zip(cells[2:], row["attacks"], strict=True):
            line[-1] = f"{attack['num_attacks']:,}"
            line.append(_large(attack["num_passes"]))
        pieces.append(table(cells, f"{row['model']}: what each attack left"))
    pieces.append(
        paragraph(
            "Attacks: runs on one image at one radius, only on what the attacks before "
            "left. Passes: images sent through the model, about, a gradient counted as "
            "two more."
        )
    )
    for each in assessments:
        if each.certified is not None:
            above = f"{each.subject.name}: images by the first method that proves them"
            pieces.append(table(method_table(each.certified, has_seconds=False), above))
    pieces += _strengths(assessments)
    pieces.append(table(_definitions(assessments), "Three ways to count"))
    pieces.append(
        paragraph(
            "Of all: the share of all images that stay right (as above). Of "
            "the right ones: among those right on the clean image. "
            "Predictions that stay: right or wrong, under PGD against the prediction "
            "(Ding et al., 2019)."
        )
    )
    pieces.append(_classes(assessments))
    return pieces


def _strengths(assessments: Sequence[Assessment]) -> list[str]:
    pieces = []
    for each in assessments:
        if each.strength is None:
            continue
        cells = [["attack", "optimality", "passes", ""]]
        for row in each.strength["attacks"]:
            said = "weak: misses what others find" if row["is_weak"] else ""
            share, passes = f"{row['optimality']:.3f}", _large(round(row["passes"]))
            cells.append([row["name"], share, passes, said])
        pieces.append(table(cells, f"{each.subject.name}: how good each attack is"))
        if not each.strength["num_broken"]:
            text = "No attack broke any of these images, so that all look alike."
            pieces.append(paragraph(text))
    if not pieces:
        return []
    found = next(each.strength for each in assessments if each.strength)
    text = (
        f"Each attack alone on {found['num_images']} images, at the radii of the curve "
        f"up to {found['epsilons'][-1]:g}. Optimality (Cinà et al., 2025): 1 for an "
        "attack that breaks every image at the smallest radius that any attack here "
        "does, 0 for one that breaks nothing, by the area between its accuracy against "
        f"epsilon and that of the best of all; below {WEAK:g} it is called weak. A "
        "weak attack does the accuracies above no harm; alone it would overstate them. "
        "Passes: for each image, over all radii that were tried, a gradient counted as "
        "two more."
    )
    return [*pieces, paragraph(text)]


def _long(config: ReportConfig) -> str:
    names = shortened(list(config.builders))
    return ", ".join(_NAMES.get(name, name) for name in names)


def _short(config: ReportConfig) -> str:
    return _long(config).split(" (")[0]


def _large(count: int) -> str:
    """A number of passes, which is only about right anyway."""
    for size, word in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {word}"
    return str(count)


def _definitions(assessments: Sequence[Assessment]) -> list[list[str]]:
    cells = [["run", "ε", "of all", "of the right ones", "predictions that stay"]]
    for each in assessments:
        radius = f"{each.subject.epsilon:g}"
        found = each.accuracy or {}
        stays = found["predictions"]
        cells.append(
            [
                each.subject.name,
                radius,
                percent(found["under_attack"][radius]["all"]),
                percent(found["under_attack"][radius]["among_correct"]),
                share_with_interval(stays["robust_accuracy"], stays["robust_interval"]),
            ]
        )
    return cells


def _classes(assessments: Sequence[Assessment]) -> str:
    names = [each.subject.name for each in assessments]
    rows = [(each.accuracy or {})["classes"] for each in assessments]
    labels = sorted({int(label) for row in rows for label in row})
    header = ["class", *names]
    cells = [header]
    for label in labels:
        line = [str(label)]
        for row in rows:
            found = row.get(str(label))
            if found is None or not found["num_correct"]:
                line.append("-")
                continue
            count = f"{found['num_broken']} of {found['num_correct']}"
            line.append(f"{percent(found['share'])} ({count})")
        cells.append(line)
    above = "What the attack broke of each class, at the radius of each run"
    shown = table(cells, above)
    # A hundred classes are not for everybody.
    if len(labels) > 20:
        return details("Success by class", shown)
    return shown


def _curve_tables(assessments: Sequence[Assessment]) -> list[str]:
    radii = sorted(
        {radius for each in assessments for radius in (each.curve or {})["epsilons"]}
    )
    names = [each.subject.name for each in assessments]
    cells = [["ε", *names]]
    for radius in radii:
        line = [f"{radius:g}"]
        for each in assessments:
            found = each.curve or {}
            if radius not in found["epsilons"]:
                line.append(percent(None))
                continue
            place = found["epsilons"].index(radius)
            line.append(
                share_with_interval(
                    found["robust_accuracy"][place], found["robust_interval"][place]
                )
            )
        cells.append(line)
    quantiles = [["run", *(_quantile_name(share) for share in QUANTILES), "images"]]
    for each in assessments:
        found = each.smallest or {}
        values = [found["quantiles"][f"{share:g}"] for share in QUANTILES]
        quantiles.append(
            [
                each.subject.name,
                *(
                    "none found" if value is None else f"{value:.4g}"
                    for value in values
                ),
                str(found["num_images"]),
            ]
        )
    return [
        table(cells, "Accuracy under PGD with one start"),
        table(quantiles, "Smallest perturbation that FAB found, quantiles"),
        paragraph(
            "Images that are wrong without any perturbation count as 0. What is found "
            "is an upper bound of the true distance."
        ),
    ]


def _quantile_name(share: float) -> str:
    return "median" if share == 0.5 else f"{share:.0%}"


def _checklists(assessments: Sequence[Assessment]) -> list[str]:
    pieces = [
        paragraph(
            "The twelve checks of Shaeiri et al. (2020) come first, then the warnings "
            "of AutoAttack and the signs of failed attacks of Pintor et al. The attack "
            f"that is judged is {_judged(assessments)}. A check that fails says that "
            "it overstates the robustness."
        ),
        table(_overview(assessments), "All checks", is_text=True),
    ]
    for each in assessments:
        found = each.checklist or {}
        checks = found["checks"]
        if found["base"] is not None:
            beside = f"base: {found['base']}"
        elif found["sources"]:
            beside = f"no base; images transferred from {', '.join(found['sources'])}"
        else:
            beside = "no base and no other run to transfer images from"
        pieces += [
            heading(each.subject.name, found["verdict"]),
            paragraph(
                f"At ε = {found['config']['epsilon']:g} in "
                f"{threat_of(found['config']['norm']).symbol}, "
                f"{found['config']['num_images']} images; {beside}."
            ),
            *(_check(check) for check in checks if check["verdict"] != "pass"),
        ]
        passed = [_check(check) for check in checks if check["verdict"] == "pass"]
        if passed:
            pieces.append(details(f"{len(passed)} checks that pass", *passed))
    return pieces


def _overview(assessments: Sequence[Assessment]) -> list[list[str]]:
    cells = [["check", *(each.subject.name for each in assessments)]]
    columns = [(each.checklist or {})["checks"] for each in assessments]
    for checks in zip(*columns, strict=True):
        first = checks[0]
        verdicts = [check["verdict"] for check in checks]
        cells.append([f"{first['source']}: {first['question']}", *verdicts])
    return cells


def _check(check: Mapping[str, Any]) -> str:
    """One answer: the question and the verdict in a line, the evidence behind it."""
    measured = [
        f"{name}: {'not finite' if value is None else f'{value:.4g}'}"
        for name, value in check["measured"].items()
    ]
    pieces = [paragraph(f"Measured: {'; '.join(measured)}.")] if measured else []
    pieces.append(paragraph(f"Fails for: {check['threshold']}."))
    pieces.append(paragraph(check["reason"]))
    if check["verdict"] == "inconclusive" and not check["is_needed"]:
        pieces.append(paragraph("The verdict on the whole does not need it."))
    summary = f"{check['source']}: {check['question']}"
    return details(summary, *pieces, verdict=check["verdict"])


def _origin(assessments: Sequence[Assessment], origin: Mapping[str, Any]) -> list[str]:
    def text(value: Any) -> str:
        return code(json.dumps(value, indent=2, ensure_ascii=False))

    versions = [["", "version"], *([*each] for each in origin["versions"].items())]
    device = origin["device"]
    kind = f"{device['count']} x {device['kind']} ({device['platform']})"
    told = [
        paragraph("It was asked for from Python, with attacks that no command chooses.")
    ]
    if origin["command"] is not None:
        told = [
            paragraph(
                "The command that makes this report again; --output and --data-dir, "
                "which only say where things lie, are left out."
            ),
            code(origin["command"]),
        ]
    return [
        *told,
        paragraph(f"Computed on {kind}."),
        paragraph(
            "Precision of matrix products: attacks at "
            f"{origin['settings']['matmul_precision']!r}, clean images and those that "
            f"attacks found at {JUDGED!r}."
        ),
        details("Versions", table(versions, is_text=True)),
        details("Configuration of the report", text(origin["settings"])),
        *(
            details(
                f"Configuration of {each.subject.name}",
                paragraph(str(each.subject.run.directory)),
                text(config),
            )
            for each, config in zip(assessments, origin["runs"], strict=True)
        ),
    ]
