"""What attacks found and bounds proved, over every example of a data set."""

from jaxrobust.evaluation import input_space, weight_space
from jaxrobust.evaluation.certificates import (
    METHODS,
    Certification,
    CertificationProgress,
    CertifiedRow,
    Method,
    MethodRow,
    broken_certificates,
    certify,
    certify_models,
)
from jaxrobust.evaluation.checklist import (
    Check,
    Checklist,
    ChecklistConfig,
    checklist,
)
from jaxrobust.evaluation.engine.journal import JournalError
from jaxrobust.evaluation.engine.telling import Progress
from jaxrobust.evaluation.ensemble import standard_ensemble
from jaxrobust.evaluation.images import AdversarialImagesWarning
from jaxrobust.evaluation.intervals import wilson_interval
from jaxrobust.evaluation.metrics import (
    ClassSuccess,
    MinimalEpsilons,
    accuracy_curve,
    accuracy_under_attack,
    labelled_by_model,
    minimal_epsilons,
    robustness_wrt_predictions,
    success_by_class,
)
from jaxrobust.evaluation.optimality import area_under_accuracy, optimality
from jaxrobust.evaluation.outcome import AttackRow, Evaluation, Row
from jaxrobust.evaluation.preflight import Flag, check_model
from jaxrobust.evaluation.robustness import Attacks, evaluate, evaluate_models

__all__ = [
    "METHODS",
    "AdversarialImagesWarning",
    "AttackRow",
    "Attacks",
    "Certification",
    "CertificationProgress",
    "CertifiedRow",
    "Check",
    "Checklist",
    "ChecklistConfig",
    "ClassSuccess",
    "Evaluation",
    "Flag",
    "JournalError",
    "Method",
    "MethodRow",
    "MinimalEpsilons",
    "Progress",
    "Row",
    "accuracy_curve",
    "accuracy_under_attack",
    "area_under_accuracy",
    "broken_certificates",
    "certify",
    "certify_models",
    "check_model",
    "checklist",
    "evaluate",
    "evaluate_models",
    "input_space",
    "labelled_by_model",
    "minimal_epsilons",
    "optimality",
    "robustness_wrt_predictions",
    "standard_ensemble",
    "success_by_class",
    "weight_space",
    "wilson_interval",
]
