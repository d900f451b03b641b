"""The host side of training: members, epochs, checkpoints, signals; no numerics.

A run is trained as the only member of a group; a sweep trains many at once. What each
leaves behind is the same: a directory that knows nothing of the others.
"""

import contextlib
import dataclasses
import json
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.data import Dataset, require_learnable
from jaxrobust.hosts import is_primary
from jaxrobust.keeping import fingerprint, versions, write_whole
from jaxrobust.training.checkpoints import Checkpoints, to_arrays
from jaxrobust.training.config_json import config_to_json
from jaxrobust.training.examples import load_training_data, problem_of, trained_on
from jaxrobust.training.feeding import Feed, feed_for
from jaxrobust.training.members import MemberProgram, Summary
from jaxrobust.training.mesh import Placement
from jaxrobust.training.own import Own, handed_over, network_for, own_network
from jaxrobust.training.phases import TrainConfig
from jaxrobust.training.programs import Programs
from jaxrobust.training.progress import NullReporter, Reporter
from jaxrobust.training.runs import (
    CHECKPOINTS,
    METRICS,
    Problem,
    Run,
    TrainedOn,
    begin_run,
    check_directory,
    check_same_run,
    claimed_together,
    template_for,
)
from jaxrobust.training.signals import Interrupted, StopRequest, stop_on_signals
from jaxrobust.training.standing import Standing, fresh_state
from jaxrobust.training.storage import failing_storage
from jaxrobust.training.together import agree, failing_together, require_same
from jaxrobust.training.trainer import TrainState

__all__ = [
    "NonFiniteLossError",
    "require_same_job",
    "starting",
    "train",
    "train_group",
]


SLICE_SECONDS = 1.0
"""How long the device works before the host looks at signals and the progress bar."""

PROFILED_SLICES = 3
"""Slices of training that a trace shows; the one before them compiles."""


class NonFiniteLossError(RuntimeError):
    """The training loss became NaN or infinite."""


@contextlib.contextmanager
def starting(stop: StopRequest) -> Iterator[None]:
    """Work before training, of which nothing is kept: a signal ends it there and then.

    In a job of several processes all of them end after the block, since those that go
    on would wait for one that does not.

    Raises:
        Interrupted: if there was a signal, in all processes.
    """
    _check(stop)
    at_once = jax.process_count() == 1
    with stop.at_once() if at_once else contextlib.nullcontext():
        yield
    _check(stop)


def _check(stop: StopRequest) -> None:
    if agree(float(bool(stop)))[0]:
        raise Interrupted(
            f"stopped by {stop.signal_name or 'a signal'} before training, so that "
            "nothing is lost; run the same command with --resume to go on"
        )


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


class _Member:
    """One run of a group: where it stands, and its files."""

    def __init__(
        self,
        config: TrainConfig,
        directory: Path,
        problem: Problem,
        trained_on: TrainedOn,
        num_batches: int,
        own: Own | None,
    ):
        self.directory = directory
        self.problem = problem
        self.trained_on = trained_on
        self.own = own
        self.network = network_for(config.model, problem.num_classes, own)
        self.standing = Standing(config, num_batches)
        self.failure: str | None = None
        self.writer: Any = None
        self.checkpoints: Checkpoints | None = None
        self.num_seen = 0
        self.seconds = 0.0

    @property
    def is_active(self) -> bool:
        """Whether there is anything left to do."""
        return self.failure is None and not self.standing.is_complete()

    def open(self, state: TrainState | None, reporter: Reporter) -> TrainState:
        """Open the checkpoints; the newest state, or the given one, or a fresh one."""
        self.checkpoints = Checkpoints(self.directory / CHECKPOINTS)
        standing = self.standing
        steps = self.checkpoints.steps()
        require_same({"checkpoints": {self.directory.name: steps}})
        if steps:
            like = template_for(standing.config, self.problem, self.network)
            state, progress = self.checkpoints.restore_newest(like)
            self.checkpoints.set_aside_newer(int(state.step))
            standing.restore(progress)
            if not standing.is_complete():
                reporter.message(f"resuming {self.directory} at step {int(state.step)}")
        elif state is None:
            state = fresh_state(
                standing.config, self.problem, reporter.message, self.own
            )
        if is_primary():
            # What was logged after the checkpoint will be done, and logged, again.
            lines = [json.dumps(record) + "\n" for record in standing.records]
            content = "".join(lines).encode()
            path = self.directory / METRICS
            if not path.is_file() or path.read_bytes() != content:
                write_whole(path, content)
        return state

    def save(self, state: TrainState) -> None:
        """Start saving a state."""
        assert self.checkpoints is not None
        self.checkpoints.save(state, self.standing.progress())

    def log(self, record: dict[str, Any]) -> None:
        """Write down an epoch that is done."""
        if not is_primary():
            return
        path = self.directory / METRICS
        kept = "the line of an epoch was not written; the checkpoints are whole"
        with failing_storage(path, kept), path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        if self.writer is not None:
            for name, value in record.items():
                if isinstance(value, float):
                    self.writer.add_scalar(name, value, record["epoch"])

    def run(self, state: TrainState) -> Run:
        """The result."""
        return Run(
            self.directory,
            self.standing.config,
            self.problem,
            self.network,
            state,
            self.standing.records,
            self.standing.is_complete(),
            self.trained_on,
        )

    def close(self) -> None:
        """Close its files, once all that is being saved is on disk."""
        if self.writer is not None:
            self.writer.close()
        if self.checkpoints is not None:
            self.checkpoints.close()


class _Group:
    """Members that train together, and the device's side of them."""

    def __init__(
        self,
        members: Sequence[_Member],
        programs: Programs,
        feed: Feed,
        reporter: Reporter,
        checkpoint_every: int,
    ):
        self.members = members
        self.programs = programs
        self.feed = feed
        self.reporter = reporter
        self.checkpoint_every = checkpoint_every
        self.seconds_per_batch: float | None = None

    @property
    def active(self) -> list[int]:
        """Indices of the members that have something left to do."""
        return [index for index, each in enumerate(self.members) if each.is_active]

    def padded(self, values: list[Any]) -> list[Any]:
        """As many as the program has members; those that fill it up stand still."""
        return values + [values[0]] * (self.programs.count - len(values))

    def flags(self, indices: Sequence[int]) -> list[bool]:
        """Which members of the program are meant."""
        return [index in indices for index in range(self.programs.count)]

    def num_done(self, batches: np.ndarray) -> int:
        """Batches done by all members."""
        return sum(
            each.standing.num_batches_done(int(batch))
            for each, batch in zip(self.members, batches, strict=False)
        )

    def slice(self, states: TrainState, batches: np.ndarray) -> tuple[Any, Summary]:
        """About a second of training for every active member."""
        active, program = self.active, self.programs.program
        standings = [each.standing for each in self.members]
        now = {index: standings[index].settings() for index in active}
        numbers = self.padded(
            [now.get(i, now[active[0]]) for i in range(len(standings))]
        )
        begun = [index for index in active if batches[index] == 0]
        if begun:
            states = program.begin_epoch(states, self.flags(begun))
        size = 1
        if self.seconds_per_batch is not None:
            size = max(1, int(SLICE_SECONDS / self.seconds_per_batch))
        stops = [int(batch) for batch in batches]
        for index in active:
            stops[index] = min(stops[index] + size, standings[index].num_batches)
        data, stops = self.feed.take(program, states, batches, stops, active)
        arguments = program.arguments(numbers, stops)
        program.compile(states, *arguments, *data)  # off the clock
        began = time.perf_counter()
        states = program.run(states, *arguments, *data)
        self.feed.prefetch(program, stops, active)
        summary = program.summary(states)
        seconds = time.perf_counter() - began
        done = max(1, int(np.max(summary.batch - batches)))
        self.seconds_per_batch = agree(seconds / done)[0]
        for index in active:
            # A member's share of the time, so that the shares add up to all of it.
            member = self.members[index]
            member.seconds += seconds / len(active)
            count = int(summary.batch[index] - batches[index])
            member.num_seen += count * member.standing.config.batch_size
        return states, summary

    def values(self, index: int, summary: Summary) -> dict[str, Any]:
        """The record of a member's epoch so far."""
        member = self.members[index]
        seen = max(int(summary.num_examples[index]), 1)
        return {
            **member.standing.numbers(),
            "loss": float(summary.loss[index]) / seen,
            "adversarial_accuracy": int(summary.num_correct[index]) / seen,
            "num_bad_gradients": int(summary.num_bad_gradients[index]),
            "images_per_second": member.num_seen / max(member.seconds, 1e-9),
            "seconds": member.seconds,
        }

    def note_failures(self, summary: Summary) -> None:
        """Take members whose loss is not finite out of the training."""
        for index in self.active:
            member, values = self.members[index], self.values(index, summary)
            if math.isfinite(values["loss"]):
                continue
            standing = member.standing
            member.failure = (
                f"the loss became {values['loss']} in phase {standing.phase + 1} "
                f"({values['phase']}), epoch {values['epoch']}, at epsilon "
                f"{values['epsilon']:g}, step {int(summary.step[index])}; the last "
                f"good checkpoint is kept in {member.directory / CHECKPOINTS}. Try a "
                "smaller learning rate, or a gradient clip (clip_norm)."
            )

    def show(self, summary: Summary) -> None:
        """Tell the reporter how far everything is."""
        active = self.active
        if not active:
            return
        values = self.values(active[0], summary)
        standing = self.members[active[0]].standing
        values["num_epochs"] = standing.num_epochs
        if len(self.members) > 1:
            values["member"] = self.members[active[0]].directory.name
        self.reporter.update(self.num_done(summary.batch), values)

    def end_epochs(self, states: TrainState, summary: Summary) -> tuple[Any, list[int]]:
        """Count the epochs that are done, enter next phases; whose were done."""
        program = self.programs.program
        ended = [
            index
            for index in self.active
            if summary.batch[index] == self.members[index].standing.num_batches
        ]
        if not ended:
            return states, ended
        records = {index: self.values(index, summary) for index in ended}
        states, distances = program.end_epoch(states, self.flags(ended))
        exchanged = {}
        for index in ended:
            member, record = self.members[index], records[index]
            standing = member.standing
            record["weight_distance"] = float(distances[index])
            changes = standing.advance(record, self.reporter.message)
            if changes is not None:
                taken = program.take(states, index)
                exchanged[index] = changes(taken)
            member.log(record)
            shown = dict(record)
            if len(self.members) > 1:
                shown["member"] = member.directory.name
            self.reporter.epoch(shown)
            member.seconds, member.num_seen = 0.0, 0
        return program.replace(states, exchanged), ended

    def save(self, program: MemberProgram, states: TrainState, ended: list[int]):
        """Save the members whose checkpoint is due after the epoch they ended."""
        for index in ended:
            standing = self.members[index].standing
            is_due = standing.num_epochs_done % self.checkpoint_every == 0
            if is_due or standing.is_complete():
                self.members[index].save(program.take(states, index))

    def train(self, states: TrainState, profile: Path | None, stop: StopRequest) -> Any:
        """Train every member to its end, or until a signal."""
        program = self.programs.program
        batches = program.summary(states).batch
        total = sum(
            each.standing.num_epochs * each.standing.num_batches
            for each in self.members
        )
        self.reporter.start(total, self.num_done(batches))
        is_stopped = agree(float(bool(stop)))[0]
        with _Profile(profile) as profiled:
            while self.active and not is_stopped:
                states, summary = self.slice(states, batches)
                profiled.count()
                self.note_failures(summary)
                self.show(summary)
                if self.active:
                    states, ended = self.end_epochs(states, summary)
                    self.save(program, states, ended)
                    batches = np.array(summary.batch)
                    batches[ended] = 0
                is_stopped = agree(float(bool(stop)))[0]
        if self.active:
            for index in self.active:
                self.members[index].save(program.take(states, index))
            self.wait()
            first = self.members[self.active[0]]
            step = int(program.summary(states).step[self.active[0]])
            where = (
                first.directory if len(self.members) == 1 else first.directory.parent
            )
            raise Interrupted(
                f"stopped by {stop.signal_name or 'a signal'} at step {step}, saved in "
                f"{where}; run the same command with --resume to go on"
            )
        return program, states

    def wait(self) -> None:
        """Return when all that is being saved is on disk."""
        for member in self.members:
            if member.checkpoints is not None:
                member.checkpoints.wait()


class _Profile:
    """A trace of a few slices, if a directory is given for it; a context manager."""

    def __init__(self, directory: Path | None):
        self.directory = directory
        self.num_slices = 0
        self.is_running = False

    def __enter__(self) -> "_Profile":
        return self

    def count(self) -> None:
        """A slice is done."""
        self.num_slices += 1
        if self.directory is not None and self.num_slices == 1:
            jax.profiler.start_trace(str(self.directory), create_perfetto_trace=True)
            self.is_running = True
        elif self.num_slices > PROFILED_SLICES:
            self.stop()

    def stop(self) -> None:
        """Write the trace."""
        if self.is_running:
            self.is_running = False
            jax.profiler.stop_trace()

    def __exit__(self, *_: object) -> None:
        self.stop()


@contextlib.contextmanager
def _closing(group: _Group) -> Iterator[None]:
    """Whatever happens, what is being saved gets to disk and files are closed."""
    with contextlib.ExitStack() as closings:
        for member in group.members:
            closings.callback(member.close)
        closings.callback(group.reporter.stop)
        closings.callback(group.wait)  # the last one is called first
        yield


def train_group(
    tasks: Sequence[tuple[TrainConfig, Path]],
    dataset: Dataset,
    trained_on: TrainedOn,
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
        tasks: for each run its configuration and directory. They may differ in all that
            can be a number of `Settings`, in phases and seeds, and in nothing else.
        dataset: training examples of all of them.
        trained_on: what their configurations record of the data set.
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
    if checkpoint_every < 1:
        raise ValueError(
            f"`checkpoint_every` must be at least 1, got {checkpoint_every!r}; "
            "it counts epochs."
        )
    require_learnable(dataset)
    # What can go wrong does so before anything is computed or written.
    with failing_together():
        begun = [check_directory(directory, resume=resume) for _, directory in tasks]
    problem, own = problem_of(dataset), programs.own
    require_same(
        {
            "data": trained_on._asdict(),
            "is_begun": begun,
            "network": own and own.record,
            "checkpoint_every": checkpoint_every,
            "stream": stream,
        }
    )
    configs = [config for config, _ in tasks]
    for config in configs:
        for phase in config.phases:
            phase.require_radii(math.prod(problem.image_shape))
    programs.check(configs)
    programs.require_objectives()
    num_batches = len(dataset.labels) // configs[0].batch_size
    if num_batches == 0:
        raise ValueError(
            f"`batch_size` must be at most the number of training examples "
            f"({len(dataset.labels)}), got {configs[0].batch_size}; use a smaller one."
        )
    members = [
        _Member(config, directory, problem, trained_on, num_batches, own)
        for config, directory in tasks
    ]
    writer_class = _tensorboard_writer() if tensorboard else None
    with failing_together():
        for (config, directory), is_begun in zip(tasks, begun, strict=True):
            if is_begun:
                check_same_run(directory, config, problem, trained_on, own)
    with starting(stop):
        fresh = [
            None if is_begun else fresh_state(config, problem, reporter.message, own)
            for (config, _), is_begun in zip(tasks, begun, strict=True)
        ]
        feed = feed_for(dataset, programs, stream=stream)
    with failing_together():
        for (config, directory), is_begun in zip(tasks, begun, strict=True):
            if not is_begun and is_primary():
                begin_run(directory, config, problem, trained_on, own)
    group = _Group(members, programs, feed, reporter, checkpoint_every)
    with _closing(group):
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
    members: Sequence[_Member], states: Sequence[TrainState]
) -> None:
    """Refuse to go on from different states; a run to start from may be moving on."""
    if jax.process_count() == 1:
        return
    found = {
        member.directory.name: {
            "step": int(state.step),
            "fingerprint": fingerprint(to_arrays(state)),
        }
        for member, state in zip(members, states, strict=True)
    }
    require_same({"states": found})


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
            own = own_network(source, problem.image_shape, problem.num_classes)
            programs = Programs([config], problem, placement or Placement(), 1, own)
            (found,) = train_group(
                [(config, directory)],
                dataset,
                trained_on(dataset, is_given=is_given),
                stop,
                resume=resume,
                checkpoint_every=checkpoint_every,
                tensorboard=tensorboard,
                reporter=reporter,
                programs=programs,
                stream=stream,
                profile=None if profile is None else Path(profile),
            )
    if isinstance(found, str):
        raise NonFiniteLossError(found)
    return found
