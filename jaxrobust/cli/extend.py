"""`jaxrobust extend`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from jaxrobust.arguments import require
from jaxrobust.attacks import PGD
from jaxrobust.cli.command import Command
from jaxrobust.cli.common import RunOptions
from jaxrobust.cli.loading import RunLoading
from jaxrobust.data import names_in
from jaxrobust.precision import MatmulPrecision
from jaxrobust.references import is_reference, name_of
from jaxrobust.threat import norm_name
from jaxrobust.training import (
    Adversarial,
    Carry,
    Phase,
    Standard,
    TrainConfig,
    extended,
    read_run,
    resolved_objective,
    trusted,
    unresolved,
    with_attack,
)
from jaxrobust.training.recipe.objectives.own_attack import GIVEN_LABEL, named_attack

__all__ = ["Extend"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Extend(Command):
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
    matmul_precision: MatmulPrecision | None = None
    """Of matrix products in training, see train; by default that of the source."""
    loading: Annotated[RunLoading, tyro.conf.arg(name="")] = RunLoading()
    options: Annotated[RunOptions, tyro.conf.arg(name="")] = RunOptions()

    def changed(self, attack: PGD) -> PGD:
        """The attack of the source with what the flags ask for."""
        size = attack.step_size if self.step_size is None else self.step_size
        return dataclasses.replace(attack, step_size=size, num_steps=self.num_steps)

    def with_flags(self, objective: Any) -> Any:
        """The objective with what the flags ask for of its attack.

        Raises:
            ValueError: for a flag of PGD where the attack is another one.
        """
        attacks: list[PGD] = []

        def changed(attack: PGD) -> PGD:
            attacks.append(attack)
            return self.changed(attack)

        objective = with_attack(objective, changed)
        for name in ("step_size", "num_steps"):
            value = getattr(self, name)
            require(
                bool(attacks) or value is None,
                f"--attack.{name.replace('_', '-')}",
                "left out where the run was trained by another attack than PGD",
                value,
                "the attack keeps the numbers of the run",
            )
        return objective

    def objective_of(self, phase: Phase) -> Any:
        """That of the source; where it is none of a radius, adversarial training."""
        if isinstance(phase.objective, Standard):
            return Adversarial()
        return resolved_objective(phase.objective)

    def require_trust(self, source: TrainConfig) -> None:
        """Refuse to run code that nobody but the source names.

        Raises:
            ValueError: naming the first of its parts that is code.
        """
        last = source.phases[-1]
        objective = unresolved(last.objective)
        names = {
            "data": source.dataset,
            "variant": next(filter(is_reference, names_in(source.variant)), ""),
            "objective": "" if objective is None else objective.name,
            "attack": named_attack(last.objective) or "",
            "norm": norm_name(last.norm),
            "optimizer": name_of(last.optimizer.name),
            "schedule of the learning rate": name_of(last.optimizer.schedule),
        }
        if self.learning_rate is not None:
            # Its last rate is not asked for.
            del names["schedule of the learning rate"]
        for what, name in names.items():
            is_code = is_reference(name) and not name.startswith(GIVEN_LABEL)
            if is_code and not self.loading.trust_code:
                raise ValueError(
                    f"`run` must have {what} of jaxrobust, got {name!r}, which is "
                    "code; say --trust-code to run it."
                )

    def run(self) -> int:
        """Train."""
        source, _ = read_run(self.source)
        network = self.loading.named(self.source)
        trusted(self.source, source.model, network, self.loading.trust_code)
        self.require_trust(source)
        last = source.phases[-1]
        objective = self.with_flags(self.objective_of(last))
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
        precision = self.matmul_precision or source.matmul_precision
        config = dataclasses.replace(
            source,
            phases=(phase,),
            augmentation=self.augmentation,
            matmul_precision=precision,
            seed=source.seed if self.seed is None else self.seed,
        )
        name = f"{self.source.name}-to-{self.epsilon:g}"
        return self.options.train(self, config, name, network)
