"""What is held out of the training set, and how the weights are judged on it."""

import dataclasses

from jaxrobust.arguments import require, require_in

__all__ = ["Validation"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Validation:
    """A part of the training set that is not trained on, to choose a checkpoint by.

    It is the last examples of every class, the same ones for every seed; the test set
    is never touched. Accuracy on it is measured with clean images and under a short
    PGD at the radius of the epoch: `num_steps` steps of 2.5 * epsilon / `num_steps`
    from a random start. Where an average of the weights is kept, it is the one judged.

    Raises:
        ValueError: for a number out of range.
    """

    share: float = 0.1
    """Of the training examples, in (0, 1)."""
    every: int = 1
    """Epochs between two looks; the last epoch of a phase always has one."""
    num_steps: int = 10
    """Steps of PGD."""

    def __post_init__(self):
        require_in("validation.share", self.share, "(0, 1)", "try 0.1")
        for field in ("every", "num_steps"):
            value = getattr(self, field)
            require(value >= 1, f"validation.{field}", "at least 1", value, "try 1")
