"""How the radius goes through the epochs of a phase."""

import dataclasses
from typing import Literal, get_args

from jaxrobust.arguments import require, require_choice
from jaxrobust.threat import require_radius

__all__ = ["EpsilonSchedule"]

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

    def __post_init__(self):
        require_choice("kind", self.kind, get_args(ScheduleKind))
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
