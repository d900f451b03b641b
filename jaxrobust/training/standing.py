"""Where a run stands: its phase, the epoch in it, the records of those before."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust.keeping import versions
from jaxrobust.networks import Network
from jaxrobust.training.config_json import config_to_json
from jaxrobust.training.own import Own, network_for
from jaxrobust.training.phases import AttackConfig, OptimizerConfig, Phase, TrainConfig
from jaxrobust.training.runs import (
    Problem,
    RunError,
    load_run,
    read_run,
    shape_difference,
    trainer_for,
)
from jaxrobust.training.trainer import Controls, TrainState, Weights, make_trainer

__all__ = ["Standing", "fresh_state"]

Change = Callable[[TrainState, Network], TrainState]


class Standing:
    """The progress of one run through its phases; holds no arrays.

    Args:
        config: of the run.
        num_batches: in an epoch.
    """

    def __init__(self, config: TrainConfig, num_batches: int):
        self.config = config
        self.num_batches = num_batches
        self.phase = 0
        self.phase_epoch = 0
        self.records: list[dict[str, Any]] = []

    def is_complete(self) -> bool:
        """Whether all phases are done."""
        return self.phase == len(self.config.phases)

    @property
    def num_epochs(self) -> int:
        """Epochs of all phases, if none ends early."""
        return sum(phase.epochs for phase in self.config.phases)

    @property
    def num_epochs_done(self) -> int:
        """Epochs done."""
        return len(self.records)

    def num_batches_done(self, batch: int) -> int:
        """Batches done, counting those of epochs that a jump made unnecessary."""
        before = sum(phase.epochs for phase in self.config.phases[: self.phase])
        return (before + self.phase_epoch) * self.num_batches + batch

    def progress(self) -> dict[str, Any]:
        """What a checkpoint records of it."""
        return {
            "phase": self.phase,
            "phase_epoch": self.phase_epoch,
            "records": self.records,
            "is_complete": self.is_complete(),
            "config": config_to_json(self.config),
            "versions": versions(),
        }

    def restore(self, progress: dict[str, Any]) -> None:
        """Stand where a checkpoint was written."""
        self.phase = progress["phase"]
        self.phase_epoch = progress["phase_epoch"]
        self.records = progress["records"]

    def numbers(self) -> dict[str, Any]:
        """Names and numbers of the epoch under way, for its record."""
        phase, epoch = self.config.phases[self.phase], self.phase_epoch + 1
        epsilon = phase.epsilon(epoch)
        return {
            "phase": phase.name,
            "epoch": len(self.records) + 1,
            "phase_epoch": epoch,
            "epsilon": epsilon,
            "step_size": phase.attack.step_size,
            "num_steps": phase.attack.num_steps_at(epsilon),
            "learning_rate": phase.optimizer.learning_rate_at(epoch),
        }

    def controls(self) -> Controls:
        """Numbers of the epoch under way, for the device."""
        numbers = self.numbers()
        chosen = ("epsilon", "step_size", "num_steps", "learning_rate")
        decay = self.config.phases[self.phase].optimizer.weight_decay
        return Controls.of(
            **{name: numbers[name] for name in chosen}, weight_decay=decay
        )

    def _phase_losses(self) -> list[float]:
        count = self.phase_epoch
        return [record["loss"] for record in self.records[-count:]] if count else []

    def advance(
        self, record: dict[str, Any], tell: Callable[[str], None]
    ) -> Change | None:
        """Count an epoch that is done; enter the next phase if it was the last.

        The record gets `loss_change` and `is_jump`.

        Returns:
            What to do to the state: nothing, unless a phase ended.
        """
        phase = self.config.phases[self.phase]
        losses = self._phase_losses()
        record["loss_change"] = record["loss"] - losses[-1] if losses else None
        self.records.append(record)
        self.phase_epoch += 1
        rule = phase.stop_at_jump
        is_jump = rule is not None and rule.is_jump(self._phase_losses())
        record["is_jump"] = is_jump
        if is_jump:
            tell(
                f"loss jumped to {record['loss']:.3f} at epsilon "
                f"{record['epsilon']:g}: keeping the weights from before this epoch "
                f"and ending phase {phase.name}"
            )
        if not is_jump and self.phase_epoch < phase.epochs:
            return None
        self.phase, self.phase_epoch = self.phase + 1, 0
        following = None if self.is_complete() else self.config.phases[self.phase]

        def change(state: TrainState, network: Network) -> TrainState:
            weights = state.epoch_weights if is_jump else state.weights
            if following is not None:
                return enter_phase(self.config, following, network, state, weights)
            return state._replace(weights=weights)

        return change


def _refuse_difference(name: str, source: Any, target: Any) -> None:
    lines = shape_difference(source, target)
    if lines:
        shown = "; ".join(lines[:4]) + ("; ..." if len(lines) > 4 else "")
        raise RunError(
            f"`start_from` must have the {name} of the new run, got {shown}; "
            "use the model and optimizer of the run it starts from."
        )


def enter_phase(
    config: TrainConfig,
    phase: Phase,
    network: Network,
    state: TrainState,
    source: Weights,
) -> TrainState:
    """The state at the start of a phase, from the weights that came before."""
    trainer = trainer_for(config, phase, network)
    if phase.carry == "weights":
        kept = trainer.init_optimizer(source.params)
    else:
        fresh = jax.eval_shape(trainer.init_optimizer, source.params)
        _refuse_difference("optimizer state", source.opt_state, fresh)
        kept = source.opt_state
    weights = source._replace(opt_state=kept)
    return state._replace(weights=weights, epoch_weights=weights)


@functools.lru_cache(maxsize=16)
def _initializer(
    network: Network, optimizer: OptimizerConfig
) -> Callable[..., TrainState]:
    """Compiled once for all members that differ in their seeds only."""
    attack = AttackConfig()
    trainer = make_trainer(network, attack=attack, optimizer=optimizer, batch_size=1)
    return jax.jit(trainer.init)


def fresh_state(
    config: TrainConfig,
    problem: Problem,
    tell: Callable[[str], None],
    own: Own | None = None,
) -> TrainState:
    """The state of a run that has not begun, warm-started if so configured.

    Raises:
        RunError: if the run to start from does not exist, or does not fit.
    """
    phase = config.phases[0]
    images = jnp.zeros((1, *problem.image_shape), jnp.float32)
    network = network_for(config.model, problem.num_classes, own)
    state = _initializer(network, phase.optimizer)(jax.random.key(config.seed), images)
    if phase.start_from is None:
        return state
    is_own = not read_run(Path(phase.start_from))[0].model.is_known
    run = load_run(phase.start_from, network=network if is_own else None)
    if not run.is_complete:
        tell(
            f"note: {phase.start_from} is not finished; starting from its state "
            f"after {len(run.records)} epochs"
        )
    source = run.state.weights
    _refuse_difference("parameters", source.params, state.weights.params)
    _refuse_difference("state of the network", source.state, state.weights.state)
    return enter_phase(config, phase, network, state, source)
