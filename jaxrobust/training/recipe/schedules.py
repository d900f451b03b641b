"""How radius and learning rate go through a phase."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import numpy as np

from jaxrobust.arguments import require, require_choice, require_in
from jaxrobust.references import function_of, require_function
from jaxrobust.threat import require_radius

__all__ = [
    "RADIUS_SCHEDULES",
    "RATE_SCHEDULES",
    "EpsilonSchedule",
    "RateSchedule",
    "rate_factors",
]

RateSchedule = Callable[[np.ndarray], np.ndarray]
"""From the share of a phase that is done, in [0, 1], to factors of the learning rate.

Of arrays; at least 0 and finite.
"""

RATE_SCHEDULES: dict[str, RateSchedule] = {
    "constant": np.ones_like,
    "linear": lambda share: 1 - share,
    "cosine": lambda share: (1 + np.cos(np.pi * share)) / 2,
    "cyclic": lambda share: 1 - np.abs(2 * share - 1),
}
"""Schedules by name."""


def rate_factors(schedule: str | RateSchedule, done: np.ndarray) -> np.ndarray:
    """Factors of the learning rate at shares of a phase that are done.

    Args:
        schedule: a name in `RATE_SCHEDULES`, a reference, or a function.
        done: shares in [0, 1].

    Raises:
        ValueError: for results of another shape, negative or infinite ones.
    """
    factors = function_of(schedule, RATE_SCHEDULES, what="schedule")(done)
    factors = np.asarray(factors, np.float64)
    is_right = factors.shape == done.shape and bool(
        np.all((factors >= 0) & np.isfinite(factors))
    )
    require(
        is_right,
        "schedule",
        f"a function to {done.size} finite factors of at least 0",
        factors.tolist()[:4] if factors.ndim else float(factors),
        "it is given an array of shares in [0, 1], and gives as many factors",
    )
    return factors


SMOOTH_PART, SMOOTH_POWER = 0.25, 4
"""Share of a smooth ramp that is a power, and which."""


def _smooth(share: float) -> float:
    """From 0 to 1: a power, and then a line with its value and slope where they meet.

    Shi et al., 2021, arXiv:2103.17268.
    """
    part, power = SMOOTH_PART, SMOOTH_POWER
    slope = power * part ** (power - 1)
    scale = 1 / (part**power + (1 - part) * slope)
    if share < part:
        return scale * share**power
    return scale * (part**power + (share - part) * slope)


RADIUS_SCHEDULES: dict[str, Callable[["EpsilonSchedule", float], float]] = {
    "constant": lambda schedule, _: schedule.end,
    # Rounded, so that 0.01 * 35 is 0.35 and not 0.35000000000000003.
    "iterative": lambda schedule, epoch: min(
        round(schedule.increment * epoch, 10), schedule.end
    ),
    "linear": lambda schedule, epoch: (
        schedule.start + schedule.ramp_share(epoch) * (schedule.end - schedule.start)
    ),
    "smooth": lambda schedule, epoch: (
        schedule.start
        + _smooth(schedule.ramp_share(epoch)) * (schedule.end - schedule.start)
    ),
    "exponential": lambda schedule, epoch: (
        schedule.start * (schedule.end / schedule.start) ** schedule.ramp_share(epoch)
    ),
}
"""Radius at an epoch of the phase, counted from 1, or somewhere within it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpsilonSchedule:
    """The radius in each epoch of a phase, in units of [0, 1] pixels.

    * constant: `end` throughout.
    * iterative: `increment * epoch`, at most `end`; epochs count from 1, so the first
      epoch already has one increment (Shaeiri et al., 2020).
    * linear: from `start` to `end` in `ramp_epochs` equal steps, then `end` (Ding et
      al., 2019).
    * exponential: the same with equal ratios.
    * smooth: from `start` to `end` like linear, but slowly at first: a quarter of the
      ramp is a fourth power, whose value and slope the line takes on (Shi et al.,
      2021). For certified training, with `every="step"`.
    * one of your own, `path.py:NAME` or `package.module:NAME`, or a function at the top
      of a module: `(schedule, epoch) -> radius`, at most `end`.
    """

    kind: str | Callable[..., float] = "constant"
    """Form of the schedule."""
    end: float = 0.3
    """Radius that is reached."""
    start: float = 0.01
    """First radius of linear, smooth and exponential schedules."""
    increment: float = 0.01
    """Growth per epoch of the iterative schedule."""
    ramp_epochs: int = 50
    """Epochs from `start` to `end`, linear, smooth and exponential."""
    every: Literal["epoch", "step"] = "epoch"
    """Whether the radius stays the same for an epoch, or moves on in every step."""

    def __post_init__(self):
        require_function(self.kind, RADIUS_SCHEDULES, what="epsilon.kind")
        require_choice("every", self.every, ("epoch", "step"))
        for field in ("end", "start"):
            require_radius(getattr(self, field), name=f"epsilon.{field}")
        require(self.increment > 0, "increment", "positive", self.increment, "try 0.01")
        require(
            self.ramp_epochs >= 1,
            "ramp_epochs",
            "at least 1",
            self.ramp_epochs,
            "try 50",
        )
        require(
            self.kind != "exponential" or min(self.start, self.end) > 0,
            "start and end",
            "positive for an exponential schedule",
            (self.start, self.end),
            "start at 0.01, say",
        )

    @property
    def ends(self) -> tuple[str, ...]:
        """Fields with a radius that the schedule comes by."""
        is_ramp = self.kind not in ("constant", "iterative")
        return ("end", "start") if is_ramp else ("end",)

    def radii(self, epoch: int, num_batches: int) -> np.ndarray:
        """Radius in each step of an epoch of the phase, counted from 1."""
        if self.every == "epoch":
            return np.full(num_batches, self(epoch))
        steps = range(num_batches)
        return np.asarray([self(epoch + step / num_batches) for step in steps])

    def __call__(self, epoch: float) -> float:
        """Radius in an epoch of the phase, counted from 1; or somewhere within it."""
        rule = function_of(self.kind, RADIUS_SCHEDULES, what="epsilon.kind")
        radius = float(rule(self, epoch))
        if self.kind not in RADIUS_SCHEDULES:
            # In the unit of `end`, which was checked.
            require_in("epsilon.kind", radius, f"[0, {self.end}]", "raise epsilon.end")
        return radius

    def ramp_share(self, epoch: float) -> float:
        """How much of the ramp is done at an epoch, in [0, 1]."""
        if epoch >= self.ramp_epochs:
            return 1.0
        return (epoch - 1) / (self.ramp_epochs - 1)
