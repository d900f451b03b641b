"""Reports that compare runs: what is measured, drawn, said, and where it is written.

    write_report([load_run("runs/a"), load_run("runs/b")], Path("report"))

Nothing in the files depends on the time or on how often the work was interrupted: the
same command, given again after a kill, goes on from what is kept in `parts` and writes
the bytes that an undisturbed one would have written.
"""

import dataclasses
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrobust.arguments import require
from jaxrobust.evaluation.choosing import STANDARD
from jaxrobust.evaluation.flags import attack_flags
from jaxrobust.keeping import claimed, plain, versions, write_whole
from jaxrobust.report.assessment import Assessment, assess
from jaxrobust.report.drawing import Drawing, draw
from jaxrobust.report.page import page
from jaxrobust.report.sections import lead, sections
from jaxrobust.report.storage import Storage
from jaxrobust.report.subjects import (
    ReportConfig,
    Subject,
    description,
    looked_at,
    subjects,
)
from jaxrobust.training import Run
from jaxrobust.training.recipe.config_json import config_to_json

__all__ = ["command_line", "write_report"]

FIGURES = "figures"


def command_line(
    directories: Sequence[Path], config: ReportConfig, dataset: str | None = None
) -> str | None:
    """The command that asks for a report, without where it goes.

    None if it was asked for from Python, with attacks that no command chooses.
    """
    attacks = attack_flags(config.builders)
    if attacks is None:
        return None
    words = ["jaxrobust", "report", *map(str, directories)]
    words += [] if dataset is None else ["--dataset", dataset]
    words += [] if attacks == ((STANDARD,), ()) else attacks.words
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name == "attacks" or value == field.default:
            continue
        name = "epsilon" if field.name == "epsilons" else field.name
        words.append(f"--{name.replace('_', '-')}")
        words += map(str, value if isinstance(value, tuple) else [value])
    return shlex.join(words)


def write_report(
    runs: Sequence[Run],
    output: Path,
    config: ReportConfig | None = None,
    *,
    dataset: str | None = None,
    data_dir: Path | None = None,
    trust_code: bool = False,
    say: Callable[[str], None] | None = None,
) -> Path:
    """Measure runs and write `report.html`, `report.json` and `figures`.

    Args:
        runs: at least one; a directory that is given twice counts once.
        output: directory of the report: new, empty, or that of the same report, which
            then goes on from what is kept there.
        config: what to measure; None for the defaults.
        dataset: name or directory of the data that all runs were trained on; None for
            those of their configurations. For data that have moved, or were arrays of
            the caller.
        data_dir: where prepared data sets lie.
        trust_code: whether to run what a run names as its data or variant.
        say: told what is being done, in lines.

    Returns:
        The path of the page.

    Raises:
        ValueError: before any attack, if there are no runs, if the directory holds
            something else, if a run was trained on other data, or for what `subjects`
            and `looked_at` refuse.
        InUseError: if another process writes a report there.
    """
    require(bool(runs), "runs", "one run or more", runs, "load one by `load_run`")
    config = config or ReportConfig()
    say = say or (lambda _: None)
    runs = list({run.directory.resolve(): run for run in runs}.values())
    chosen = subjects(
        runs, config, dataset=dataset, data_dir=data_dir, trust_code=trust_code
    )
    origin = _origin(chosen, config, dataset)
    with claimed(output, what="output"):
        storage = Storage(output, {name: origin[name] for name in _DECIDES})
        # The first thing that computes, after all that can be refused without.
        chosen = [looked_at(subject) for subject in chosen]
        storage.begin()
        assessments = [
            assess(subject, config, storage, number=number, say=say)
            for number, subject in enumerate(chosen, start=1)
        ]
        say("figures and page")
        return _written(assessments, config, output, origin)


def _written(
    assessments: Sequence[Assessment],
    config: ReportConfig,
    output: Path,
    origin: Mapping[str, Any],
) -> Path:
    """The path of the page, once that and all beside it is in its place."""
    drawings = draw(assessments, config, output / FIGURES)
    record = _record(assessments, drawings, origin)
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)
    write_whole(output / "report.json", text + "\n")
    names = [each.subject.name for each in assessments]
    title = " and ".join(names) if len(names) < 3 else f"{len(names)} runs"
    parts = sections(assessments, config, drawings, output / FIGURES, origin)
    path = output / "report.html"
    write_whole(
        path, page(f"Robustness of {title}", parts, lead=lead(assessments, config))
    )
    return path


_DECIDES = ("settings", "subjects", "versions", "device")


def _origin(
    chosen: Sequence[Subject], config: ReportConfig, dataset: str | None
) -> dict[str, Any]:
    """Where the numbers come from, as JSON."""
    devices = jax.devices()
    return plain(
        {
            "command": command_line(
                [each.run.directory for each in chosen], config, dataset
            ),
            "settings": config.as_json(),
            "subjects": [description(each) for each in chosen],
            "versions": versions(),
            "device": {
                "platform": devices[0].platform,
                "kind": devices[0].device_kind,
                "count": len(devices),
            },
            "runs": [config_to_json(each.run.config) for each in chosen],
        }
    )


def _record(
    assessments: Sequence[Assessment],
    drawings: Sequence[Drawing],
    origin: Mapping[str, Any],
) -> dict[str, Any]:
    """All that was measured, for machines."""
    rows = []
    for each, about, config in zip(
        assessments, origin["subjects"], origin["runs"], strict=True
    ):
        run = each.subject.run
        rows.append(
            {
                **about,
                "reason": each.subject.reason,
                "problem": run.problem._asdict(),
                "config": config,
                "is_complete": run.is_complete,
                "flags": [flag._asdict() for flag in each.subject.flags],
                "accuracy": each.accuracy,
                "certified": each.certified,
                "strength": each.strength,
                "curve": each.curve,
                "smallest": each.smallest,
                "checklist": each.checklist,
                "pictures": None if each.pictures is None else _shown(each.pictures),
                "training": run.records,
            }
        )
    figures = {each.name: each.caption for each in drawings}
    names = ("command", "settings", "versions", "device")
    about = {name: origin[name] for name in names}
    return plain({**about, "runs": rows, "figures": figures})


def _shown(pictures: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Numbers of the pictures; the arrays themselves stay in `parts`."""
    middle = pictures["losses"].shape[1] // 2
    names = ("labels", "predictions", "perturbed_predictions")
    return {
        **{name: pictures[name] for name in names},
        "surfaces": [
            {
                "radius": float(pictures["offsets"][-1]),
                "middle_loss": float(losses[middle, middle]),
                "highest_loss": float(losses.max()),
                "adversarial_variation": float(np.ptp(losses[:, middle])),
                "random_variation": float(np.ptp(losses[middle])),
                "wrong_share": float(np.mean(is_wrong)),
            }
            for losses, is_wrong in zip(
                pictures["losses"], pictures["is_wrong"], strict=True
            )
        ],
    }
