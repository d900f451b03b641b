"""Paths that commands get and suggest."""

import dataclasses
import shlex
from pathlib import Path
from typing import Any

from jaxrobust import hosts
from jaxrobust.keeping import require_local

__all__ = ["quoted", "require_local_paths"]


def require_local_paths(options: Any) -> None:
    """Refuse addresses such as gs://bucket/run among the options of a command.

    All paths and texts are looked at, in nested options too, so that a new option needs
    no line here; data sets and runs to start from are texts that may be paths.

    Args:
        options: a dataclass.

    Raises:
        ValueError: naming the option.
    """
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, Path | str):
                require_local(field.name, each)
            # The address of a process is no path.
            elif dataclasses.is_dataclass(each) and not isinstance(
                each, hosts.HostOptions
            ):
                require_local_paths(each)


def quoted(path: Path) -> str:
    """A path as a shell takes it, for commands that are suggested."""
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)
