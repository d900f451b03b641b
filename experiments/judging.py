"""How experiments judge models, as presets write it: PGD or an ensemble."""

import dataclasses
from collections.abc import Mapping

from jaxrobust.attacks import PGD, AttackBuilder, with_restarts
from jaxrobust.evaluation import standard_ensemble
from jaxrobust.evaluation.ensemble import STAGES

__all__ = ["ByEnsemble", "ByPGD"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ByPGD:
    """PGD with restarts at some radii."""

    attack: PGD = PGD(num_steps=200)
    num_restarts: int = 5
    """Random starts for each example."""
    epsilons: tuple[float, ...] = (0.3,)
    """Radii, in units of [0, 1] pixels."""
    batch_size: int = 250
    """Images attacked at once."""

    @property
    def attacks(self) -> Mapping[str, AttackBuilder]:
        """What `evaluate` takes."""
        return {"pgd": with_restarts(self.attack, self.num_restarts)}

    @property
    def text(self) -> str:
        """Steps and restarts in words."""
        steps = self.attack.num_steps or "2.5 * epsilon / step"
        plural = "s" if self.num_restarts > 1 else ""
        return (
            f"{steps} steps of {self.attack.step_size:.3g} and {self.num_restarts} "
            f"random start{plural}"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ByEnsemble:
    """The standard ensemble; fields are the arguments of `standard_ensemble`."""

    num_steps: int = 100
    num_targets: int = 9
    num_queries: int = 5000
    stages: tuple[str, ...] = STAGES[:4]

    @property
    def attacks(self) -> Mapping[str, AttackBuilder]:
        """What `evaluate` takes."""
        return standard_ensemble(**dataclasses.asdict(self))

    @property
    def text(self) -> str:
        """Steps, targets and queries in words."""
        return (
            f"{self.num_steps} steps, {self.num_targets} targets, "
            f"{self.num_queries:,} queries"
        )
