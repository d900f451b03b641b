"""`jaxrobust train`."""

import dataclasses
from pathlib import Path
from typing import Literal

from jaxrobust.cli.common import Common
from jaxrobust.training import (
    JumpRule,
    Phase,
    chain,
    iterative,
    standard,
)

__all__ = ["Train"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train(Common):
    """Train a classifier: standard, adversarial (one radius, or a chain), iterative."""

    recipe: Literal["standard", "adversarial", "iterative"] = "adversarial"
    """standard: clean images. adversarial: one phase for each --epsilon, each
    warm-started from the one before. iterative: the radius grows every epoch."""
    epsilon: tuple[float, ...] | None = None
    """Radius, or radii of a chain, in units of [0, 1] pixels, such as 0.1 or 8/255; by
    default 0.3."""
    epochs: tuple[int, ...] | None = None
    """Epochs of each radius; by default 30, then 5 for each extension. Standard: 5.
    Iterative runs take their length from --increment."""
    increment: float = 0.01
    """Iterative: growth of the radius per epoch, in units of [0, 1] pixels."""
    hold_epochs: int = 0
    """Iterative: further epochs at the last radius."""
    stop_at_jump: bool = True
    """Iterative: end at a sudden jump of the training loss, keeping the weights from
    before it."""
    seed: int = 0
    """Of everything random."""

    def phases(self) -> tuple[Phase, ...]:
        """The phases that the flags ask for.

        Raises:
            ValueError: for flags that do not go together.
        """
        if self.recipe == "standard":
            settings = self.phase_settings("standard")
            _refuse(self.epsilon is not None, "--epsilon", "standard training")
            epochs = self.epochs or (5,)
            _refuse(len(epochs) > 1, "several --epochs", "standard training")
            return (standard(epochs[0], **settings),)
        settings = self.phase_settings()
        radii = self.epsilon or (0.3,)
        if self.recipe == "adversarial":
            epochs = self.epochs or (30, *(5 for _ in radii[1:]))
            return chain(radii, epochs, **settings)
        _refuse(self.epochs is not None, "--epochs", "iterative training")
        _refuse(len(radii) > 1, "several radii", "iterative training")
        phase = iterative(
            radii[0],
            increment=self.increment,
            hold_epochs=self.hold_epochs,
            stop_at_jump=JumpRule() if self.stop_at_jump else None,
            **settings,
        )
        return (phase,)

    def run(self) -> int:
        """Train."""
        config = self.config_of(self.phases(), self.seed)
        radius = config.phases[-1].epsilon.end
        name = f"{Path(self.dataset).name}-{self.recipe}-{radius:g}-seed{self.seed}"
        return self.options.train(config, name)


def _refuse(condition: bool, flag: str, with_what: str) -> None:
    if condition:
        raise ValueError(
            f"`{flag}` must not be given with {with_what}; leave it out, or choose "
            "another --recipe."
        )
