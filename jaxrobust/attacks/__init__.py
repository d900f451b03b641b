"""Attacks: searches of a threat model for images on which a logits function fails."""

from jaxrobust.attacks.autopgd import auto_pgd
from jaxrobust.attacks.base import (
    Attack,
    AttackInfo,
    AttackKernel,
    AttackResult,
    AttackState,
    iterate,
    judge,
)
from jaxrobust.attacks.boundary import fab
from jaxrobust.attacks.combinators import (
    aimed,
    over_targets,
    randomized,
    transferred_from,
    with_restarts,
    worst_of,
)
from jaxrobust.attacks.cost import Passes, count_passes
from jaxrobust.attacks.decision import hop_skip_jump
from jaxrobust.attacks.gradient import fgsm, num_steps_for, pgd, pgd_kernel
from jaxrobust.attacks.gradient_free import brute_force, noise, spsa, square, zoo
from jaxrobust.attacks.settings import PGD

__all__ = [
    "PGD",
    "Attack",
    "AttackInfo",
    "AttackKernel",
    "AttackResult",
    "AttackState",
    "Passes",
    "aimed",
    "auto_pgd",
    "brute_force",
    "count_passes",
    "fab",
    "fgsm",
    "hop_skip_jump",
    "iterate",
    "judge",
    "noise",
    "num_steps_for",
    "over_targets",
    "pgd",
    "pgd_kernel",
    "randomized",
    "spsa",
    "square",
    "transferred_from",
    "with_restarts",
    "worst_of",
    "zoo",
]
