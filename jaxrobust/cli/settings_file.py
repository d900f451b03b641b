"""`--config FILE`: settings from what a command wrote, or from TOML of that form."""

import dataclasses
import json
import tomllib
from collections.abc import Callable, Iterator, Sequence, Set
from pathlib import Path
from typing import Any, TypeVar

from jaxrobust.arguments import require
from jaxrobust.references import is_reference
from jaxrobust.training import Phase, SweepConfig, TrainConfig, resolved_objective
from jaxrobust.training.recipe.config_json import config_from_json
from jaxrobust.training.recipe.older import renewed

__all__ = ["beside", "given_flags", "read_settings", "sweep_settings", "train_settings"]

T = TypeVar("T")


def read_settings(
    path: Path,
    make: Callable[[dict[str, Any]], T],
    *,
    trust_code: bool,
    frame: str = "config",
) -> T:
    """The settings in a file.

    Args:
        path: of JSON, or of TOML (`.toml`).
        make: of the table in it, which it may change, the settings.
        trust_code: whether code that the file names may run.
        frame: name of the settings in a file that says more than them.

    Raises:
        ValueError: for a file that cannot be read, settings that are refused, or code
            that is not trusted.
    """
    require(path.is_file(), "--config", "a file", str(path), "correct its name")
    try:
        record = _record(path, frame)
        names = [text for text in _texts(record) if is_reference(text)]
        if names and not trust_code:
            raise ValueError(
                f"it names code of its own ({', '.join(dict.fromkeys(names))}); say "
                "--trust-code to run it"
            )
        return make(record)
    except (ValueError, TypeError, KeyError) as error:
        text = str(error).rstrip(".")
        raise ValueError(f"`--config` cannot be read from {path}: {text}.") from error


def train_settings(record: dict[str, Any]) -> TrainConfig:
    """Those of a run, with the fields of `TrainConfig`.

    Raises:
        ValueError: for a setting that there is not, with the nearest that there is.
    """
    return _resolved(_train_config(record, ""))


def sweep_settings(record: dict[str, Any]) -> SweepConfig | TrainConfig:
    """Those of a sweep, of which `base` is a `TrainConfig`, or of a single run.

    Raises:
        ValueError: for a setting that there is not, with the nearest that there is.
    """
    if "base" not in record:
        return train_settings(record)
    base = _resolved(_train_config(record.pop("base"), "base."))
    return config_from_json(SweepConfig, record, base=base)


def beside(settings: T, flags: T, given: Set[str], **names: str) -> T:
    """The settings of a file, and in place of some those of flags beside it.

    Args:
        settings: of the file, a frozen dataclass.
        flags: those that the command line made.
        given: names of the flags that were given.
        **names: those of flags by fields, where they differ.
    """
    changes = {
        field.name: getattr(flags, field.name)
        for field in dataclasses.fields(settings)  # type: ignore
        if names.get(field.name, field.name) in given
    }
    return dataclasses.replace(settings, **changes)  # type: ignore


def _record(path: Path, frame: str) -> dict[str, Any]:
    """The settings as they are written, without what else a file says beside them."""
    text = path.read_text(encoding="utf-8")
    is_toml = path.suffix.lower() == ".toml"
    record = tomllib.loads(text) if is_toml else json.loads(text)
    if isinstance(record, dict) and isinstance(record.get(frame), dict):
        record = record[frame]
    require(isinstance(record, dict), "settings", "a table", record, "see the README")
    return record


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, str):
        yield value


def _train_config(record: dict[str, Any], place: str) -> TrainConfig:
    phases = record.get("phases", [])
    is_list = isinstance(phases, list) and all(isinstance(it, dict) for it in phases)
    if is_list and phases:
        record = renewed(record)
    return config_from_json(TrainConfig, record, place=place)


def _resolved(config: TrainConfig) -> TrainConfig:
    """The configuration with the objectives that are only named in it."""

    def resolved(phase: Phase) -> Phase:
        objective = resolved_objective(phase.objective)
        return dataclasses.replace(phase, objective=objective)

    phases = tuple(resolved(phase) for phase in config.phases)
    return dataclasses.replace(config, phases=phases)


def given_flags(words: Sequence[str]) -> frozenset[str]:
    """The fields whose flags are among the words of a command, with their prefixes.

    Flags that switch something off, `--no-NAME`, are those of NAME.
    """
    names = set()
    for word in words:
        if word.startswith("--"):
            name = word[2:].partition("=")[0].replace("-", "_")
            prefix, dot, last = name.rpartition(".")
            names.add(prefix + dot + last.removeprefix("no_"))
    return frozenset(names)
