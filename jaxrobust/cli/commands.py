"""The commands that train, evaluate, report and export: dataclasses with `run`."""

import dataclasses
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jaxrobust import data, hosts, launching
from jaxrobust.attacks import PGD
from jaxrobust.cli.loading import RunLoading
from jaxrobust.cli.numbers import exact
from jaxrobust.cli.places import quoted
from jaxrobust.cli.streams import require_printed
from jaxrobust.evaluation import (
    EnsembleConfig,
    Evaluation,
    EvaluationConfig,
    Progress,
    evaluate_ensemble_models,
    evaluate_models,
)
from jaxrobust.interop import export_model
from jaxrobust.keeping import plain, require_writable, versions, write_whole
from jaxrobust.losses import LossName
from jaxrobust.networks import ModelConfig
from jaxrobust.report import (
    ReportConfig,
    evaluation_row,
    interval_table,
    markdown_table,
    percent,
    stage_table,
    write_report,
)
from jaxrobust.training import (
    Adversarial,
    Averaging,
    Carry,
    Interrupted,
    JumpRule,
    MeshConfig,
    OptimizerConfig,
    Phase,
    Placement,
    Precision,
    Run,
    Standard,
    SweepConfig,
    TrainConfig,
    Validation,
    WarmStart,
    adversarial,
    applied,
    chain,
    check_data,
    data_of,
    extended,
    iterative,
    linspace,
    load_run_data,
    named_objective,
    parse_part,
    read_run,
    reporter_for,
    resolved_objective,
    standard,
    sweep,
    takes_attack,
    train,
    trusted,
    unresolved,
    with_attack,
    with_number,
)
from jaxrobust.training.course.signals import stop_on_signals

__all__ = [
    "DataList",
    "DataPrepare",
    "Evaluate",
    "Export",
    "Extend",
    "Launch",
    "Report",
    "Sweep",
    "Train",
]


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

    def say(self, text: str) -> None:
        """Print, in one of the processes."""
        if hosts.is_primary():
            print(text, flush=True)

    def train(
        self, config: TrainConfig, default_name: str, network: str | None = None
    ) -> int:
        """Train and say where the result is."""
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
                reporter=reporter_for(),
                placement=self.join(),
                stream=self.stream,
                profile=self.profile,
            )
        self.say(f"done: {directory}, {len(run.records)} epochs")
        self.say(f"next: jaxrobust evaluate {quoted(directory)}{_model_flag(run)}")
        return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Common:
    """What a single run and all members of a sweep have alike."""

    dataset: str = "digits"
    """digits, mnist, fashion_mnist, kmnist, cifar10, cifar100, svhn_cropped, any
    other name that TensorFlow Datasets has prepared, a directory with train.npz and
    test.npz or with images as train/CLASS/NAME.png, or own.py:load, a function of the
    split."""
    variant: str = "original"
    """Transform of the images: original, binary, saturate(4), smooth(3), gamma(2),
    scale(0.5), or one of your own."""
    train_size: int | None = None
    """Number of training examples; by default all."""
    model: str | None = None
    """linear; lenet (5x5 VALID, the LP network); lenet-same (5x5 SAME, Madry's);
    lenet-small (3x3 SAME, for 8x8 images); resnet18, resnet50 and wrn28 (32x32 images);
    or one of your own, path/to/file.py:NAME or package.module:NAME. By default one that
    suits the data set."""
    widen_factor: float = 1.0
    """Multiplies all widths of the network."""
    objective: str = "adversarial"
    """What is minimized: standard, adversarial, trades, mart, fast, n_fgsm; with a
    penalty or transform as in grad_align(fast), awp(trades), label_smoothing(trades);
    or your own, path.py:NAME or package.module:NAME."""
    attack: PGD = PGD()
    """PGD inside the objective."""
    norm: Literal["linf", "l2"] = "linf"
    """Norm of the ball."""
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
            (value,) = _numbers("--set", (text,))
            phases = [with_number(phase, name, value) for phase in phases]
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
            seed=seed,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train(Common):
    """Train a classifier: standard, adversarial (one radius, or a chain), iterative."""

    recipe: Literal["standard", "adversarial", "iterative"] = "adversarial"
    """standard: clean images. adversarial: one phase for each --epsilon, each
    warm-started from the one before. iterative: the radius grows every epoch."""
    epsilon: tuple[float, ...] | None = None
    """Radius, or radii of a chain, in units of [0, 1] pixels, such as 0.1 or 8/255; by
    default 0.3."""
    epochs: tuple[int, ...] | None = None
    """Epochs of each radius; by default 30, then 5 for each extension. Standard: 5.
    Iterative runs take their length from --increment."""
    increment: float = 0.01
    """Iterative: growth of the radius per epoch, in units of [0, 1] pixels."""
    hold_epochs: int = 0
    """Iterative: further epochs at the last radius."""
    stop_at_jump: bool = True
    """Iterative: end at a sudden jump of the training loss, keeping the weights from
    before it."""
    seed: int = 0
    """Of everything random."""

    def phases(self) -> tuple[Phase, ...]:
        """The phases that the flags ask for.

        Raises:
            ValueError: for flags that do not go together.
        """
        if self.recipe == "standard":
            settings = self.phase_settings("standard")
            _refuse(self.epsilon is not None, "--epsilon", "standard training")
            epochs = self.epochs or (5,)
            _refuse(len(epochs) > 1, "several --epochs", "standard training")
            return (standard(epochs[0], **settings),)
        settings = self.phase_settings()
        radii = self.epsilon or (0.3,)
        if self.recipe == "adversarial":
            epochs = self.epochs or (30, *(5 for _ in radii[1:]))
            return chain(radii, epochs, **settings)
        _refuse(self.epochs is not None, "--epochs", "iterative training")
        _refuse(len(radii) > 1, "several radii", "iterative training")
        phase = iterative(
            radii[0],
            increment=self.increment,
            hold_epochs=self.hold_epochs,
            stop_at_jump=JumpRule() if self.stop_at_jump else None,
            **settings,
        )
        return (phase,)

    def run(self) -> int:
        """Train."""
        config = self.config_of(self.phases(), self.seed)
        radius = config.phases[-1].epsilon.end
        name = f"{Path(self.dataset).name}-{self.recipe}-{radius:g}-seed{self.seed}"
        return self.options.train(config, name)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep(Common):
    """Train many classifiers in one compiled program: a grid, a list, a chain.

    Numbers are given as a list (0.1 0.2 8/255) or evenly spaced (0.1:0.5:9, both ends
    included). Each member becomes a run in the directory of the sweep.
    """

    epsilon: tuple[str, ...] = ()
    """Radii, in units of [0, 1] pixels; by default 0.3."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of everything random."""
    sweep: tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]] = ()
    """Values of any number of the phases, by name, such as optimizer.learning_rate 0.1
    0.01 or objective.beta 1:6:6; may be repeated."""
    start_from: tuple[str, ...] = ()
    """Runs to start from; by default random weights."""
    mode: Literal["grid", "list"] = "grid"
    """grid: every combination. list: the first of each, the second of each, ..."""
    warm_start: WarmStart = WarmStart()
    """Members that start from other members."""
    epochs: int = 30
    """Epochs of each member."""
    part: str | None = None
    """Train only one part, such as 0/4 for the first of four jobs that share the
    directory; members that start from each other stay together."""
    memory_limit: float | None = None
    """GiB of a device; by default what is free. Members that do not fit train in
    groups."""

    def config(self) -> SweepConfig:
        """The sweep that the flags ask for.

        Raises:
            ValueError: for flags that do not go together.
        """
        phase = adversarial(0.3, self.epochs, **self.phase_settings())
        return SweepConfig(
            base=self.config_of((phase,), self.seeds[0] if self.seeds else 0),
            mode=self.mode,
            epsilon=_numbers("--epsilon", self.epsilon or ("0.3",)),
            seed=self.seeds,
            over={
                name: _numbers(f"--sweep {name}", values)
                for name, *values in self.sweep
            },
            start_from=self.start_from,
            warm_start=self.warm_start,
        )

    def run(self) -> int:
        """Train all members."""
        config = self.config()
        options = self.options
        directory = options.run_dir or Path("runs") / f"{Path(self.dataset).name}-sweep"
        limit = self.memory_limit
        with stop_on_signals():
            found = sweep(
                config,
                directory,
                data_dir=options.data_dir,
                resume=options.resume,
                checkpoint_every=options.checkpoint_every,
                tensorboard=options.tensorboard,
                reporter=reporter_for(),
                placement=options.join(),
                part=None if self.part is None else parse_part(self.part),
                memory_limit=None if limit is None else int(limit * 2**30),
                stream=options.stream,
                profile=options.profile,
            )
        options.say(f"done: {directory}, {len(found.runs)} members")
        for name, reason in found.failures.items():
            options.say(f"failed: {name}: {reason}")
        flag = _model_flag(next(iter(found.runs.values()), None))
        options.say(f"next: jaxrobust evaluate {quoted(directory)}/*/{flag}")
        return 1 if found.failures else 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Launch:
    """Render the job script of a definition for a cluster, and submit it."""

    target: Annotated[
        Literal["local", "slurm", "kubernetes", "tpu"], tyro.conf.Positional
    ]
    """Where to run."""
    definition: Annotated[str, tyro.conf.Positional]
    """path/to/file.py:NAME, or a NAME in launch/definitions.py."""
    dry_run: bool = False
    """Print what would be submitted, and do nothing."""

    def run(self) -> int:
        """Render and submit."""
        code = launching.launch(self.target, self.definition, dry_run=self.dry_run)
        if self.dry_run:
            require_printed()
        return code


@dataclasses.dataclass(frozen=True, kw_only=True)
class Extend:
    """Extended adversarial training: go on from a run at a larger radius (LP-X1)."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="run")]
    """Directory of the run to start from; it is not changed."""
    epsilon: float
    """New radius, in units of [0, 1] pixels, such as 0.4 or 16/255."""
    epochs: int = 5
    """Epochs at the new radius."""
    carry: Carry = "optimizer"
    """optimizer: keep its moments (LP-X1 on MNIST). weights: start it afresh."""
    step_size: Annotated[float | None, tyro.conf.arg(name="attack.step-size")] = None
    """Of the attack, in units of [0, 1] pixels; by default that of the source."""
    num_steps: Annotated[int | None, tyro.conf.arg(name="attack.num-steps")] = None
    """Of the attack; by default floor(2.5 * epsilon / step_size)."""
    learning_rate: Annotated[
        float | None, tyro.conf.arg(name="optimizer.learning-rate")
    ] = None
    """By default the last one of the source; that of its schedule, where it has one."""
    augmentation: str | None = None
    """Random changes of the pixels, see train; the paper extends without."""
    seed: int | None = None
    """By default that of the source."""
    loading: Annotated[RunLoading, tyro.conf.arg(name="")] = RunLoading()
    options: Annotated[RunOptions, tyro.conf.arg(name="")] = RunOptions()

    def changed(self, attack: PGD) -> PGD:
        """The attack of the source with what the flags ask for."""
        size = attack.step_size if self.step_size is None else self.step_size
        return dataclasses.replace(attack, step_size=size, num_steps=self.num_steps)

    def objective_of(self, phase: Phase) -> Any:
        """That of the source; where it is none of a radius, adversarial training."""
        if isinstance(phase.objective, Standard):
            return Adversarial()
        missing = unresolved(phase.objective)
        if missing is not None and not self.loading.trust_code:
            raise ValueError(
                f"`run` must have an objective of jaxrobust, got {missing.name!r}, "
                "which is code; say --trust-code to run it."
            )
        return resolved_objective(phase.objective)

    def run(self) -> int:
        """Train."""
        source, _ = read_run(self.source)
        network = self.loading.named(self.source)
        trusted(self.source, source.model, network, self.loading.trust_code)
        last = source.phases[-1]
        objective = with_attack(self.objective_of(last), self.changed)
        rate = self.learning_rate
        if rate is None:
            rate = last.optimizer.learning_rate
            if last.optimizer.schedule == "constant":
                epochs = last.epochs
                rate = float(last.optimizer.learning_rates(epochs, epochs, 1)[-1])
        optimizer = dataclasses.replace(
            last.optimizer.unscheduled(), learning_rate=rate
        )
        phase = extended(
            self.epsilon,
            self.epochs,
            carry=self.carry,
            start_from=str(self.source),
            start_checkpoint=self.loading.checkpoint,
            averaging=last.averaging,
            norm=last.norm,
            is_bounded=last.is_bounded,
            objective=objective,
            optimizer=optimizer,
        )
        config = dataclasses.replace(
            source,
            phases=(phase,),
            augmentation=self.augmentation,
            seed=source.seed if self.seed is None else self.seed,
        )
        return self.options.train(
            config, f"{self.source.name}-to-{self.epsilon:g}", network
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Clean and robust accuracy of runs, with 95 % intervals, by PGD or the ensemble.

    An evaluation that was interrupted, or killed, goes on when the same command is
    given again, if it has a place for its state: --output or --journal.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run directories."""
    attack: Literal["pgd", "standard"] = "pgd"
    """pgd, or standard: Auto-PGD on two losses, FAB and Square, each on what the
    others left (AutoAttack's order)."""
    split: data.Split = "test"
    """Split of the data set that the run was trained on."""
    dataset: str | None = None
    """Name or directory of the data that the runs were trained on; by default those of
    their configurations. For data that have moved, or were arrays of the caller."""
    num_images: int | None = None
    """Take the first images of each class, in proportion; by default all."""
    data_dir: Path | None = None
    """Where prepared data sets lie."""
    output: Path | None = None
    """Also write the numbers as JSON to this new file."""
    journal: Path | None = None
    """Directory in which progress is kept; by default beside --output, until that is
    written."""
    epsilons: tuple[float, ...] = (0.3,)
    """Radii, in units of [0, 1] pixels, such as 0.3 or 8/255."""
    norm: Literal["linf", "l2"] = "linf"
    """Norm of the ball."""
    num_steps: int | Literal["default"] | None = "default"
    """Steps of each attack; by default 200 for pgd, 100 for standard. None takes
    floor(2.5 * epsilon / step_size), for pgd."""
    num_restarts: int | None = None
    """Runs of each attack; by default 5 for pgd, 1 for standard."""
    batch_size: int | None = None
    """Images attacked at once; by default 250 for pgd, and what takes some seconds for
    standard."""
    seed: int = 0
    """Of everything random in the attacks."""
    step_size: float | None = None
    """pgd: length of a step, in units of [0, 1] pixels; by default 0.01."""
    loss: LossName | None = None
    """pgd: what the attack climbs; by default cross_entropy."""
    keep: Literal["last", "best"] | None = None
    """pgd: iterate that counts; by default the last."""
    search: Literal["every", "bisect"] | None = None
    """pgd: every radius (the default), or bisection, which takes about log2 as many
    attacks and trusts that who withstands a radius withstands the smaller ones."""
    num_targets: int | None = None
    """standard: target classes of each example; by default 9."""
    num_queries: int | None = None
    """standard: squares that Square tries; by default 5000."""
    stages: tuple[str, ...] | None = None
    """standard: attacks in their order; by default apgd-ce apgd-t fab-t square."""
    loading: Annotated[RunLoading, tyro.conf.arg(name="")] = RunLoading()

    def config(self) -> EvaluationConfig | EnsembleConfig:
        """The evaluation that the flags ask for.

        Raises:
            ValueError: for a flag of the other attack, or one out of range.
        """
        own = {
            "pgd": ("step_size", "loss", "keep", "search"),
            "standard": ("num_targets", "num_queries", "stages"),
        }
        for attack, names in own.items():
            for name in names:
                if attack != self.attack and getattr(self, name) is not None:
                    flag = name.replace("_", "-")
                    raise ValueError(
                        f"`--{flag}` must not be given with --attack {self.attack}, "
                        f"got {getattr(self, name)!r}; leave it out, or choose "
                        f"--attack {attack}."
                    )
        names = ("num_restarts", "batch_size", *own[self.attack])
        given: dict[str, Any] = {
            name: getattr(self, name)
            for name in names
            if getattr(self, name) is not None
        }
        given |= {"epsilons": self.epsilons, "norm": self.norm, "seed": self.seed}
        if self.num_steps != "default":
            given["num_steps"] = self.num_steps
        if self.attack == "pgd":
            return EvaluationConfig(**given)
        if self.num_steps is None:
            raise ValueError(
                "`--num-steps` must be at least 1 with --attack standard, got None; "
                "100 is its default."
            )
        return EnsembleConfig(**given)

    def groups(self) -> list[list[Run]]:
        """The runs, those together that one program can evaluate."""
        groups: dict[Any, list[Run]] = {}
        for directory in dict.fromkeys(self.runs):
            run = self.loading.load(directory)
            if not run.is_complete:
                print(f"note: {directory} is not finished; this is its state by now")
            config = run.config
            kind = (repr(config.model), run.problem, data_of(run), config.variant)
            groups.setdefault((run.network, repr(kind)), []).append(run)
        return list(groups.values())

    def load(self, alike: Sequence[Run]) -> data.Dataset:
        """The images that runs on the same data are evaluated on."""
        where: dict[str, Any] = {
            "name": self.dataset,
            "data_dir": self.data_dir,
            "trust_code": self.loading.trust_code,
        }
        dataset = load_run_data(alike[0], self.split, **where)
        for run in alike[1:]:
            check_data(run, dataset, **where)
        if self.num_images is None:
            return dataset
        if not 1 <= self.num_images <= len(dataset):
            raise ValueError(
                f"`--num-images` must be in [1, {len(dataset)}] for "
                f"{dataset.title}, got {self.num_images}; leave it out for all."
            )
        return data.subset(dataset, self.num_images)

    def run(self) -> int:
        """Evaluate each run and print a table."""
        _require_runs(self.runs)
        config = self.config()
        if self.output is not None and self.output.exists():
            raise ValueError(
                f"`output` must be a new file, got {str(self.output)!r}, which exists; "
                "choose another name."
            )
        journals = self.journal
        if journals is None and self.output is not None:
            journals = self.output.with_name(self.output.name + ".journal")
        found: dict[Path, Evaluation] = {}
        shown = EvaluationLine()
        try:
            groups = self.groups()
            if hosts.is_primary():
                for path in (self.output, journals):
                    if path is not None and not path.is_dir():
                        require_writable(path)
            for index, alike in enumerate(groups):
                journal = None if journals is None else journals / f"{index}.npz"
                results = self.evaluate(alike, config, journal, shown)
                directories = [run.directory for run in alike]
                found |= dict(zip(directories, results, strict=True))
        except KeyboardInterrupt as error:
            if journals is None:
                print(
                    "jaxrobust: nothing is kept; with --output or --journal the same "
                    "command would go on",
                    file=sys.stderr,
                )
                raise
            raise Interrupted(
                f"interrupted; the same command goes on from what is kept in {journals}"
            ) from error
        finally:
            shown.clear()
        rows = [
            {"model": directory.name, **evaluation_row(found[directory])}
            for directory in self.runs
        ]
        if hosts.is_primary():
            try:
                # First: what is shown can fail, and the numbers are not to be lost.
                self.write(rows, config)
            finally:
                self.show(found, rows)
            if self.output is not None and self.journal is None and journals:
                # Its work is done; a journal that was asked for stays.
                shutil.rmtree(journals, ignore_errors=True)
        return 0

    def write(
        self, rows: list[dict[str, Any]], config: EvaluationConfig | EnsembleConfig
    ) -> None:
        """The numbers as JSON, if they are asked for."""
        if self.output is None:
            return
        record = {
            "split": self.split,
            "num_images": self.num_images,
            "checkpoint": self.loading.checkpoint,
            "attack": self.attack,
            "config": dataclasses.asdict(config),
            "versions": versions(),
            "rows": rows,
        }
        text = json.dumps(plain(record), indent=2) + "\n"
        write_whole(self.output, text, is_new=True)

    def show(
        self, found: Mapping[Path, Evaluation], rows: Sequence[Mapping[str, Any]]
    ) -> None:
        """Print the numbers, which must arrive if they are kept nowhere else."""
        for directory in self.runs:
            num_bad = found[directory].num_bad_gradients
            if num_bad:
                print(
                    f"warning: {num_bad} attacks on {directory} met gradients that are "
                    "not finite; its robust accuracy is not to be trusted"
                )
        print(markdown_table(interval_table(rows)), end="")
        for row in rows:
            if "stages" in row:
                print(f"\n{row['model']}, what each attack left:\n")
                print(markdown_table(stage_table(row)), end="")
        if self.output is None:
            require_printed()

    def evaluate(
        self,
        alike: Sequence[Run],
        config: EvaluationConfig | EnsembleConfig,
        journal: Path | None,
        shown: "EvaluationLine",
    ) -> Sequence[Evaluation]:
        """The runs that share a program."""
        apply = applied(alike[0].network)
        weights = [run.weights for run in alike]
        dataset = self.load(alike)
        show = partial(shown.show, [run.directory.name for run in alike])
        if isinstance(config, EnsembleConfig):
            return evaluate_ensemble_models(
                apply, weights, dataset, config, journal=journal, progress=show
            )
        return evaluate_models(
            apply, weights, dataset, config, journal=journal, progress=show
        )


class EvaluationLine:
    """A line on a terminal that says how far an evaluation is."""

    def __init__(self) -> None:
        self.is_shown = hosts.is_primary() and sys.stderr.isatty()

    def show(self, names: Sequence[str], progress: Progress) -> None:
        """Write over the line."""
        if not self.is_shown:
            return
        shares = ", ".join(
            f"ε {radius:g}: {percent(share)}"
            for radius, share in progress.robust_accuracy.items()
        )
        text = (
            f"{names[progress.model]}, {progress.stage}: {progress.num_done} attacks, "
            f"at most {progress.num_left} left; {shares}"
        )
        width = shutil.get_terminal_size().columns - 1
        print(f"\r\x1b[K{text[:width]}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Take the line away."""
        if self.is_shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataList:
    """Say which data sets are ready, and where."""

    data_dir: Path | None = None
    """Where prepared data sets lie."""

    def run(self) -> int:
        """Print a line for each data set."""
        for each in data.status(self.data_dir):
            mark = "ready  " if each.is_ready else "missing"
            print(f"{mark}  {each.name:<14} {each.where}  {each.detail}")
        require_printed()
        return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataPrepare:
    """Download a data set and prepare it (extra: prepare)."""

    name: Annotated[str, tyro.conf.Positional]
    """mnist, fashion_mnist, kmnist, cifar10, cifar100 or svhn_cropped."""
    data_dir: Path | None = None
    """Where to put it."""

    def run(self) -> int:
        """Prepare."""
        done = data.prepare(self.name, self.data_dir)
        print(f"ready: {done.name} in {done.where}  {done.detail}")
        return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """One self-contained HTML page that compares runs, with the numbers as JSON.

    A report that was interrupted, or killed, goes on when the same command is given
    again, and ends with the same bytes.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run directories."""
    output: Path = Path("report")
    """Directory of the report: new, empty, or one to go on with."""
    dataset: str | None = None
    """Name or directory of the data that the runs were trained on; by default those of
    their configurations. For data that have moved, or were arrays of the caller."""
    data_dir: Path | None = None
    """Where prepared data sets lie."""
    loading: Annotated[RunLoading, tyro.conf.arg(name="")] = RunLoading()
    config: Annotated[ReportConfig, tyro.conf.arg(name="")] = ReportConfig()

    def run(self) -> int:
        """Write the report."""
        _require_runs(self.runs)
        try:
            path = write_report(
                [self.loading.load(each) for each in dict.fromkeys(self.runs)],
                self.output,
                self.config,
                dataset=self.dataset,
                trust_code=self.loading.trust_code,
                data_dir=self.data_dir,
                say=partial(print, flush=True),
            )
        except KeyboardInterrupt as error:
            raise Interrupted(
                "interrupted; the same command goes on from what is kept in "
                f"{self.output}"
            ) from error
        print(f"written: {path}")
        return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Export:
    """Write a trained model to a file that needs only jax to load.

    `jaxrobust.interop.load_exported` reads it; so does its module copied by itself.
    """

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="run")]
    """Directory of the run."""
    output: Path
    """New file."""
    platforms: tuple[str, ...] = ("cpu", "cuda", "tpu")
    """Where it shall run: cpu, cuda, rocm, tpu."""
    loading: Annotated[RunLoading, tyro.conf.arg(name="")] = RunLoading()

    def run(self) -> int:
        """Export."""
        run = self.loading.load(self.source)
        if not run.is_complete:
            print(f"note: {self.source} is not finished; this is its state by now")
        header = export_model(
            run,
            self.output,
            platforms=self.platforms,
            notes={
                "run": self.source.name,
                "dataset": run.problem.title,
                "variant": run.config.variant,
            },
        )
        shape = " x ".join(map(str, header["image_shape"]))
        print(f"written: {self.output}, {shape} to {header['num_classes']} classes")
        return 0


def _model_flag(run: Run | None) -> str:
    """What a suggested command has to name, since the run's network is not ours."""
    if run is None or run.config.model.is_known:
        return ""
    return f" --model {quoted(Path(run.config.model.name))}"


def _require_runs(runs: Sequence[Path]) -> None:
    if not runs:
        raise ValueError(
            "`runs` must name at least one run directory, got none; "
            "train one with `jaxrobust train`."
        )


def _refuse(condition: bool, flag: str, with_what: str) -> None:
    if condition:
        raise ValueError(
            f"`{flag}` must not be given with {with_what}; leave it out, or choose "
            "another --recipe."
        )


def _numbers(flag: str, texts: Sequence[str]) -> tuple[float, ...]:
    """Numbers from texts such as 0.1, 8/255 or 0.1:0.5:9."""
    numbers: list[float] = []
    for text in texts:
        try:
            if ":" in text:
                start, stop, count = text.split(":")
                numbers += linspace(exact(start), exact(stop), int(count))
            else:
                numbers.append(float(exact(text)))
        except (ValueError, OverflowError) as error:
            raise ValueError(
                f"`{flag}` must be numbers such as 0.1 or 8/255, or START:STOP:COUNT "
                f"such as 0.1:0.5:9, got {text!r}; both ends are included."
            ) from error
    return tuple(numbers)


DEFAULT_MODELS: dict[str, str] = {
    "digits": "lenet-small",
    **dict.fromkeys(("mnist", "fashion_mnist", "kmnist"), "lenet"),
    **dict.fromkeys(("cifar10", "cifar100", "svhn_cropped"), "resnet18"),
}


def default_model(dataset: str) -> str:
    """The network for a data set; arrays of one's own are taken for small images."""
    return DEFAULT_MODELS.get(dataset, "lenet-small")
