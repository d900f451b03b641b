"""Training: a state machine of phases over one compiled program."""

from jaxrobust.training.course.checkpoints import (
    CheckpointError,
    Checkpoints,
    CheckpointWarning,
)
from jaxrobust.training.course.directory import RunError, read_run
from jaxrobust.training.course.examples import (
    check_data,
    data_of,
    load_run_data,
    load_training_data,
)
from jaxrobust.training.course.reporters import (
    LineReporter,
    NotebookReporter,
    NullReporter,
    Reporter,
    TerminalReporter,
    reporter_for,
)
from jaxrobust.training.course.runs import Run, load_run, trusted
from jaxrobust.training.course.signals import Interrupted
from jaxrobust.training.course.storage import StorageError
from jaxrobust.training.course.sweep import SweepResult, sweep
from jaxrobust.training.course.train import NonFiniteLossError, train
from jaxrobust.training.recipe.averaging import AVERAGES, Averaging
from jaxrobust.training.recipe.config import TrainConfig, trained_norm
from jaxrobust.training.recipe.config_json import resolved_objective
from jaxrobust.training.recipe.model import Model, Precision, applied, bind
from jaxrobust.training.recipe.named_numbers import with_number
from jaxrobust.training.recipe.objectives import (
    OBJECTIVES,
    Adversarial,
    Objective,
    Seen,
    Standard,
    Unresolved,
    attacked,
    named_objective,
    seen,
    takes_attack,
    unresolved,
    with_attack,
)
from jaxrobust.training.recipe.optimizers import OPTIMIZERS, OptimizerConfig
from jaxrobust.training.recipe.own import CodeWarning
from jaxrobust.training.recipe.phases import (
    Carry,
    Checkpoint,
    JumpRule,
    Phase,
    Settings,
    adversarial,
    chain,
    extended,
    iterative,
    standard,
)
from jaxrobust.training.recipe.problem import Problem, TrainedOn
from jaxrobust.training.recipe.schedules import (
    RADIUS_SCHEDULES,
    RATE_SCHEDULES,
    EpsilonSchedule,
)
from jaxrobust.training.recipe.sweeps import (
    Member,
    SweepConfig,
    WarmStart,
    linspace,
    parse_part,
)
from jaxrobust.training.recipe.validation import Validation
from jaxrobust.training.step.mesh import MeshConfig, Placement
from jaxrobust.training.step.trainer import (
    Metrics,
    Trainer,
    TrainState,
    Weights,
    make_trainer,
)

__all__ = [
    "AVERAGES",
    "OBJECTIVES",
    "OPTIMIZERS",
    "RADIUS_SCHEDULES",
    "RATE_SCHEDULES",
    "Adversarial",
    "Averaging",
    "Carry",
    "Checkpoint",
    "CheckpointError",
    "CheckpointWarning",
    "Checkpoints",
    "CodeWarning",
    "EpsilonSchedule",
    "Interrupted",
    "JumpRule",
    "LineReporter",
    "Member",
    "MeshConfig",
    "Metrics",
    "Model",
    "NonFiniteLossError",
    "NotebookReporter",
    "NullReporter",
    "Objective",
    "OptimizerConfig",
    "Phase",
    "Placement",
    "Precision",
    "Problem",
    "Reporter",
    "Run",
    "RunError",
    "Seen",
    "Settings",
    "Standard",
    "StorageError",
    "SweepConfig",
    "SweepResult",
    "TerminalReporter",
    "TrainConfig",
    "TrainState",
    "TrainedOn",
    "Trainer",
    "Unresolved",
    "Validation",
    "WarmStart",
    "Weights",
    "adversarial",
    "applied",
    "attacked",
    "bind",
    "chain",
    "check_data",
    "data_of",
    "extended",
    "iterative",
    "linspace",
    "load_run",
    "load_run_data",
    "load_training_data",
    "make_trainer",
    "named_objective",
    "parse_part",
    "read_run",
    "reporter_for",
    "resolved_objective",
    "seen",
    "standard",
    "sweep",
    "takes_attack",
    "train",
    "trained_norm",
    "trusted",
    "unresolved",
    "with_attack",
    "with_number",
]
