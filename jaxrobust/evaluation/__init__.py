"""What an attack found, over every example of a data set."""

from jaxrobust.evaluation.robustness import (
    Evaluation,
    EvaluationConfig,
    evaluate,
    evaluate_models,
)

__all__ = ["Evaluation", "EvaluationConfig", "evaluate", "evaluate_models"]
