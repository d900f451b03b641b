"""The objectives by name; another one is a file and a line here."""

from typing import Any

from jaxrobust.training.objectives.adversarial import Adversarial
from jaxrobust.training.objectives.awp import AWP
from jaxrobust.training.objectives.fast import Fast
from jaxrobust.training.objectives.grad_align import GradAlign
from jaxrobust.training.objectives.label_smoothing import LabelSmoothing
from jaxrobust.training.objectives.mart import Mart
from jaxrobust.training.objectives.n_fgsm import NFGSM
from jaxrobust.training.objectives.standard import Standard
from jaxrobust.training.objectives.trades import Trades

__all__ = ["OBJECTIVES"]

OBJECTIVES: dict[str, Any] = {
    "standard": Standard,
    "adversarial": Adversarial,
    "trades": Trades,
    "mart": Mart,
    "fast": Fast,
    "n_fgsm": NFGSM,
    "grad_align": GradAlign,
    "awp": AWP,
    "label_smoothing": LabelSmoothing,
}
