"""Attacks: searches of a threat model for images on which a logits function fails."""

from jaxrobust.attacks.autopgd import auto_pgd
from jaxrobust.attacks.base import (
    Attack,
    AttackBuilder,
    AttackInfo,
    AttackKernel,
    AttackResult,
    AttackState,
    iterate,
    judge,
)
from jaxrobust.attacks.boundary import fab
from jaxrobust.attacks.catalogue import ATTACKS
from jaxrobust.attacks.combinators import (
    Aim,
    aimed,
    over_targets,
    randomized,
    transferred_from,
    with_restarts,
    worst_of,
)
from jaxrobust.attacks.cost import Passes, count_passes
from jaxrobust.attacks.decision import hop_skip_jump
from jaxrobust.attacks.decoupled import ddn
from jaxrobust.attacks.estimated import spsa, zoo
from jaxrobust.attacks.fast_minimum import fmn
from jaxrobust.attacks.gradient import fgsm, num_steps_for, pgd, pgd_kernel
from jaxrobust.attacks.momentum import mi_fgsm
from jaxrobust.attacks.penalty import carlini_wagner
from jaxrobust.attacks.primal_dual import pdpgd
from jaxrobust.attacks.sampled import brute_force, noise
from jaxrobust.attacks.settings import PGD
from jaxrobust.attacks.sparse import sigma_zero
from jaxrobust.attacks.squares import square

__all__ = [
    "ATTACKS",
    "PGD",
    "Aim",
    "Attack",
    "AttackBuilder",
    "AttackInfo",
    "AttackKernel",
    "AttackResult",
    "AttackState",
    "Passes",
    "aimed",
    "auto_pgd",
    "brute_force",
    "carlini_wagner",
    "count_passes",
    "ddn",
    "fab",
    "fgsm",
    "fmn",
    "hop_skip_jump",
    "iterate",
    "judge",
    "mi_fgsm",
    "noise",
    "num_steps_for",
    "over_targets",
    "pdpgd",
    "pgd",
    "pgd_kernel",
    "randomized",
    "sigma_zero",
    "spsa",
    "square",
    "transferred_from",
    "with_restarts",
    "worst_of",
    "zoo",
]
