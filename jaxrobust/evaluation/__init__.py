"""What an attack found, over every example of a data set."""

from jaxrobust.evaluation import input_space, weight_space
from jaxrobust.evaluation.robustness import (
    Evaluation,
    EvaluationConfig,
    evaluate,
    evaluate_models,
)

__all__ = [
    "Evaluation",
    "EvaluationConfig",
    "evaluate",
    "evaluate_models",
    "input_space",
    "weight_space",
]
