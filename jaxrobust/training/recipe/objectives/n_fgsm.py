"""N-FGSM: one step from strong noise, and no projection."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxrobust.arguments import require_in
from jaxrobust.attacks import AttackResult, pgd
from jaxrobust.threat import ThreatModel
from jaxrobust.training.recipe.model import Model
from jaxrobust.training.recipe.objectives.attacking import Attacking
from jaxrobust.types import Images, Labels, PRNGKey

__all__ = ["NFGSM"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class NFGSM(Attacking):
    """The cross-entropy after noise and one step, neither cut to the ball.

    Only the pixel range holds: images may lie `noise + step` radii away. The noise is
    uniform in a ball of the threat model's norm. Avoids the catastrophic overfitting of
    `Fast` at the same cost.

    Raises:
        ValueError: for a number out of range or an unknown word.

    References:
        de Jorge et al., 2022, arXiv:2202.01181.
    """

    noise: float = 2.0
    """Radius of the noise, in radii of the ball."""
    step: float = 1.0
    """Length of the step, in radii of the ball."""

    def __post_init__(self):
        super().__post_init__()
        require_in("noise", self.noise, "[0, inf)", "it is in radii, such as 2")
        require_in("step", self.step, "[0, inf)", "it is in radii, such as 1")

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
        """The images after noise and step."""
        noisy = threat.with_epsilon(self.noise * threat.epsilon)
        start = noisy.sample(jax.random.fold_in(key, 4), images)
        # The smallest ball that cuts nothing off.
        reached = threat.with_epsilon((self.noise + self.step) * threat.epsilon)
        # An array, since a step of length 0 is right at radius 0.
        step_size = jnp.asarray(self.step * threat.epsilon, float)
        attack = pgd(reached, step_size=step_size, num_steps=1, start=start)
        return attack(key, self.seen_by_attack(key, model), images, labels)
