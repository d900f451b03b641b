"""The norms by name, and how one of a user's own is named."""

from jaxrobust.references import name_of, require_function, resolve
from jaxrobust.threat.base import ThreatModel
from jaxrobust.threat.l0 import L0Ball
from jaxrobust.threat.l1 import L1Ball
from jaxrobust.threat.l2 import L2Ball
from jaxrobust.threat.linf import LinfBall

__all__ = ["THREATS", "norm_name", "threat_of"]

THREATS: dict[str, type[ThreatModel]] = {
    kind.name: kind for kind in (LinfBall, L2Ball, L1Ball, L0Ball)
}
"""Threat models by the name of their norm."""

_given: dict[str, type[ThreatModel]] = {}


def norm_name(norm: str | type[ThreatModel]) -> str:
    """What a configuration calls a norm. Nothing is imported.

    Args:
        norm: a name in `THREATS`; a reference, `path.py:NAME` or `package.module:NAME`,
            to a subclass of `ThreatModel`; or such a class.

    Raises:
        TypeError: for what is neither a name nor such a class.
        ValueError: for an unknown name, or a class that no run could find again.
    """
    if isinstance(norm, str):
        require_function(norm, THREATS, what="norm")
        return norm
    _require_kind(norm, norm)
    if THREATS.get(norm.name) is norm:
        return norm.name
    require_function(norm, THREATS, what="norm")
    name = name_of(norm)
    _given[name] = norm
    return name


def threat_of(norm: str | type[ThreatModel]) -> type[ThreatModel]:
    """The threat model of a norm. A reference runs the code that it names.

    Args:
        norm: see `norm_name`.

    Raises:
        TypeError: for what is no threat model.
        ValueError: for an unknown name.
    """
    name = norm_name(norm)
    if not isinstance(norm, str):
        return norm
    if name in THREATS:
        return THREATS[name]
    # A file may have changed since; what was handed over has not.
    is_given = name in _given and not name.rpartition(":")[0].endswith(".py")
    kind = _given[name] if is_given else resolve(name, what="norm").value
    _require_kind(kind, name)
    return kind


def _require_kind(kind: object, given: object) -> None:
    if not (isinstance(kind, type) and issubclass(kind, ThreatModel)):
        raise TypeError(
            "`norm` must be a name or a subclass of ThreatModel, got "
            f"{given!r}; subclass it, and name it as path/to/file.py:NAME."
        )
