"""Training: a state machine of phases over one compiled program."""

from jaxrobust.training.checkpoints import (
    CheckpointError,
    Checkpoints,
    CheckpointWarning,
)
from jaxrobust.training.loop import (
    Interrupted,
    NonFiniteLossError,
    load_training_data,
    train,
)
from jaxrobust.training.phases import (
    AttackConfig,
    Carry,
    EpsilonSchedule,
    JumpRule,
    OptimizerConfig,
    Phase,
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
from jaxrobust.training.runs import Problem, Run, RunError, load_run, read_run, versions
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
    "Metrics",
    "NonFiniteLossError",
    "NullReporter",
    "OptimizerConfig",
    "Phase",
    "Problem",
    "Reporter",
    "Run",
    "RunError",
    "TerminalReporter",
    "TrainConfig",
    "TrainState",
    "Trainer",
    "Weights",
    "adversarial",
    "bind",
    "chain",
    "extended",
    "iterative",
    "load_run",
    "load_training_data",
    "make_trainer",
    "read_run",
    "reporter_for",
    "standard",
    "train",
    "versions",
]
