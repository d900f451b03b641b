"""Attacks by name, one line each: what commands know, with their first settings.

Every one may be run several times, and every setting may be changed by its name (see
`with_setting`).
"""

from functools import partial

from jaxrobust.attacks.autopgd import auto_pgd
from jaxrobust.attacks.base import AttackBuilder
from jaxrobust.attacks.boundary import fab
from jaxrobust.attacks.combinators import over_targets, with_restarts
from jaxrobust.attacks.decision import hop_skip_jump
from jaxrobust.attacks.decoupled import ddn
from jaxrobust.attacks.estimated import spsa, zoo
from jaxrobust.attacks.fast_minimum import fmn
from jaxrobust.attacks.gradient import fgsm
from jaxrobust.attacks.momentum import mi_fgsm
from jaxrobust.attacks.penalty import carlini_wagner
from jaxrobust.attacks.primal_dual import pdpgd
from jaxrobust.attacks.sampled import brute_force, noise
from jaxrobust.attacks.settings import PGD
from jaxrobust.attacks.sparse import sigma_zero
from jaxrobust.attacks.squares import square

__all__ = ["ATTACKS"]

_RATIO = partial(auto_pgd, loss="dlr")

ATTACKS: dict[str, AttackBuilder] = {
    "pgd": with_restarts(PGD(num_steps=200), 5),
    "fgsm": with_restarts(fgsm, 1),
    "mi-fgsm": with_restarts(mi_fgsm, 1),
    "apgd-ce": with_restarts(auto_pgd, 1),
    "apgd-dlr": with_restarts(_RATIO, 1),
    "apgd-t": with_restarts(over_targets(_RATIO, 9), 1),
    "fab": with_restarts(fab, 1),
    "fab-t": with_restarts(over_targets(fab, 9), 1),
    "square": with_restarts(square, 1),
    "spsa": with_restarts(spsa, 1),
    "zoo": with_restarts(zoo, 1),
    "fmn": with_restarts(fmn, 1),
    "ddn": with_restarts(ddn, 1),
    "pdpgd": with_restarts(pdpgd, 1),
    "sigma-zero": with_restarts(sigma_zero, 1),
    "carlini-wagner": with_restarts(carlini_wagner, 1),
    "hop-skip-jump": with_restarts(hop_skip_jump, 1),
    "noise": with_restarts(noise, 1),
    "brute-force": with_restarts(partial(brute_force, num_samples=1000), 1),
}
"""Builders by name."""
