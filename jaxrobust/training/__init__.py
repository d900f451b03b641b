"""Training: a state machine of phases over one compiled program."""

from jaxrobust.training.checkpoints import (
    CheckpointError,
    Checkpoints,
    CheckpointWarning,
)
from jaxrobust.training.examples import check_data, load_run_data, load_training_data
from jaxrobust.training.loop import NonFiniteLossError, train, train_group
from jaxrobust.training.mesh import MeshConfig, Placement
from jaxrobust.training.phases import (
    AttackConfig,
    Carry,
    EpsilonSchedule,
    JumpRule,
    OptimizerConfig,
    Phase,
    Precision,
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
)
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
    Controls,
    Metrics,
    Trainer,
    TrainState,
    Weights,
    bind,
    make_trainer,
)

__all__ = [
    "AttackConfig",
    "Carry",
    "CheckpointError",
    "CheckpointWarning",
    "Checkpoints",
    "Controls",
    "EpsilonSchedule",
    "Interrupted",
    "JumpRule",
    "LineReporter",
    "Member",
    "MeshConfig",
    "Metrics",
    "NonFiniteLossError",
    "NullReporter",
    "OptimizerConfig",
    "Phase",
    "Placement",
    "Precision",
    "Problem",
    "Reporter",
    "Run",
    "RunError",
    "StorageError",
    "SweepConfig",
    "SweepResult",
    "TerminalReporter",
    "TrainConfig",
    "TrainState",
    "TrainedOn",
    "Trainer",
    "WarmStart",
    "Weights",
    "adversarial",
    "bind",
    "chain",
    "check_data",
    "extended",
    "iterative",
    "linspace",
    "load_run",
    "load_run_data",
    "load_training_data",
    "make_trainer",
    "parse_part",
    "read_run",
    "reporter_for",
    "standard",
    "sweep",
    "train",
    "train_group",
]
