"""What a run is: a list of phases, each with its attack, radius and optimizer.

Configurations are frozen, hold plain Python values only, and check themselves when they
are made, so that a wrong one is refused before anything is compiled.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, cast, get_args

import jax
import numpy as np

from jaxrobust.arguments import require, require_choice, require_count
from jaxrobust.threat import THREATS, ThreatModel, norm_name, threat_of
from jaxrobust.training.recipe.averaging import Averaging
from jaxrobust.training.recipe.named_numbers import as_arrays
from jaxrobust.training.recipe.objectives import (
    Adversarial,
    Objective,
    Standard,
    as_pytree,
    settled,
)
from jaxrobust.training.recipe.optimizers import OptimizerConfig
from jaxrobust.training.recipe.schedules import EpsilonSchedule

__all__ = [
    "Carry",
    "Checkpoint",
    "JumpRule",
    "Phase",
    "Settings",
    "adversarial",
    "chain",
    "extended",
    "iterative",
    "standard",
]

Carry = Literal["weights", "optimizer"]
Checkpoint = Literal["newest", "best", "average"]
"""Weights of a run: those of its newest checkpoint; those, or their average where one
is kept, of the epoch that was best on held-out examples; or the newest average."""


class Settings(NamedTuple):
    """What a step of training does, as a pytree: numbers are leaves, words structure.

    Programs are compiled for the structure. The numbers are traced; each has a value
    for every batch of an epoch, `(num_batches,)`.

    Attributes:
        threat: the ball, with its radius in units of [0, 1] pixels.
        objective: what is minimized.
        optimizer: by what.
        average_share: of the weights after the step in their average; None for no
            average.
        variant: of the pixels, where runs that share a program differ in its level;
            None where the examples are of the variant already.
    """

    threat: ThreatModel
    objective: Any
    optimizer: OptimizerConfig
    average_share: Any = None
    variant: Any = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class JumpRule:
    """When a phase stops itself: a sudden jump of the training adversarial loss.

    Shaeiri et al., 2020, stop "at a sudden jump" without a number. Epoch e is a jump
    if its mean loss exceeds `ratio` times the largest of the `window` epochs before it
    (once there are that many) and lies at least `rise` nats above it. The weights from
    before that epoch are kept, and the phase ends.
    """

    ratio: float = 1.5
    """Loss over the largest loss of the window; above 1."""
    rise: float = 0.2
    """Least increase, in nats, lest noise round a tiny loss count as a jump."""
    window: int = 3
    """Number of epochs compared with."""

    def __post_init__(self):
        require(self.ratio > 1, "ratio", "above 1", self.ratio, "try 1.5")
        require(self.rise >= 0, "rise", "at least 0", self.rise, "try 0.2")
        require(self.window >= 1, "window", "at least 1", self.window, "try 3")

    def is_jump(self, losses: Sequence[float]) -> bool:
        """Whether the last of the epoch losses, in nats, is a jump."""
        if len(losses) <= self.window:
            return False
        before = max(losses[-1 - self.window : -1])
        return losses[-1] > self.ratio * before and losses[-1] >= before + self.rise


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phase:
    """One stretch of training under one attack, radius schedule and optimizer."""

    name: str
    """standard, adversarial, extended or iterative; or any name of your own."""
    epochs: int
    """Length; a `stop_at_jump` may end the phase sooner."""
    epsilon: EpsilonSchedule = EpsilonSchedule()
    """Radius in each epoch."""
    norm: str | type[ThreatModel] = "linf"
    """Norm of the ball: one of `THREATS`, or one of your own: path.py:NAME,
    package.module:NAME, or the class, of which the name is kept."""
    is_bounded: bool = True
    """Keep pixels in [0, 1]."""
    objective: Objective = Adversarial()
    """What is minimized in each step; it owns the attack."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Optimizer."""
    averaging: Averaging | None = None
    """An average of the weights, kept beside them; None for none."""
    carry: Carry = "weights"
    """What is taken over from the phase, or run, before: the weights with fresh
    optimizer state, or the optimizer state too (as Shaeiri et al. on MNIST)."""
    start_from: str | None = None
    """Directory of a run that this phase starts from."""
    start_checkpoint: Checkpoint = "newest"
    """Which of its weights: those of its newest checkpoint, those that were best on
    what it held out, or their average."""
    stop_at_jump: JumpRule | None = None
    """End the phase at a sudden jump of the training loss."""

    def __post_init__(self):
        require_choice("carry", self.carry, get_args(Carry))
        require_choice("start_checkpoint", self.start_checkpoint, get_args(Checkpoint))
        object.__setattr__(self, "norm", norm_name(self.norm))
        require(self.epochs >= 1, "epochs", "at least 1", self.epochs, "train for one")
        if self.averaging is not None:
            # Beyond, the average would be what the phase began with.
            require_count(
                "averaging.start_epoch",
                self.averaging.start_epoch,
                "it counts epochs of the phase",
                most=self.epochs,
            )
        if self.norm in THREATS:
            # Nothing of a user's own is imported here.
            self.require_radii()

    def require_radii(self, shape: Sequence[int] | None = None) -> None:
        """Refuse radii in another unit than the images, as evaluations do.

        Args:
            shape: of an image, without a batch; None if not known yet.

        Raises:
            ValueError: for a radius beyond any image.
        """
        threat = threat_of(self.norm)
        for field in self.epsilon.ends:
            radius = getattr(self.epsilon, field)
            threat.require_epsilon(radius, shape, name=f"epsilon.{field}")

    def at(self, epoch: int, num_batches: int) -> Settings:
        """What the steps of an epoch of the phase do.

        Args:
            epoch: counted from 1.
            num_batches: in an epoch.

        Returns:
            Settings with arrays `(num_batches,)`.
        """
        radii = self.epsilon.radii(epoch, num_batches)
        bounds = (0.0, 1.0) if self.is_bounded else None
        objective, end = as_pytree(self.objective), self.epsilon.end
        settings = (
            threat_of(self.norm)(cast(Any, radii), bounds),
            settled(objective, float(radii[0]), end),
            self.optimizer.at(epoch, self.epochs, num_batches),
        )
        taken = Settings(*(as_arrays(setting, num_batches) for setting in settings))
        if self.averaging is not None:
            share = self.averaging.shares(epoch, num_batches)
            taken = taken._replace(average_share=share)
        if np.all(radii == radii[0]):
            return taken
        objectives = [
            as_arrays(settled(objective, float(radius), end), 1) for radius in radii
        ]
        return taken._replace(
            objective=jax.tree.map(lambda *leaves: np.concatenate(leaves), *objectives)
        )


def standard(epochs: int, **settings) -> Phase:
    """Training on clean images."""
    fields = {"objective": Standard(), "epsilon": EpsilonSchedule(end=0.0)}
    return Phase(name="standard", epochs=epochs, **(fields | settings))


def _with_attack(settings: dict[str, Any]) -> dict[str, Any]:
    """Fields of a phase, with `attack=` as short for the objective that has it."""
    attack = settings.pop("attack", None)
    if attack is None:
        return settings
    require(
        "objective" not in settings,
        "attack",
        "left out where there is an objective, which owns its attack",
        attack,
        "give the objective this attack",
    )
    return settings | {"objective": Adversarial(attack=attack)}


def adversarial(epsilon: float, epochs: int, **settings) -> Phase:
    """Training at one radius, adversarial (Madry et al., 2018) if not said otherwise.

    Args:
        epsilon: radius, in units of [0, 1] pixels.
        epochs: length.
        **settings: fields of `Phase`, and `attack` for that of adversarial training.
    """
    schedule = EpsilonSchedule(end=epsilon)
    settings = _with_attack(settings)
    return Phase(name="adversarial", epochs=epochs, epsilon=schedule, **settings)


def extended(
    epsilon: float, epochs: int = 5, *, carry: Carry = "optimizer", **settings
) -> Phase:
    """Extended adversarial training: go on at a larger radius (Shaeiri et al., 2020).

    `carry="optimizer"` keeps the moments of Adam, as the authors do on MNIST; on
    CIFAR-10 they start a fresh SGD: `carry="weights"`.
    """
    schedule = EpsilonSchedule(end=epsilon)
    settings = _with_attack(settings)
    return Phase(
        name="extended", epochs=epochs, epsilon=schedule, carry=carry, **settings
    )


def iterative(
    epsilon: float,
    *,
    increment: float = 0.01,
    hold_epochs: int = 0,
    stop_at_jump: JumpRule | None = JumpRule(),
    **settings,
) -> Phase:
    """Iterative adversarial training: the radius grows every epoch (Shaeiri et al.).

    Args:
        epsilon: radius at the end.
        increment: growth per epoch; .01 in the paper.
        hold_epochs: further epochs at the last radius; none in the paper.
        stop_at_jump: when to give up growing.
        **settings: fields of `Phase`.
    """
    schedule = EpsilonSchedule(kind="iterative", end=epsilon, increment=increment)
    epochs = math.ceil(round(epsilon / increment, 9)) + hold_epochs
    settings = _with_attack(settings)
    return Phase(
        name="iterative",
        epochs=epochs,
        epsilon=schedule,
        stop_at_jump=stop_at_jump,
        **settings,
    )


def chain(
    epsilons: Sequence[float], epochs: Sequence[int], **settings
) -> tuple[Phase, ...]:
    """Adversarial training at the first radius, extended to each of the others.

    Raises:
        ValueError: if the two lists differ in length.
    """
    require(
        len(epsilons) == len(epochs) and len(epochs) > 0,
        "epochs",
        f"as many numbers as there are radii ({len(epsilons)})",
        tuple(epochs),
        "give one number of epochs for each radius",
    )
    first = adversarial(epsilons[0], epochs[0], **settings)
    rest = zip(epsilons[1:], epochs[1:], strict=True)
    return (first, *(extended(radius, count, **settings) for radius, count in rest))
