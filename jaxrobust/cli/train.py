"""`jaxrobust train`."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from jaxrobust.arguments import require
from jaxrobust.cli.common import Common
from jaxrobust.cli.overriding import overridden
from jaxrobust.cli.settings_file import read_settings, train_settings
from jaxrobust.training import (
    RADIUS_SCHEDULES,
    JumpRule,
    Phase,
    TrainConfig,
    chain,
    iterative,
    standard,
)

__all__ = ["Train"]

SCHEDULE = ("epsilon_schedule", "epsilon_start", "epsilon_every", "ramp_epochs")


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
    epsilon_schedule: str = "constant"
    """Adversarial: how the radius comes to --epsilon in each phase: constant, linear,
    smooth, exponential, or one of your own, path.py:NAME."""
    epsilon_start: float | None = None
    """First radius of such a schedule, in units of [0, 1] pixels; by default 0.01."""
    epsilon_every: Literal["epoch", "step"] | None = None
    """Whether it stays the same for an epoch (by default), or moves on in every
    step."""
    ramp_epochs: int | None = None
    """Epochs until it arrives; by default half of --epochs."""
    increment: float = 0.01
    """Iterative: growth of the radius per epoch, in units of [0, 1] pixels."""
    hold_epochs: int = 0
    """Iterative: further epochs at the last radius."""
    stop_at_jump: bool = True
    """Iterative: end at a sudden jump of the training loss, keeping the weights from
    before it."""
    seed: int = 0
    """Of everything random."""

    def configuration(self) -> TrainConfig:
        """What the flags ask for, or the file of --config with what they change.

        Raises:
            ValueError: for flags that do not go together.
        """
        if self.config_file is None:
            return self.config_of(self.phases(), self.seed)
        trust_code = self.trust_code
        config = read_settings(self.config_file, train_settings, trust_code=trust_code)
        config = overridden(config, self, self.given)
        seed = self.seed if "seed" in self.given else config.seed
        if "recipe" in self.given:
            phases = self.phases_after(config.phases)
        else:
            phases = self.changed(config.phases)
        return dataclasses.replace(config, phases=phases, seed=seed)

    def phases_after(self, phases: Sequence[Phase]) -> tuple[Phase, ...]:
        """Phases that a --recipe makes anew, with the settings of the file's last one.

        They start from the run that those of the file start from.
        """
        names = ("norm", "is_bounded", "objective", "optimizer", "averaging")
        settings = {name: getattr(phases[-1], name) for name in names}
        if self.recipe == "standard":
            del settings["objective"]
        first, *rest = self.phases(settings)
        names = ("carry", "start_from", "start_checkpoint")
        start = {name: getattr(phases[0], name) for name in names}
        return (dataclasses.replace(first, **start), *rest)

    def changed(self, phases: Sequence[Phase]) -> tuple[Phase, ...]:
        """The phases of a file with --epsilon and --epochs, as many as there are."""
        for name in ("increment", "hold_epochs", "stop_at_jump", *SCHEDULE):
            if name in self.given:
                raise ValueError(
                    f"`--{name.replace('_', '-')}` must not be given with --config, "
                    "whose phases have their own; change it there, or make phases anew "
                    "with --recipe."
                )
        found = list(phases)
        for name in ("epsilon", "epochs"):
            if name not in self.given:
                continue
            values = getattr(self, name) or ()
            remedy = "or make phases anew with --recipe"
            rule = f"one number for each of the {len(found)} phases of --config"
            require(len(values) == len(found), f"--{name}", rule, values, remedy)
            for index, value in enumerate(values):
                found[index] = self.with_value(found[index], name, value)
        return tuple(found)

    def with_value(self, phase: Phase, name: str, value: Any) -> Phase:
        """A phase of a file with another radius or length."""
        if name == "epsilon":
            require(
                phase.epsilon.kind != "iterative",
                "--epsilon",
                "left out for iterative phases of --config, whose length it decides",
                value,
                "make them anew with --recipe iterative",
            )
            value = dataclasses.replace(phase.epsilon, end=value)
        return dataclasses.replace(phase, **{name: value})

    def phases(self, settings: Mapping[str, Any] | None = None) -> tuple[Phase, ...]:
        """The phases that the flags ask for.

        Args:
            settings: what phases have in common; None for that of the flags.

        Raises:
            ValueError: for flags that do not go together.
        """
        if self.recipe == "standard":
            if settings is None:
                settings = self.phase_settings("standard")
            _refuse(self.epsilon is not None, "--epsilon", "standard training")
            epochs = self.epochs or (5,)
            _refuse(len(epochs) > 1, "several --epochs", "standard training")
            self.refuse_schedule("standard training")
            return (standard(epochs[0], **settings),)
        if settings is None:
            settings = self.phase_settings()
        radii = self.epsilon or (0.3,)
        if self.recipe == "adversarial":
            epochs = self.epochs or (30, *(5 for _ in radii[1:]))
            phases = chain(radii, epochs, **settings)
            if self.epsilon_schedule == "constant":
                self.refuse_schedule("a constant radius")
                return phases
            return tuple(map(self.ramped, phases))
        self.refuse_schedule("iterative training")
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

    def ramped(self, phase: Phase) -> Phase:
        """A phase whose radius rises as the flags say, to where it is to arrive.

        Raises:
            ValueError: for a rise that is longer than the phase.
        """
        change = {"ramp_epochs": max(phase.epochs // 2, 1)} | self.schedule_settings()
        longest = phase.epochs + (self.epsilon_every == "step")
        require(
            self.epsilon_schedule not in RADIUS_SCHEDULES
            or change["ramp_epochs"] <= longest,
            "--ramp-epochs",
            f"at most {longest} in {phase.epochs} epochs, or --epsilon is not reached",
            change["ramp_epochs"],
            "leave it out for half of the epochs",
        )
        epsilon = dataclasses.replace(phase.epsilon, **change)
        return dataclasses.replace(phase, epsilon=epsilon)

    def schedule_settings(self) -> dict[str, Any]:
        """Fields of the schedule of the radius, as far as flags name them."""
        given = {
            "kind": self.epsilon_schedule,
            "start": self.epsilon_start,
            "every": self.epsilon_every,
            "ramp_epochs": self.ramp_epochs,
        }
        return {name: value for name, value in given.items() if value is not None}

    def refuse_schedule(self, with_what: str) -> None:
        """Refuse flags of a schedule of the radius where there is none of them."""
        flags = {
            "--epsilon-schedule": self.epsilon_schedule != "constant",
            "--epsilon-start": self.epsilon_start is not None,
            "--epsilon-every": self.epsilon_every is not None,
            "--ramp-epochs": self.ramp_epochs is not None,
        }
        for flag, is_given in flags.items():
            _refuse(is_given, flag, with_what)

    def run(self) -> int:
        """Train."""
        config = self.configuration()
        last = config.phases[-1]
        is_made = self.config_file is None or "recipe" in self.given
        recipe = self.recipe if is_made else last.name
        name = f"{Path(config.dataset).name}-{recipe}-{last.epsilon.end:g}"
        name += f"-seed{config.seed}"
        return self.options.train(self, config, name)


def _refuse(condition: bool, flag: str, with_what: str) -> None:
    if condition:
        raise ValueError(
            f"`{flag}` must not be given with {with_what}; leave it out, or choose "
            "another --recipe or --epsilon-schedule."
        )
