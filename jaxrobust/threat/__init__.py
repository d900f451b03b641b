"""Threat models: which images an adversary may show in place of the clean one.

Each norm is a file that owns all that is known of it; `table.py` has their names.
Attacks, training and evaluations ask the threat model only, so a norm of a user's own
is a subclass of `ThreatModel`, with no other file touched.
"""

from jaxrobust.threat.arithmetic import l2_norm, l2_normalize
from jaxrobust.threat.base import ThreatModel, require_images, require_radius
from jaxrobust.threat.l0 import L0Ball
from jaxrobust.threat.l1 import L1Ball
from jaxrobust.threat.l2 import L2Ball
from jaxrobust.threat.linf import LinfBall
from jaxrobust.threat.table import THREATS, norm_name, threat_of

__all__ = [
    "THREATS",
    "L0Ball",
    "L1Ball",
    "L2Ball",
    "LinfBall",
    "ThreatModel",
    "l2_norm",
    "l2_normalize",
    "norm_name",
    "require_images",
    "require_radius",
    "threat_of",
]
