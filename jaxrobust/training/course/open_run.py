"""A run while it is trained: where it stands, and its files."""

import json
from pathlib import Path
from typing import Any

from jaxrobust.hosts import is_primary
from jaxrobust.hosts.together import require_same
from jaxrobust.keeping import write_whole
from jaxrobust.training.course.checkpoints import Checkpoints
from jaxrobust.training.course.directory import BEST, CHECKPOINTS, METRICS
from jaxrobust.training.course.position import Position, fresh_state
from jaxrobust.training.course.reporters import Reporter
from jaxrobust.training.course.runs import Run, template_for
from jaxrobust.training.course.selection import best_epoch
from jaxrobust.training.course.storage import failing_storage
from jaxrobust.training.recipe.config import TrainConfig
from jaxrobust.training.recipe.own import Own, network_for
from jaxrobust.training.recipe.problem import Problem, TrainedOn
from jaxrobust.training.step.trainer import TrainState

__all__ = ["OpenRun"]


class OpenRun:
    """One run of a group: where it stands, and its files."""

    def __init__(
        self,
        config: TrainConfig,
        directory: Path,
        problem: Problem,
        trained_on: TrainedOn,
        num_batches: int,
        own: Own | None,
        *,
        has_variant: bool = False,
    ):
        self.directory = directory
        self.problem = problem
        self.trained_on = trained_on
        self.own = own
        self.network = network_for(config.model, problem.num_classes, own)
        self.position = Position(config, num_batches, has_variant=has_variant)
        self.failure: str | None = None
        self.writer: Any = None
        self.checkpoints: Checkpoints | None = None
        self.best: Checkpoints | None = None
        self.num_seen = 0
        self.seconds = 0.0

    @property
    def is_active(self) -> bool:
        """Whether there is anything left to do."""
        return self.failure is None and not self.position.is_complete()

    def open(self, state: TrainState | None, reporter: Reporter) -> TrainState:
        """Open the checkpoints; the newest state, or the given one, or a fresh one."""
        self.checkpoints = Checkpoints(self.directory / CHECKPOINTS)
        if self.position.config.validation is not None:
            self.best = Checkpoints(self.directory / BEST, max_to_keep=1)
        position = self.position
        steps = self.checkpoints.steps()
        require_same({"checkpoints": {self.directory.name: steps}})
        if steps:
            like = template_for(position.config, self.problem, self.network)
            state, progress = self.checkpoints.restore_newest(like)
            self.checkpoints.set_aside_newer(int(state.step))
            position.restore(progress)
            if not position.is_complete():
                reporter.message(f"resuming {self.directory} at step {int(state.step)}")
        elif state is None:
            state = fresh_state(
                position.config, self.problem, reporter.message, self.own
            )
        if is_primary():
            # What was logged after the checkpoint will be done, and logged, again.
            lines = [json.dumps(record) + "\n" for record in position.records]
            content = "".join(lines).encode()
            path = self.directory / METRICS
            if not path.is_file() or path.read_bytes() != content:
                write_whole(path, content)
        return state

    def save(self, state: TrainState) -> None:
        """Start saving a state."""
        assert self.checkpoints is not None
        self.checkpoints.save(state, self.position.progress())

    def is_best(self, record: dict[str, Any]) -> bool:
        """Whether an epoch that is done is the best so far."""
        return best_epoch([*self.position.records, record]) == record["epoch"]

    def save_best(self, state: TrainState, record: dict[str, Any]) -> None:
        """Save the state at the end of the best epoch so far.

        Returns when it is on disk: no newer checkpoint is there before it, so that a
        run that is killed and resumed finds it, or finds it again.
        """
        assert self.best is not None
        self.best.save(state, self.position.progress() | {"best": record})
        self.best.wait()

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
            self.position.config,
            self.problem,
            self.network,
            state,
            self.position.records,
            self.position.is_complete(),
            self.trained_on,
        )

    def close(self) -> None:
        """Close its files, once all that is being saved is on disk."""
        if self.writer is not None:
            self.writer.close()
        for checkpoints in (self.best, self.checkpoints):
            if checkpoints is not None:
                checkpoints.close()
