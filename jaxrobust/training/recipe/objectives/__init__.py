"""Objectives: what training minimizes, each with the attack that it wants."""

from jaxrobust.training.recipe.objectives.adversarial import Adversarial
from jaxrobust.training.recipe.objectives.attacking import Attacking
from jaxrobust.training.recipe.objectives.awp import AWP
from jaxrobust.training.recipe.objectives.base import (
    Objective,
    Seen,
    Unresolved,
    as_pytree,
    attack_numbers,
    attacked,
    require_objective,
    seen,
    settled,
    unresolved,
    with_attack,
)
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
from jaxrobust.training.recipe.objectives.naming import (
    named_objective,
    objective_name,
    takes_attack,
)
from jaxrobust.training.recipe.objectives.sabr import SABR
from jaxrobust.training.recipe.objectives.standard import Standard
from jaxrobust.training.recipe.objectives.table import OBJECTIVES
from jaxrobust.training.recipe.objectives.trades import Trades

__all__ = [
    "AWP",
    "IBP",
    "MTLIBP",
    "NFGSM",
    "OBJECTIVES",
    "SABR",
    "Adversarial",
    "Attacking",
    "CrownIBP",
    "Dual",
    "Fast",
    "Gaussian",
    "GradAlign",
    "LabelSmoothing",
    "Mart",
    "Objective",
    "Seen",
    "Standard",
    "Trades",
    "Unresolved",
    "as_pytree",
    "attack_numbers",
    "attacked",
    "named_objective",
    "objective_name",
    "require_objective",
    "seen",
    "settled",
    "takes_attack",
    "unresolved",
    "with_attack",
]
