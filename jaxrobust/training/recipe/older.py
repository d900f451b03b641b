"""What older versions wrote, in the form of today."""

from typing import Any

__all__ = ["renewed"]


def renewed(config: dict[str, Any]) -> dict[str, Any]:
    """The JSON of a run's configuration as today's version writes it.

    Before there were objectives, a phase had an `attack` that knew the norm, and the
    loss was always the cross-entropy. The only augmentation was a crop and a flip.
    """
    config = config | {"phases": [_renewed_phase(phase) for phase in config["phases"]]}
    if "augment" in config:
        config["augmentation"] = "crop-flip" if config.pop("augment") else None
    return config


def _renewed_phase(phase: dict[str, Any]) -> dict[str, Any]:
    if "attack" not in phase:
        return phase
    rest = {name: value for name, value in phase.items() if name != "attack"}
    attack = dict(phase["attack"])
    ball = {name: attack.pop(name) for name in ("norm", "is_bounded")}
    adversarial = {
        "name": "adversarial",
        "batch_norm": attack.pop("batch_norm"),
        "attack": attack,
    }
    is_standard = phase["name"] == "standard" and phase["epsilon"]["end"] == 0
    objective = {"name": "standard"} if is_standard else adversarial
    return rest | ball | {"objective": objective}
