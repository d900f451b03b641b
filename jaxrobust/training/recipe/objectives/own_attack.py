"""Attacks of the user's own in objectives: builders that are no settings of ours."""

import dataclasses
from typing import Any

import jax
import numpy as np

from jaxrobust.arguments import require
from jaxrobust.attacks import Attack, AttackBuilder
from jaxrobust.attacks.builders import require_builder
from jaxrobust.pytrees import Pytree, static
from jaxrobust.references import resolve
from jaxrobust.threat import ThreatModel

__all__ = ["GIVEN_LABEL", "OwnAttack", "as_attack", "named_attack", "resolved_attack"]

GIVEN_LABEL = "given: "
"""What a run says of a builder begins so where it cannot be made of its name."""


@dataclasses.dataclass(frozen=True)
class OwnAttack(Pytree):
    """A builder whose settings are compiled into the step.

    Attributes:
        build: from a threat model to the attack; its name where a run only names it.
    """

    build: AttackBuilder | str = static()

    def __call__(self, threat: ThreatModel, **settings: Any) -> Attack:
        """The attack on a threat model, with settings that the builder takes.

        Raises:
            ValueError: if the builder is only named.
        """
        if isinstance(self.build, str):
            raise ValueError(
                f"`attack` must be a builder, got {self.build!r}, which a run only "
                "names; trust its code (--trust-code), or hand the builder over."
            )
        return self.build(threat, **settings)


def as_attack(attack: Any) -> Pytree:
    """A builder as a pytree: what is more than numbers becomes structure.

    Raises:
        ValueError: for what is no function of a threat model.
    """
    if isinstance(attack, str):
        return OwnAttack(attack)
    require_builder(attack, "attack")
    is_tree = isinstance(attack, Pytree)
    if is_tree and all(map(_is_number, jax.tree.leaves(attack))):
        return attack
    build: Any = attack
    return OwnAttack(build)


def _is_number(leaf: Any) -> bool:
    return hasattr(leaf, "shape") or isinstance(leaf, int | float | np.generic)


def named_attack(objective: Any) -> str | None:
    """The attack of an objective, or of what it transforms, that a run only names."""
    if objective is None:
        return None
    attack = getattr(objective, "attack", None)
    if isinstance(attack, OwnAttack) and isinstance(attack.build, str):
        return attack.build
    return named_attack(getattr(objective, "objective", None))


def resolved_attack(attack: Any) -> Any:
    """An attack, or what a run only names as one, whose code is run.

    Raises:
        ValueError: if there is no such thing, or it was handed over without a name.
    """
    if isinstance(attack, OwnAttack) and isinstance(attack.build, str):
        require(
            not attack.build.startswith(GIVEN_LABEL),
            "attack",
            "named by the run as path/to/file.py:NAME",
            attack.build,
            "hand the builder over again, from Python",
        )
        return OwnAttack(resolve(attack.build, what="attack").value)
    return attack
