"""A trained, or half-trained, run and how it is loaded; nothing here trains."""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp

from jaxrobust.arguments import require_choice
from jaxrobust.keys import seeded
from jaxrobust.networks import GIVEN, ModelConfig, Network, Variables
from jaxrobust.references import Reference, is_reference, name_of, resolve
from jaxrobust.training.course.checkpoints import CheckpointError, Checkpoints
from jaxrobust.training.course.directory import (
    BEST,
    CHECKPOINTS,
    RunError,
    check_network,
    read_description,
)
from jaxrobust.training.recipe.config import TrainConfig
from jaxrobust.training.recipe.model import bind
from jaxrobust.training.recipe.own import network_for, own_network
from jaxrobust.training.recipe.phases import Checkpoint, Phase
from jaxrobust.training.recipe.problem import Problem, TrainedOn
from jaxrobust.training.step.trainer import TrainState, trainer_for
from jaxrobust.types import LogitsFn

__all__ = [
    "Run",
    "load_run",
    "refuse_own_optimizer",
    "template_for",
    "trusted",
]


class Run(NamedTuple):
    """A trained (or half-trained) model and how it came about.

    Attributes:
        directory: of the run.
        config: what was asked for.
        problem: the data's shape.
        network: the trained one.
        state: newest state.
        records: one for each epoch, as in `metrics.jsonl`.
        is_complete: whether all phases are done.
        trained_on: its examples; None for runs of versions that did not record them.
        checkpoint: which weights are meant, see `load_run`.
    """

    directory: Path
    config: TrainConfig
    problem: Problem
    network: Network
    state: TrainState
    records: list[dict[str, Any]]
    is_complete: bool
    trained_on: TrainedOn | None = None
    checkpoint: Checkpoint = "newest"

    def __repr__(self) -> str:
        name = self.config.model.name
        total = sum(phase.epochs for phase in self.config.phases)
        parts = [
            f"{'own network' if name == GIVEN else name} on {self.problem.title}",
            _in_short(self.config.phases),
            f"epoch {len(self.records)} of {total}",
        ]
        if self.records:
            last = self.records[-1]
            parts.append(f"loss {last['loss']:.4f}")
            parts.append(f"adv acc {last['adversarial_accuracy']:.2%}")
        parts.append("complete" if self.is_complete else "not complete")
        if self.checkpoint != "newest":
            parts.append(f"{self.checkpoint} weights")
        return f"Run({str(self.directory)!r}: {', '.join(parts)})"

    @property
    def weights(self) -> Variables:
        """What the network computes with: parameters and other state."""
        kept = self.state.weights
        if self.checkpoint == "newest" or kept.average is None:
            return kept.variables
        return kept.average

    @property
    def logits_fn(self) -> LogitsFn:
        """The model in evaluation mode."""
        return bind(self.network, self.weights)


def _in_short(phases: Sequence[Phase]) -> str:
    """Names and radii; of many phases the first two and the last."""
    names = [
        f"{phase.name} {phase.epsilon.end:g}" if phase.epsilon.end else phase.name
        for phase in phases
    ]
    if len(names) > 4:
        names[2:-1] = [f"{len(names) - 3} more"]
    return " -> ".join(names)


def _check_progress(config: TrainConfig, progress: dict[str, Any]) -> None:
    """Refuse the record of a checkpoint that cannot be one of this run."""
    phase, epoch = progress["phase"], progress["phase_epoch"]
    count, records = len(config.phases), progress["records"]
    length = config.phases[phase].epochs if phase in range(count) else 1
    before = sum(earlier.epochs for earlier in config.phases[:phase])
    epochs = [record["epoch"] for record in records]
    if (
        phase not in range(count + 1)
        or epoch not in range(length)
        or progress["is_complete"] != (phase == count)
        or epochs != [*range(1, len(records) + 1)]
        or not phase + epoch <= len(records) <= before + epoch
    ):
        raise ValueError(
            f"its record of phase {phase!r}, epoch {epoch!r} and {len(epochs)} epochs "
            "is none of this run"
        )


def template_for(
    config: TrainConfig, problem: Problem, network: Network
) -> Callable[[dict[str, Any]], TrainState]:
    """The form of a run's state at a given progress, as arrays without values."""
    images = jax.ShapeDtypeStruct((1, *problem.image_shape), jnp.float32)
    trainer = trainer_for(config, network)

    def like(progress: dict[str, Any]) -> TrainState:
        _check_progress(config, progress)
        index = min(progress["phase"], len(config.phases) - 1)
        phase = config.phases[index]
        init = partial(trainer.init, is_averaged=phase.averaging is not None)
        key, optimizer = seeded(0), phase.optimizer.unscheduled()
        return jax.eval_shape(init, key, images, optimizer)

    return like


def trusted(
    directory: Path, model: ModelConfig, network: Any, trust_code: bool
) -> Reference | None:
    """What the caller lets stand for the network of a run; None for the catalogue's.

    Args:
        directory: of the run.
        model: that its configuration names.
        network: handed over, or its name as text; None for what the run names.
        trust_code: whether what the run names may be imported.

    Raises:
        RunError: if the run names code, and the caller has not asked for it.
        ValueError: for a name of nothing.
    """
    if isinstance(network, str):
        return resolve(network, what="model")
    if network is not None:
        return Reference(GIVEN, network, None)
    if model.is_known:
        return None
    if model.name == GIVEN:
        raise RunError(
            f"`network` must be given for the run in {str(directory)!r}, whose network "
            "was handed over from Python, got none; hand it over again (network=..., "
            "or --model path/to/file.py:NAME)."
        )
    if not trust_code:
        raise RunError(
            f"`network` must be given for the run in {str(directory)!r}, whose network "
            f"is code outside jaxrobust, {model.name!r}, got none; hand it over "
            "(network=..., or --model path/to/file.py:NAME), or say that what the run "
            "names may be run (trust_code=True, or --trust-code)."
        )
    return resolve(model.name, what="model")


def refuse_own_optimizer(
    directory: Path, config: TrainConfig, known: Collection[str] = ()
) -> None:
    """Refuse to import an optimizer only since a run names it.

    Its code is needed for the form of its state.

    Args:
        directory: of the run.
        config: of the run.
        known: names of optimizers that the caller has asked for.

    Raises:
        RunError: if it names another one that is code outside jaxrobust.
    """
    for phase in config.phases:
        name = name_of(phase.optimizer.name)
        if is_reference(name) and name not in known:
            raise RunError(
                f"`trust_code` must be on for the run in {str(directory)!r}, whose "
                f"optimizer is code outside jaxrobust, {name!r}; say that what the run "
                "names may be run (trust_code=True, or --trust-code)."
            )


def load_run(
    directory: Path | str,
    *,
    network: Any = None,
    trust_code: bool = False,
    checkpoint: Checkpoint = "newest",
) -> Run:
    """A run with an undamaged checkpoint; also while it is being trained.

    Args:
        directory: of the run.
        network: the network of a run that is not of the catalogue, as a value (see
            `as_network`), or named `path/to/file.py:NAME` or `package.module:NAME`.
        trust_code: import what the run names as its network and its optimizer. Say so
            only of runs whose origin is known: importing runs the code.

        checkpoint: "newest" weights; the "average" of the weights, if the newest phase
            keeps one; or the "best" on held-out examples, if some were: those, or their
            average where one is kept, of the epoch that had the highest robust
            accuracy.

    Raises:
        RunError: if there is no such run, or no checkpoint of it can be used, or not
            of the kind that is asked for; if its network is not of the catalogue, and
            was not given; if it is another one.
        StorageError: if a checkpoint cannot be read.
    """
    require_choice("checkpoint", checkpoint, get_args(Checkpoint))
    directory = Path(directory)
    config, problem, trained_on, recorded = read_description(directory)
    source = trusted(directory, config.model, network, trust_code)
    if not trust_code:
        refuse_own_optimizer(directory, config)
    own = own_network(source, problem.image_shape, problem.num_classes)
    check_network(directory, recorded, own)
    network = network_for(config.model, problem.num_classes, own)
    like = template_for(config, problem, network)

    def restored(place: str) -> tuple[TrainState, dict[str, Any]]:
        try:
            with Checkpoints(directory / place, is_read_only=True) as checkpoints:
                return checkpoints.restore_newest(like)
        except CheckpointError as error:
            raise RunError(str(error)) from error

    state, progress = restored(CHECKPOINTS)
    records, is_complete = progress["records"], progress["is_complete"]
    if checkpoint == "average" and state.weights.average is None:
        raise _missing(directory, checkpoint, "keep an average (--averaging ema)")
    if checkpoint == "best":
        if not (directory / BEST).is_dir():
            raise _missing(directory, checkpoint, "hold examples out (--validation .1)")
        state, progress = restored(BEST)
        records = [*progress["records"], progress["best"]]
    return Run(
        directory,
        config,
        problem,
        network,
        state,
        records,
        is_complete,
        trained_on,
        checkpoint,
    )


def _missing(directory: Path, checkpoint: str, remedy: str) -> RunError:
    return RunError(
        f"`checkpoint` must be newest for the run in {str(directory)!r}, which has no "
        f"other weights of this kind, got {checkpoint!r}; to have them, {remedy} when "
        "training."
    )
