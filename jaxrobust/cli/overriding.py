"""Flags that are given beside `--config`: they win over the file."""

import dataclasses
from collections.abc import Set
from typing import TYPE_CHECKING, Any

from jaxrobust.arguments import require
from jaxrobust.attacks import PGD
from jaxrobust.cli.numbers import numbers
from jaxrobust.training import (
    Averaging,
    Phase,
    TrainConfig,
    Validation,
    named_objective,
    takes_attack,
    with_attack,
    with_number,
)

if TYPE_CHECKING:
    from jaxrobust.cli.common import Common

__all__ = ["overridden"]

SAME = (
    *("dataset", "variant", "train_size", "batch_size", "micro_batches"),
    *("augmentation", "precision", "matmul_precision"),
)
"""Flags that are fields of the configuration."""


def overridden(config: TrainConfig, flags: "Common", given: Set[str]) -> TrainConfig:
    """The configuration of a file with the settings that flags give.

    What phases have of their own is changed in each of them.

    Args:
        config: of the file.
        flags: the command.
        given: names of the fields whose flags were given.

    Raises:
        ValueError: for flags that the configuration has no place for.
    """
    changes: dict[str, Any] = {
        name: getattr(flags, name) for name in SAME if name in given
    }
    model: dict[str, Any] = (
        {"name": flags.model} if "model" in given and flags.model else {}
    )
    if "widen_factor" in given:
        model["widen_factor"] = flags.widen_factor
    changes["model"] = dataclasses.replace(config.model, **model)
    changes["validation"] = _validation(config, flags, given)
    changes["phases"] = _phases(config, flags, given)
    return dataclasses.replace(config, **changes)


def _validation(
    config: TrainConfig, flags: "Common", given: Set[str]
) -> Validation | None:
    found = config.validation
    if "validation" in given:
        share = flags.validation
        if share is None:
            return None
        found = dataclasses.replace(found or Validation(), share=share)
    if "validation_every" in given:
        remedy = "hold examples out (--validation 0.1)"
        rule = "left out without --validation"
        every = flags.validation_every
        require(found is not None, "validation_every", rule, every, remedy)
        assert found is not None
        found = dataclasses.replace(found, every=every)
    return found


def _fields(settings: Any, prefix: str, given: Set[str]) -> dict[str, Any]:
    """Those of the fields of a part whose flags were given."""
    return {
        field.name: getattr(settings, field.name)
        for field in dataclasses.fields(settings)
        if f"{prefix}.{field.name}" in given
    }


def _attack_of(objective: Any) -> PGD | None:
    """The attack of an objective, or of the one that it transforms."""
    if objective is None:
        return None
    attack = getattr(objective, "attack", None)
    inner = getattr(objective, "objective", None)
    return attack if isinstance(attack, PGD) else _attack_of(inner)


def _phases(config: TrainConfig, flags: "Common", given: Set[str]) -> tuple[Phase, ...]:
    attack = _fields(flags.attack, "attack", given)
    phases = tuple(_phase(phase, flags, given, attack) for phase in config.phases)
    is_taken = any(_attack_of(phase.objective) for phase in phases)
    require(
        not attack or is_taken,
        "attack",
        "left out for objectives without one",
        ", ".join(attack),
        "choose an --objective that has an attack",
    )
    for name, text in flags.set:
        (value,) = numbers("--set", (text,))
        phases = tuple(with_number(phase, name, value) for phase in phases)
    return phases


def _phase(
    phase: Phase, flags: "Common", given: Set[str], attack: dict[str, Any]
) -> Phase:
    changes: dict[str, Any] = {
        name: getattr(flags, name) for name in ("norm", "is_bounded") if name in given
    }
    objective = phase.objective
    if "objective" in given:
        before = _attack_of(objective) if takes_attack(flags.objective) else None
        objective = named_objective(flags.objective, attack=before)
    if attack:
        objective = with_attack(
            objective, lambda before: dataclasses.replace(before, **attack)
        )
    changes["objective"] = objective
    optimizer = _fields(flags.optimizer, "optimizer", given)
    changes["optimizer"] = dataclasses.replace(phase.optimizer, **optimizer)
    if "averaging" in given:
        is_averaged = flags.averaging != "none"
        changes["averaging"] = Averaging(name=flags.averaging) if is_averaged else None
    return dataclasses.replace(phase, **changes)
