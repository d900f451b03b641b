"""Averages of the weights, kept beside those that are trained and unknown to them.

An average is said by how it moves: after each step a share of the new weights goes into
it. Another one is a function here, and a line in `AVERAGES`.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from jaxrobust.arguments import require_choice, require_count, require_in
from jaxrobust.pytrees import Pytree, static

__all__ = ["AVERAGES", "Averaging"]

Shares = Callable[["Averaging", int, int], np.ndarray]


def _ema(settings: "Averaging", epoch: int, num_batches: int) -> np.ndarray:
    # The decay grows at first, or the weights from before training would stay in it.
    step = (epoch - 1) * num_batches + np.arange(num_batches) + 1
    return 1 - np.minimum(settings.decay, (1 + step) / (10 + step))


def _swa(settings: "Averaging", epoch: int, num_batches: int) -> np.ndarray:
    shares = np.zeros(num_batches)
    if epoch >= settings.start_epoch:
        shares[-1] = 1 / (epoch - settings.start_epoch + 1)
    return shares


AVERAGES: dict[str, Shares] = {"ema": _ema, "swa": _swa}
"""Share of the new weights in the average after each batch of an epoch of the phase,
`(num_batches,)`, from settings, epoch (counted from 1) and number of batches."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Averaging(Pytree):
    """An average of the weights over the steps of a phase, which begins anew with it.

    What else a network holds, such as running batch statistics, is averaged alike.

    * ema: exponential moving average, `decay` of the old one and the rest of the new
      weights in each step. In step t the decay is at most (1 + t) / (10 + t), as in
      Gowal et al., 2020, "Uncovering the limits of adversarial training",
      arXiv:2010.03593.
    * swa: mean of the weights at the end of each epoch from `start_epoch` on (Izmailov
      et al., 2018, "Averaging weights leads to wider optima", arXiv:1803.05407). Until
      then it is that of the phase's begin.

    Raises:
        ValueError: for an unknown name or a number out of range.
    """

    name: str = static(default="ema")
    """ema or swa."""
    decay: float = 0.995
    """Of ema, in [0, 1); others ignore it."""
    start_epoch: int = 1
    """Of swa: the first epoch of the phase that counts; others ignore it."""

    def __post_init__(self):
        require_choice("averaging.name", self.name, tuple(AVERAGES))
        require_in("averaging.decay", self.decay, "[0, 1)", "try 0.995")
        remedy = "it counts epochs of the phase"
        require_count("averaging.start_epoch", self.start_epoch, remedy)

    def shares(self, epoch: int, num_batches: int) -> np.ndarray:
        """Share of the new weights after each batch, `(num_batches,)` in [0, 1].

        Args:
            epoch: of the phase, counted from 1.
            num_batches: in an epoch.
        """
        return AVERAGES[self.name](self, epoch, num_batches).astype(np.float32)
