"""The table of examples: one row for each thing of a user's own that can be trained.

A row says it twice, as flags of `jaxrobust train` and as values in Python. The example
itself is a file beside this one, `own_*.py`, that knows nothing of tests.
"""

import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxrobust.attacks import PGD
from jaxrobust.data import Dataset, apply_variant, load_arrays, subset
from jaxrobust.training import OptimizerConfig, TrainConfig, adversarial

HERE = Path(__file__).parent
EPSILON, EPOCHS, SIZE, BATCH = 0.05, 2, 96, 32
NUM_BATCHES = SIZE // BATCH
ATTACK = PGD(step_size=0.05)
# Neither Adam nor Lion, which make of gradients that are but roundings steps as long as
# of others.
RULE = OptimizerConfig(name="sgd", learning_rate=0.05)
TRUST = "--trust-code"
FLAGS = {
    "--model": "linear",
    "--epsilon": str(EPSILON),
    "--epochs": str(EPOCHS),
    "--train-size": str(SIZE),
    "--batch-size": str(BATCH),
    "--attack.step-size": "0.05",
    "--optimizer.name": "sgd",
    "--optimizer.learning-rate": "0.05",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Given:
    """What the caller hands over in Python; the rest is as in every example.

    Attributes:
        network: of `train`; None where it is none of the user's own.
        dataset: training examples; None for digits.
        config: fields of `TrainConfig`.
        phase: settings of its phase.
    """

    network: Any = None
    dataset: Dataset | None = None
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    phase: dict[str, Any] = dataclasses.field(default_factory=dict)


class Example(NamedTuple):
    """A row of the table.

    Attributes:
        flags: of `jaxrobust train`, where they differ from `FLAGS`; "" leaves one out.
        given: makes the same in Python.
        naming: flags by which an evaluation is told of the code that the run needs;
            none where weights are the same without it.
    """

    flags: dict[str, str]
    given: Callable[[], Given]
    naming: tuple[str, ...] = ()


def own(file: str) -> Any:
    """The module of an example, imported as any module is."""
    return importlib.import_module(f"tests.open.own_{file}")


def _network(file: str) -> Example:
    flags = {"--model": f"own_{file}.py:Net"}
    naming = ("--model", f"own_{file}.py:Net")
    return Example(flags, lambda: Given(network=own(file).Net), naming)


def digits() -> Dataset:
    """What everything is trained on that has no data of its own."""
    return subset(load_arrays("digits", "train"), SIZE)


def _numbers() -> Dataset:
    images, labels = own("data").load("train")
    return Dataset.of(images, labels, classes=range(-30, 70, 10))


NETWORKS = {name: _network(name) for name in ("linen", "nnx", "equinox", "pair")}
OTHERS = {
    # Arrays have no name: what is told to the command line is where they were saved.
    "arrays": Example(
        {"--dataset": "stripes"},
        lambda: Given(dataset=own("arrays").train),
    ),
    "data": Example(
        {"--dataset": "own_data.py:load"},
        lambda: Given(dataset=_numbers()),
        ("--dataset", "own_data.py:load"),
    ),
    "augmentation": Example(
        {"--augmentation": "own_augmentation.py:brighter"},
        lambda: Given(config={"augmentation": own("augmentation").brighter}),
    ),
    "variant": Example(
        {"--variant": "own_variant.py:Fog(0.3)"},
        lambda: Given(dataset=apply_variant(digits(), own("variant").Fog(0.3))),
        (TRUST,),
    ),
    "norm": Example(
        {"--norm": "own_norm.py:Uneven"},
        lambda: Given(phase={"norm": own("norm").Uneven}),
        ("--norm", "own_norm.py:Uneven"),
    ),
    "loss": Example(
        {"--objective": "own_loss.py:clean", "--attack.step-size": ""},
        lambda: Given(phase={"objective": own("loss").clean}),
    ),
    "objective": Example(
        {"--objective": "own_objective.py:Paired", "--set": "objective.beta 0.1"},
        lambda: Given(
            phase={"objective": own("objective").Paired(beta=0.1, attack=ATTACK)}
        ),
    ),
    "optimizer": Example(
        {
            "--optimizer.name": "own_optimizer.py:nesterov",
            "--optimizer.weight-decay": "0.1",
        },
        lambda: Given(
            phase={
                "optimizer": dataclasses.replace(
                    RULE, name=own("optimizer").nesterov, weight_decay=0.1
                )
            }
        ),
        (TRUST,),
    ),
    "schedule": Example(
        {"--optimizer.schedule": "own_schedule.py:half"},
        lambda: Given(
            phase={
                "optimizer": dataclasses.replace(RULE, schedule=own("schedule").half)
            }
        ),
    ),
}
EXAMPLES = NETWORKS | OTHERS

CASES = [
    *NETWORKS,
    *(f"{name} with {network}" for name in OTHERS for network in ("linear", "linen")),
]
"""Every example; what is no network, with one of ours and with one of a user's own."""


def parts_of(case: str) -> list[Example]:
    """The examples that a case puts together."""
    return [EXAMPLES[name] for name in case.split(" with ") if name != "linear"]


def flags_of(case: str) -> list[str]:
    """Words of `jaxrobust train` after the directory of the run."""
    flags = dict(FLAGS)
    for example in parts_of(case):
        flags |= example.flags
    given = {flag: values for flag, values in flags.items() if values}
    return [word for flag, values in given.items() for word in (flag, *values.split())]


def naming_of(case: str) -> list[str]:
    """Flags of the commands that load a run, by which they may run its code."""
    naming = [word for example in parts_of(case) for word in example.naming]
    return [TRUST] if TRUST in naming else naming


def given_of(case: str) -> tuple[TrainConfig, Any, Dataset]:
    """The configuration in Python, the network and the training examples."""
    given = [example.given() for example in parts_of(case)]
    phase, config = {"optimizer": RULE}, {}
    for each in given:
        phase |= each.phase
        config |= each.config
    if "objective" not in phase:
        phase["attack"] = ATTACK
    phases = (adversarial(EPSILON, EPOCHS, **phase),)
    networks = [each.network for each in given if each.network is not None]
    datasets = [each.dataset for each in given if each.dataset is not None]
    return (
        TrainConfig(batch_size=BATCH, phases=phases, **config),
        networks[0] if networks else "linear",
        datasets[0] if datasets else digits(),
    )


def put_into(place: Path) -> None:
    """Put the files of all examples into a directory, as a user has them there."""
    for path in HERE.glob("own_*.py"):
        (place / path.name).write_text(path.read_text())
    (place / "stripes").mkdir()
    for split in ("train", "test"):
        arrays = getattr(own("arrays"), split)
        path = place / "stripes" / f"{split}.npz"
        np.savez(path, image=arrays.images, label=arrays.labels)
