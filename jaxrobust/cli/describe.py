"""What `jaxrobust data describe` computes, prints and writes."""

import dataclasses
import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from jaxrobust import plots
from jaxrobust.arguments import require, require_in
from jaxrobust.cli.datasets import DataDescribe
from jaxrobust.cli.limits.examples import NeighborLine
from jaxrobust.cli.limits.output import (
    RESULTS,
    draw,
    flags_of,
    require_new,
    working,
    write,
)
from jaxrobust.data import (
    Dataset,
    apply_variant,
    as_float,
    inter_class_distance,
    load_arrays,
    log2_volume,
    log2_volume_limits,
    pixel_ends,
    pixel_histogram,
    variant_of,
)
from jaxrobust.data.statistics import require_classes
from jaxrobust.report import markdown_table, percent

__all__ = ["describe"]

NUM_BINS = 64
"""Of histograms; each holds four bytes."""

MOST_PICTURES = 10
"""Classes that are shown."""


def describe(command: DataDescribe) -> None:
    """Look, print and write.

    Raises:
        DataError: for a data set that is missing, damaged or of one class.
        ValueError: for anything else that cannot be; before anything is computed.
    """
    output = command.output
    if output is not None:
        require_new(output)
    dataset = _checked(command)
    rows, steps, pictures = [], {}, []
    with nullcontext() if output is None else working(output):
        for variant in command.variants:
            changed = apply_variant(dataset, variant)
            rows.append({"variant": variant} | _row(changed, command))
            if output is not None:
                steps[variant] = pixel_histogram(changed, NUM_BINS)
                pictures.append(_pictures(changed, variant, is_first=not pictures))
        if output is not None:
            for row in rows:
                row["histogram"] = steps[row["variant"]].counts.tolist()
            title = f"{dataset.title}, {command.split}"
            figure = plots.histograms(steps, xlabel="pixel, in [0, 1]", title=title)
            draw(figure, output, "histogram")
            if all(row.images.shape[-1] in (1, 3) for row in pictures):
                draw(plots.image_grid(pictures, title=title), output, "images")
            else:
                command.say("no images are drawn of 2 or 4 channels\n")
            record = {
                "config": flags_of(command),
                "data": dataset.title,
                "split": command.split,
                "classes": [
                    {"class": name, "images": count} for name, count in _counts(dataset)
                ],
                "rows": rows,
            }
            write(output, record)
    counts = _counts(dataset)
    command.tell(
        f"{dataset.title}, {len(dataset):,} {command.split} images of "
        f"{len(counts)} classes\n"
    )
    command.tell(markdown_table(_variant_cells(rows)))
    command.tell(markdown_table(_class_cells(counts, rows)).rstrip())
    if output is not None:
        command.tell(f"written: {output / RESULTS}")


def _checked(command: DataDescribe) -> Dataset:
    """The data set, if all that is asked of it can be answered."""
    remedy = "a ball without extent has no volume; give such as 0.3 or 8/255"
    require_in("--epsilon", command.epsilons, "(0, inf)", remedy)
    is_any = bool(command.variants)
    remedy = "leave it out for original"
    require(is_any, "--variant", "one or more", command.variants, remedy)
    for variant in command.variants:
        variant_of(variant)
    dataset = load_arrays(command.name, command.split, data_dir=command.data_dir)
    require_classes(dataset)
    # One's own may fail, and shall do so before the distances of those before it.
    first = dataclasses.replace(
        dataset, images=dataset.images[:1], labels=dataset.labels[:1]
    )
    for variant in command.variants:
        apply_variant(first, variant)
    return dataset


def _row(changed: Dataset, command: DataDescribe) -> dict[str, Any]:
    """All numbers of a variant, as plain values for a results file."""
    line = NeighborLine(is_wanted=not command.quiet)
    distance = inter_class_distance(changed, progress=line)
    per_class = distance.per_class.tolist()
    return {
        "data": changed.title,
        "shape": list(changed.images.shape[1:]),
        "pixels": pixel_ends(changed)._asdict(),
        "inter_class_distance": distance.value,
        "per_class": [None if math.isnan(each) else each for each in per_class],
        "volumes": [
            {"epsilon": epsilon, "log2_volume": log2_volume(changed, epsilon)}
            | log2_volume_limits(changed, epsilon)._asdict()
            for epsilon in command.epsilons
        ],
    }


def _pictures(changed: Dataset, variant: str, *, is_first: bool) -> plots.ImageRow:
    """The first image of each of the first classes that have one."""
    counts = _counts(changed)
    labels = [label for label, (_, count) in enumerate(counts) if count]
    labels = labels[:MOST_PICTURES]
    places = [int((changed.labels == label).argmax()) for label in labels]
    names = [counts[label][0] for label in labels]
    images = as_float(changed.images[places])
    return plots.ImageRow(variant, images, titles=names if is_first else ())


def _counts(dataset: Dataset) -> list[tuple[str, int]]:
    """What each class is called, and how many images it has."""
    names = dataset.classes or range(dataset.num_classes)
    return [
        (str(name), int((dataset.labels == label).sum()))
        for label, name in enumerate(names)
    ]


def _variant_cells(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    header = ["variant", "shape", "pixels", "at 0", "at 1", "inter-class distance"]
    for volume in rows[0]["volumes"]:
        header += [f"log2 volume, ε = {volume['epsilon']:.4g}", "valid range"]
    cells = [header]
    for row in rows:
        pixels = row["pixels"]
        line = [
            row["variant"],
            "x".join(map(str, row["shape"])),
            f"{pixels['lowest']:.3g} to {pixels['highest']:.3g}",
            percent(pixels["share_at_0"]),
            percent(pixels["share_at_1"]),
            f"{row['inter_class_distance']:.3f}",
        ]
        for volume in row["volumes"]:
            line.append(f"{volume['log2_volume']:.2f}")
            line.append(f"{volume['lowest']:.2f} to {volume['highest']:.2f}")
        cells.append(line)
    return cells


def _class_cells(
    counts: Sequence[tuple[str, int]], rows: Sequence[dict[str, Any]]
) -> list[list[str]]:
    cells = [["class", "images", *(f"distance, {row['variant']}" for row in rows)]]
    for label, (name, count) in enumerate(counts):
        distances = [row["per_class"][label] for row in rows]
        shown = ["-" if each is None else f"{each:.3f}" for each in distances]
        cells.append([name, f"{count:,}", *shown])
    return cells
