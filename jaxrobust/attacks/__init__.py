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
from jaxrobust.attacks.combinators import with_restarts
from jaxrobust.attacks.gradient import fgsm, num_steps_for, pgd, pgd_kernel

__all__ = [
    "Attack",
    "AttackInfo",
    "AttackKernel",
    "AttackResult",
    "AttackState",
    "auto_pgd",
    "fgsm",
    "iterate",
    "judge",
    "num_steps_for",
    "pgd",
    "pgd_kernel",
    "with_restarts",
]
