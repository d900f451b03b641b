"""One process of a job that trains a sweep: member axis, data axis, directory, signal.

With a signal, process 1 sends it to itself in the second slice of training, or, if this
is asked for, while it reads the data ("data"). With "save" it is process 0, at the end
of the first save after those of the beginning. Otherwise process 0 holds its first save
back until training goes on, and says whether it did.
"""

import os
import signal
import sys
import threading
from pathlib import Path

from jaxrobust import hosts

MEMBERS = 2
"""Of the first group, each of which saves its state before training."""


def watch_saves(number: int, when: str, goes_on: threading.Event) -> None:
    """Look at the moment at which a checkpoint gets its name."""
    committed = []

    def committing(event, arguments):
        if event != "os.rename" or Path(arguments[1]).parent.name != "checkpoints":
            return
        committed.append(arguments[1])
        if when == "save" and len(committed) > MEMBERS:
            os.kill(os.getpid(), number)
        if when != "save" and len(committed) == 1:
            print("trains while it saves:", goes_on.wait(20), flush=True)

    sys.addaudithook(committing)


def main(
    member: str, data: str, directory: str, number: str = "0", when: str = "slice"
) -> int:
    hosts.initialize()
    from jaxrobust.attacks import PGD
    from jaxrobust.networks import ModelConfig
    from jaxrobust.training import (
        Interrupted,
        LineReporter,
        MeshConfig,
        Placement,
        SweepConfig,
        TrainConfig,
        WarmStart,
        adversarial,
        sweep,
    )
    from jaxrobust.training.course import examples, group

    group.SLICE_SECONDS = 0.0  # every batch is a slice
    if hosts.is_primary():
        goes_on, run = threading.Event(), group.Group.slice

        def noted(*arguments):
            goes_on.set()
            return run(*arguments)

        group.Group.slice = noted
        watch_saves(int(number), when, goes_on)
    elif when == "data":
        load = examples.load_arrays

        def disturbed(*arguments, **options):
            os.kill(os.getpid(), int(number))
            return load(*arguments, **options)

        examples.load_arrays = disturbed
    elif int(number) and when == "slice":
        run, count = group.Group.slice, 0

        def counted(*arguments):
            nonlocal count
            count += 1
            if count == 2:
                os.kill(os.getpid(), int(number))
            return run(*arguments)

        group.Group.slice = counted
    base = TrainConfig(
        train_size=96,
        model=ModelConfig(name="linear"),
        batch_size=32,
        phases=(adversarial(0.1, 2, attack=PGD(step_size=0.05)),),
    )
    config = SweepConfig(
        base=base,
        epsilon=(0.05, 0.1, 0.2),
        warm_start=WarmStart(rule="above", threshold=0.1, epochs=1),
    )
    placement = Placement(MeshConfig(member=int(member), data=int(data)))
    try:
        with hosts.lost_hosts_as_errors():
            sweep(
                config,
                directory,
                resume=True,
                placement=placement,
                reporter=LineReporter(),
            )
    except Interrupted as error:
        print(error)
        return 75
    except hosts.HostLostError as error:
        print(f"jaxrobust: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    # A process killed by the kernel says nothing; signal 9 stands for that.
    assert signal.SIGKILL == 9
    raise SystemExit(hosts.leave(main(*sys.argv[1:])))
