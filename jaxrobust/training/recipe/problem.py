"""What runs know of their data."""

from typing import NamedTuple

__all__ = ["Problem", "TrainedOn"]


class Problem(NamedTuple):
    """What a network has to know of its data.

    Attributes:
        title: name of the data set for people.
        image_shape: `(height, width, channels)`.
        num_classes: number of logits.
    """

    title: str
    image_shape: tuple[int, ...]
    num_classes: int


class TrainedOn(NamedTuple):
    """Which examples a run was trained on.

    Attributes:
        name: of the data set, as `load_arrays` or the caller named it.
        title: name for people.
        fingerprint: `Dataset.fingerprint` of the training examples, after a subset and
            a variant were taken.
        is_given: whether the caller handed the examples over, rather than their name.
    """

    name: str
    title: str
    fingerprint: str
    is_given: bool
