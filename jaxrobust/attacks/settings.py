"""PGD as settings: what training and evaluation configure, and build an attack from."""

import dataclasses
from typing import Any, get_args

import jax

from jaxrobust.arguments import require_choice, require_count, require_in
from jaxrobust.attacks.base import Attack, AttackBuilder, Keep
from jaxrobust.attacks.gradient import Direction, Loss, num_steps_for, pgd
from jaxrobust.losses import LossName
from jaxrobust.pytrees import Pytree, static
from jaxrobust.threat import ThreatModel
from jaxrobust.types import Images, Labels

__all__ = ["PGD", "in_proportion"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PGD(Pytree):
    """Projected gradient descent; a function from a threat model to an attack.

    Numbers are leaves, and may be traced.

    Raises:
        ValueError: for an unknown word or a number out of range.

    References:
        Madry et al., 2018, arXiv:1706.06083.
    """

    step_size: float = 0.01
    """Length of a step, in units of [0, 1] pixels."""
    num_steps: int | None = None
    """Number of steps; None takes floor(2.5 * epsilon / step_size), as Shaeiri et al.,
    2020, do."""
    random_start: bool = static(default=True)
    """Start uniformly in the ball."""
    direction: Direction = static(default="steepest")
    """How the gradient becomes a step."""
    loss: LossName = static(default="cross_entropy")
    """What the attack climbs."""
    keep: Keep = static(default="last")
    """Iterate to return."""

    def __post_init__(self):
        require_choice("direction", self.direction, get_args(Direction))
        require_choice("loss", self.loss, get_args(LossName))
        require_choice("keep", self.keep, get_args(Keep))
        remedy = "it is in units of [0, 1] pixels, such as 0.01"
        require_in("step_size", self.step_size, "(0, inf)", remedy)
        if self.num_steps is not None:
            remedy = "leave it out for 2.5 * epsilon / step_size"
            require_count("num_steps", self.num_steps, remedy, least=0)

    def num_steps_at(self, epsilon: float) -> int:
        """Steps taken at a radius; none at radius 0, where there is nothing to find."""
        if epsilon == 0:
            return 0
        if self.num_steps is not None:
            return self.num_steps
        return int(num_steps_for(epsilon, self.step_size))

    def at(self, epsilon: float) -> "PGD":
        """The settings with the number of steps at a radius that is known to Python."""
        return dataclasses.replace(self, num_steps=self.num_steps_at(epsilon))

    def __call__(
        self,
        threat: ThreatModel,
        *,
        loss: Loss | None = None,
        start: Images | None = None,
        targets: Labels | None = None,
    ) -> Attack:
        """The attack on a threat model; `at` must have settled the number of steps.

        Args:
            threat: what is searched.
            loss: climbed in place of that of the settings.
            start: images to start at in place of what `random_start` says; see `pgd`.
            targets: classes that it is steered at; see `pgd`.

        Raises:
            ValueError: if the number of steps depends on the radius.
        """
        if self.num_steps is None:
            raise ValueError(
                "`num_steps` must be known, got None; call `at(epsilon)` first, which "
                "takes as many steps as the radius needs."
            )
        return pgd(
            threat,
            step_size=self.step_size,
            num_steps=self.num_steps,
            direction=self.direction,
            loss=self.loss if loss is None else loss,
            random_start=self.random_start,
            start=start,
            targets=targets,
            keep=self.keep,
        )

    def num_passes(self, num_classes: int, **settings: object) -> int:
        """Forward passes for each image, about; the number of steps must be settled."""
        del num_classes, settings
        return 0 if self.num_steps is None else 3 * self.num_steps + 1


def in_proportion(
    build: AttackBuilder, *, epsilon: float, made_for: float
) -> AttackBuilder:
    """A builder, with the steps of every PGD in it in proportion to the radius.

    Args:
        build: the builder; what is no PGD in it stays as it is.
        epsilon: radius at which it is run, in units of [0, 1] pixels.
        made_for: radius that its steps were chosen for, positive.
    """

    def scaled(part: Any) -> Any:
        if not isinstance(part, PGD):
            return part
        step_size = part.step_size * epsilon / made_for
        return dataclasses.replace(part, step_size=step_size)

    return jax.tree.map(scaled, build, is_leaf=lambda part: isinstance(part, PGD))
