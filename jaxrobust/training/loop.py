"""The host side of training: phases, epochs, checkpoints, signals; no numerics."""

import dataclasses
import json
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxrobust.data import Dataset, apply_variant, load_arrays, subset
from jaxrobust.training.checkpoints import Checkpoints
from jaxrobust.training.config_json import config_to_json
from jaxrobust.training.phases import Phase, TrainConfig
from jaxrobust.training.progress import NullReporter, Reporter
from jaxrobust.training.runs import (
    CHECKPOINTS,
    METRICS,
    Problem,
    Run,
    RunError,
    begin_run,
    check_directory,
    check_same_run,
    load_run,
    shape_difference,
    template_for,
    trainer_for,
    versions,
)
from jaxrobust.training.signals import StopRequest, stop_on_signals
from jaxrobust.training.trainer import Controls, Trainer, TrainState, Weights

__all__ = ["Interrupted", "NonFiniteLossError", "load_training_data", "train"]


SLICE_SECONDS = 1.0
"""How long the device works before the host looks at signals and the progress bar."""


class NonFiniteLossError(RuntimeError):
    """The training loss became NaN or infinite."""


class Interrupted(RuntimeError):
    """A signal stopped the run, whose state was saved."""


class Program(NamedTuple):
    """A trainer and its compiled functions."""

    trainer: Trainer
    begin_epoch: Any
    run: Any
    end_epoch: Any


def load_training_data(
    config: TrainConfig, *, data_dir: Path | str | None = None
) -> Dataset:
    """The training examples that a configuration asks for."""
    dataset = load_arrays(config.dataset, "train", data_dir=data_dir)
    if config.train_size is not None:
        dataset = subset(dataset, config.train_size)
    return apply_variant(dataset, config.variant)


def _controls(phase: Phase, epoch: int) -> tuple[Controls, dict[str, Any]]:
    """The numbers of an epoch of a phase, for the device and for the record."""
    epsilon = phase.epsilon(epoch)
    numbers = {
        "epsilon": epsilon,
        "step_size": phase.attack.step_size,
        "num_steps": phase.attack.num_steps_at(epsilon),
        "learning_rate": phase.optimizer.learning_rate_at(epoch),
    }
    decay = phase.optimizer.weight_decay
    return Controls.of(**numbers, weight_decay=decay), numbers


def _refuse_difference(name: str, source: Any, target: Any) -> None:
    lines = shape_difference(source, target)
    if lines:
        shown = "; ".join(lines[:4]) + ("; ..." if len(lines) > 4 else "")
        raise RunError(
            f"`start_from` must have the {name} of the new run, got {shown}; "
            "use the model and optimizer of the run it starts from."
        )


class _Session:
    """One call of `train`: the run's fixed parts, and where it stands."""

    def __init__(
        self, config: TrainConfig, directory: Path, dataset: Dataset, reporter: Reporter
    ):
        self.config = config
        self.directory = directory
        self.reporter = reporter
        self.dataset = dataset
        shape = tuple(dataset.images.shape[1:])
        self.problem = Problem(dataset.title, shape, dataset.num_classes)
        self.network: nn.Module = config.model.build(dataset.num_classes)
        self.num_batches = len(dataset.labels) // config.batch_size
        self.programs: dict[Any, Program] = {}
        self.phase = 0
        self.phase_epoch = 0
        self.records: list[dict[str, Any]] = []
        self.seconds_per_batch: float | None = None
        if self.num_batches == 0:
            raise ValueError(
                f"`batch_size` must be at most the number of training examples "
                f"({len(dataset.labels)}), got {config.batch_size}; use a smaller one."
            )

    def program(self, phase: Phase) -> Program:
        """The compiled functions of a phase; phases that differ in numbers share."""
        trainer = trainer_for(self.config, phase, self.network)
        # What is left once all that `Controls` carries is made the same.
        kind = (
            dataclasses.replace(phase.attack, step_size=1.0, num_steps=None),
            dataclasses.replace(
                phase.optimizer,
                learning_rate=1.0,
                weight_decay=0.0,
                milestones=(),
                decay=1.0,
            ),
        )
        if kind not in self.programs:
            self.programs[kind] = Program(
                trainer,
                jax.jit(trainer.begin_epoch, donate_argnums=0),
                jax.jit(trainer.run, donate_argnums=0),
                jax.jit(trainer.end_epoch, donate_argnums=0),
            )
        return self.programs[kind]

    def is_complete(self) -> bool:
        return self.phase == len(self.config.phases)

    def progress(self) -> dict[str, Any]:
        return {
            "phase": self.phase,
            "phase_epoch": self.phase_epoch,
            "records": self.records,
            "is_complete": self.is_complete(),
            "config": config_to_json(self.config),
            "versions": versions(),
        }

    def enter_phase(self, state: TrainState, source: Weights) -> TrainState:
        """The state at the start of a phase, from the weights that came before."""
        phase = self.config.phases[self.phase]
        trainer = self.program(phase).trainer
        fresh = trainer.init_optimizer(source.params)
        kept = source.opt_state
        if phase.carry == "weights":
            kept = fresh
        else:
            _refuse_difference("optimizer state", kept, fresh)
        weights = source._replace(opt_state=kept)
        return state.replace(
            weights=jax.tree.map(jnp.copy, weights),
            epoch_weights=jax.tree.map(jnp.copy, weights),
        )

    def fresh_state(self) -> TrainState:
        """The state of a run that has not begun, warm-started if so configured."""
        phase = self.config.phases[0]
        trainer = self.program(phase).trainer
        images = jnp.zeros((1, *self.problem.image_shape), jnp.float32)
        state = jax.jit(trainer.init)(jax.random.key(self.config.seed), images)
        if phase.start_from is None:
            return state
        run = load_run(phase.start_from)
        if not run.is_complete:
            self.reporter.message(
                f"note: {phase.start_from} is not finished; starting from its state "
                f"after {len(run.records)} epochs"
            )
        source = run.state.weights
        _refuse_difference("parameters", source.params, state.weights.params)
        _refuse_difference(
            "batch statistics", source.batch_stats, state.weights.batch_stats
        )
        return self.enter_phase(state, source)

    def record(
        self, state: TrainState, numbers: dict[str, Any], seconds: float, num_seen: int
    ) -> dict[str, Any]:
        phase = self.config.phases[self.phase]
        seen = max(int(state.metrics.num_examples), 1)
        return {
            "phase": phase.name,
            "epoch": int(state.epoch) + 1,
            "phase_epoch": self.phase_epoch + 1,
            **numbers,
            "loss": float(state.metrics.loss) / seen,
            "adversarial_accuracy": int(state.metrics.num_correct) / seen,
            "num_bad_gradients": int(state.metrics.num_bad_gradients),
            "images_per_second": num_seen / max(seconds, 1e-9),
            "seconds": seconds,
        }

    def phase_losses(self) -> list[float]:
        count = self.phase_epoch
        return [record["loss"] for record in self.records[-count:]] if count else []

    def num_batches_done(self, state: TrainState) -> int:
        """Batches done, counting those of epochs that a jump made unnecessary."""
        before = sum(phase.epochs for phase in self.config.phases[: self.phase])
        return (before + self.phase_epoch) * self.num_batches + int(state.batch)

    def run_epoch(
        self, state: TrainState, data: tuple[jax.Array, jax.Array], stop: StopRequest
    ) -> tuple[TrainState, dict[str, Any] | None]:
        """An epoch in slices of about a second; no record if a signal cut it short."""
        phase = self.config.phases[self.phase]
        program = self.program(phase)
        controls, numbers = _controls(phase, self.phase_epoch + 1)
        if int(state.batch) == 0:
            state = program.begin_epoch(state, controls.epsilon)
        # No batches to do: this call only compiles, and is left out of the clock.
        state = program.run(state, controls, *data, jnp.int32(0))
        first, began = int(state.batch), time.perf_counter()
        batch = first
        while batch < self.num_batches and not stop:
            size = 1
            if self.seconds_per_batch is not None:
                size = max(1, int(SLICE_SECONDS / self.seconds_per_batch))
            target = min(batch + size, self.num_batches)
            start, since = batch, time.perf_counter()
            state = program.run(state, controls, *data, jnp.int32(target))
            batch = int(state.batch)
            now = time.perf_counter()
            self.seconds_per_batch = (now - since) / (target - start)
            num_seen = (batch - first) * self.config.batch_size
            values = self.record(state, numbers, now - began, num_seen)
            if not math.isfinite(values["loss"]):
                raise NonFiniteLossError(
                    f"the loss became {values['loss']} in phase {self.phase + 1} "
                    f"({phase.name}), epoch {values['epoch']}, at epsilon "
                    f"{values['epsilon']:g}, step {int(state.step)}; the last good "
                    f"checkpoint is kept in {self.directory / CHECKPOINTS}. Try a "
                    "smaller learning rate, or a gradient clip (clip_norm)."
                )
            values["num_epochs"] = sum(phase.epochs for phase in self.config.phases)
            self.reporter.update(self.num_batches_done(state), values)
        if batch < self.num_batches:
            return state, None
        seconds = time.perf_counter() - began
        num_seen = (self.num_batches - first) * self.config.batch_size
        record = self.record(state, numbers, seconds, num_seen)
        state, distance = program.end_epoch(state)
        record["weight_distance"] = float(distance)
        losses = self.phase_losses()
        record["loss_change"] = record["loss"] - losses[-1] if losses else None
        return state, record

    def advance(self, state: TrainState, record: dict[str, Any]) -> TrainState:
        """Count an epoch that is done, and enter the next phase if it was the last."""
        phase = self.config.phases[self.phase]
        self.records.append(record)
        self.phase_epoch += 1
        rule = phase.stop_at_jump
        record["is_jump"] = rule is not None and rule.is_jump(self.phase_losses())
        if record["is_jump"]:
            self.reporter.message(
                f"loss jumped to {record['loss']:.3f} at epsilon "
                f"{record['epsilon']:g}: keeping the weights from before this epoch "
                f"and ending phase {phase.name}"
            )
            state = state.replace(weights=state.epoch_weights)
        if record["is_jump"] or self.phase_epoch == phase.epochs:
            self.phase, self.phase_epoch = self.phase + 1, 0
            if not self.is_complete():
                state = self.enter_phase(state, state.weights)
            elif record["is_jump"]:
                state = state.replace(
                    epoch_weights=jax.tree.map(jnp.copy, state.weights)
                )
        return state


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


def train(
    config: TrainConfig,
    directory: Path | str,
    *,
    dataset: Dataset | None = None,
    data_dir: Path | str | None = None,
    resume: bool = False,
    checkpoint_every: int = 1,
    tensorboard: bool = False,
    reporter: Reporter | None = None,
) -> Run:
    """Train a run to its end, saving as it goes.

    Args:
        config: what to do.
        directory: of the run; new, or that of the same run with `resume`.
        dataset: training examples; None loads those of the configuration.
        data_dir: where prepared data sets lie.
        resume: go on from the newest checkpoint, or begin if there is none. Resumed
            weights equal those of a run that never stopped, to the bit.
        checkpoint_every: epochs between checkpoints; the last epoch always has one.
        tensorboard: also write TensorBoard scalars.
        reporter: told of progress.

    Returns:
        The run. A complete one is returned as it is.

    Raises:
        RunError: if the directory, or the run to start from, cannot be used.
        NonFiniteLossError: if the loss becomes NaN or infinite; the last good
            checkpoint stays.
        Interrupted: on SIGINT or SIGTERM, after the step under way is saved.
        ValueError: for a batch larger than the data set.
    """
    reporter = reporter or NullReporter()
    directory = Path(directory)
    if checkpoint_every < 1:
        raise ValueError(
            f"`checkpoint_every` must be at least 1, got {checkpoint_every!r}; "
            "it counts epochs."
        )
    # What can go wrong does so before anything is computed or written.
    is_begun = check_directory(directory, resume=resume)
    if dataset is None:
        dataset = load_training_data(config, data_dir=data_dir)
    session = _Session(config, directory, dataset, reporter)
    if is_begun:
        check_same_run(directory, config, session.problem)
    writer_class = _tensorboard_writer() if tensorboard else None
    state = None
    if not is_begun:
        state = session.fresh_state()
        begin_run(directory, config, session.problem)
    writer = writer_class(str(directory / "tensorboard")) if writer_class else None
    with Checkpoints(directory / CHECKPOINTS) as checkpoints:
        if checkpoints.steps():
            like = template_for(config, session.problem, session.network)
            state, progress = checkpoints.restore_newest(like)
            checkpoints.set_aside_newer(int(state.step))
            session.phase = progress["phase"]
            session.phase_epoch = progress["phase_epoch"]
            session.records = progress["records"]
            if not session.is_complete():
                reporter.message(f"resuming {directory} at step {int(state.step)}")
        elif state is None:
            state = session.fresh_state()
        # What was logged after the checkpoint will be done, and logged, again.
        lines = [json.dumps(record) + "\n" for record in session.records]
        (directory / METRICS).write_text("".join(lines))
        if not session.is_complete():
            checkpoints.save(state, session.progress())
            state = _train_to_end(session, state, checkpoints, checkpoint_every, writer)
    return Run(
        directory,
        config,
        session.problem,
        session.network,
        state,
        session.records,
        True,
    )


def _train_to_end(
    session: _Session,
    state: TrainState,
    checkpoints: Checkpoints,
    checkpoint_every: int,
    writer: Any,
) -> TrainState:
    reporter, directory = session.reporter, session.directory
    dataset = session.dataset
    data = (jnp.asarray(dataset.images), jnp.asarray(dataset.labels))
    num_epochs = sum(phase.epochs for phase in session.config.phases)
    try:
        with stop_on_signals() as stop:
            reporter.start(
                num_epochs * session.num_batches, session.num_batches_done(state)
            )
            while not session.is_complete():
                state, record = session.run_epoch(state, data, stop)
                if record is not None:
                    state = session.advance(state, record)
                    with (directory / METRICS).open("a") as file:
                        file.write(json.dumps(record) + "\n")
                    reporter.epoch(record)
                    if writer is not None:
                        for name, value in record.items():
                            if isinstance(value, float):
                                writer.add_scalar(name, value, record["epoch"])
                    is_due = record["epoch"] % checkpoint_every == 0
                    if is_due or session.is_complete():
                        checkpoints.save(state, session.progress())
                if stop and not session.is_complete():
                    checkpoints.save(state, session.progress())
                    checkpoints.wait()
                    raise Interrupted(
                        f"stopped by {stop.signal_name} at step {int(state.step)}, "
                        f"saved in {directory}; run the same command with --resume "
                        "to go on"
                    )
    finally:
        checkpoints.wait()
        reporter.stop()
        if writer is not None:
            writer.close()
    return state
