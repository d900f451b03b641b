"""The common case of training in one call; everything beyond it is `TrainConfig`."""

from pathlib import Path
from typing import Any

from jaxrobust import training
from jaxrobust.arguments import require, require_in
from jaxrobust.data import Augmentation, Dataset
from jaxrobust.threat import ThreatModel
from jaxrobust.training import (
    Adversarial,
    Objective,
    OptimizerConfig,
    Reporter,
    Run,
    Standard,
    TrainConfig,
    adversarial,
    named_objective,
    reporter_for,
    standard,
)

__all__ = ["train"]


def _data_of(data: Any) -> tuple[str, Dataset | None]:
    """The name that a configuration has for data, and what was handed over."""
    if isinstance(data, str | Path):
        return str(data), None
    if isinstance(data, tuple | list) and len(data) == 2:
        data = Dataset.of(*data)
    if not isinstance(data, Dataset):
        raise TypeError(
            "`data` must be a Dataset, a pair (images, labels), or the name of a data "
            f"set, got {type(data).__name__}; `Dataset.of(images, labels)` makes one "
            "of arrays."
        )
    return data.name, data


def _is_standard(objective: Any) -> bool:
    """Whether an objective, or the one that it transforms, attacks nothing."""
    inner = getattr(objective, "objective", None)
    return isinstance(objective, Standard) or (
        inner is not None and _is_standard(inner)
    )


def train(
    network: Any,
    data: Dataset | tuple[Any, Any] | str | Path,
    directory: Path | str,
    *,
    epsilon: float,
    epochs: int = 30,
    norm: str | type[ThreatModel] = "linf",
    objective: Objective | str | None = None,
    optimizer: OptimizerConfig | str = "adam",
    batch_size: int = 128,
    augmentation: str | Augmentation | None = None,
    seed: int = 0,
    data_dir: Path | str | None = None,
    resume: bool = False,
    reporter: Reporter | None = None,
) -> Run:
    """Train a network at one radius: `jaxrobust.training.train` with one phase.

    What these arguments do not say (several phases, schedules, variants, precision,
    devices) is said by a `TrainConfig`, for which `jaxrobust.training.train` is there;
    `run.config` is the one that these arguments stand for.

    Args:
        network: a Flax Linen, Flax NNX or Equinox module, or what else `as_network`
            takes; or a name: of the catalogue, such as "resnet18", or
            `path/to/file.py:NAME` or `package.module:NAME`.
        data: training examples: a `Dataset`; a pair (images, labels) as `Dataset.of`
            takes it; or the name or path of a data set, see `load_arrays`.
        directory: of the run, where its checkpoints are kept; new, or that of the same
            run with `resume`.
        epsilon: radius of the ball, in units of [0, 1] pixels, such as 8/255.
        epochs: passes over the examples, at least 1.
        norm: of the ball: one of `THREATS`; or one of your own, `path/to/file.py:NAME`
            or the subclass of `ThreatModel`.
        objective: what is minimized: a value, or a name such as "trades" or
            "awp(trades)", see `named_objective`. By default PGD adversarial training
            (Madry et al., 2018), or standard training if the radius is 0.
        optimizer: settings, or a name: adam, adamw, sgd, or one of your own.
        batch_size: images per step.
        augmentation: random changes of the pixels in each step: a function, or a name
            such as "crop-flip".
        seed: of everything random.
        data_dir: where prepared data sets lie.
        resume: go on from the newest checkpoint, or begin if there is none.
        reporter: told of progress. By default it is shown: as a bar in a terminal, as a
            line that is updated in a notebook, as a line an epoch elsewhere.
            `jaxrobust.training.NullReporter()` shows nothing.

    Returns:
        The run. A complete one is returned as it is.

    Raises:
        ValueError: for an argument out of range or an unknown name; for a radius
            beside standard training.
        TypeError: for what is no data set or no network.
        DataError: if the data set cannot be loaded.
        RunError: if the directory cannot be used.
        InUseError: if another process is using it.
        NonFiniteLossError: if the loss becomes NaN or infinite.
        Interrupted: on a signal such as Ctrl-C, after the step under way is saved.
        StorageError: if something cannot be saved.

    References:
        Madry et al., 2018, arXiv:1706.06083.
    """
    require(
        network is not None,
        "network",
        "a module, a pair of functions or a name",
        network,
        'give "lenet-small", say',
    )
    require_in("epsilon", epsilon, "[0, inf)", "it is in units of [0, 1] pixels")
    name, dataset = _data_of(data)
    if objective is None:
        objective = Adversarial() if epsilon > 0 else Standard()
    elif isinstance(objective, str):
        objective = named_objective(objective)
    if isinstance(optimizer, str):
        optimizer = OptimizerConfig(name=optimizer)
    settings = {"norm": norm, "objective": objective, "optimizer": optimizer}
    if _is_standard(objective):
        remedy = "leave the objective out for adversarial training"
        rule = "0 for standard training, which attacks nothing"
        require(epsilon == 0, "epsilon", rule, epsilon, remedy)
        phase = standard(epochs, **settings)
    else:
        phase = adversarial(epsilon, epochs, **settings)
    config = TrainConfig(
        dataset=name,
        phases=(phase,),
        batch_size=batch_size,
        augmentation=augmentation,
        seed=seed,
    )
    return training.train(
        config,
        directory,
        network=network,
        dataset=dataset,
        data_dir=data_dir,
        resume=resume,
        reporter=reporter_for() if reporter is None else reporter,
    )
