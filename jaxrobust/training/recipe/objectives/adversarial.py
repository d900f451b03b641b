"""Adversarial training."""

import dataclasses

from jaxrobust.attacks import PGD, AttackBuilder, AttackResult
from jaxrobust.threat import ThreatModel
from jaxrobust.training.recipe.model import Model
from jaxrobust.training.recipe.objectives.attacking import Attacking
from jaxrobust.training.recipe.objectives.own_attack import as_attack
from jaxrobust.types import Images, Labels, PRNGKey

__all__ = ["Adversarial"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adversarial(Attacking):
    """The cross-entropy on the images that an attack finds (Madry et al., 2018).

    References:
        Madry et al., 2018, arXiv:1706.06083.
    """

    attack: PGD | AttackBuilder | str = PGD()
    """What finds them: PGD, or any builder. A name stands for one whose code has not
    been run."""

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "attack", as_attack(self.attack))

    def search(
        self,
        key: PRNGKey,
        model: Model,
        threat: ThreatModel,
        images: Images,
        labels: Labels,
    ) -> AttackResult:
        """The images that the attack ends at."""
        attack = self.attack
        assert not isinstance(attack, str)
        return attack(threat)(key, self.seen_by_attack(key, model), images, labels)
