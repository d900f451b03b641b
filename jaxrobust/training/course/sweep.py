"""Sweeps: a table of members that train in one compiled program.

Each member is a run like any other, in a directory of its own below that of the sweep:
it can be resumed, extended, evaluated and reported alone. Members that start from
others wait for them; those that need not wait train together.
"""

import contextlib
import dataclasses
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxrobust.data import Dataset
from jaxrobust.hosts import is_primary
from jaxrobust.hosts.together import failing_together, require_same
from jaxrobust.keeping import write_json
from jaxrobust.networks import ModelConfig
from jaxrobust.training.course.checkpoints import Checkpoints
from jaxrobust.training.course.directory import (
    CHECKPOINTS,
    RunError,
    as_today,
    claimed_together,
    is_free,
    read_record,
    settings_difference,
)
from jaxrobust.training.course.examples import (
    load_training_data,
    parts_of,
    problem_of,
    tasks_of,
)
from jaxrobust.training.course.reporters import NullReporter, Reporter
from jaxrobust.training.course.runs import Run, load_run
from jaxrobust.training.course.signals import starting, stop_on_signals
from jaxrobust.training.course.train import require_same_job, train_group
from jaxrobust.training.recipe.config import TrainConfig, differ_in_level
from jaxrobust.training.recipe.config_json import config_to_json
from jaxrobust.training.recipe.own import Own, handed_over, own_network
from jaxrobust.training.recipe.sweeps import Member, SweepConfig, part_of, waves
from jaxrobust.training.step.feeding import stretch_for
from jaxrobust.training.step.mesh import Placement
from jaxrobust.training.step.programs import Programs

__all__ = [
    "SweepResult",
    "sweep",
]

SWEEP, FAILURE = "sweep.json", "failure.json"


class SweepResult(NamedTuple):
    """What became of the members, by name.

    Attributes:
        runs: those that are complete.
        failures: why the others failed, or were not begun.
    """

    runs: dict[str, Run]
    failures: dict[str, str]

    def __repr__(self) -> str:
        text = f"{len(self.runs)} runs: {_listed(self.runs)}"
        if self.failures:
            text += f"; {len(self.failures)} failed: {_listed(self.failures)}"
        return f"SweepResult({text})"


def _listed(names: Collection[str]) -> str:
    """Names of members; of many the first few and the last."""
    shown = list(names)
    if len(shown) > 5:
        shown[3:-1] = ["..."]
    return ", ".join(shown) or "none"


def _of_model(member: Member, model: ModelConfig) -> Member:
    config = dataclasses.replace(member.config, model=model)
    return dataclasses.replace(member, config=config)


def _located(member: Member, directory: Path) -> TrainConfig:
    """The configuration with the run that the member starts from."""
    if member.start_from is None:
        return member.config
    source = str(directory / member.start_from)
    first = dataclasses.replace(member.config.phases[0], start_from=source)
    return dataclasses.replace(member.config, phases=(first, *member.config.phases[1:]))


SHARED_SECONDS = 30.0
"""How long jobs that begin in one directory wait for each other to look at it."""


def _begin(directory: Path, members: Sequence[Member], *, resume: bool) -> None:
    """Write the table of members, or see that it is the one that is there.

    The directory must be claimed.
    """
    rows = [
        {
            "name": member.name,
            "start_from": member.start_from,
            "config": config_to_json(member.config),
        }
        for member in members
    ]
    table = json.loads(json.dumps({"members": rows}))
    path = directory / SWEEP
    with failing_together():
        is_used = not is_free(directory)
        if is_used and not path.is_file():
            raise RunError(
                f"`run_dir` must be new or that of a sweep, got {str(directory)!r}, "
                f"which holds files but no {SWEEP}; choose another directory."
            )
        if is_used and not resume:
            raise RunError(
                f"`run_dir` must be new, got {str(directory)!r}, which holds a sweep; "
                "resume it (--resume, or resume=True) or choose another directory."
            )
        before = read_record(path) if is_used else table
        for row in before["members"]:
            row["config"] = as_today(path, row)
        lines = settings_difference(before, table)
        if lines:
            raise RunError(
                f"`run_dir` must hold the sweep that is asked for, got "
                f"{str(directory)!r}, which differs in {'; '.join(lines[:5])}; choose "
                "another directory or the same settings."
            )
    require_same({"is_begun": is_used})  # all have looked before one of them writes
    with failing_together():
        if not is_used and is_primary():
            write_json(path, table, indent=1)


def _known(directory: Path, own: Own | None) -> Run | str | None:
    """A member that is complete or failed in an earlier call; None if it is neither."""
    failure = directory / FAILURE
    if failure.is_file():
        return f"{read_record(failure)['reason']} (Delete {failure} to try again.)"
    # A process that was killed in its first save leaves a directory of no checkpoint.
    with Checkpoints(directory / CHECKPOINTS, is_read_only=True) as checkpoints:
        if not checkpoints.steps():
            return None
    # What it names is what the caller has named.
    run = load_run(directory, network=own and own.network, trust_code=True)
    return run if run.is_complete else None


def sweep(
    config: SweepConfig | Sequence[Member],
    directory: Path | str,
    *,
    network: Any = None,
    dataset: Dataset | None = None,
    data_dir: Path | str | None = None,
    resume: bool = False,
    checkpoint_every: int = 1,
    tensorboard: bool = False,
    reporter: Reporter | None = None,
    placement: Placement | None = None,
    part: tuple[int, int] | None = None,
    memory_limit: int | None = None,
    stream: bool | None = None,
    profile: Path | None = None,
) -> SweepResult:
    """Train all members of a sweep, as many at once as there are and as fit.

    A member whose loss is not finite is frozen and reported, and harms no other one.

    Args:
        config: the members, or how to make them.
        directory: of the sweep; each member has its own below.
        network: of all members, see `train`.
        dataset: training examples; None loads those of the configuration. Where members
            differ in the level of a variant, examples before the variant.
        data_dir: where prepared data sets lie.
        resume: go on from the newest checkpoints. Finished members are left alone.
        checkpoint_every: epochs between checkpoints.
        tensorboard: also write TensorBoard scalars.
        reporter: told of progress.
        placement: devices of members and batches; None for one device.
        part: `(index, count)`, to train one of several parts in the same directory;
            goes on where it stopped.
        memory_limit: bytes of a device; None for what is free.
        stream: send examples as they are needed, see `train`.
        profile: directory for a trace of a few steps.

    Returns:
        Runs and failures, by name of the member.

    Raises:
        RunError: if a directory, or a run to start from, cannot be used.
        InUseError: if another process is using the directory of the sweep, or of a
            member. Jobs that train parts share the first.
        Interrupted: on SIGINT, SIGTERM, SIGUSR1 or SIGHUP, after the steps under way
            are saved; while the data are read, at once.
        StorageError: if something cannot be saved; the last checkpoints stay.
        ValueError: for members that cannot share a program, that do not fit, or that
            are not the same in all processes of a job.
    """
    reporter = (reporter or NullReporter()) if is_primary() else NullReporter()
    directory = Path(directory)
    members = config.members() if isinstance(config, SweepConfig) else tuple(config)
    if not members:
        raise ValueError(
            "`members` must be at least one, got none; give a radius, say."
        )
    model, source = handed_over(members[0].config.model, network)
    if network is not None:
        members = tuple(_of_model(member, model) for member in members)
    every_wave = waves(members)
    placement = placement or Placement()
    configs = [_located(member, directory) for member in members]
    with contextlib.ExitStack() as until_the_end:
        stop = until_the_end.enter_context(stop_on_signals())
        require_same_job(
            "sweep",
            configs,
            placement,
            resume=resume,
            part=part,
            memory_limit=memory_limit,
        )
        if part is None:
            until_the_end.enter_context(claimed_together([directory]))
        is_given = dataset is not None
        has_variant = differ_in_level(configs)
        if dataset is None:
            with starting(stop):
                dataset = load_training_data(
                    configs[0], data_dir=data_dir, has_variant=not has_variant
                )
        problem = problem_of(dataset)
        own = own_network(source, problem.image_shape, problem.num_classes)
        # Refuses members that do not go together.
        Programs(configs, problem, placement, 1)
        with contextlib.ExitStack() as while_it_is_begun:
            if part is not None:
                claim = claimed_together([directory], wait=SHARED_SECONDS)
                while_it_is_begun.enter_context(claim)
            _begin(directory, members, resume=resume or part is not None)
        mine = members if part is None else part_of(members, *part)

        runs: dict[str, Run] = {}
        failures: dict[str, str] = {}
        for member in mine:
            known = _known(directory / member.name, own)
            if isinstance(known, Run):
                runs[member.name] = known
            elif known is not None:
                failures[member.name] = known
        pending = [
            [
                member
                for member in wave
                if member in mine and member.name not in (*runs, *failures)
            ]
            for wave in every_wave
        ]
        widest = max(map(len, pending))
        if not widest:
            return SweepResult(runs, failures)
        left = [member for wave in pending for member in wave]
        tasks = tasks_of(
            [(_located(member, directory), directory / member.name) for member in left],
            dataset,
            is_given=is_given,
            has_variant=has_variant,
        )
        task_of = dict(zip((member.name for member in left), tasks, strict=True))
        dataset, held_out = parts_of(configs[0], dataset)
        batch_size = configs[0].batch_size
        stretch = stretch_for(dataset, batch_size, stream=stream)
        with starting(stop):
            every = Programs(configs, problem, placement, widest, own)
            programs, told = every.fitted(
                len(dataset.labels) // batch_size,
                len(dataset.labels) if stretch is None else stretch * batch_size,
                dataset.images.dtype,
                memory_limit,
                is_stretch=stretch is not None,
            )
        if told:
            reporter.message(told)
        for wave in pending:
            ready = []
            for member in wave:
                if member.start_from in failures:
                    failures[member.name] = (
                        f"not trained: it starts from {member.start_from}, which failed"
                    )
                else:
                    ready.append(member)
            for first in range(0, len(ready), programs.count):
                group = ready[first : first + programs.count]
                names = ", ".join(member.name for member in group)
                reporter.message(f"training together: {names}")
                directories = [directory / member.name for member in group]
                with claimed_together(directories):
                    results = train_group(
                        [task_of[member.name] for member in group],
                        dataset,
                        held_out,
                        stop,
                        resume=True,
                        checkpoint_every=checkpoint_every,
                        tensorboard=tensorboard,
                        reporter=reporter,
                        programs=programs,
                        stream=stretch is not None,
                        profile=profile,
                    )
                    for member, result in zip(group, results, strict=True):
                        if isinstance(result, Run):
                            runs[member.name] = result
                            continue
                        failures[member.name] = result
                        reporter.message(f"{member.name} failed: {result}")
                        if is_primary():
                            path = directory / member.name / FAILURE
                            write_json(path, {"reason": result}, indent=None)
    return SweepResult(runs, failures)
