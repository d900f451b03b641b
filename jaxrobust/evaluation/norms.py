"""Which attacks exist in a norm: told before any of them runs."""

from collections.abc import Mapping

from jaxrobust.attacks import ATTACKS, AttackBuilder
from jaxrobust.attacks.builders import innermost, settled
from jaxrobust.threat import ThreatModel, norm_name, threat_of

__all__ = ["instead", "lacks_norm", "require_norm_of"]

_DIFFERENT = ("apgd-ce", "fmn", "pdpgd", "sigma-zero", "pgd")
"""Attacks by gradients that differ in what they follow; together they exist in every
norm."""

_RADIUS = 0.5
"""Any: whether a norm has an attack does not depend on it."""


def _refusal(build: AttackBuilder, threat: ThreatModel) -> str | None:
    """What a builder says of a norm that its attack does not have."""
    try:
        settled(innermost(build), _RADIUS)(threat)
    except Exception as error:
        # Mistakes of other kinds are told where the attack is run.
        said = str(error).rstrip(".")
        return said if said.startswith("`threat` must be") else None
    return None


def lacks_norm(build: AttackBuilder, norm: str | type[ThreatModel]) -> bool:
    """Whether a builder refuses a norm."""
    return _refusal(build, threat_of(norm)(_RADIUS)) is not None


def instead(norm: str | type[ThreatModel]) -> str:
    """The attacks that there are in a norm, in words: what to give in place of others.

    Args:
        norm: one of `THREATS`, or one of your own.
    """
    threat = threat_of(norm)(_RADIUS)
    names = [name for name in _DIFFERENT if _refusal(ATTACKS[name], threat) is None]
    words = f"`--attack {' '.join(names)}` compares attacks that differ"
    return f"in {norm_name(norm)}, {words}"


def require_norm_of(
    attacks: Mapping[str, AttackBuilder], norm: str | type[ThreatModel]
) -> None:
    """Refuse attacks that a norm does not have, without computing anything.

    Args:
        attacks: builders by name.
        norm: of the ball.

    Raises:
        ValueError: naming the first such attack, the norm, and what there is instead.
    """
    threat = threat_of(norm)(_RADIUS)
    for name, build in attacks.items():
        if (said := _refusal(build, threat)) is not None:
            raise ValueError(
                f"`attack` must be defined in {norm_name(norm)}, got {name!r}, which "
                f"says: {said}; {instead(norm)}."
            )
