"""What a run is: a list of phases, each with its attack, radius and optimizer.

Configurations are frozen, hold plain Python values only, and check themselves when they
are made, so that a wrong one is refused before anything is compiled.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal, get_args

from jaxrobust.attacks import num_steps_for
from jaxrobust.attacks.base import Keep
from jaxrobust.attacks.gradient import Direction
from jaxrobust.losses import LossName
from jaxrobust.networks import ModelConfig
from jaxrobust.threat import THREATS, ThreatModel, require_epsilon, require_radius

__all__ = [
    "AttackConfig",
    "Carry",
    "EpsilonSchedule",
    "JumpRule",
    "OptimizerConfig",
    "Phase",
    "Precision",
    "TrainConfig",
    "adversarial",
    "chain",
    "extended",
    "iterative",
    "standard",
]

Norm = Literal["linf", "l2"]
Carry = Literal["weights", "optimizer"]
Precision = Literal["float32", "bfloat16"]
ScheduleKind = Literal["constant", "iterative", "linear", "exponential"]


def _require(condition: bool, name: str, rule: str, value: object, remedy: str) -> None:
    if not condition:
        raise ValueError(f"`{name}` must be {rule}, got {value!r}; {remedy}.")


def _require_choice(name: str, value: object, choices: Sequence[str]) -> None:
    _require(
        value in choices,
        name,
        f"one of {', '.join(choices)}",
        value,
        "choose one of these",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttackConfig:
    """The PGD attack inside training, and the ball it searches (facts 0.1)."""

    norm: Norm = "linf"
    """Norm of the ball."""
    is_bounded: bool = True
    """Keep pixels in [0, 1]."""
    step_size: float = 0.01
    """Length of a step, in units of [0, 1] pixels."""
    num_steps: int | None = None
    """Number of steps; None takes floor(2.5 * epsilon / step_size) (LP-A1)."""
    random_start: bool = True
    """Start uniformly in the ball."""
    direction: Direction = "steepest"
    """How the gradient becomes a step."""
    loss: LossName = "cross_entropy"
    """What the attack climbs."""
    keep: Keep = "last"
    """Iterate to train on."""
    batch_norm: Literal["eval", "train"] = "eval"
    """Batch-norm mode while attacking; "train" reproduces Madry et al. and LP on
    CIFAR (facts 0.1)."""

    def __post_init__(self):
        _require_choice("norm", self.norm, get_args(Norm))
        _require_choice("direction", self.direction, get_args(Direction))
        _require_choice("loss", self.loss, get_args(LossName))
        _require_choice("keep", self.keep, get_args(Keep))
        _require_choice("batch_norm", self.batch_norm, ("eval", "train"))
        _require(
            0 < self.step_size < math.inf,
            "step_size",
            "positive",
            self.step_size,
            "it is in units of [0, 1] pixels, such as 0.01",
        )
        _require(
            self.num_steps is None or self.num_steps >= 0,
            "num_steps",
            "at least 0",
            self.num_steps,
            "leave it out for 2.5 * epsilon / step_size",
        )

    def num_steps_at(self, epsilon: float) -> int:
        """Steps taken at a radius; none at radius 0, where there is nothing to find."""
        if epsilon == 0:
            return 0
        if self.num_steps is not None:
            return self.num_steps
        return int(num_steps_for(epsilon, self.step_size))

    def threat(self, epsilon: float = 0.0) -> ThreatModel:
        """The ball of this configuration at a radius."""
        return THREATS[self.norm](epsilon, (0.0, 1.0) if self.is_bounded else None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The Optax optimizer of a phase."""

    name: Literal["adam", "sgd"] = "adam"
    """adam, or sgd with momentum."""
    learning_rate: float = 0.001
    """Step length before any milestone."""
    milestones: tuple[int, ...] = ()
    """Epochs of the phase after which the learning rate is multiplied by `decay`."""
    decay: float = 0.1
    """Factor at each milestone."""
    momentum: float = 0.9
    """Of sgd; adam ignores it."""
    weight_decay: float = 0.0
    """L2 term added to the gradient, wd * weights, as in PyTorch's SGD."""
    clip_norm: float | None = None
    """Largest global norm of a gradient; None for no clipping."""

    def __post_init__(self):
        _require_choice("name", self.name, ("adam", "sgd"))
        for field in ("learning_rate", "decay"):
            value = getattr(self, field)
            _require(0 < value < math.inf, field, "positive", value, "try 0.001")
        for field in ("momentum", "weight_decay"):
            value = getattr(self, field)
            _require(value >= 0, field, "at least 0", value, "0 switches it off")
        _require(
            self.clip_norm is None or self.clip_norm > 0,
            "clip_norm",
            "positive or None",
            self.clip_norm,
            "None switches clipping off",
        )
        _require(
            list(self.milestones) == sorted(set(self.milestones)),
            "milestones",
            "increasing",
            self.milestones,
            "list each epoch once, in order",
        )

    def learning_rate_at(self, epoch: int) -> float:
        """Learning rate in an epoch of the phase, counted from 1."""
        passed = sum(epoch > milestone for milestone in self.milestones)
        return self.learning_rate * self.decay**passed


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpsilonSchedule:
    """The radius in each epoch of a phase, in units of [0, 1] pixels.

    * constant: `end` throughout.
    * iterative: `increment * epoch`, at most `end`; epochs count from 1, so the first
      epoch already has one increment (LP-X2).
    * linear: from `start` to `end` in `ramp_epochs` equal steps, then `end` (SN-M3).
    * exponential: the same with equal ratios.
    """

    kind: ScheduleKind = "constant"
    """Form of the schedule."""
    end: float = 0.3
    """Radius that is reached."""
    start: float = 0.01
    """First radius of linear and exponential schedules."""
    increment: float = 0.01
    """Growth per epoch of the iterative schedule."""
    ramp_epochs: int = 50
    """Epochs from `start` to `end`, linear and exponential."""

    def __post_init__(self):
        _require_choice("kind", self.kind, get_args(ScheduleKind))
        for field in ("end", "start"):
            require_radius(getattr(self, field), name=f"epsilon.{field}")
        _require(
            self.increment > 0, "increment", "positive", self.increment, "try 0.01"
        )
        _require(
            self.ramp_epochs >= 1,
            "ramp_epochs",
            "at least 1",
            self.ramp_epochs,
            "try 50",
        )
        _require(
            self.kind != "exponential" or min(self.start, self.end) > 0,
            "start and end",
            "positive for an exponential schedule",
            (self.start, self.end),
            "start at 0.01, say",
        )

    def __call__(self, epoch: int) -> float:
        """Radius in an epoch of the phase, counted from 1."""
        if self.kind == "constant":
            return self.end
        if self.kind == "iterative":
            # Rounded, so that 0.01 * 35 is 0.35 and not 0.35000000000000003.
            return min(round(self.increment * epoch, 10), self.end)
        if epoch >= self.ramp_epochs:
            return self.end
        share = (epoch - 1) / (self.ramp_epochs - 1)
        if self.kind == "linear":
            return self.start + share * (self.end - self.start)
        return self.start * (self.end / self.start) ** share


@dataclasses.dataclass(frozen=True, kw_only=True)
class JumpRule:
    """When a phase stops itself: a sudden jump of the training adversarial loss.

    LP-X2 stops IAT "at a sudden jump" (LP-F7) without a number. Here epoch e is a jump
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
        _require(self.ratio > 1, "ratio", "above 1", self.ratio, "try 1.5")
        _require(self.rise >= 0, "rise", "at least 0", self.rise, "try 0.2")
        _require(self.window >= 1, "window", "at least 1", self.window, "try 3")

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
    attack: AttackConfig = AttackConfig()
    """Attack in each step."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Optimizer."""
    carry: Carry = "weights"
    """What is taken over from the phase, or run, before: the weights with fresh
    optimizer state, or the optimizer state too (LP-X1 on MNIST)."""
    start_from: str | None = None
    """Directory of a run whose last checkpoint this phase starts from."""
    stop_at_jump: JumpRule | None = None
    """End the phase at a sudden jump of the training loss."""

    def __post_init__(self):
        _require_choice("carry", self.carry, get_args(Carry))
        _require(self.epochs >= 1, "epochs", "at least 1", self.epochs, "train for one")
        self.require_radii()

    def require_radii(self, num_pixels: int | None = None) -> None:
        """Refuse radii in another unit than the images, as evaluations do.

        Args:
            num_pixels: values in an image, with its channels; None if not known yet.

        Raises:
            ValueError: for a radius beyond any image.
        """
        for field in ("end", "start"):
            radius = getattr(self.epsilon, field)
            name = f"epsilon.{field}"
            require_epsilon(self.attack.norm, radius, num_pixels, name=name)


def standard(epochs: int, **settings) -> Phase:
    """Training on clean images; radius 0 makes the attack a loop of no steps."""
    schedule = EpsilonSchedule(end=0.0)
    return Phase(name="standard", epochs=epochs, epsilon=schedule, **settings)


def adversarial(epsilon: float, epochs: int, **settings) -> Phase:
    """Adversarial training at one radius (Madry et al., 2018)."""
    schedule = EpsilonSchedule(end=epsilon)
    return Phase(name="adversarial", epochs=epochs, epsilon=schedule, **settings)


def extended(
    epsilon: float, epochs: int = 5, *, carry: Carry = "optimizer", **settings
) -> Phase:
    """Extended adversarial training: go on at a larger radius (LP-X1).

    `carry="optimizer"` keeps the moments of Adam, as the authors do on MNIST; on
    CIFAR-10 they start a fresh SGD: `carry="weights"`.
    """
    schedule = EpsilonSchedule(end=epsilon)
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
    """Iterative adversarial training: the radius grows every epoch (LP-X2).

    Args:
        epsilon: radius at the end.
        increment: growth per epoch; .01 in the paper.
        hold_epochs: further epochs at the last radius; none in the paper.
        stop_at_jump: when to give up growing.
        **settings: fields of `Phase`.
    """
    schedule = EpsilonSchedule(kind="iterative", end=epsilon, increment=increment)
    epochs = math.ceil(round(epsilon / increment, 9)) + hold_epochs
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
    _require(
        len(epsilons) == len(epochs) and len(epochs) > 0,
        "epochs",
        f"as many numbers as there are radii ({len(epsilons)})",
        tuple(epochs),
        "give one number of epochs for each radius",
    )
    first = adversarial(epsilons[0], epochs[0], **settings)
    rest = zip(epsilons[1:], epochs[1:], strict=True)
    return (first, *(extended(radius, count, **settings) for radius, count in rest))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides the numbers of a run."""

    dataset: str = "digits"
    """Name of a data set, or a directory of arrays."""
    variant: str = "original"
    """Transform of the data set, such as "binary"."""
    train_size: int | None = None
    """Use only that many training examples; None for all."""
    model: ModelConfig = ModelConfig(name="lenet-small")
    """Network."""
    phases: tuple[Phase, ...] = (Phase(name="adversarial", epochs=1),)
    """What is done, in order."""
    batch_size: int = 128
    """Images per step; the remainder of an epoch's shuffle is dropped."""
    augment: bool = False
    """Random crop (padding 4) and horizontal flip, anew in each step."""
    precision: Precision = "float32"
    """Of the forward pass and the gradients through it; bfloat16 keeps parameters,
    optimizer and projection in float32."""
    seed: int = 0
    """Of initial weights, shuffling, augmentation and random starts; below 2**32, as
    JAX takes no more bits of it."""

    def __post_init__(self):
        _require(
            self.batch_size >= 1, "batch_size", "at least 1", self.batch_size, "try 128"
        )
        _require(
            len(self.phases) > 0, "phases", "a non-empty list", self.phases, "add one"
        )
        _require_choice("precision", self.precision, get_args(Precision))
        # Beyond, numbers become other ones without a word, or a bare OverflowError.
        _require(
            isinstance(self.seed, int) and -(2**31) <= self.seed < 2**32,
            "seed",
            "a whole number in [-2**31, 2**32)",
            self.seed,
            "choose a smaller one",
        )
        later = [phase.start_from for phase in self.phases[1:] if phase.start_from]
        _require(
            not later,
            "start_from",
            "given for the first phase only",
            later,
            "split the run in two",
        )
