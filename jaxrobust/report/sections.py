"""What a report says: the sections of the page, made of what was measured."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxrobust.report.assessment import QUANTILES, Assessment
from jaxrobust.report.drawing import NORMS, Drawing
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
from jaxrobust.report.subjects import Part, ReportConfig
from jaxrobust.report.tables import (
    interval_table,
    percent,
    share_with_interval,
    stage_table,
)
from jaxrobust.report.training import state_of, training_table

__all__ = ["lead", "sections"]

ATTACKS = {
    "standard": "the standard ensemble (Auto-PGD on two losses, FAB, Square)",
    "pgd": "PGD",
}


def lead(assessments: Sequence[Assessment], config: ReportConfig) -> list[str]:
    """What a reader in a hurry has to know: a line for each run."""
    several = len({each.subject.data for each in assessments}) > 1
    header = ["run"]
    header += ["checklist"] * config.has("checklist")
    header += ["robust", "clean"] * config.has("accuracy")
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
            found = each.accuracy
            line += [
                share_with_interval(
                    found["robust_accuracy"][radius], found["robust_interval"][radius]
                ),
                share_with_interval(found["clean_accuracy"], found["clean_interval"]),
            ]
        line += [f"ε = {radius} ({NORMS[subject.norm]})"] + [subject.data] * several
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
                f"classified rightly after {ATTACKS[config.attack]}. Radii are in "
                "units of [0, 1] pixels."
            )
        )
    if config.has("checklist"):
        text = (
            "The checklist asks whether the accuracy under PGD can be believed, not "
            "whether it is high: it fails where a model hides its weakness or PGD is "
            "too weak for it."
        )
        if config.has("accuracy") and config.attack == "standard":
            text += " The ensemble may be right even so, since its attacks differ."
        pieces.append(paragraph(text))
    if notes:
        pieces.append(listing(notes))
    return pieces


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
    rows = [
        {"model": each.subject.name, **(each.accuracy or {})} for each in assessments
    ]
    pieces = [table(interval_table(rows), f"Accuracy under {_short(config)}")]
    for row in rows:
        # What is left after each attack says which of them mattered.
        cells = stage_table(row)
        cells[0].append("passes")
        cells[1].append("")
        for line, stage in zip(cells[2:], row["stages"], strict=True):
            line[-1] = f"{stage['num_attacks']:,}"
            line.append(_large(stage["num_passes"]))
        pieces.append(table(cells, f"{row['model']}: what each attack left"))
    pieces.append(
        paragraph(
            "Attacks: runs on one image at one radius, only on what the attacks before "
            "left. Passes: images sent through the model, about, a gradient counted as "
            "two more."
        )
    )
    pieces.append(table(_definitions(assessments), "Three ways to count"))
    pieces.append(
        paragraph(
            "Of all: the share of all images that stay right (SW-A3 ii, as above). Of "
            "the right ones: among those right on the clean image (SW-A3 i). "
            "Predictions that stay: right or wrong, under PGD against the prediction "
            "(SN-A1)."
        )
    )
    pieces.append(_classes(assessments))
    return pieces


def _short(config: ReportConfig) -> str:
    return ATTACKS[config.attack].split(" (")[0]


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
    first = (assessments[0].checklist or {})["config"]
    pieces = [
        paragraph(
            "LP-C1 to LP-C12 are the twelve checks of the LP paper, then the warnings "
            "of AutoAttack and the signs of failed attacks of Pintor et al. The attack "
            f"that is judged is PGD with {first['num_steps']} steps. A check that "
            "fails says that it overstates the robustness."
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
                f"{NORMS[found['config']['norm']]}, "
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
    return [
        paragraph(
            "The command that makes this report again; --output and --data-dir, which "
            "only say where things lie, are left out."
        ),
        code(origin["command"]),
        paragraph(f"Computed on {kind}."),
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
