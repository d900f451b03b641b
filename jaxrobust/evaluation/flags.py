"""Attacks back into the flags of a command that choose them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxrobust.attacks import ATTACKS, AttackBuilder
from jaxrobust.attacks.builders import described, innermost, settings_of, wrappers
from jaxrobust.evaluation.choosing import STANDARD, chosen_attacks
from jaxrobust.evaluation.ensemble import STAGES
from jaxrobust.references import name_of

__all__ = ["AttackFlags", "attack_flags", "shortened"]


def shortened(names: Sequence[str]) -> tuple[str, ...]:
    """Names of attacks, with the name of the standard ensemble for its four."""
    four, found = STAGES[:4], list(names)
    for place in range(len(found)):
        if tuple(found[place : place + len(four)]) == four:
            found[place : place + len(four)] = [STANDARD]
    return tuple(found)


class AttackFlags(NamedTuple):
    """What `--attack` and `--set` are given to choose attacks.

    Attributes:
        attack: names of attacks.
        set: settings and their values.
    """

    attack: tuple[str, ...]
    set: tuple[tuple[str, str], ...]

    @property
    def words(self) -> list[str]:
        """Of a command: `--attack NAME ... --set SETTING VALUE ...`."""
        words = ["--attack", *self.attack]
        for setting, value in self.set:
            words += ["--set", setting, value]
        return words


def attack_flags(attacks: Mapping[str, AttackBuilder]) -> AttackFlags | None:
    """The flags that choose attacks.

    Args:
        attacks: builders by name.

    Returns:
        Names and settings; None for attacks that no flags choose, such as a function
        that is defined inside another one, or the sum of several.
    """
    names = [
        name if name in (STANDARD, *ATTACKS) else _root(attacks[name])
        for name in shortened(list(attacks))
    ]
    try:
        plain = chosen_attacks(names)
        if list(plain) != list(attacks):
            return None
        changes = _changes(plain, attacks)
        again = chosen_attacks(names, changes)
    except (ValueError, TypeError):  # nothing of that name can be made
        return None
    if list(map(_told, again.values())) != list(map(_told, attacks.values())):
        return None
    return AttackFlags(tuple(names), tuple(changes))


def _root(build: AttackBuilder) -> str:
    """The name of what a builder calls in the end."""
    inner = innermost(build)
    is_settings = dataclasses.is_dataclass(inner)
    return name_of(type(inner) if is_settings else getattr(inner, "func", inner))


def _told(build: AttackBuilder) -> tuple[Any, ...]:
    """What tells builders apart: what is wrapped in what, and all settings."""
    settings = settings_of(build).items()
    told = {name: described(value) for name, value in settings}
    return wrappers(build), _root(build), told


def _changes(
    plain: Mapping[str, AttackBuilder], attacks: Mapping[str, AttackBuilder]
) -> list[tuple[str, str]]:
    """The settings in which attacks differ from those that their names choose."""
    before = {name: settings_of(build) for name, build in plain.items()}
    after = {name: settings_of(build) for name, build in attacks.items()}
    found: dict[tuple[str, str], None] = {}
    for name, settings in after.items():
        for setting, value in settings.items():
            if before[name].get(setting) == value:
                continue
            is_everywhere = all(
                after[other][setting] == value != before[other][setting]
                for other in after
                if setting in after[other] and setting in before[other]
            )
            owner = setting if is_everywhere else f"{name}.{setting}"
            found[owner, _text(value)] = None
    return list(found)


def _text(value: Any) -> str:
    """A value of a setting as a command takes it."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return str(value)
