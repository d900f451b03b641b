"""Adversarial training."""

import dataclasses

from jaxrobust.attacks import PGD, AttackResult
from jaxrobust.threat import ThreatModel
from jaxrobust.training.recipe.model import Model
from jaxrobust.training.recipe.objectives.attacking import Attacking
from jaxrobust.types import Images, Labels, PRNGKey

__all__ = ["Adversarial"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adversarial(Attacking):
    """The cross-entropy on the images that PGD finds (Madry et al., 2018).

    References:
        Madry et al., 2018, arXiv:1706.06083.
    """

    attack: PGD = PGD()
    """What finds them."""

    def search(
        self,
        key: PRNGKey,
        model: Model,
        threat: ThreatModel,
        images: Images,
        labels: Labels,
    ) -> AttackResult:
        """The images that PGD ends at."""
        return self.attack(threat)(key, self.seen_by_attack(key, model), images, labels)
