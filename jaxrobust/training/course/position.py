"""Where a run stands: its phase, the epoch in it, the records of those before."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust.keeping import versions
from jaxrobust.keys import seeded
from jaxrobust.networks import Network
from jaxrobust.references import name_of
from jaxrobust.training.course.directory import RunError, read_run, shape_difference
from jaxrobust.training.course.runs import load_run, refuse_own_optimizer
from jaxrobust.training.recipe.config import TrainConfig, settings_of
from jaxrobust.training.recipe.config_json import config_to_json
from jaxrobust.training.recipe.objectives import attack_numbers
from jaxrobust.training.recipe.own import Own, network_for
from jaxrobust.training.recipe.phases import Phase, Settings
from jaxrobust.training.recipe.problem import Problem
from jaxrobust.training.step.trainer import TrainState, Weights, make_trainer

__all__ = ["Position", "fresh_state"]

Change = Callable[[TrainState], TrainState]


class Position:
    """The progress of one run through its phases; holds no arrays.

    Args:
        config: of the run.
        num_batches: in an epoch.
        has_variant: whether steps make the variant of the data.
    """

    def __init__(
        self, config: TrainConfig, num_batches: int, *, has_variant: bool = False
    ):
        self.config = config
        self.has_variant = has_variant
        self.num_batches = num_batches
        self.phase = 0
        self.phase_epoch = 0
        self.records: list[dict[str, Any]] = []
        self._settings: tuple[Any, Settings] | None = None

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
        # Those of its last step, where they change within it.
        epsilon = float(phase.epsilon.radii(epoch, self.num_batches)[-1])
        count = self.num_batches
        rates = phase.optimizer.learning_rates(epoch, phase.epochs, count)
        return {
            "phase": phase.name,
            "epoch": len(self.records) + 1,
            "phase_epoch": epoch,
            "epsilon": epsilon,
            **attack_numbers(phase.objective, epsilon),
            "learning_rate": float(rates[-1]),
        }

    def is_validation_due(self) -> bool:
        """Whether the weights are judged at the end of the epoch under way."""
        validation = self.config.validation
        if validation is None:
            return False
        is_last = self.phase_epoch + 1 == self.config.phases[self.phase].epochs
        return is_last or (len(self.records) + 1) % validation.every == 0

    def settings(self) -> Settings:
        """What the steps of the epoch under way do, for the device."""
        place = (self.phase, self.phase_epoch)
        if self._settings is None or self._settings[0] != place:
            settings = settings_of(
                self.config,
                self.phase,
                self.phase_epoch + 1,
                self.num_batches,
                has_variant=self.has_variant,
            )
            self._settings = (place, settings)
        return self._settings[1]

    def _phase_losses(self) -> list[float]:
        count = self.phase_epoch
        return [record["loss"] for record in self.records[-count:]] if count else []

    def compare(self, record: dict[str, Any]) -> None:
        """Put `loss_change` and `is_jump` into the record of an epoch that is done."""
        losses = self._phase_losses()
        record["loss_change"] = record["loss"] - losses[-1] if losses else None
        rule = self.config.phases[self.phase].stop_at_jump
        record["is_jump"] = rule is not None and rule.is_jump([*losses, record["loss"]])

    def advance(
        self, record: dict[str, Any], tell: Callable[[str], None]
    ) -> Change | None:
        """Count an epoch that is done; enter the next phase if it was the last.

        Returns:
            What to do to the state: nothing, unless a phase ended.
        """
        phase = self.config.phases[self.phase]
        self.records.append(record)
        self.phase_epoch += 1
        is_jump = record["is_jump"]
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

        def change(state: TrainState) -> TrainState:
            weights = state.epoch_weights if is_jump else state.weights
            if following is not None:
                return enter_phase(following, state, weights)
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


def enter_phase(phase: Phase, state: TrainState, source: Weights) -> TrainState:
    """The state at the start of a phase, from the weights that came before."""
    begin = phase.optimizer.build().init
    if phase.carry == "weights":
        kept = begin(source.params)
    else:
        fresh = jax.eval_shape(begin, source.params)
        _refuse_difference("optimizer state", source.opt_state, fresh)
        kept = source.opt_state
    average = source.variables if phase.averaging is not None else None
    weights = source._replace(opt_state=kept, average=average)
    return state._replace(weights=weights, epoch_weights=weights)


@functools.lru_cache(maxsize=16)
def _initializer(network: Network) -> Callable[..., TrainState]:
    """Compiled once for all members that differ in their seeds only."""
    init = make_trainer(network, batch_size=1).init
    return jax.jit(init, static_argnames="is_averaged")


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
    key = seeded(config.seed)
    optimizer, is_averaged = phase.optimizer.unscheduled(), phase.averaging is not None
    state = _initializer(network)(key, images, optimizer, is_averaged=is_averaged)
    if phase.start_from is None:
        return state
    source = Path(phase.start_from)
    described, _ = read_run(source)
    names = [name_of(each.optimizer.name) for each in config.phases]
    refuse_own_optimizer(source, described, names)
    is_own = not described.model.is_known
    checkpoint = phase.start_checkpoint
    if checkpoint == "average" and phase.carry != "weights":
        raise RunError(
            "`carry` must be weights for a start from an average, which no optimizer "
            f"has moved, got {phase.carry!r}; carry the weights only (--carry weights)."
        )
    run = load_run(
        source,
        network=network if is_own else None,
        trust_code=True,
        checkpoint=checkpoint,
    )
    if not run.is_complete and checkpoint == "newest":
        tell(
            f"note: {phase.start_from} is not finished; starting from its state "
            f"after {len(run.records)} epochs"
        )
    params, others = run.weights
    weights = run.state.weights._replace(params=params, state=others)
    _refuse_difference("parameters", weights.params, state.weights.params)
    _refuse_difference("state of the network", weights.state, state.weights.state)
    return enter_phase(phase, state, weights)
