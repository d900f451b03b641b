"""One process of a job whose processes were given different work: what each is told.

Arguments: a directory for the runs, and one that another job is using.
"""

import dataclasses
import sys
from pathlib import Path

from jaxrobust import hosts


def main(directory: Path, used: Path) -> int:
    hosts.initialize()
    from jaxrobust.attacks import PGD
    from jaxrobust.data import load_arrays, subset
    from jaxrobust.networks import ModelConfig
    from jaxrobust.training import (
        MeshConfig,
        Placement,
        SweepConfig,
        TrainConfig,
        adversarial,
        sweep,
        train,
    )

    mine = 0.1 if hosts.is_primary() else 0.4

    def config(epsilon: float = 0.1) -> TrainConfig:
        return TrainConfig(
            train_size=96,
            model=ModelConfig(name="linear"),
            batch_size=32,
            phases=(adversarial(epsilon, 1, attack=PGD(step_size=0.05)),),
        )

    digits = subset(load_arrays("digits", "train"), 96)
    if not hosts.is_primary():
        images = digits.images.copy()
        images[5, 3, 3, 0] = 1 - images[5, 3, 3, 0]
        other = dataclasses.replace(digits, images=images)
    else:
        other = digits
    placement = Placement(MeshConfig(data=2))

    def settings(place: Path) -> None:
        train(config(mine), place, dataset=digits, placement=placement)

    def members(place: Path) -> None:
        several = SweepConfig(base=config(), epsilon=(0.1, 0.1 + mine))
        sweep(several, place, dataset=digits, placement=placement)

    def work(place: Path) -> None:
        if hosts.is_primary():
            train(config(), place, dataset=digits, placement=placement)
        else:
            several = SweepConfig(base=config(), epsilon=(0.1,))
            sweep(several, place, dataset=digits, placement=placement)

    def data(place: Path) -> None:
        train(config(), place, dataset=other, placement=placement)

    def files(place: Path) -> None:
        # As if the other process did not see the file system of the first one.
        place = place if hosts.is_primary() else place / "elsewhere"
        train(config(), place, dataset=digits, placement=placement, resume=True)

    def in_use(place: Path) -> None:
        del place
        train(config(), used, dataset=digits, placement=placement)

    for case in (settings, members, work, data, in_use):
        place = directory / case.__name__
        try:
            case(place)
        except Exception as error:
            print(f"{case.__name__}: {type(error).__name__}: {error}", flush=True)
        print(f"{case.__name__} left {place.exists()}", flush=True)
    # What is the same everywhere is done all the same.
    run = train(config(), directory / "run", dataset=digits, placement=placement)
    print(f"done: {len(run.records)}", flush=True)
    try:
        files(directory / "run")
    except Exception as error:
        print(f"files: {type(error).__name__}: {error}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(hosts.leave(main(Path(sys.argv[1]), Path(sys.argv[2]))))
