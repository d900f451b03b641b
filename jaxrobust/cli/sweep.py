"""`jaxrobust sweep`."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import tyro

from jaxrobust.cli.common import Common, own_code
from jaxrobust.cli.numbers import numbers
from jaxrobust.cli.overriding import overridden
from jaxrobust.cli.places import quoted
from jaxrobust.cli.settings_file import read_settings, sweep_settings
from jaxrobust.training import (
    NullReporter,
    SweepConfig,
    TrainConfig,
    WarmStart,
    adversarial,
    parse_part,
    reporter_for,
    sweep,
)
from jaxrobust.training.course.signals import stop_on_signals

__all__ = ["Sweep"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep(Common):
    """Train many classifiers in one compiled program: a grid, a list, a chain.

    Numbers are given as a list (0.1 0.2 8/255) or evenly spaced (0.1:0.5:9, both ends
    included). Each member becomes a run in the directory of the sweep.
    """

    epsilon: tuple[str, ...] = ()
    """Radii, in units of [0, 1] pixels; by default 0.3."""
    seed: tuple[int, ...] = (0,)
    """Seeds of everything random."""
    sweep: tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]] = ()
    """Values of any number of the phases, by name, such as optimizer.learning_rate 0.1
    0.01 or objective.beta 1:6:6; may be repeated."""
    start_from: tuple[str, ...] = ()
    """Runs to start from; by default random weights."""
    mode: Literal["grid", "list"] = "grid"
    """grid: every combination. list: the first of each, the second of each, ..."""
    warm_start: WarmStart = WarmStart()
    """Members that start from other members."""
    epochs: int = 30
    """Epochs of each member."""
    part: str | None = None
    """Train only one part, such as 0/4 for the first of four jobs that share the
    directory; members that start from each other stay together."""
    memory_limit: float | None = None
    """GiB of a device; by default what is free. Members that do not fit train in
    groups."""

    def config(self) -> SweepConfig:
        """The sweep that the flags ask for.

        Raises:
            ValueError: for flags that do not go together.
        """
        if self.config_file is not None:
            trust_code = self.trust_code
            return self.changed(
                read_settings(self.config_file, sweep_settings, trust_code=trust_code)
            )
        phase = adversarial(0.3, self.epochs, **self.phase_settings())
        return SweepConfig(
            base=self.config_of((phase,), self.seed[0] if self.seed else 0),
            mode=self.mode,
            epsilon=numbers("--epsilon", self.epsilon or ("0.3",)),
            seed=self.seed,
            over=self.over(),
            start_from=self.start_from,
            warm_start=self.warm_start,
        )

    def over(self) -> dict[str, tuple[float, ...]]:
        """Values of --sweep, by name."""
        return {
            name: numbers(f"--sweep {name}", values) for name, *values in self.sweep
        }

    def changed(self, settings: SweepConfig | TrainConfig) -> SweepConfig:
        """The settings of a file with what the flags change.

        Radii and seeds that neither names are those of the base.
        """
        if isinstance(settings, TrainConfig):
            settings = SweepConfig(base=settings)
        base = overridden(settings.base, self, self.given)
        if "epochs" in self.given:
            phases = (
                dataclasses.replace(phase, epochs=self.epochs) for phase in base.phases
            )
            base = dataclasses.replace(base, phases=tuple(phases))
        changes: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("mode", "seed", "start_from")
            if name in self.given
        }
        if "epsilon" in self.given:
            changes["epsilon"] = numbers("--epsilon", self.epsilon)
        warm = {
            field.name: getattr(self.warm_start, field.name)
            for field in dataclasses.fields(self.warm_start)
            if f"warm_start.{field.name}" in self.given
        }
        return dataclasses.replace(
            settings,
            base=base,
            over={**settings.over, **self.over()},
            warm_start=dataclasses.replace(settings.warm_start, **warm),
            **changes,
        )

    def run(self) -> int:
        """Train all members."""
        config = self.config()
        options = self.options
        directory = (
            options.run_dir or Path("runs") / f"{Path(config.base.dataset).name}-sweep"
        )
        limit = self.memory_limit
        with stop_on_signals():
            found = sweep(
                config,
                directory,
                data_dir=options.data_dir,
                resume=options.resume,
                checkpoint_every=options.checkpoint_every,
                tensorboard=options.tensorboard,
                reporter=NullReporter() if self.quiet else reporter_for(),
                placement=options.join(),
                part=None if self.part is None else parse_part(self.part),
                memory_limit=None if limit is None else int(limit * 2**30),
                stream=options.stream,
                profile=options.profile,
            )
        self.tell(f"done: {directory}, {len(found.runs)} members")
        for name, reason in found.failures.items():
            self.tell(f"failed: {name}: {reason}")
        flags = own_code(next(iter(found.runs.values()), None))
        self.say(f"next: jaxrobust evaluate {quoted(directory)}/*/{flags}")
        return 1 if found.failures else 0
