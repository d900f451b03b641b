"""Flags of all commands that train, and what several commands need."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jaxrobust import hosts
from jaxrobust.arguments import require
from jaxrobust.attacks import PGD
from jaxrobust.cli.command import Command
from jaxrobust.cli.numbers import numbers
from jaxrobust.cli.places import quoted
from jaxrobust.data import names_in
from jaxrobust.networks import ModelConfig
from jaxrobust.precision import MatmulPrecision
from jaxrobust.references import is_reference, name_of
from jaxrobust.threat import norm_name
from jaxrobust.training import (
    Averaging,
    MeshConfig,
    NullReporter,
    OptimizerConfig,
    Phase,
    Placement,
    Precision,
    Run,
    TrainConfig,
    Validation,
    named_objective,
    reporter_for,
    takes_attack,
    train,
    with_number,
)
from jaxrobust.training.course.signals import stop_on_signals

__all__ = ["Common", "RunOptions", "default_model", "own_code", "require_runs"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where a run goes and how it is kept; none of it changes its numbers."""

    run_dir: Path | None = None
    """Directory of the run; by default runs/ and a name made of the settings."""
    data_dir: Path | None = None
    """Where prepared data sets lie; by default $JAXROBUST_DATA_DIR, $TFDS_DATA_DIR or
    ~/tensorflow_datasets."""
    resume: bool = False
    """Go on from the newest checkpoint of the run directory."""
    checkpoint_every: int = 1
    """Epochs between checkpoints."""
    tensorboard: bool = False
    """Write TensorBoard scalars too (extra: tensorboard)."""
    mesh: MeshConfig = MeshConfig()
    """Devices among which members and batches are divided."""
    stream: bool | None = None
    """Send examples to the device as they are needed; by default only if all of them
    would take more than half of its memory."""
    profile: Path | None = None
    """Write a trace of a few training steps here, for TensorBoard or Perfetto."""
    host: hosts.HostOptions = hosts.HostOptions()
    """Several processes, where no cluster manager says so."""

    def join(self) -> Placement:
        """Find the other processes of the job, then the devices."""
        hosts.initialize(self.host)
        return Placement(self.mesh)

    def train(
        self,
        command: Command,
        config: TrainConfig,
        default_name: str,
        network: str | None = None,
    ) -> int:
        """Train for a command, which says where the result is."""
        directory = self.run_dir or Path("runs") / default_name
        with stop_on_signals():
            run = train(
                config,
                directory,
                network=network,
                data_dir=self.data_dir,
                resume=self.resume,
                checkpoint_every=self.checkpoint_every,
                tensorboard=self.tensorboard,
                reporter=NullReporter() if command.quiet else reporter_for(),
                placement=self.join(),
                stream=self.stream,
                profile=self.profile,
            )
        command.tell(f"done: {directory}, {len(run.records)} epochs")
        command.say(f"next: jaxrobust evaluate {quoted(directory)}{own_code(run)}")
        return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Common(Command):
    """What a single run and all members of a sweep have alike."""

    config_file: Annotated[Path | None, tyro.conf.arg(name="config")] = None
    """Settings from this file: a run's own config.json, or TOML of the same form. Flags
    that are given beside it win."""
    trust_code: bool = False
    """Run the code that the file of --config names. Only for files whose origin you
    know."""
    given: Annotated[frozenset[str], tyro.conf.Suppress, tyro.conf.Fixed] = frozenset()
    """Fields whose flags were given, which the command line fills in."""
    dataset: str = "digits"
    """digits, mnist, fashion_mnist, kmnist, cifar10, cifar100, svhn_cropped, any
    other name that TensorFlow Datasets has prepared, a directory with train.npz and
    test.npz or with images as train/CLASS/NAME.png, or own.py:load, a function of the
    split."""
    variant: str = "original"
    """Transform of the images: original, binary, saturate:4, smooth:3, gamma:2,
    scale:0.5, edges:1, or one of your own, path.py:NAME; or several joined by "+"."""
    train_size: int | None = None
    """Number of training examples; by default all."""
    model: str | None = None
    """linear; lenet (5x5 VALID, that of Shaeiri et al.); lenet-same (5x5 SAME,
    Madry's); lenet-small (3x3 SAME, for 8x8 images); for certified training
    wong-kolter, and with batch normalization cnn4, cnn5, cnn7; resnet18, resnet50,
    wrn28 (32x32); or one of your own, path/to/file.py:NAME or package.module:NAME. By
    default one that suits the data set."""
    widen_factor: float = 1.0
    """Multiplies all widths of the network."""
    objective: str = "adversarial"
    """What is minimized: standard, adversarial, trades, mart, fast, n_fgsm; gaussian
    (noise of --set objective.sigma, beside --epsilon 0); ibp, crown_ibp, dual,
    mtl_ibp, sabr, which minimize a proven loss; with a penalty or transform as in
    grad_align(fast), awp(trades), label_smoothing(trades); or your own, path.py:NAME
    or package.module:NAME."""
    attack: PGD = PGD()
    """PGD inside the objective."""
    norm: str = "linf"
    """Norm of the ball: linf, l2, l1, l0, or one of your own, path.py:NAME or
    package.module:NAME."""
    is_bounded: bool = True
    """Keep pixels in [0, 1]."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Optimizer."""
    set: tyro.conf.UseAppendAction[tuple[tuple[str, str], ...]] = ()
    """A number of the phases, by name, such as objective.beta 6; may be repeated."""
    averaging: Literal["none", "ema", "swa"] = "none"
    """An average of the weights beside them, over each phase: ema (--set
    averaging.decay 0.995) or swa (--set averaging.start_epoch 1)."""
    batch_size: int = 128
    """Images per step."""
    validation: float | None = None
    """Share of the training examples, such as 0.1, that is held out: accuracy on it is
    logged, and the best checkpoint by it kept (evaluate --checkpoint best)."""
    validation_every: int = 1
    """Epochs between two looks at what is held out."""
    micro_batches: int = 1
    """Parts of a batch that are computed one after another, to save memory."""
    augmentation: str | None = None
    """Random changes of the pixels in each step: crop-flip (padding 4), crop-flip(2),
    rotate(15), color-jitter, random-resized-crop, several joined by +, or one of your
    own, path.py:NAME."""
    precision: Precision = "float32"
    """Of the forward pass and its gradients; weights, optimizer and projection stay
    float32."""
    matmul_precision: MatmulPrecision = "default"
    """Of matrix products in training: default (the fastest: TF32 on a GPU, bfloat16 on
    a TPU), high or highest (float32). The same numbers on a CPU."""
    options: Annotated[RunOptions, tyro.conf.arg(name="")] = RunOptions()

    def phase_settings(self, objective: str | None = None) -> dict[str, Any]:
        """What the phases have in common."""
        name = objective or self.objective
        # An attack that an objective does not have is refused, if it was asked for.
        is_asked = takes_attack(name) or self.attack != PGD()
        attack = self.attack if is_asked and objective is None else None
        is_averaged = self.averaging != "none"
        averaging = Averaging(name=self.averaging) if is_averaged else None
        return {
            "objective": named_objective(name, attack=attack),
            "norm": self.norm,
            "is_bounded": self.is_bounded,
            "optimizer": self.optimizer,
            "averaging": averaging,
        }

    def config_of(self, phases: Sequence[Phase], seed: int) -> TrainConfig:
        """The configuration of a run that goes through these phases."""
        for name, text in self.set:
            (value,) = numbers("--set", (text,))
            phases = [with_number(phase, name, value) for phase in phases]
        require(
            self.validation is not None or self.validation_every == 1,
            "validation_every",
            "left out without --validation",
            self.validation_every,
            "hold examples out (--validation 0.1)",
        )
        validation = None
        if self.validation is not None:
            every = self.validation_every
            validation = Validation(share=self.validation, every=every)
        model = self.model or default_model(self.dataset)
        return TrainConfig(
            dataset=self.dataset,
            variant=self.variant,
            train_size=self.train_size,
            model=ModelConfig(name=model, widen_factor=self.widen_factor),
            phases=tuple(phases),
            batch_size=self.batch_size,
            micro_batches=self.micro_batches,
            validation=validation,
            augmentation=self.augmentation,
            precision=self.precision,
            matmul_precision=self.matmul_precision,
            seed=seed,
        )


def own_code(run: Run | None) -> str:
    """Flags by which a suggested evaluation is told of the code that a run needs."""
    if run is None:
        return ""
    config = run.config
    # Nothing but trust lets what makes variants and optimizers be run.
    names = names_in(config.variant)
    names += [name_of(phase.optimizer.name) for phase in config.phases]
    if any(map(is_reference, names)):
        return " --trust-code"
    flags = ""
    if not config.model.is_known:
        flags += f" --model {quoted(Path(config.model.name))}"
    if is_reference(config.dataset):
        flags += f" --dataset {quoted(Path(config.dataset))}"
    norm = norm_name(config.phases[-1].norm)
    if is_reference(norm):
        flags += f" --norm {quoted(Path(norm))}"
    return flags


def require_runs(runs: Sequence[Path]) -> None:
    """Refuse a command without a run."""
    if not runs:
        raise ValueError(
            "`runs` must name at least one run directory, got none; "
            "train one with `jaxrobust train`."
        )


DEFAULT_MODELS: dict[str, str] = {
    "digits": "lenet-small",
    **dict.fromkeys(("mnist", "fashion_mnist", "kmnist"), "lenet"),
    **dict.fromkeys(("cifar10", "cifar100", "svhn_cropped"), "resnet18"),
}


def default_model(dataset: str) -> str:
    """The network for a data set; arrays of one's own are taken for small images."""
    return DEFAULT_MODELS.get(dataset, "lenet-small")
