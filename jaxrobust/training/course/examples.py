"""The examples that a run is trained on, and that it is judged on no other ones."""

import dataclasses
import functools
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from jaxrobust.data import (
    DATASETS,
    DataError,
    Dataset,
    Split,
    apply_variant,
    hold_out,
    load_arrays,
    names_in,
    subset,
)
from jaxrobust.hosts.together import exchange, failing_together
from jaxrobust.references import is_reference
from jaxrobust.training.course.directory import RunError
from jaxrobust.training.course.runs import Run
from jaxrobust.training.recipe.config import TrainConfig
from jaxrobust.training.recipe.problem import Problem, TrainedOn

__all__ = [
    "Task",
    "check_data",
    "data_of",
    "load_run_data",
    "load_training_data",
    "parts_of",
    "problem_of",
    "tasks_of",
    "trained_on",
]


def load_training_data(
    config: TrainConfig,
    *,
    data_dir: Path | str | None = None,
    has_variant: bool = True,
) -> Dataset:
    """The training examples that a configuration asks for.

    In a job of several processes each reads its share, and they exchange the shares.

    Args:
        config: names them.
        data_dir: where prepared data sets lie.
        has_variant: whether to make the variant of the configuration of them.
    """
    share = (jax.process_index(), jax.process_count())
    with failing_together():
        dataset = load_arrays(config.dataset, "train", data_dir=data_dir, share=share)
    images, labels = exchange(dataset.images, dataset.labels)
    dataset = dataclasses.replace(dataset, images=images, labels=labels)
    if config.train_size is not None:
        dataset = subset(dataset, config.train_size)
    return apply_variant(dataset, config.variant) if has_variant else dataset


class Task(NamedTuple):
    """A run to be trained.

    Attributes:
        config: what to do.
        directory: of the run.
        problem: what networks have to know of its data.
        trained_on: what the run records of them.
    """

    config: TrainConfig
    directory: Path
    problem: Problem
    trained_on: TrainedOn


def tasks_of(
    configs: Sequence[tuple[TrainConfig, Path]],
    dataset: Dataset,
    *,
    is_given: bool,
    has_variant: bool = False,
) -> list[Task]:
    """The runs with what each records of its data.

    Args:
        configs: of the runs, with their directories.
        dataset: training examples, after a subset was taken.
        is_given: whether the caller handed them over, rather than their name.
        has_variant: whether each run makes its own variant of them; else they are of
            the variant already.

    Raises:
        DataError: if a variant makes something else than images.
    """
    known: dict[str, tuple[Problem, TrainedOn]] = {}
    for config, _ in configs:
        if config.variant not in known:
            its = apply_variant(dataset, config.variant) if has_variant else dataset
            known[config.variant] = (
                problem_of(its),
                trained_on(its, is_given=is_given),
            )
    return [Task(config, place, *known[config.variant]) for config, place in configs]


def parts_of(config: TrainConfig, dataset: Dataset) -> tuple[Dataset, Dataset | None]:
    """What is trained on, and what is held out to judge the weights by.

    Raises:
        ValueError: if one of them would be empty.
    """
    if config.validation is None:
        return dataset, None
    return hold_out(dataset, config.validation.share)


def problem_of(dataset: Dataset) -> Problem:
    """What networks have to know of a data set."""
    return Problem(dataset.title, tuple(dataset.images.shape[1:]), dataset.num_classes)


def data_of(run: Run) -> tuple[str, str | None]:
    """What tells the data of a run from those of others, however many it took."""
    known = run.trained_on
    return run.config.dataset, known.fingerprint if known and known.is_given else None


def trained_on(dataset: Dataset, *, is_given: bool) -> TrainedOn:
    """What a run records of its training examples.

    Args:
        dataset: after its subset and its variant were taken.
        is_given: whether the caller handed it over, rather than its name.
    """
    return TrainedOn(dataset.name, dataset.title, dataset.fingerprint, is_given)


def _stamp(name: str) -> tuple[tuple[str, int, int], ...]:
    """When the files of a data set were written, if its name is a path."""
    # Of a function's data only the file is known in which it stands.
    place = name.rpartition(":")[0] if is_reference(name) else name
    path = Path(place).expanduser()
    files = [path]
    if not path.is_file():
        files = sorted([*path.glob("train*"), *path.glob("train/*/*")])
    stats = [(str(file), file.stat()) for file in files]
    return tuple((file, stat.st_mtime_ns, stat.st_size) for file, stat in stats)


@functools.lru_cache(maxsize=8)
def _fingerprint(
    name: str,
    variant: str,
    train_size: int | None,
    data_dir: str | None,
    stamp: tuple[tuple[str, int, int], ...],
) -> str:
    """Of the training examples that a configuration means, kept for the next run."""
    del stamp  # files that were written anew are read anew
    dataset = load_arrays(name, "train", data_dir=data_dir)
    if train_size is not None:
        dataset = subset(dataset, min(train_size, len(dataset)))
    return apply_variant(dataset, variant).fingerprint


def load_run_data(
    run: Run,
    split: Split,
    *,
    name: str | None = None,
    data_dir: Path | str | None = None,
    trust_code: bool = False,
) -> Dataset:
    """A split of the data set that a run was trained on, transformed as in training.

    Args:
        run: the run.
        split: "train", of which the run may have used a part, or "test".
        name: of the data set, or its path; None for that of the configuration. For a
            run whose data were arrays of the caller, or have moved.
        data_dir: where prepared data sets lie.
        trust_code: whether to run functions that the run's configuration names as its
            data or its variant. One that `name` names is run in any case.

    Raises:
        RunError: if the run was trained on other data; see `check_data`. Or if it names
            code that is not trusted.
        DataError: if the data set cannot be loaded.
    """
    _require_trust(run, name, trust_code)
    try:
        dataset = load_arrays(name or run.config.dataset, split, data_dir=data_dir)
    except DataError as error:
        known = run.trained_on
        if name is not None or known is None or not known.is_given:
            raise
        raise RunError(
            f"`dataset` must be named for the run in {str(run.directory)!r}, which was "
            f"trained on arrays of the caller, {known.name!r}; {_remedy(run)}."
        ) from error
    dataset = apply_variant(dataset, run.config.variant)
    check_data(run, dataset, name=name, data_dir=data_dir, trust_code=trust_code)
    return dataset


def _require_trust(run: Run, name: str | None, trust_code: bool) -> None:
    """Refuse to run code that nobody but a run directory names."""
    if trust_code:
        return
    data, variant = run.config.dataset, run.config.variant
    if name is None and is_reference(data):
        raise RunError(
            f"`dataset` must be named to run its code, got only {data!r} in the "
            f"configuration of {str(run.directory)!r}; name it yourself (--dataset "
            f"{data}, or `name=` in Python)."
        )
    if any(map(is_reference, names_in(variant))):
        raise RunError(
            f"`variant` must be trusted to run its code, got {variant!r} in the "
            f"configuration of {str(run.directory)!r}; give `trust_code=True`, if you "
            "know the file."
        )


def check_data(
    run: Run,
    dataset: Dataset,
    *,
    name: str | None = None,
    data_dir: Path | str | None = None,
    trust_code: bool = False,
) -> None:
    """Refuse to judge a run on data that it was not trained on.

    Prepared data sets, which are the same everywhere, are known by their name and
    title. Of others the training split is loaded, and must have the fingerprint that
    the run recorded. Runs of older versions recorded none: of those only the title,
    the shape and the number of classes are known.

    Args:
        run: the run.
        dataset: a split of the data set, with the run's variant.
        name: see `load_run_data`.
        data_dir: where prepared data sets lie.
        trust_code: see `load_run_data`.

    Raises:
        RunError: naming what differs, or code that is not trusted.
    """
    _require_trust(run, name, trust_code)
    config, known = run.config, run.trained_on
    name = name or config.dataset
    mine, its = run.problem, problem_of(dataset)
    if mine[1:] != its[1:]:
        raise RunError(
            f"`run` must be judged on images of {mine.image_shape} in "
            f"{mine.num_classes} classes, on which {str(run.directory)!r} was trained, "
            f"got {its.image_shape} in {its.num_classes} of {its.title}; choose its "
            "own data set."
        )
    is_named = known is None or not known.is_given
    if name in DATASETS and is_named and name == config.dataset:
        if mine.title != its.title:
            raise RunError(
                f"`run` must be judged on {mine.title}, on which "
                f"{str(run.directory)!r} was trained, got {its.title}; {_remedy(run)}."
            )
        return
    if known is None:
        return
    directory = None if data_dir is None else str(data_dir)
    try:
        fingerprint = _fingerprint(
            name, config.variant, config.train_size, directory, _stamp(name)
        )
    except DataError as error:
        warnings.warn(
            f"whether {str(run.directory)!r} was trained on {name} cannot be told, "
            f"since its training split cannot be loaded: {error}",
            stacklevel=2,
        )
        return
    if fingerprint != known.fingerprint:
        whose = "arrays of the caller" if known.is_given else f"those of {known.name}"
        raise RunError(
            f"`run` must be judged on the data that {str(run.directory)!r} was trained "
            f"on ({whose}, titled {known.title!r}, fingerprint {known.fingerprint}), "
            f"got {name}, whose training examples are others "
            f"(fingerprint {fingerprint}); {_remedy(run)}."
        )


def _remedy(run: Run) -> str:
    if run.trained_on is not None and not run.trained_on.is_given:
        return "restore the data set, or train the run again"
    return (
        "name the directory in which they are saved (--dataset), or evaluate it from "
        "Python on data of its own (`evaluate(run.logits_fn, dataset, config)`)"
    )
