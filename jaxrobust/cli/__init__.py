"""The command `jaxrobust`: each subcommand is a dataclass with a `run` method.

Exit codes: 0 done, 1 failed, 2 wrong usage, 75 interrupted with the state saved (the
same command goes on, for training with --resume; schedulers take 75 for "start me
again").
"""

from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from jaxrobust import hosts
from jaxrobust.cli.datasets import DataList, DataPrepare
from jaxrobust.cli.ending import execute
from jaxrobust.cli.evaluate import Evaluate
from jaxrobust.cli.export import Export
from jaxrobust.cli.extend import Extend
from jaxrobust.cli.launch import Launch
from jaxrobust.cli.limits import LIMITS
from jaxrobust.cli.numbers import NUMBERS
from jaxrobust.cli.places import require_local_paths
from jaxrobust.cli.report import Report
from jaxrobust.cli.streams import lasting_streams
from jaxrobust.cli.sweep import Sweep
from jaxrobust.cli.train import Train
from jaxrobust.compilation import keep_compilations

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    with lasting_streams():
        chosen = _chosen(arguments)

        def command() -> int:
            require_local_paths(chosen)
            keep_compilations()
            return chosen.run()

        return hosts.leave(execute("jaxrobust", command))


def _chosen(arguments: Sequence[str] | None) -> Any:
    """The command that the arguments ask for, with its options."""
    return tyro.cli(
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
        registry=NUMBERS,
    )
