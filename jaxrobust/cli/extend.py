"""`jaxrobust extend`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from jaxrobust.attacks import PGD
from jaxrobust.cli.common import RunOptions
from jaxrobust.cli.loading import RunLoading
from jaxrobust.training import (
    Adversarial,
    Carry,
    Phase,
    Standard,
    extended,
    read_run,
    resolved_objective,
    trusted,
    unresolved,
    with_attack,
)

__all__ = ["Extend"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Extend:
    """Extended adversarial training: go on from a run at a larger radius."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="run")]
    """Directory of the run to start from; it is not changed."""
    epsilon: float
    """New radius, in units of [0, 1] pixels, such as 0.4 or 16/255."""
    epochs: int = 5
    """Epochs at the new radius."""
    carry: Carry = "optimizer"
    """optimizer: keep its moments, as Shaeiri et al., 2020, on MNIST. weights: start it
    afresh."""
    step_size: Annotated[float | None, tyro.conf.arg(name="attack.step-size")] = None
    """Of the attack, in units of [0, 1] pixels; by default that of the source."""
    num_steps: Annotated[int | None, tyro.conf.arg(name="attack.num-steps")] = None
    """Of the attack; by default floor(2.5 * epsilon / step_size)."""
    learning_rate: Annotated[
        float | None, tyro.conf.arg(name="optimizer.learning-rate")
    ] = None
    """By default the last one of the source; that of its schedule, where it has one."""
    augmentation: str | None = None
    """Random changes of the pixels, see train; the paper extends without."""
    seed: int | None = None
    """By default that of the source."""
    loading: Annotated[RunLoading, tyro.conf.arg(name="")] = RunLoading()
    options: Annotated[RunOptions, tyro.conf.arg(name="")] = RunOptions()

    def changed(self, attack: PGD) -> PGD:
        """The attack of the source with what the flags ask for."""
        size = attack.step_size if self.step_size is None else self.step_size
        return dataclasses.replace(attack, step_size=size, num_steps=self.num_steps)

    def objective_of(self, phase: Phase) -> Any:
        """That of the source; where it is none of a radius, adversarial training."""
        if isinstance(phase.objective, Standard):
            return Adversarial()
        missing = unresolved(phase.objective)
        if missing is not None and not self.loading.trust_code:
            raise ValueError(
                f"`run` must have an objective of jaxrobust, got {missing.name!r}, "
                "which is code; say --trust-code to run it."
            )
        return resolved_objective(phase.objective)

    def run(self) -> int:
        """Train."""
        source, _ = read_run(self.source)
        network = self.loading.named(self.source)
        trusted(self.source, source.model, network, self.loading.trust_code)
        last = source.phases[-1]
        objective = with_attack(self.objective_of(last), self.changed)
        rate = self.learning_rate
        if rate is None:
            rate = last.optimizer.learning_rate
            if last.optimizer.schedule == "constant":
                epochs = last.epochs
                rate = float(last.optimizer.learning_rates(epochs, epochs, 1)[-1])
        optimizer = dataclasses.replace(
            last.optimizer.unscheduled(), learning_rate=rate
        )
        phase = extended(
            self.epsilon,
            self.epochs,
            carry=self.carry,
            start_from=str(self.source),
            start_checkpoint=self.loading.checkpoint,
            averaging=last.averaging,
            norm=last.norm,
            is_bounded=last.is_bounded,
            objective=objective,
            optimizer=optimizer,
        )
        config = dataclasses.replace(
            source,
            phases=(phase,),
            augmentation=self.augmentation,
            seed=source.seed if self.seed is None else self.seed,
        )
        return self.options.train(
            config, f"{self.source.name}-to-{self.epsilon:g}", network
        )
