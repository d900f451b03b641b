"""What an attack found, over every example of a data set."""

from jaxrobust.evaluation import input_space, weight_space
from jaxrobust.evaluation.checklist import (
    Check,
    Checklist,
    ChecklistConfig,
    checklist,
)
from jaxrobust.evaluation.ensemble import (
    EnsembleConfig,
    EnsembleEvaluation,
    evaluate_ensemble,
    evaluate_ensemble_models,
    standard_stages,
)
from jaxrobust.evaluation.journal import JournalError
from jaxrobust.evaluation.metrics import (
    ClassSuccess,
    MinimalEpsilons,
    accuracy_curve,
    accuracy_under_attack,
    labelled_by_model,
    minimal_epsilons,
    robustness_wrt_predictions,
    success_by_class,
    wilson_interval,
)
from jaxrobust.evaluation.packing import Progress, Stage
from jaxrobust.evaluation.preflight import Flag, check_model
from jaxrobust.evaluation.robustness import (
    Evaluation,
    EvaluationConfig,
    evaluate,
    evaluate_models,
    pgd_stage,
)

__all__ = [
    "Check",
    "Checklist",
    "ChecklistConfig",
    "ClassSuccess",
    "EnsembleConfig",
    "EnsembleEvaluation",
    "Evaluation",
    "EvaluationConfig",
    "Flag",
    "JournalError",
    "MinimalEpsilons",
    "Progress",
    "Stage",
    "accuracy_curve",
    "accuracy_under_attack",
    "check_model",
    "checklist",
    "evaluate",
    "evaluate_ensemble",
    "evaluate_ensemble_models",
    "evaluate_models",
    "input_space",
    "labelled_by_model",
    "minimal_epsilons",
    "pgd_stage",
    "robustness_wrt_predictions",
    "standard_stages",
    "success_by_class",
    "weight_space",
    "wilson_interval",
]
