"""A tiny run that trains in a second, and one that is already trained."""

import dataclasses
import subprocess

import pytest

from jaxrobust.attacks import PGD
from jaxrobust.data import Dataset, load_arrays, subset
from jaxrobust.networks import ModelConfig
from jaxrobust.training import (
    TrainConfig,
    adversarial,
    extended,
    standard,
    train,
)
from jaxrobust.training.course import group

ATTACK = PGD(step_size=0.05)


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return subset(load_arrays("digits", "train"), 96)


@pytest.fixture(scope="session")
def tiny() -> TrainConfig:
    """Three phases of a linear model on 96 digits: six epochs of three steps."""
    return TrainConfig(
        train_size=96,
        model=ModelConfig(name="linear"),
        batch_size=32,
        phases=(
            standard(2),
            adversarial(0.05, 2, attack=ATTACK),
            extended(0.1, 2, attack=ATTACK),
        ),
    )


@pytest.fixture(scope="session")
def trained(tiny, digits, tmp_path_factory):
    return train(tiny, tmp_path_factory.mktemp("trained") / "run", dataset=digits)


@pytest.fixture
def small_slices(monkeypatch):
    """One batch a slice, so that a signal can come after any of them."""
    monkeypatch.setattr(group, "SLICE_SECONDS", 0.0)


@pytest.fixture
def short(tiny) -> TrainConfig:
    return dataclasses.replace(tiny, phases=tiny.phases[1:2])


@pytest.fixture
def small_disk(tmp_path):
    """A file system of a megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system may be mounted here: {error}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)
