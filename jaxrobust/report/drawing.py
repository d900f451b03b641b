"""The figures of a report, drawn from what was measured, one after another."""

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxrobust import plots
from jaxrobust.evaluation import accuracy_curve
from jaxrobust.evaluation.input_space import scale_for_display
from jaxrobust.report.assessment import Assessment
from jaxrobust.report.subjects import Part, ReportConfig
from jaxrobust.threat import threat_of

__all__ = ["Drawing", "by_data", "draw", "label_of"]

PERCENTS = (-2, 102)
"""Ends of an axis of percents, so that figures of reports compare."""

COURSES = {
    "loss": ("training loss (nats)", "Mean loss of the training, on attacked images"),
    "adversarial_accuracy": (
        "training adversarial accuracy",
        "Accuracy on the images that the training attacked",
    ),
    "epsilon": ("epsilon (pixels in [0, 1])", "Radius of the training"),
}


class Drawing(NamedTuple):
    """A figure that lies in a file.

    Attributes:
        part: of the report that it belongs to.
        name: of the files, without a suffix.
        caption: what it shows.
        is_picture: whether it is made of pixels rather than of lines.
    """

    part: Part
    name: str
    caption: str
    is_picture: bool = False


def label_of(name: str) -> str:
    """A name of a run as matplotlib shall show it.

    A dollar sign would begin a formula, and a label that begins with an underscore
    would not be in the legend.
    """
    text = name.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def by_data(assessments: Sequence[Assessment]) -> dict[str, list[Assessment]]:
    """Runs on the same data, which share axes and images."""
    groups: dict[str, list[Assessment]] = {}
    for each in assessments:
        groups.setdefault(each.subject.data, []).append(each)
    return groups


def draw(
    assessments: Sequence[Assessment], config: ReportConfig, directory: Path
) -> list[Drawing]:
    """Draw what there is, each figure as PNG and as SVG.

    Args:
        assessments: of all runs.
        config: what is asked for.
        directory: where the files go; made if missing.
    """
    directory.mkdir(parents=True, exist_ok=True)
    drawn = []
    for drawing, figure in _figures(assessments, config):
        if not drawing.is_picture:
            # Small enough for letters to be read on a phone; it grows on a page.
            figure.set_size_inches(5.2, 3.4)
        for suffix in (".png", ".svg"):
            plots.save(figure, directory / f"{drawing.name}{suffix}")
        drawn.append(drawing)
    return drawn


def _figures(
    assessments: Sequence[Assessment], config: ReportConfig
) -> "Iterator[tuple[Drawing, plots.Figure]]":
    groups = by_data(assessments)
    for number, (data, alike) in enumerate(groups.items(), start=1):
        # One data set is the rule, and needs no number.
        suffix = f"-data{number}" if len(groups) > 1 else ""
        if alike[0].curve is not None:
            yield _curves(data, alike, suffix)
            yield _smallest(data, alike, suffix)
        if alike[0].pictures is not None:
            yield _images(data, alike, suffix)
            for index in range(len(alike[0].pictures["losses"])):
                yield _surfaces(data, alike, index, suffix)
    if config.has("training"):
        for field, (label, caption) in COURSES.items():
            lines = [
                plots.Curve(
                    label_of(each.subject.name),
                    [record["epoch"] for record in each.subject.run.records],
                    [record[field] for record in each.subject.run.records],
                )
                for each in assessments
            ]
            drawing = Drawing("training", f"training-{field}", caption)
            yield drawing, plots.curves(lines, xlabel="epoch", ylabel=label)


def _unit(assessment: Assessment) -> str:
    return f"{threat_of(assessment.subject.norm).symbol}, pixels in [0, 1]"


def _curves(
    data: str, alike: Sequence[Assessment], suffix: str
) -> "tuple[Drawing, plots.Figure]":
    lines, bands = [], {}
    for each in alike:
        found, label = each.curve or {}, label_of(each.subject.name)
        percents = [100 * share for share in found["robust_accuracy"]]
        lines.append(plots.Curve(label, found["epsilons"], percents))
        lower, upper = zip(*found["robust_interval"], strict=True)
        bands[label] = [[100 * end for end in ends] for ends in (lower, upper)]
        proven = each.certified["certified_accuracy"] if each.certified else {}
        if proven:
            percents = [100 * share for share in proven.values()]
            radii = [float(radius) for radius in proven]
            lines.append(plots.Curve(f"{label}, certified", radii, percents))
    figure = plots.curves(
        lines,
        xlabel=f"epsilon ({_unit(alike[0])})",
        ylabel="robust accuracy (%)",
        bands=bands,
    )
    figure.axes[0].set_ylim(*PERCENTS)
    found = alike[0].curve or {}
    caption = (
        f"Accuracy against epsilon on {data}: PGD, {found['num_steps']} steps, "
        f"{found['num_images']} images; bands are 95 % Wilson intervals."
    )
    if any(each.certified for each in alike):
        caption += " Certified: of the images of the table, at its radii."
    return Drawing("curve", f"accuracy-curve{suffix}", caption), figure


def _smallest(
    data: str, alike: Sequence[Assessment], suffix: str
) -> "tuple[Drawing, plots.Figure]":
    top = max(each.subject.curve_epsilons[-1] for each in alike)
    radii = np.linspace(0, top, 121)
    lines = [
        plots.Curve(
            label_of(each.subject.name),
            radii.tolist(),
            (100 * accuracy_curve(_radii(each), radii.tolist())).tolist(),
        )
        for each in alike
    ]
    figure = plots.curves(
        lines,
        xlabel=f"epsilon ({_unit(alike[0])})",
        ylabel="images with none as small (%)",
    )
    figure.axes[0].set_ylim(*PERCENTS)
    for line in figure.axes[0].lines:
        # A marker on each of many points would hide the steps.
        line.set_markevery(12)
    caption = (
        f"Smallest perturbations that FAB finds on {data}: the share of "
        f"{len(_radii(alike[0]))} images that none of size epsilon or below breaks."
    )
    return Drawing("curve", f"smallest-perturbations{suffix}", caption), figure


def _radii(assessment: Assessment) -> np.ndarray:
    """Smallest perturbations; infinite where none was found."""
    found = (assessment.smallest or {})["epsilons"]
    return np.array([np.inf if each is None else each for each in found])


def _images(
    data: str, alike: Sequence[Assessment], suffix: str
) -> "tuple[Drawing, plots.Figure]":
    first = alike[0].pictures or {}
    titles = [str(label) for label in first["labels"]]
    rows = [plots.ImageRow("image", first["images"], titles=titles)]
    for each in alike:
        found = each.pictures or {}
        slopes = scale_for_display(jnp.asarray(found["gradients"]))
        changed = [
            f"{before}→{after}" if before != after else str(after)
            for before, after in zip(
                found["predictions"], found["perturbed_predictions"], strict=True
            )
        ]
        name = label_of(_in_lines(each.subject.name))
        rows += [
            plots.ImageRow(f"{name}\ngradient", np.asarray(slopes), True),
            plots.ImageRow("perturbation", found["perturbations"], True),
            plots.ImageRow("perturbed", found["perturbed"], titles=changed),
        ]
    caption = (
        f"Test images of {data} with their classes; for each run the gradient of the "
        "loss with respect to the image, what PGD adds within the radius at which the "
        "run is judged, and the sum, with the prediction for it (before→after where "
        "it changes). Orange is negative, purple positive; each gradient has a scale "
        "of its own."
    )
    figure = plots.image_grid(rows)
    return Drawing("pictures", f"images{suffix}", caption, True), figure


def _in_lines(text: str, width: int = 13) -> str:
    """Long names of runs, broken so that pictures keep their room."""
    return "\n".join(textwrap.wrap(text, width)) or text


def _surfaces(
    data: str, alike: Sequence[Assessment], index: int, suffix: str
) -> "tuple[Drawing, plots.Figure]":
    first = alike[0].pictures or {}
    offsets = first["offsets"].tolist()
    panels = [
        # Rows of a table go up in the figure: the random direction.
        plots.Panel(
            label_of(_in_lines(each.subject.name, 26)),
            np.transpose((each.pictures or {})["losses"][index]),
            np.transpose((each.pictures or {})["is_wrong"][index]),
        )
        for each in alike
    ]
    figure = plots.surfaces(
        panels,
        x=offsets,
        y=offsets,
        xlabel=f"adversarial direction ({_unit(alike[0])})",
        ylabel="random direction",
        label="loss (nats)",
        columns=2,
    )
    caption = (
        f"Loss round image {index + 1} of {data}, of class {first['labels'][index]}: "
        "along the sign of the gradient and along random signs, the same for all runs. "
        "Beyond the white line the model is wrong."
    )
    name = f"loss-surface-image{index + 1}{suffix}"
    return Drawing("pictures", name, caption, True), figure
