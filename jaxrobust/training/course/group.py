"""Runs that train together: slices of an epoch, records, checkpoints, signals."""

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrobust.hosts.together import agree, failing_together
from jaxrobust.training.course.directory import CHECKPOINTS
from jaxrobust.training.course.open_run import OpenRun
from jaxrobust.training.course.reporters import Reporter
from jaxrobust.training.course.selection import CLEAN, ROBUST
from jaxrobust.training.course.signals import Interrupted, StopRequest
from jaxrobust.training.step.feeding import Feed
from jaxrobust.training.step.members import MemberProgram, Summary
from jaxrobust.training.step.programs import Programs
from jaxrobust.training.step.trainer import TrainState
from jaxrobust.training.step.validation import Judged, Validator

__all__ = ["Group", "closing"]


SLICE_SECONDS = 1.0
"""How long the device works before the host looks at signals and the progress bar."""

PROFILED_SLICES = 3
"""Slices of training that a trace shows; the one before them compiles."""


class Group:
    """Members that train together, and the device's side of them."""

    def __init__(
        self,
        members: Sequence[OpenRun],
        programs: Programs,
        feed: Feed,
        reporter: Reporter,
        checkpoint_every: int,
        validator: Validator | None,
    ):
        self.members = members
        self.programs = programs
        self.feed = feed
        self.reporter = reporter
        self.checkpoint_every = checkpoint_every
        self.validator = validator
        self.seconds_per_batch: float | None = None

    @property
    def active(self) -> list[int]:
        """Indices of the members that have something left to do."""
        return [index for index, member in enumerate(self.members) if member.is_active]

    def padded(self, values: list[Any]) -> list[Any]:
        """As many as the program has members; those that fill it up stand still."""
        return values + [values[0]] * (self.programs.count - len(values))

    def flags(self, indices: Sequence[int]) -> list[bool]:
        """Which members of the program are meant."""
        return [index in indices for index in range(self.programs.count)]

    def num_done(self, batches: np.ndarray) -> int:
        """Batches done by all members."""
        return sum(
            member.position.num_batches_done(int(batch))
            for member, batch in zip(self.members, batches, strict=False)
        )

    def slice(self, states: TrainState, batches: np.ndarray) -> tuple[Any, Summary]:
        """About a second of training for every active member."""
        active, program = self.active, self.programs.program
        positions = [each.position for each in self.members]
        now = {index: positions[index].settings() for index in active}
        numbers = self.padded(
            [now.get(i, now[active[0]]) for i in range(len(positions))]
        )
        begun = [index for index in active if batches[index] == 0]
        if begun:
            states = program.begin_epoch(states, self.flags(begun))
        size = 1
        if self.seconds_per_batch is not None:
            size = max(1, int(SLICE_SECONDS / self.seconds_per_batch))
        stops = [int(batch) for batch in batches]
        for index in active:
            stops[index] = min(stops[index] + size, positions[index].num_batches)
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
            member.num_seen += count * member.position.config.batch_size
        return states, summary

    def values(self, index: int, summary: Summary) -> dict[str, Any]:
        """The record of a member's epoch so far."""
        member = self.members[index]
        seen = max(int(summary.num_examples[index]), 1)
        return {
            **member.position.numbers(),
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
            position = member.position
            member.failure = (
                f"the loss became {values['loss']} in phase {position.phase + 1} "
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
        position = self.members[active[0]].position
        values["num_epochs"] = position.num_epochs
        if len(self.members) > 1:
            values["member"] = self.members[active[0]].directory.name
        self.reporter.update(self.num_done(summary.batch), values)

    def end_epochs(self, states: TrainState, summary: Summary) -> tuple[Any, list[int]]:
        """Count the epochs that are done, enter next phases; whose were done."""
        program = self.programs.program
        ended = [
            index
            for index in self.active
            if summary.batch[index] == self.members[index].position.num_batches
        ]
        if not ended:
            return states, ended
        records = {index: self.values(index, summary) for index in ended}
        states, distances = program.end_epoch(states, self.flags(ended))
        judged = self.validate(states, ended)
        exchanged = {}
        for index in ended:
            member, record = self.members[index], records[index]
            position = member.position
            record["weight_distance"] = float(distances[index])
            position.compare(record)
            if index in judged:
                record |= {CLEAN: judged[index].clean, ROBUST: judged[index].robust}
                if member.is_best(record):
                    member.save_best(program.take(states, index), record)
            changes = position.advance(record, self.reporter.message)
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

    def validate(self, states: TrainState, ended: list[int]) -> dict[int, Judged]:
        """Accuracies on held-out examples, of the members for whom they are due."""
        due = [i for i in ended if self.members[i].position.is_validation_due()]
        if self.validator is None or not due:
            return {}
        now = {index: self.members[index].position.settings() for index in due}
        settings = [
            jax.tree.map(lambda values: values[-1], now.get(index, now[due[0]]))
            for index in range(len(self.members))
        ]
        counts = self.validator(states, self.padded(settings), self.flags(due))
        return {index: counts[index] for index in due}

    def save(self, program: MemberProgram, states: TrainState, ended: list[int]):
        """Save the members whose checkpoint is due after the epoch they ended."""
        for index in ended:
            position = self.members[index].position
            is_due = position.num_epochs_done % self.checkpoint_every == 0
            if is_due or position.is_complete():
                self.members[index].save(program.take(states, index))

    def train(self, states: TrainState, profile: Path | None, stop: StopRequest) -> Any:
        """Train every member to its end, or until a signal."""
        program = self.programs.program
        batches = program.summary(states).batch
        total = sum(
            member.position.num_epochs * member.position.num_batches
            for member in self.members
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
        # One process writes; when the others go on, they may read it.
        with failing_together():
            self.wait()
        if self.active:
            first = self.members[self.active[0]]
            step = int(program.summary(states).step[self.active[0]])
            where = (
                first.directory if len(self.members) == 1 else first.directory.parent
            )
            raise Interrupted(
                f"stopped by {stop.signal_name or 'a signal'} at step {step}, saved in "
                f"{where}; run the same command with --resume to go on, or the same "
                "call with resume=True"
            )
        return program, states

    def wait(self) -> None:
        """Return when all that this process is saving is on disk."""
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
def closing(group: Group) -> Iterator[None]:
    """Whatever happens, what is being saved gets to disk and files are closed."""
    with contextlib.ExitStack() as closings:
        for member in group.members:
            closings.callback(member.close)
        closings.callback(group.reporter.stop)
        closings.callback(group.wait)  # the last one is called first
        yield
