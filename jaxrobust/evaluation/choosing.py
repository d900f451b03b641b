"""Attacks that are named by text: of the catalogue, the ensemble, or the user's own."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust.arguments import require, require_choice
from jaxrobust.attacks import ATTACKS, AttackBuilder, AttackResult
from jaxrobust.attacks.builders import (
    builder_name,
    require_builder,
    settings_of,
    settled,
    with_setting,
)
from jaxrobust.evaluation.ensemble import standard_ensemble
from jaxrobust.evaluation.norms import require_norm_of
from jaxrobust.keys import seeded
from jaxrobust.references import is_reference, resolve
from jaxrobust.threat import ThreatModel, threat_of

__all__ = ["STANDARD", "chosen_attacks", "require_attacks"]

STANDARD = "standard"
"""The name that stands for the four attacks of the standard ensemble."""


def chosen_attacks(
    names: Sequence[str], changes: Sequence[tuple[str, str]] = ()
) -> dict[str, AttackBuilder]:
    """Builders by name, for `evaluate`.

    Args:
        names: of the catalogue (`ATTACKS`), "standard" for the ensemble, or one of the
            user's own, `path/to/file.py:NAME`, whose code is run.
        changes: settings and their values as text, such as `("num_steps", "50")` for
            every attack that has it, or `("apgd-ce.num_steps", "50")` for one.

    Raises:
        ValueError: for an unknown attack or setting, or a value of another kind.
    """
    rule = "one or more attacks"
    require(bool(names), "attack", rule, tuple(names), f"such as {STANDARD}")
    builders: dict[str, AttackBuilder] = {}
    for name in names:
        for own, build in _named(name, dict(changes)).items():
            remedy = "name each attack once; `--set num_restarts` runs it more often"
            require(own not in builders, "attack", "different attacks", own, remedy)
            builders[own] = build
    for setting, text in changes:
        owner, _, inner = setting.rpartition(".")
        if owner:
            require_choice("set", owner, tuple(builders), "name an attack that is run")
        owners = [
            name
            for name, build in builders.items()
            if inner in settings_of(build) and owner in ("", name)
        ]
        known = {name for build in builders.values() for name in settings_of(build)}
        remedy = f"choose from {', '.join(sorted(known))}"
        require(bool(owners), "set", "a setting of an attack", setting, remedy)
        for name in owners:
            before = settings_of(builders[name])[inner]
            value = _value(setting, text, before)
            builders[name] = with_setting(builders[name], inner, value)
    return builders


def _named(name: str, changes: Mapping[str, str]) -> dict[str, AttackBuilder]:
    if name == STANDARD:
        # Further runs of FAB must draw, which the ensemble knows.
        restarts = changes.get("num_restarts", "1")
        return standard_ensemble(num_restarts=_value("num_restarts", restarts, 1))
    if name in ATTACKS:
        return {name: ATTACKS[name]}
    known = f"one of {STANDARD}, {', '.join(ATTACKS)}, or path/to/file.py:NAME"
    require(is_reference(name), "attack", known, name, "correct the name")
    value = resolve(name, what="attack").value
    build = value() if isinstance(value, type) else value
    require_builder(build, "attack")
    return {builder_name(build): build}


def _value(setting: str, text: str, before: Any) -> Any:
    """A text as a value of the kind that the setting has."""
    if isinstance(before, bool):
        require_choice("set", text, ("true", "false"), f"{setting} is a yes or no")
        return text == "true"
    if isinstance(before, str):
        return text
    if text == "none":
        return None
    above, _, below = text.partition("/")
    try:
        number = float(above) / float(below) if below else float(above)
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(
            f"`set` must be a number for {setting}, got {text!r}; write 50, 0.1 or "
            "8/255."
        ) from error
    is_whole = number.is_integer()
    if isinstance(before, float) or (before is None and not is_whole):
        return number
    require(is_whole, "set", f"a whole number for {setting}", text, "round it")
    return int(number)


def require_attacks(
    attacks: Mapping[str, AttackBuilder],
    epsilons: Sequence[float],
    *,
    norm: str | type[ThreatModel],
    image_shape: Sequence[int],
    num_classes: int,
) -> None:
    """Refuse attacks that could not run, without computing anything.

    Each is traced on one image and a model of no layers, so that what it refuses, and
    mistakes in one of the user's own, are told before models are loaded and compiled.

    Args:
        attacks: builders by name.
        epsilons: radii.
        norm: of the ball.
        image_shape: of one image.
        num_classes: of the model.

    Raises:
        ValueError: for an attack that the norm does not have, that raises an error, or
            returns something else than an `AttackResult`.
    """
    require_norm_of(attacks, norm)
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    label = jax.ShapeDtypeStruct((1,), jnp.int32)

    def logits_fn(images: jax.Array) -> jax.Array:
        pixels = images.reshape(len(images), -1)
        return jnp.tile(jnp.sum(pixels, axis=1, keepdims=True), num_classes)

    epsilon = max(epsilons)
    for name, build in attacks.items():

        def run(key: Any, image: Any, label: Any, build: Any = build) -> Any:
            attack = settled(build, epsilon)(threat_of(norm)(epsilon))
            return attack(key, logits_fn, image, label)

        try:
            outcome = jax.eval_shape(run, seeded(0), image, label)
        except Exception as error:
            raise ValueError(
                f"`attack` must be able to run, got {name!r}, which says: {error}"
            ) from error
        require(
            isinstance(outcome, AttackResult),
            "attack",
            "a builder of an attack that returns an `AttackResult`",
            name,
            "see `jaxrobust.attacks.Attack`",
        )
