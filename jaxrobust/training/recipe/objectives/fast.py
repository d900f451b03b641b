"""Fast adversarial training: one step from a random start."""

import dataclasses

import jax.numpy as jnp

from jaxrobust.arguments import require_in
from jaxrobust.attacks import AttackResult, pgd
from jaxrobust.threat import ThreatModel
from jaxrobust.training.recipe.model import Model
from jaxrobust.training.recipe.objectives.attacking import Attacking
from jaxrobust.types import Images, Labels, PRNGKey

__all__ = ["Fast"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fast(Attacking):
    """The cross-entropy after one step from a uniformly random point of the ball.

    The step is projected on the ball. At larger radii training can collapse to weights
    that resist this step and no other attack (catastrophic overfitting).

    Raises:
        ValueError: for a step out of range or an unknown word.

    References:
        Wong et al., 2020, arXiv:2001.03994.
    """

    step: float = 1.25
    """Length of the step, in radii of the ball."""

    def __post_init__(self):
        super().__post_init__()
        require_in("step", self.step, "[0, inf)", "it is in radii, such as 1.25")

    def attack_numbers(self, epsilon: float) -> dict[str, float]:
        """Length and number of its steps at a radius, for the log."""
        return {"step_size": self.step * epsilon, "num_steps": 1}

    def search(
        self,
        key: PRNGKey,
        model: Model,
        threat: ThreatModel,
        images: Images,
        labels: Labels,
    ) -> AttackResult:
        """The images after the step."""
        # An array, since a step of length 0 is right at radius 0.
        step_size = jnp.asarray(self.step * threat.epsilon, float)
        attack = pgd(threat, step_size=step_size, num_steps=1)
        return attack(key, self.seen_by_attack(key, model), images, labels)
