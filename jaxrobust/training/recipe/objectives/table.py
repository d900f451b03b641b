"""The objectives by name; another one is a file and a line here."""

from typing import Any

from jaxrobust.training.recipe.objectives.adversarial import Adversarial
from jaxrobust.training.recipe.objectives.awp import AWP
from jaxrobust.training.recipe.objectives.crown_ibp import CrownIBP
from jaxrobust.training.recipe.objectives.dual import Dual
from jaxrobust.training.recipe.objectives.fast import Fast
from jaxrobust.training.recipe.objectives.gaussian import Gaussian
from jaxrobust.training.recipe.objectives.grad_align import GradAlign
from jaxrobust.training.recipe.objectives.ibp import IBP
from jaxrobust.training.recipe.objectives.label_smoothing import LabelSmoothing
from jaxrobust.training.recipe.objectives.mart import Mart
from jaxrobust.training.recipe.objectives.mtl_ibp import MTLIBP
from jaxrobust.training.recipe.objectives.n_fgsm import NFGSM
from jaxrobust.training.recipe.objectives.sabr import SABR
from jaxrobust.training.recipe.objectives.standard import Standard
from jaxrobust.training.recipe.objectives.trades import Trades

__all__ = ["OBJECTIVES"]

OBJECTIVES: dict[str, Any] = {
    "standard": Standard,
    "adversarial": Adversarial,
    "trades": Trades,
    "mart": Mart,
    "fast": Fast,
    "n_fgsm": NFGSM,
    "gaussian": Gaussian,
    "grad_align": GradAlign,
    "ibp": IBP,
    "crown_ibp": CrownIBP,
    "dual": Dual,
    "mtl_ibp": MTLIBP,
    "sabr": SABR,
    "awp": AWP,
    "label_smoothing": LabelSmoothing,
}
