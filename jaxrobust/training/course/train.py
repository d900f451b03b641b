"""Training from the first check to the last checkpoint.

A run is trained as the only member of a group; a sweep trains many at once. What each
leaves behind is the same: a directory that knows nothing of the others.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust.arguments import require_count
from jaxrobust.data import Dataset, require_learnable
from jaxrobust.hosts import is_primary
from jaxrobust.hosts.together import failing_together, require_same
from jaxrobust.keeping import fingerprint, versions
from jaxrobust.training.course.directory import (
    begin_run,
    check_directory,
    check_same_run,
    claimed_together,
)
from jaxrobust.training.course.examples import (
    Task,
    load_training_data,
    parts_of,
    problem_of,
    tasks_of,
)
from jaxrobust.training.course.group import Group, closing
from jaxrobust.training.course.open_run import OpenRun
from jaxrobust.training.course.position import fresh_state
from jaxrobust.training.course.reporters import NullReporter, Reporter
from jaxrobust.training.course.runs import Run
from jaxrobust.training.course.signals import StopRequest, starting, stop_on_signals
from jaxrobust.training.recipe.config import TrainConfig
from jaxrobust.training.recipe.config_json import config_to_json
from jaxrobust.training.recipe.own import handed_over, own_network
from jaxrobust.training.step.feeding import feed_for
from jaxrobust.training.step.mesh import Placement
from jaxrobust.training.step.programs import Programs
from jaxrobust.training.step.trainer import TrainState, to_arrays

__all__ = [
    "NonFiniteLossError",
    "require_same_job",
    "train",
    "train_group",
]


class NonFiniteLossError(RuntimeError):
    """The training loss became NaN or infinite."""


def require_same_job(
    operation: str,
    configs: Sequence[TrainConfig],
    placement: Placement | None,
    **options: Any,
) -> None:
    """Refuse a job whose processes were given different work.

    Raises:
        ValueError: in all processes, naming what differs.
    """
    if jax.process_count() == 1:
        return
    mesh = (placement or Placement()).config
    require_same(
        {
            "operation": operation,
            "config": [config_to_json(config) for config in configs],
            "mesh": dataclasses.asdict(mesh),
            "versions": versions(),
            **options,
        }
    )


def _tensorboard_writer() -> Any:
    """The class of a TensorBoard writer, from an optional dependency."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "`tensorboard` must be off unless tensorboardX is installed; install it "
            'with `pip install "jaxrobust[tensorboard]"`.'
        ) from error
    return SummaryWriter


def train_group(
    tasks: Sequence[Task],
    dataset: Dataset,
    held_out: Dataset | None,
    stop: StopRequest,
    *,
    resume: bool,
    checkpoint_every: int,
    tensorboard: bool,
    reporter: Reporter | None,
    programs: Programs,
    stream: bool | None,
    profile: Path | None,
) -> list[Run | str]:
    """Train several runs at once, each to its end, saving as they go.

    The caller holds a claim on their directories, and has seen that all processes of
    the job do the same work.

    Args:
        tasks: what is asked for. Their configurations may differ in all that can be a
            number of `Settings`, in phases and seeds, and in nothing else.
        dataset: training examples of all of them.
        held_out: examples to judge them by; None for none.
        stop: whether a signal asked to stop.
        resume: go on from their newest checkpoints.
        checkpoint_every: epochs between checkpoints; the last epoch always has one.
        tensorboard: also write TensorBoard scalars.
        reporter: told of progress.
        programs: compiled programs, which other groups may share.
        stream: keep the data set on the host and send what is needed; None does so for
            data that would take more than half of a device's free memory.
        profile: directory for a trace of a few slices.

    Returns:
        For each run the result, or the reason why it failed: its loss was not finite.

    Raises:
        RunError: if a directory, or a run to start from, cannot be used.
        Interrupted: on a signal, after the steps under way are saved.
        StorageError: if something cannot be saved; the last checkpoints stay.
        DataError: for examples of one class, or images that are all but black.
        ValueError: for configurations that do not go together, or that are not the same
            in all processes of a job.
    """
    reporter = reporter or NullReporter()
    if not is_primary():
        reporter = NullReporter()
    require_count("checkpoint_every", checkpoint_every, "it counts epochs")
    require_learnable(dataset)
    # What can go wrong does so before anything is computed or written.
    with failing_together():
        begun = [check_directory(task.directory, resume=resume) for task in tasks]
    own = programs.own
    require_same(
        {
            "data": [task.trained_on._asdict() for task in tasks],
            "is_begun": begun,
            "network": own and own.record,
            "checkpoint_every": checkpoint_every,
            "stream": stream,
        }
    )
    configs = [task.config for task in tasks]
    for task in tasks:
        for phase in task.config.phases:
            phase.require_radii(task.problem.image_shape)
    programs.check(configs)
    programs.require_objectives()
    num_batches = len(dataset.labels) // configs[0].batch_size
    if num_batches == 0:
        raise ValueError(
            f"`batch_size` must be at most the number of training examples "
            f"({len(dataset.labels)}), got {configs[0].batch_size}; use a smaller one."
        )
    members = [
        OpenRun(*task, num_batches, own, has_variant=programs.has_variant)
        for task in tasks
    ]
    writer_class = _tensorboard_writer() if tensorboard else None
    with failing_together():
        for task, is_begun in zip(tasks, begun, strict=True):
            if is_begun:
                check_same_run(*task, own)
    with starting(stop):
        fresh = [
            None
            if is_begun
            else fresh_state(task.config, task.problem, reporter.message, own)
            for task, is_begun in zip(tasks, begun, strict=True)
        ]
        feed = feed_for(dataset, programs, stream=stream)
    with failing_together():
        for task, is_begun in zip(tasks, begun, strict=True):
            if not is_begun and is_primary():
                begin_run(*task, own)
    validation = configs[0].validation
    validator = None
    if held_out is not None and validation is not None:
        validator = programs.validator(held_out, validation)
    group = Group(members, programs, feed, reporter, checkpoint_every, validator)
    with closing(group):
        states = [
            member.open(state, reporter)
            for member, state in zip(members, fresh, strict=True)
        ]
        _require_same_states(members, states)
        for member, state in zip(members, states, strict=True):
            if writer_class and is_primary():
                path = member.directory / "tensorboard"
                member.writer = writer_class(str(path))
            if member.is_active:
                member.save(state)
        if group.active:
            stacked = group.programs.program.put(group.padded(states))
            program, stacked = group.train(stacked, profile, stop)
            states = [program.take(stacked, index) for index in range(len(members))]
    return [
        member.failure or member.run(jax.tree.map(jnp.asarray, state))
        for member, state in zip(members, states, strict=True)
    ]


def _require_same_states(
    members: Sequence[OpenRun], states: Sequence[TrainState]
) -> None:
    """Refuse to go on from different states; a run to start from may be moving on."""
    if jax.process_count() == 1:
        return
    told = {
        member.directory.name: {
            "step": int(state.step),
            "fingerprint": fingerprint(to_arrays(state)),
        }
        for member, state in zip(members, states, strict=True)
    }
    require_same({"states": told})


def train(
    config: TrainConfig,
    directory: Path | str,
    *,
    network: Any = None,
    dataset: Dataset | None = None,
    data_dir: Path | str | None = None,
    resume: bool = False,
    checkpoint_every: int = 1,
    tensorboard: bool = False,
    reporter: Reporter | None = None,
    placement: Placement | None = None,
    stream: bool | None = None,
    profile: Path | str | None = None,
) -> Run:
    """Train a run to its end, saving as it goes.

    Args:
        config: what to do.
        directory: of the run; new, or that of the same run with `resume`.
        network: in place of that of the configuration: anything that `as_network`
            takes, or `path/to/file.py:NAME` or `package.module:NAME`. What is handed
            over as a value is not kept: it is needed again by `resume` and `load_run`.
        dataset: training examples; None loads those of the configuration.
        data_dir: where prepared data sets lie.
        resume: go on from the newest checkpoint, or begin if there is none. Resumed
            weights equal those of a run that never stopped, to the bit.
        checkpoint_every: epochs between checkpoints; the last epoch always has one.
        tensorboard: also write TensorBoard scalars.
        reporter: told of progress.
        placement: devices that share each batch; None for one device.
        stream: send examples to the device as they are needed rather than keep all
            of them there; None does so for data that would not fit.
        profile: directory for a trace of a few steps, for TensorBoard or Perfetto.

    Returns:
        The run. A complete one is returned as it is.

    Raises:
        RunError: if the directory, or the run to start from, cannot be used.
        InUseError: if another process is using the directory.
        NonFiniteLossError: if the loss becomes NaN or infinite; the last good
            checkpoint stays.
        Interrupted: on SIGINT, SIGTERM, SIGUSR1 or SIGHUP, after the step under way is
            saved; while the data are read, at once.
        StorageError: if something cannot be saved; the last checkpoint stays.
        ValueError: for a batch larger than the data set, or settings that are not the
            same in all processes of a job; or for a network that does not fit them.
        TypeError: for a network that is none.
    """
    directory = Path(directory)
    model, source = handed_over(config.model, network)
    config = dataclasses.replace(config, model=model)
    with stop_on_signals() as stop:
        require_same_job("train", [config], placement, resume=resume)
        with claimed_together([directory]):
            is_given = dataset is not None
            if dataset is None:
                # Before reading takes its time.
                with failing_together():
                    check_directory(directory, resume=resume)
                with starting(stop):
                    dataset = load_training_data(config, data_dir=data_dir)
            problem = problem_of(dataset)
            training, held_out = parts_of(config, dataset)
            own = own_network(source, problem.image_shape, problem.num_classes)
            programs = Programs([config], problem, placement or Placement(), 1, own)
            (outcome,) = train_group(
                tasks_of([(config, directory)], dataset, is_given=is_given),
                training,
                held_out,
                stop,
                resume=resume,
                checkpoint_every=checkpoint_every,
                tensorboard=tensorboard,
                reporter=reporter,
                programs=programs,
                stream=stream,
                profile=None if profile is None else Path(profile),
            )
    if isinstance(outcome, str):
        raise NonFiniteLossError(outcome)
    return outcome
