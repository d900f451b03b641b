"""How radius and learning rate go through a phase."""

import dataclasses
from collections.abc import Callable
from typing import Literal, get_args

import numpy as np

from jaxrobust.arguments import require, require_choice
from jaxrobust.threat import require_radius

__all__ = ["RATE_SCHEDULES", "EpsilonSchedule", "ScheduleName"]

ScheduleName = Literal["constant", "linear", "cosine", "cyclic"]

RATE_SCHEDULES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "linear": lambda share: 1 - share,
    "cosine": lambda share: (1 + np.cos(np.pi * share)) / 2,
    "cyclic": lambda share: 1 - np.abs(2 * share - 1),
}
"""Factors of the learning rate, by the share of the phase that is done, in [0, 1]."""

ScheduleKind = Literal["constant", "iterative", "linear", "exponential"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpsilonSchedule:
    """The radius in each epoch of a phase, in units of [0, 1] pixels.

    * constant: `end` throughout.
    * iterative: `increment * epoch`, at most `end`; epochs count from 1, so the first
      epoch already has one increment (Shaeiri et al., 2020).
    * linear: from `start` to `end` in `ramp_epochs` equal steps, then `end` (Ding et
      al., 2019).
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
    every: Literal["epoch", "step"] = "epoch"
    """Whether the radius stays the same for an epoch, or moves on in every step."""

    def __post_init__(self):
        require_choice("kind", self.kind, get_args(ScheduleKind))
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

    def radii(self, epoch: int, num_batches: int) -> np.ndarray:
        """Radius in each step of an epoch of the phase, counted from 1."""
        if self.every == "epoch":
            return np.full(num_batches, self(epoch))
        steps = range(num_batches)
        return np.asarray([self(epoch + step / num_batches) for step in steps])

    def __call__(self, epoch: float) -> float:
        """Radius in an epoch of the phase, counted from 1; or somewhere within it."""
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
