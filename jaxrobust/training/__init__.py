"""Training: a state machine of phases over one compiled program."""

from jaxrobust.training.checkpoints import (
    CheckpointError,
    Checkpoints,
    CheckpointWarning,
)
from jaxrobust.training.config_json import resolved_objective
from jaxrobust.training.examples import (
    check_data,
    data_of,
    load_run_data,
    load_training_data,
)
from jaxrobust.training.loop import NonFiniteLossError, train
from jaxrobust.training.mesh import MeshConfig, Placement
from jaxrobust.training.model import Model, Precision, applied, bind
from jaxrobust.training.named_numbers import with_number
from jaxrobust.training.objectives import (
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
from jaxrobust.training.optimizers import OPTIMIZERS, OptimizerConfig
from jaxrobust.training.own import CodeWarning
from jaxrobust.training.phases import (
    Carry,
    JumpRule,
    Phase,
    Settings,
    TrainConfig,
    adversarial,
    chain,
    extended,
    iterative,
    standard,
)
from jaxrobust.training.progress import (
    LineReporter,
    NullReporter,
    Reporter,
    TerminalReporter,
    reporter_for,
)
from jaxrobust.training.runs import (
    Problem,
    Run,
    RunError,
    TrainedOn,
    load_run,
    read_run,
    trusted,
)
from jaxrobust.training.schedules import EpsilonSchedule
from jaxrobust.training.signals import Interrupted
from jaxrobust.training.storage import StorageError
from jaxrobust.training.sweep import (
    Member,
    SweepConfig,
    SweepResult,
    WarmStart,
    linspace,
    parse_part,
    sweep,
)
from jaxrobust.training.trainer import (
    Metrics,
    Trainer,
    TrainState,
    Weights,
    make_trainer,
)

__all__ = [
    "OBJECTIVES",
    "OPTIMIZERS",
    "Adversarial",
    "Carry",
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
    "trusted",
    "unresolved",
    "with_attack",
    "with_number",
]
