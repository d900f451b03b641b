"""A run directory: what is in it, how it is begun, and how its model is loaded.

`config.json` says what the run is, `metrics.jsonl` has a line for each epoch, and
`checkpoints/` the states. Nothing here trains.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxrobust.keeping import difference, versions, write_whole
from jaxrobust.training.checkpoints import CheckpointError, Checkpoints
from jaxrobust.training.config_json import config_from_json, config_to_json
from jaxrobust.training.phases import Phase, TrainConfig
from jaxrobust.training.trainer import Trainer, TrainState, bind, make_trainer
from jaxrobust.types import LogitsFn

__all__ = [
    "CHECKPOINTS",
    "CONFIG",
    "METRICS",
    "Problem",
    "Run",
    "RunError",
    "begin_run",
    "check_directory",
    "check_same_run",
    "load_run",
    "read_run",
    "shape_difference",
    "template_for",
    "trainer_for",
]

CONFIG, METRICS, CHECKPOINTS = "config.json", "metrics.jsonl", "checkpoints"


class RunError(ValueError):
    """A run directory cannot be used as asked."""


class Problem(NamedTuple):
    """What a network has to know of its data.

    Attributes:
        title: name of the data set for people.
        image_shape: `(height, width, channels)`.
        num_classes: number of logits.
    """

    title: str
    image_shape: tuple[int, ...]
    num_classes: int


class Run(NamedTuple):
    """A trained (or half-trained) model and how it came about.

    Attributes:
        directory: of the run.
        config: what was asked for.
        problem: the data's shape.
        network: Flax module.
        state: newest state.
        records: one for each epoch, as in `metrics.jsonl`.
        is_complete: whether all phases are done.
    """

    directory: Path
    config: TrainConfig
    problem: Problem
    network: nn.Module
    state: TrainState
    records: list[dict[str, Any]]
    is_complete: bool

    @property
    def logits_fn(self) -> LogitsFn:
        """The model in evaluation mode."""
        return bind(
            self.network, self.state.weights.params, self.state.weights.batch_stats
        )


def trainer_for(
    config: TrainConfig, phase: Phase, network: nn.Module, **sharing: Any
) -> Trainer:
    """The trainer of a phase of a run; `sharing` says how devices share a batch."""
    return make_trainer(
        network,
        attack=phase.attack,
        optimizer=phase.optimizer,
        batch_size=config.batch_size,
        augment=config.augment,
        precision=config.precision,
        **sharing,
    )


def template_for(
    config: TrainConfig, problem: Problem, network: nn.Module
) -> Callable[[dict[str, Any]], TrainState]:
    """The form of a run's state at a given progress, as arrays without values."""
    images = jax.ShapeDtypeStruct((1, *problem.image_shape), jnp.float32)

    def like(progress: dict[str, Any]) -> TrainState:
        index = min(progress["phase"], len(config.phases) - 1)
        trainer = trainer_for(config, config.phases[index], network)
        return jax.eval_shape(trainer.init, jax.random.key(0), images)

    return like


def read_run(directory: Path) -> tuple[TrainConfig, Problem]:
    """What `config.json` says.

    Raises:
        RunError: if there is no such run, or its file cannot be read.
    """
    path = Path(directory) / CONFIG
    if not path.is_file():
        raise RunError(
            f"`run` must be a run directory, got {str(directory)!r}, which has no "
            f"{CONFIG}; train one with `jaxrobust train --run-dir {directory}`."
        )
    try:
        record = json.loads(path.read_text())
        config = config_from_json(TrainConfig, record["config"])
        problem = record["problem"]
        shape = tuple(problem["image_shape"])
        return config, Problem(problem["title"], shape, problem["num_classes"])
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error


def check_directory(directory: Path, *, resume: bool) -> bool:
    """Whether a directory holds a run to go on with; False if it is free.

    Raises:
        RunError: if the directory holds something and `resume` is off, or if what it
            holds is not a run.
    """
    is_used = directory.exists() and any(directory.iterdir())
    if is_used and not (directory / CONFIG).is_file():
        raise RunError(
            f"`run_dir` must be new or a run directory, got {str(directory)!r}, which "
            f"holds files but no {CONFIG}; choose another directory."
        )
    if is_used and not resume:
        raise RunError(
            f"`run_dir` must be new, got {str(directory)!r}, which holds a run; "
            "resume it (--resume) or choose another directory."
        )
    return is_used


def _description(config: TrainConfig, problem: Problem) -> dict[str, Any]:
    record = {"config": config_to_json(config), "problem": problem._asdict()}
    return json.loads(json.dumps(record))


def check_same_run(directory: Path, config: TrainConfig, problem: Problem) -> None:
    """Refuse to go on with a run under other settings or on other data.

    Raises:
        RunError: naming each setting that differs.
    """
    now = _description(config, problem)
    before = json.loads((directory / CONFIG).read_text())
    lines = difference({key: before.get(key) for key in now}, now)
    if lines:
        raise RunError(
            f"`run_dir` must hold the run that is asked for, got {str(directory)!r}, "
            f"which differs in {'; '.join(lines)}; choose another directory or the "
            "same settings."
        )


def begin_run(directory: Path, config: TrainConfig, problem: Problem) -> None:
    """Make the directory of a new run and write its `config.json`."""
    directory.mkdir(parents=True, exist_ok=True)
    record = _description(config, problem) | {"versions": versions()}
    write_whole(directory / CONFIG, json.dumps(record, indent=2) + "\n")


def load_run(directory: Path | str) -> Run:
    """A run with its newest undamaged checkpoint.

    Raises:
        RunError: if there is no such run, or no checkpoint of it can be used.
    """
    directory = Path(directory)
    config, problem = read_run(directory)
    network = config.model.build(problem.num_classes)
    try:
        with Checkpoints(directory / CHECKPOINTS) as checkpoints:
            like = template_for(config, problem, network)
            state, progress = checkpoints.restore_newest(like)
    except CheckpointError as error:
        raise RunError(str(error)) from error
    return Run(
        directory,
        config,
        problem,
        network,
        state,
        progress["records"],
        progress["is_complete"],
    )


def shape_difference(one: Any, other: Any) -> list[str]:
    """Lines that name each array which two trees do not share in name and shape."""

    def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {jax.tree_util.keystr(path): leaf.shape for path, leaf in leaves}

    before, after = shapes(one), shapes(other)
    return [
        f"{name}: {before.get(name, 'missing')} against {after.get(name, 'missing')}"
        for name in dict.fromkeys([*before, *after])
        if before.get(name) != after.get(name)
    ]
