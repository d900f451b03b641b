"""The command `jaxrobust`: each subcommand is a dataclass with a `run` method.

Exit codes: 0 done, 1 failed, 2 wrong usage, 75 interrupted with the state saved (the
same command goes on, for training with --resume; schedulers take 75 for "start me
again").
"""

import dataclasses
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jaxrobust.cli.commands import choice
from jaxrobust.cli.streams import lasting_streams

if TYPE_CHECKING:
    from jaxrobust.cli.command import Command

__all__ = ["chosen", "main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    with lasting_streams():
        command = chosen(sys.argv[1:] if arguments is None else arguments)

        from jaxrobust import hosts
        from jaxrobust.cli.ending import execute
        from jaxrobust.cli.places import require_local_paths
        from jaxrobust.compilation import keep_compilations

        def work() -> int:
            require_local_paths(command)
            keep_compilations()
            return command.run()

        return hosts.leave(execute("jaxrobust", work))


def chosen(arguments: Sequence[str]) -> "Command":
    """The command that the arguments ask for, with its flags.

    Nothing is imported for the help that lists the commands, or for the version; for a
    command no more than it needs.

    Raises:
        SystemExit: after help, or a message about wrong words.
    """
    entry, program, flags = choice(arguments)

    import tyro

    from jaxrobust.cli.numbers import NUMBERS

    command = tyro.cli(
        entry.load(),
        prog=program,
        description=entry.summary,
        args=flags,
        registry=NUMBERS,
    )
    if hasattr(command, "given"):
        from jaxrobust.cli.settings_file import given_flags

        command = dataclasses.replace(command, given=given_flags(flags))
    return command
