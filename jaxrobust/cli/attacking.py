"""Flags by which a command gets attacks."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self

import tyro

from jaxrobust.arguments import require
from jaxrobust.attacks import AttackBuilder
from jaxrobust.evaluation.choosing import chosen_attacks
from jaxrobust.training.recipe.config_json import config_from_json

__all__ = ["AttackChoice", "changes_of", "table_of"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttackChoice:
    """Which attacks judge a model, and with which settings."""

    attack: tuple[str, ...] = ("pgd",)
    """One attack or more, each on what the others left: pgd, fgsm, mi-fgsm, apgd-ce,
    apgd-dlr, apgd-t, fab, fab-t, square, spsa, zoo, fmn, ddn, pdpgd, sigma-zero,
    carlini-wagner, hop-skip-jump, noise, brute-force; standard for apgd-ce apgd-t fab-t
    square (AutoAttack's order); or one of your own, path.py:NAME, a function from a
    threat model to an attack."""
    set: tyro.conf.UseAppendAction[tuple[tuple[str, str], ...]] = ()
    """A setting, such as num_steps 50 for every attack that has it, or
    apgd-ce.num_steps 50 for one; may be repeated. pgd begins with 200 steps of 0.01
    (num_steps none takes 2.5 * epsilon / step_size) and num_restarts 5, the others with
    num_restarts 1."""

    @classmethod
    def of_record(cls, record: dict[str, Any]) -> Self:
        """The settings in a table of a file, in which `set` is a table.

        Raises:
            ValueError: for a setting that there is not, with the nearest that there is,
                or a value of another kind.
        """
        table = record.pop("set", {})
        remedy = 'write num_steps = 50 or "apgd-ce.num_steps" = 50 in it'
        require(isinstance(table, Mapping), "set", "a table", table, remedy)
        settings = config_from_json(cls, record)
        return dataclasses.replace(settings, set=tuple(changes_of(table)))

    def builders(self) -> dict[str, AttackBuilder]:
        """The attacks by name.

        Raises:
            ValueError: for an attack or a setting that there is not.
        """
        return chosen_attacks(self.attack, self.set)


def changes_of(table: Mapping[str, Any], owner: str = "") -> Iterator[tuple[str, str]]:
    """Settings as `--set` has them, from a table of a file.

    Args:
        table: values by names such as `num_steps` or `apgd-ce.num_steps`; what TOML
            makes of the latter, tables in the table, is taken as well.
        owner: of the table, with a dot.

    Raises:
        ValueError: for a value that is no text, number, yes or no.
    """
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from changes_of(value, f"{owner}{name}.")
            continue
        rule, remedy = "a text, a number, true or false", "write none as a text"
        is_plain = isinstance(value, str | int | float)
        require(is_plain, f"set.{owner}{name}", rule, value, remedy)
        is_flag = isinstance(value, bool)
        yield f"{owner}{name}", str(value).lower() if is_flag else str(value)


def table_of(changes: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The inverse of `changes_of`: the last value of every name, in its place."""
    table: dict[str, str] = {}
    for name, text in changes:
        table.pop(name, None)
        table[name] = text
    return table
