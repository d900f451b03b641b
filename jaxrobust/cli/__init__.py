"""The command `jaxrobust`: each subcommand is a dataclass with a `run` method.

Exit codes: 0 done, 1 failed, 2 wrong usage, 75 interrupted with the state saved (the
same command goes on, for training with --resume; schedulers take 75 for "start me
again").
"""

import sys
from collections.abc import Callable, Sequence
from typing import Annotated

import tyro

from jaxrobust import hosts
from jaxrobust.cli.commands import (
    DataList,
    DataPrepare,
    Evaluate,
    Export,
    Extend,
    Launch,
    Report,
    Sweep,
    Train,
)
from jaxrobust.cli.limits import LIMITS
from jaxrobust.compilation import keep_compilations
from jaxrobust.training import CheckpointError, Interrupted, NonFiniteLossError

__all__ = ["main"]

INTERRUPTED = 75
"""Exit code of EX_TEMPFAIL (sysexits.h): try again."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    chosen = tyro.cli(
        Annotated[Train, tyro.conf.subcommand("train")]
        | Annotated[Sweep, tyro.conf.subcommand("sweep")]
        | Annotated[Extend, tyro.conf.subcommand("extend")]
        | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
        | Annotated[Report, tyro.conf.subcommand("report")]
        | Annotated[Export, tyro.conf.subcommand("export")]
        | Annotated[Launch, tyro.conf.subcommand("launch")]
        | Annotated[
            Annotated[DataList, tyro.conf.subcommand("list")]
            | Annotated[DataPrepare, tyro.conf.subcommand("prepare")],
            tyro.conf.subcommand("data", description="Data sets: list or prepare."),
        ]
        | LIMITS,
        prog="jaxrobust",
        description="Adversarial training and evaluation at large perturbations.",
        args=arguments,
    )
    keep_compilations()
    return hosts.leave(_execute(chosen.run))


def _execute(command: Callable[[], int]) -> int:
    """The exit code of a command; what users can mend is said in one line."""
    try:
        with hosts.lost_hosts_as_errors():
            return command()
    except (ValueError, ImportError) as error:
        print(f"jaxrobust: {error}", file=sys.stderr)
        return 2
    except Interrupted as error:
        print(f"jaxrobust: {error}", file=sys.stderr)
        return INTERRUPTED
    except (NonFiniteLossError, CheckpointError, hosts.HostLostError) as error:
        print(f"jaxrobust: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("jaxrobust: interrupted", file=sys.stderr)
        return 1
